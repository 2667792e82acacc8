"""BiCodec's published wave generator (DAC decoder): transposed convolutions, Snake, dilated residual units."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gpa.nets.past import WHOLE, Whole
from gpa.nets.weight_norm import NormedConv1d, NormedConvTranspose1d

PI = (3.140625, math.pi - 3.140625)  # the first has few bits, so that its multiples are exact
# sin(x) / x as a polynomial of x^2, over -pi/2 .. pi/2
SINE = (2.60515160993342e-06, -0.00019809040024305907, 0.008333050533611597, -0.16666657966461842, 0.9999999957137161)


class Snake(nn.Module):
    """x + sin(a x)^2 / (a + 1e-9), a per channel (may be negative)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> same."""
        return x + squared_sine(self.alpha * x) / (self.alpha + 1e-9)


def squared_sine(x: Tensor) -> Tensor:
    """sin(x)^2 within 3e-7 for |x| up to 1000.

    An export has a polynomial over one period: products that are fused with their neighbours, where a sine is not."""
    if not torch.onnx.is_in_onnx_export():
        return x.sin().square()
    turns = (x * (1 / math.pi)).round()
    x = x - turns * PI[0] - turns * PI[1]  # in -pi/2 .. pi/2
    square = x * x
    quotient = square * SINE[0] + SINE[1]
    for factor in SINE[2:]:
        quotient = quotient * square + factor
    return square * quotient * quotient


class ResidualUnit(nn.Module):
    """Dilated convolution and 1x1 convolution, each after a Snake."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(channels),
            NormedConv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            Snake(channels),
            NormedConv1d(channels, channels, 1),
        )

    def forward(self, x: Tensor, past: Whole = WHOLE) -> Tensor:
        """(B, C, T) -> same."""
        parts: list[Any] = list(self.block)
        first, dilated, second, narrow = parts
        whole, middle = past.around(x, dilated.side, dilated.side)  # a Snake of zero is zero
        out: Tensor = middle + narrow(second(dilated.inner(first(whole))))
        return out


class UpsamplingBlock(nn.Module):
    """Snake, transposed convolution by `rate`, three residual units."""

    def __init__(self, inputs: int, outputs: int, kernel: int, rate: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(inputs),
            NormedConvTranspose1d(inputs, outputs, kernel, rate, padding=(kernel - rate) // 2),
            *(ResidualUnit(outputs, dilation) for dilation in (1, 3, 9)),
        )

    def forward(self, x: Tensor, past: Whole = WHOLE) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T * rate)."""
        parts: list[Any] = list(self.block)
        snake, raised, *units = parts
        out: Tensor = raised(snake(x), past)
        for unit in units:
            out = unit(out, past)
        return out


class WaveGenerator(nn.Module):
    """Frames (B, input_channel, T) -> wave (B, 1, T * prod(rates)) in [-1, 1]."""

    def __init__(self, input_channel: int, channels: int, rates: list[int], kernel_sizes: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [NormedConv1d(input_channel, channels, 7, padding=3)]
        for i, (rate, kernel) in enumerate(zip(rates, kernel_sizes, strict=True)):
            layers.append(UpsamplingBlock(channels >> i, channels >> i + 1, kernel, rate))
        last = channels >> len(rates)
        layers += [Snake(last), NormedConv1d(last, 1, 7, padding=3), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor, past: Whole = WHOLE) -> Tensor:
        """(B, input_channel, T) -> (B, 1, T * prod(rates))."""
        parts: list[Any] = list(self.model)
        first, *blocks, snake, last, tanh = parts
        x = first(x, past)
        for block in blocks:
            x = block(x, past)
        out: Tensor = tanh(last(snake(x), past))
        return out

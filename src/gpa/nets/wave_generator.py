"""BiCodec's published wave generator (DAC decoder): transposed convolutions, Snake, dilated residual units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpa.nets.weight_norm import NormedConv1d, NormedConvTranspose1d


class Snake(nn.Module):
    """x + sin(a x)^2 / (a + 1e-9), a per channel (may be negative)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> same."""
        return x + (self.alpha * x).sin().square() / (self.alpha + 1e-9)


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

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> same."""
        out: Tensor = x + self.block(x)
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

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T * rate)."""
        out: Tensor = self.block(x)
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

    def forward(self, x: Tensor) -> Tensor:
        """(B, input_channel, T) -> (B, 1, T * prod(rates))."""
        out: Tensor = self.model(x)
        return out

"""Vocos backbones of BiCodec: ConvNeXt blocks, adaptive LayerNorm, resampling blocks; (B, T, C) throughout.

Published backbones look as far ahead as back. `lookahead` (ours) bounds the frames of future a backbone may see:
the first convolutions spend it, three frames at most each, and the rest are causal, so that streams start early.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter, init

from gpa.nets.past import WHOLE, Whole

KERNEL = 7
EPS = 1e-6  # of every LayerNorm in BiCodec


class AdaLN(nn.Module):
    """LayerNorm without affine part, scaled and shifted by a condition: norm(x) * scale(c) + shift(c), no `1 +`."""

    def __init__(self, dim: int, condition_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.scale = nn.Linear(condition_dim, dim)
        self.shift = nn.Linear(condition_dim, dim)
        init.zeros_(self.scale.weight)
        init.ones_(self.scale.bias)
        init.zeros_(self.shift.weight)
        init.zeros_(self.shift.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, T, dim), condition (B, condition_dim) -> (B, T, dim)."""
        y = F.layer_norm(x, (self.dim,), eps=EPS)
        out: Tensor = y * self.scale(condition)[:, None] + self.shift(condition)[:, None]
        return out


def _norm(dim: int, condition_dim: int) -> nn.Module:
    return AdaLN(dim, condition_dim) if condition_dim else nn.LayerNorm(dim, eps=EPS)


def _apply(norm: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
    out: Tensor = norm(x, condition) if isinstance(norm, AdaLN) else norm(x)
    return out


def _convolve(conv: nn.Conv1d, x: Tensor, right: int, past: Whole) -> tuple[Tensor, Tensor]:
    """Convolution over time of (B, T, C) that sees `right` future frames, and the frames of x that it gives."""
    whole, middle = past.around(x.transpose(1, 2), KERNEL - 1 - right, right)
    return conv(whole).transpose(1, 2), middle.transpose(1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm, two pointwise layers with exact GELU, layer scale, residual."""

    def __init__(self, dim: int, intermediate_dim: int, condition_dim: int = 0, right: int = 3, gamma: float = 0.3) -> None:
        super().__init__()
        self.right = right
        self.dwconv = nn.Conv1d(dim, dim, KERNEL, groups=dim)
        self.norm = _norm(dim, condition_dim)
        self.pwconv1 = nn.Linear(dim, intermediate_dim)
        self.pwconv2 = nn.Linear(intermediate_dim, dim)
        self.gamma = Parameter(Tensor([gamma]).repeat(dim))

    def forward(self, x: Tensor, condition: Tensor | None = None, past: Whole = WHOLE) -> Tensor:
        """(B, T, dim) -> same."""
        y, x = _convolve(self.dwconv, x, self.right, past)
        y = _apply(self.norm, y, condition)
        out: Tensor = x + self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return out


def _spend(lookahead: int | None) -> Iterator[int]:
    """Future frames of each convolution in turn."""
    left = lookahead
    while True:
        right = 3 if left is None else min(3, left)
        left = None if left is None else left - right
        yield right


class VocosBackbone(nn.Module):
    """Embedding convolution, norm, ConvNeXt blocks, last norm."""

    def __init__(
        self, input_dim: int, dim: int, intermediate_dim: int, layers: int, condition_dim: int = 0, lookahead: int | None = None
    ) -> None:
        super().__init__()
        rights = list(islice(_spend(lookahead), layers + 1))
        self.right = rights[0]
        self.context = sum(KERNEL - 1 - right for right in rights), sum(rights)  # frames seen before and after a frame
        self.embed = nn.Conv1d(input_dim, dim, KERNEL)
        self.norm = _norm(dim, condition_dim)
        self.convnext = nn.ModuleList([ConvNeXtBlock(dim, intermediate_dim, condition_dim, right) for right in rights[1:]])
        self.final_layer_norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor, condition: Tensor | None = None, past: Whole = WHOLE) -> Tensor:
        """(B, T, input_dim) -> (B, T, dim)."""
        x = _apply(self.norm, _convolve(self.embed, x, self.right, past)[0], condition)
        for block in self.convnext:
            x = block(x, condition, past)
        out: Tensor = self.final_layer_norm(x)
        return out


class SamplingBlock(nn.Module):
    """Changes the frame rate by a whole factor: strided (transposed) convolution plus two skip paths.

    With factor 1 it returns 3 x its input, as published."""

    def __init__(self, dim: int, upsample: int = 1, downsample: int = 1) -> None:
        super().__init__()
        self.upsample, self.downsample = upsample, downsample
        if upsample > 1:
            conv = nn.ConvTranspose1d(dim, dim, 2 * upsample, upsample, padding=upsample // 2 + upsample % 2, output_padding=upsample % 2)
            self.de_conv_upsampler = nn.Sequential(nn.LeakyReLU(0.2), conv)
        if downsample > 1:
            down = nn.Conv1d(dim, dim, 2 * downsample, downsample, padding=downsample // 2 + downsample % 2)
            self.conv_downsampler = nn.Sequential(nn.LeakyReLU(0.2), down)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T * upsample / downsample, dim)."""
        repeated = merged = x.transpose(1, 2)
        if self.upsample > 1:
            repeated = merged[..., None].expand(-1, -1, -1, self.upsample).flatten(2)
            merged = repeated + self.de_conv_upsampler(merged)
        y, skip_merged, skip_repeated = merged, merged, repeated
        if self.downsample > 1:
            y = self.conv_downsampler(merged)
            skip_merged, skip_repeated = (F.avg_pool1d(z, self.downsample) for z in (merged, repeated))
        return (y + skip_merged + skip_repeated).transpose(1, 2)

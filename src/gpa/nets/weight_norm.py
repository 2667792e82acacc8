"""Weight-normalised convolutions with the old-style keys `weight_g`, `weight_v` of the published files (dim 0)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def _split(conv: nn.Conv1d | nn.ConvTranspose1d) -> None:
    """Replace `weight` by its direction and its length per slice of dim 0."""
    weight = conv.weight.detach()
    del conv._parameters["weight"]
    conv.weight_g = nn.Parameter(weight.norm(dim=(1, 2), keepdim=True))
    conv.weight_v = nn.Parameter(weight)


def _joined(conv: nn.Module) -> Tensor:
    v: Tensor = conv.weight_v
    g: Tensor = conv.weight_g
    return v * (g / v.norm(dim=(1, 2), keepdim=True))


class NormedConv1d(nn.Conv1d):
    """Conv1d whose weight is weight_g * weight_v / |weight_v|, the norm over each output channel."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, dilation=dilation, padding=padding)
        _split(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T')."""
        return self._conv_forward(x, _joined(self), self.bias)


class NormedConvTranspose1d(nn.ConvTranspose1d):
    """ConvTranspose1d whose weight is weight_g * weight_v / |weight_v|, the norm over each INPUT channel (dim 0)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=padding)
        _split(self)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T * stride)."""
        return F.conv_transpose1d(x, _joined(self), self.bias, self.stride, self.padding)

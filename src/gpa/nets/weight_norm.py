"""Weight-normalised convolutions with the old-style keys `weight_g`, `weight_v` of the published files (dim 0)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gpa.nets.past import WHOLE, Whole


def _split(conv: nn.Module, weight: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    """Take `weight` out of a convolution -> its length per slice of dim 0, and its direction."""
    del conv._parameters["weight"]
    return nn.Parameter(weight.detach().norm(dim=(1, 2), keepdim=True)), nn.Parameter(weight.detach())


def _joined(g: Tensor, v: Tensor) -> Tensor:
    weight: Tensor = v * (g / v.norm(dim=(1, 2), keepdim=True))
    return weight


class NormedConv1d(nn.Conv1d):
    """Conv1d whose weight is weight_g * weight_v / |weight_v|, the norm over each output channel."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, dilation=dilation)
        self.side = padding
        self.weight_g, self.weight_v = _split(self, self.weight)

    def forward(self, x: Tensor, past: Whole = WHOLE) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T')."""
        return self.inner(past.around(x, self.side, self.side)[0] if self.side else x)

    def inner(self, x: Tensor) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T - dilation * (kernel - 1)): padded by the caller."""
        out: Tensor = self._conv_forward(x, _joined(self.weight_g, self.weight_v), self.bias)
        return out


class NormedConvTranspose1d(nn.ConvTranspose1d):
    """ConvTranspose1d whose weight is weight_g * weight_v / |weight_v|, the norm over each INPUT channel (dim 0)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=padding)
        self.step, self.side = stride, padding
        self.weight_g, self.weight_v = _split(self, self.weight)

    def forward(self, x: Tensor, past: Whole = WHOLE) -> Tensor:  # type: ignore[override]
        """(B, inputs, T) -> (B, outputs, T * stride).

        Written as a plain convolution that gives all `stride` samples of a step at once, which then stand side by side:
        OpenVINO multiplies a transposed one out in full and adds the overlaps, which takes several times as long."""
        weight = _joined(self.weight_g, self.weight_v)
        weight = F.pad(weight, (0, -weight.shape[-1] % self.step)).unflatten(-1, (-1, self.step))  # (inputs, outputs, taps, stride)
        taps, after = weight.shape[2], -(-self.side // self.step)
        kernel = weight.flip(2).permute(1, 3, 0, 2).flatten(0, 1)  # (outputs * stride, inputs, taps)
        steps = F.conv1d(past.behind(x, taps - 1, after), kernel)
        out = past.cut(steps.unflatten(1, (-1, self.step)).transpose(2, 3).flatten(2), self.side, after * self.step - self.side)
        return out if self.bias is None else out + self.bias[:, None]

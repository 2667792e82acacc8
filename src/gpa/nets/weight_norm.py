"""Weight-normalised convolutions with the old-style keys `weight_g`, `weight_v` of the published files (dim 0)."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.nets.past import WHOLE, Whole

Module = TypeVar("Module", bound=nn.Module)


def _split(conv: nn.Module, weight: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    """Take `weight` out of a convolution -> its length per slice of dim 0, and its direction."""
    del conv._parameters["weight"]
    return nn.Parameter(weight.detach().norm(dim=(1, 2), keepdim=True)), nn.Parameter(weight.detach())


def _joined(g: Tensor, v: Tensor) -> Tensor:
    weight: Tensor = v * (g / v.norm(dim=(1, 2), keepdim=True))
    return weight


def multiplied_out(net: Module) -> Module:
    """The same net, whose normed convolutions hold the `kernel` that they multiply by; all other parameters are shared.

    In an export OpenVINO maps such a kernel. One that is multiplied out when it is loaded stays in memory beside the packed one."""
    net = deepcopy(net, {id(parameter): parameter for parameter in net.parameters()})
    for module in net.modules():
        if isinstance(module, (NormedConv1d, NormedConvTranspose1d)):
            with torch.no_grad():
                module.kernel = nn.Parameter(module.multiplied(), requires_grad=False)
            del module.weight_g, module.weight_v
    return net


class NormedConv1d(nn.Conv1d):
    """Conv1d whose weight is weight_g * weight_v / |weight_v|, the norm over each output channel."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, dilation=dilation)
        self.side = padding
        self.weight_g, self.weight_v = _split(self, self.weight)
        self.kernel: nn.Parameter | None = None  # see `multiplied_out`

    def forward(self, x: Tensor, past: Whole = WHOLE) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T')."""
        return self.inner(past.around(x, self.side, self.side)[0] if self.side else x)

    def inner(self, x: Tensor) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T - dilation * (kernel - 1)): padded by the caller."""
        out: Tensor = self._conv_forward(x, self.multiplied() if self.kernel is None else self.kernel, self.bias)
        return out

    def multiplied(self) -> Tensor:
        """(outputs, inputs, kernel)."""
        return _joined(self.weight_g, self.weight_v)


class NormedConvTranspose1d(nn.ConvTranspose1d):
    """ConvTranspose1d whose weight is weight_g * weight_v / |weight_v|, the norm over each INPUT channel (dim 0)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=padding)
        self.step, self.side = stride, padding
        self.weight_g, self.weight_v = _split(self, self.weight)
        self.kernel: nn.Parameter | None = None  # see `multiplied_out`

    def forward(self, x: Tensor, past: Whole = WHOLE) -> Tensor:  # type: ignore[override]
        """(B, inputs, T) -> (B, outputs, T * stride).

        Written as a plain convolution that gives all `stride` samples of a step at once, which then stand side by side:
        OpenVINO multiplies a transposed one out in full and adds the overlaps, which takes several times as long."""
        kernel = self.multiplied() if self.kernel is None else self.kernel
        taps, after = kernel.shape[2], -(-self.side // self.step)
        steps = F.conv1d(past.behind(x, taps - 1, after), kernel)
        out = past.cut(steps.unflatten(1, (-1, self.step)).transpose(2, 3).flatten(2), self.side, after * self.step - self.side)
        return out if self.bias is None else out + self.bias[:, None]

    def multiplied(self) -> Tensor:
        """(outputs * stride, inputs, taps): of the plain convolution."""
        weight = _joined(self.weight_g, self.weight_v)
        weight = F.pad(weight, (0, -weight.shape[-1] % self.step)).unflatten(-1, (-1, self.step))  # (inputs, outputs, taps, stride)
        kernel: Tensor = weight.flip(2).permute(1, 3, 0, 2).flatten(0, 1)
        return kernel

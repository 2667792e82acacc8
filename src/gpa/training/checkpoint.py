"""Training state on disk: written every few minutes, always whole, resumed exactly.

Batches are drawn from (seed, step), so the state is the step, the weights, their average and the optimiser: a run that
was cut off goes on as if it had never stopped.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpa.errors import CheckpointError


class Average:
    """Exponential moving average of a module's floating-point state; young averages follow faster."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the module after `step` updates."""
        weight = 1 - min(self.decay, step / (step + 50))
        for name, value in module.state_dict().items():
            if value.dtype.is_floating_point:
                self.state[name].lerp_(value, weight)
            else:
                self.state[name].copy_(value)


class Checkpoints:
    """One file `state.pt` in a folder, replaced at most every `minutes`."""

    def __init__(self, folder: Path, minutes: float = 5.0) -> None:
        self.path = Path(folder) / "state.pt"
        self.minutes = minutes
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._last > 60 * self.minutes

    def save(self, state: dict[str, Any]) -> None:
        """Write `state` (tensors, numbers, strings, dicts and lists of them) atomically."""
        partial = self.path.with_suffix(".tmp")
        torch.save(state, partial)
        os.replace(partial, self.path)
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The last state, or None before the first. Raises CheckpointError."""
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception as error:  # a damaged zip raises many types
            raise CheckpointError(f"{self.path} cannot be read ({error}); remove it to start anew") from error
        return state


def load_matching(module: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Load the entries whose name and shape fit; returns the names left at their start values."""
    own = module.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    module.load_state_dict(fitting, strict=False)
    return [k for k in own if k not in fitting]


def learning_rate(step: int, peak: float, warmup: int, total: int, decay: float = 1 / 3, floor: float = 0.03) -> float:
    """Linear warm-up, constant, linear decay over the last `decay` share of `total` steps down to `floor` * peak."""
    left = (total - step) / (decay * total)
    return peak * min(1.0, (step + 1) / warmup) * max(floor, min(1.0, left))

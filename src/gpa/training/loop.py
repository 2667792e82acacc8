"""The one training loop: draw, score, update, average, report, save. What is trained and on what is passed in.

A step's batch follows from its number, so a run that was cut off resumes exactly from its last state. A step whose gradient is not
finite changes nothing but the number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpa.errors import CheckpointError, GPAError
from gpa.training.checkpoint import Average, Checkpoints, learning_rate
from gpa.training.workers import Workers

Losses = dict[str, Tensor]
UNSOUND = 20  # steps in a row without a finite gradient, after which something is wrong


@dataclass(frozen=True)
class Schedule:
    """Length and speed of a run."""

    steps: int
    rate: float
    warmup: int = 200
    decay: float = 1 / 3  # share of the steps over which the rate falls
    clip: float = 2.0  # largest gradient norm
    seed: int = 0
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.02
    average: float = 0.999  # decay of the weight average
    meet: int = 1  # 1: workers average gradients in every step; n: each goes alone and they average weights every n steps


class Loop:
    """A module, its optimiser, its average, and their state in OUT/state.pt."""

    def __init__(self, module: nn.Module, out: Path, schedule: Schedule, parameters: list[nn.Parameter] | None = None) -> None:
        self.workers = Workers.join()
        self.device = self.workers.device
        self.module, self.schedule = module.to(self.device), schedule
        self.parameters = parameters if parameters is not None else list(module.parameters())
        matrices = [p for p in self.parameters if p.ndim >= 2]
        rest = [p for p in self.parameters if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=schedule.rate, betas=schedule.betas, fused=True)
        names = {id(p): name for name, p in module.named_parameters()}
        self._trained = [names[id(p)] for p in matrices + rest]  # as the optimiser numbers them
        self.average = Average(module, schedule.average)
        self.checkpoints = Checkpoints(out)
        self.step = 0
        self._unsound = 0  # the last steps, that changed nothing

    @property
    def draw(self) -> int:
        """Number of this worker's batch at this step: no two workers or steps share one."""
        return self.step * self.workers.count + self.workers.rank

    def resume(self) -> dict[str, Any]:
        """Take up the last state, if any; returns its `extra`. Raises CheckpointError for one of another run."""
        state = self.checkpoints.load()
        if state is not None:
            try:
                self.module.load_state_dict(state["model"])
            except RuntimeError as error:
                raise CheckpointError(f"{self.checkpoints.path} is of other nets; begin a run of its own, with `init` ({error})") from error
            self.average.state = {name: value.to(self.device) for name, value in state["average"].items()}
            self.optimiser.load_state_dict(self._taken_up(state))
            self.step = state["step"]
        self.workers.share(self.module)
        extra: dict[str, Any] = state["extra"] if state else {}
        return extra

    def _taken_up(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state -> the optimiser's part of it, in this run's order: what is trained, and in which order, may have changed since."""
        held, own = state["optimiser"]["state"], self.module.state_dict()
        names = state.get("trained", self._trained)  # older states do not tell
        moments = {name: held[number] for number, name in enumerate(names) if number in held}
        misfit = [name for name, x in moments.items() if name not in own or x["exp_avg"].shape != own[name].shape]
        if misfit or len(held) > len(names):
            found = f"{misfit[0]} of another shape" if misfit else f"{len(held)} parameters for {len(names)}"
            raise CheckpointError(f"{self.checkpoints.path}: the optimiser's state has {found}; begin a run of its own, with `init`")
        taken = {number: moments[name] for number, name in enumerate(self._trained) if name in moments}
        return {"state": taken, "param_groups": self.optimiser.state_dict()["param_groups"]}

    def run(
        self,
        losses: Callable[[int], tuple[Losses, Losses]],
        weights: Mapping[str, float],
        after: Callable[[], None] = lambda: None,
        extra: Callable[[], dict[str, Any]] = dict,
        every: int = 100,
    ) -> Iterator[dict[str, float]]:
        """Train to the last step. `losses(draw)` gives weighted losses and figures only to be reported; `after` runs
        after each update; `extra()` is saved with the state. The first worker yields means every `every` steps, and how many were
        `skipped` if any were. Raises GPAError: UNSOUND steps in a row had no finite gradient."""
        sums: dict[str, float] = {}
        since, skipped = self.step, 0  # where the running means begin, and steps since then that changed nothing
        started, cpu = time.monotonic(), time.process_time()
        while self.step < self.schedule.steps:
            figures = self._update(losses, weights)
            if figures is None:
                skipped += 1
            else:
                for name, value in figures.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach())
                after()
            if self.workers.rank:
                continue
            self.average.update(self.module, self.step)
            if self.step % every == 0:
                elapsed = {"seconds": time.monotonic() - started, "cpu": time.process_time() - cpu}
                told = {"skipped": float(skipped)} if skipped else {}
                counted = self.step - since - skipped
                yield {"step": self.step, **elapsed, **{name: total / counted for name, total in sums.items()}, **told}
                sums, since, skipped = {}, self.step, 0
            if (self.checkpoints.due() and self._met) or self.step == self.schedule.steps:
                self.save(extra())
        self.workers.leave()

    def _update(self, losses: Callable[[int], tuple[Losses, Losses]], weights: Mapping[str, float]) -> Losses | None:
        """One step; its figures, or None where the gradient was not finite."""
        s = self.schedule
        torch.manual_seed(s.seed * 1_000_003 + self.draw)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, s.rate, s.warmup, s.steps, s.decay)
        self.module.train()
        with torch.autocast(self.device.type, torch.bfloat16):
            learned, told = losses(self.draw)
        self.optimiser.zero_grad()
        torch.stack([weights[name] * loss for name, loss in learned.items()]).sum().backward()
        if s.meet == 1:
            self.workers.average_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, s.clip)
        sound = bool(torch.isfinite(norm))
        self._unsound = 0 if sound else self._unsound + 1
        if self._unsound == UNSOUND:
            raise GPAError(
                f"no finite gradient in steps {self.step - UNSOUND + 2} to {self.step + 1}: the last losses are {_told(learned)}"
            )
        if sound:
            self.optimiser.step()
        self.step += 1
        if s.meet > 1 and self._met:
            self.workers.average([*self.parameters, *self._moments()])
        return {**learned, **told, "grad": norm} if sound else None

    @property
    def _met(self) -> bool:
        """Whether all workers hold the same weights after this step."""
        return self.step % self.schedule.meet == 0 or self.step == self.schedule.steps

    def _moments(self) -> list[Tensor]:
        return [value for p in self.parameters for name, value in self.optimiser.state.get(p, {}).items() if name != "step"]

    def save(self, extra: dict[str, Any]) -> None:
        """Write the state."""
        self.checkpoints.save(
            {
                "step": self.step,
                "model": self.module.state_dict(),
                "average": self.average.state,
                "optimiser": self.optimiser.state_dict(),
                "trained": self._trained,
                "extra": extra,
            }
        )


def _told(losses: Losses) -> str:
    return ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in losses.items())

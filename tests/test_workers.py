"""Data-parallel training: workers that meet hold the same weights, and a run that was cut off goes on as if it had not been."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing import spawn

from gpa.errors import CheckpointError, GPAError
from gpa.training.loop import Loop, Losses, Schedule


def train(rank: int, out: Path, port: int, meet: int, steps: int) -> None:
    """One worker of two: fits a line to its own random points, and leaves its weights in OUT/rank."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    loop = Loop(module, out, replace(Schedule(6, 0.1, warmup=1), meet=meet))
    loop.checkpoints.minutes = 0
    loop.resume()

    def losses(draw: int) -> tuple[Losses, Losses]:
        x: Tensor = torch.randn(4, 3, generator=torch.Generator().manual_seed(draw))
        return {"fit": (module(x) - x[:, :2]).square().mean()}, {}

    class Cut(Exception):
        pass

    def stop() -> None:
        if loop.step > steps:
            raise Cut

    try:
        list(loop.run(losses, {"fit": 1.0}, stop))
    except Cut:
        return
    torch.save(module.state_dict(), out / f"rank{rank}.pt")


def together(out: Path, meet: int, steps: int = 6) -> list[dict[str, Tensor]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out.mkdir(exist_ok=True)
    spawn(train, (out, port, meet, steps), nprocs=2)
    return [torch.load(path, weights_only=True) for path in sorted(out.glob("rank*.pt"))]


@pytest.mark.slow
@pytest.mark.parametrize("meet", [1, 2])
def test_workers_end_alike_and_resume_exactly(meet: int, tmp_path: Path):
    whole = together(tmp_path / "whole", meet)
    assert torch.equal(whole[0]["weight"], whole[1]["weight"])
    assert together(tmp_path / "cut", meet, steps=4) == []
    resumed = together(tmp_path / "cut", meet)
    for name, value in whole[0].items():
        torch.testing.assert_close(resumed[0][name], value, atol=0, rtol=0)
        torch.testing.assert_close(resumed[1][name], value, atol=0, rtol=0)


def fitted(out: Path, broken: Callable[[int], bool], steps: int = 40) -> tuple[nn.Linear, list[dict[str, float]]]:
    """A line fitted to random points by one worker; the loss of `broken` steps has no finite gradient."""
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    loop = Loop(module, out, Schedule(steps, 0.1, warmup=1))

    def losses(draw: int) -> tuple[Losses, Losses]:
        x: Tensor = torch.randn(4, 3, generator=torch.Generator().manual_seed(draw))
        fit = (module(x) - x[:, :2]).square().mean()
        return {"fit": fit + (0 * (module(x) - module(x)).abs().sqrt().sum() if broken(draw) else 0)}, {}

    return module, list(loop.run(losses, {"fit": 1.0}, every=20))


def test_a_step_without_a_finite_gradient_changes_nothing(tmp_path: Path) -> None:
    module, told = fitted(tmp_path, lambda draw: draw in {3, 4, 30})
    assert [row.get("skipped", 0) for row in told] == [2, 1]
    assert all(np.isfinite(value) for row in told for value in row.values())
    assert told[1]["fit"] < told[0]["fit"]
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert [row.get("skipped", 0) for row in fitted(tmp_path / "sound", lambda draw: False)[1]] == [0, 0]


def test_a_run_that_only_fails_says_so(tmp_path: Path) -> None:
    fitted(tmp_path, lambda draw: 5 <= draw < 24)
    with pytest.raises(GPAError, match=r"no finite gradient in steps 6 to 25: the last losses are fit 0\.\d+"):
        fitted(tmp_path / "other", lambda draw: draw >= 5)


def pair(out: Path, *trained: str) -> Loop:
    """A loop that trains these of two layers for two steps, in this order."""
    torch.manual_seed(0)
    layers = nn.ModuleDict({"first": nn.Linear(3, 4), "second": nn.Linear(4, 2)})
    return Loop(layers, out, Schedule(2, 0.1, warmup=1), [p for name in trained for p in layers[name].parameters()])


def run_pair(loop: Loop) -> Loop:
    layers = loop.module
    assert isinstance(layers, nn.ModuleDict)
    list(loop.run(lambda draw: ({"fit": layers["second"](layers["first"](torch.ones(1, 3))).square().mean()}, {}), {"fit": 1.0}))
    return loop


@pytest.mark.parametrize("trained", [("second", "first"), ("second",)])
def test_moments_stay_with_their_weights_whatever_is_trained_on(trained: tuple[str, ...], tmp_path: Path) -> None:
    before = run_pair(pair(tmp_path, "first", "second"))
    after = pair(tmp_path, *trained)
    after.resume()
    for name in trained:
        for old, new in zip(before.module[name].parameters(), after.module[name].parameters(), strict=True):
            assert torch.equal(before.optimiser.state[old]["exp_avg"], after.optimiser.state[new]["exp_avg"])


def test_a_state_of_other_nets_is_refused(tmp_path: Path) -> None:
    run_pair(pair(tmp_path, "first", "second"))
    with pytest.raises(CheckpointError, match=r"state\.pt is of other nets; begin a run of its own"):
        Loop(nn.Linear(3, 2), tmp_path, Schedule(3, 0.1)).resume()


@pytest.mark.parametrize("trained", [("second", "first"), ("second",)])
def test_moments_that_fit_no_weights_are_refused(trained: tuple[str, ...], tmp_path: Path) -> None:
    run_pair(pair(tmp_path, "first", "second"))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["trained"]  # as states were before names were kept
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"the optimiser's state has .*; begin a run of its own, with `init`"):
        pair(tmp_path, *trained).resume()

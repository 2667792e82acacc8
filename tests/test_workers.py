"""Data-parallel training: workers that meet hold the same weights, and a run that was cut off goes on as if it had not been."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing import spawn

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

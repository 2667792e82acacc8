"""How far an export lies from its torch twin, how large it is, and how fast it runs here: one line."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from gpa.nets.export import Job, in_torch
from gpa.nets.net import Array, load_net

LONGER = 4  # times the example that was traced: lengths are free


def compared(job: Job, path: Path) -> str:
    """Run the export at `path` and the net in torch on the same inputs -> what differs, size, speed."""
    fed = {name: _longer(name, value.numpy()) for name, value in job.example.items()}
    net = load_net(path)
    made, legal = net(**fed), in_torch(job)(**fed)
    started = time.perf_counter()
    net(**fed)
    took = time.perf_counter() - started
    differs = ", ".join(_difference(name, made[name], legal[name]) for name in job.outputs)
    return f"{path.stat().st_size / 1e6:.1f} MB, {differs}, {job.seconds * LONGER / took:.1f} s of sound a second"


def _longer(name: str, value: Array) -> Array:
    return value if name in ("voice", "skip") else np.concatenate([value] * LONGER, 1)


def _difference(name: str, made: Array, legal: Array) -> str:
    if made.dtype.kind == "i":
        return f"{(made == legal).mean():.1%} of {name} equal"
    return f"{name} within {np.abs(made - legal).max():.1e} of {np.abs(legal).max():.2g}"

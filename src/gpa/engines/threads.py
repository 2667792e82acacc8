"""How many threads a model on CPU pays for."""

from __future__ import annotations

import os
from pathlib import Path

BIG = 200_000_000  # bytes of weights from which a second thread pays (measured: at 20 MB it costs speed on a busy machine)


def threads_for(weights: Path, least: int = 1) -> int:
    """1 for small models; for big ones half the cores, and `least` if there are so many.

    Threads that spin while they wait for each other (llama.cpp's) collapse where another program runs; those that sleep do not."""
    cores = os.cpu_count() or 1
    return max(min(least, cores), cores // 2) if weights.stat().st_size >= BIG else 1

"""How many threads a model on CPU pays for."""

from __future__ import annotations

import os
from pathlib import Path

BIG = 200_000_000  # bytes of weights from which a second thread pays (measured: at 20 MB it costs speed on a busy machine)


def threads_for(weights: Path) -> int:
    """1 for small models, half the cores for big ones: threads that wait for each other collapse where another program runs."""
    return max(1, (os.cpu_count() or 1) // 2) if weights.stat().st_size >= BIG else 1

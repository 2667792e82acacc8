"""gpa: one autoregressive model that speaks, listens and converts voices.

The names below are the public face. They are imported when first used, so that `import gpa` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"
__all__ = ["GPA", "GPAError", "Sampling", "Speech", "Transcript", "Voice", "__version__", "load"]

if TYPE_CHECKING:
    from gpa.engines.base import Sampling
    from gpa.errors import GPAError
    from gpa.pipeline import GPA, load
    from gpa.results import Speech, Transcript
    from gpa.voice import Voice

# `import openvino` reports itself to a web service through this package, and waits for it, unless it cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_HOMES = {
    "GPA": "gpa.pipeline",
    "load": "gpa.pipeline",
    "GPAError": "gpa.errors",
    "Sampling": "gpa.engines.base",
    "Speech": "gpa.results",
    "Transcript": "gpa.results",
    "Voice": "gpa.voice",
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gpa' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

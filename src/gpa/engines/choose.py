"""Name -> engine: the one place that knows which backends there are."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from gpa.engines.base import Engine
from gpa.errors import EngineError

ENGINES = ("openvino", "transformers")


def open_engine(folder: Path, name: str = "auto", device: str = "auto") -> Engine:
    """Load the language model of a checkpoint folder.

    auto: openvino where its export lies in the folder, else transformers where that is installed. device: auto, cpu, or
    (transformers only) any device of torch. Raises EngineError, CheckpointError, MissingExtra."""
    if name == "auto":
        exported = (Path(folder) / "openvino_model.xml").is_file()
        name = "openvino" if exported or find_spec("transformers") is None else "transformers"
    if name == "openvino":
        if device not in ("auto", "cpu"):
            raise EngineError(f"engine openvino runs on cpu, found device {device!r}")
        from gpa.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(Path(folder))
    if name == "transformers":
        from gpa.engines.transformers import TransformersEngine

        return TransformersEngine(Path(folder), "cpu" if device == "auto" else device)
    raise EngineError(f"unknown engine {name!r} (legal: auto, {', '.join(ENGINES)})")

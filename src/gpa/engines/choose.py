"""Name -> engine: the one place that knows which backends there are."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from gpa.engines.base import Engine
from gpa.errors import EngineError

ENGINES = ("openvino", "llama", "transformers", "vllm")


def open_engine(folder: Path, name: str = "auto", device: str = "auto", threads: int | None = None) -> Engine:
    """Load the language model of a checkpoint folder.

    auto: the first of openvino, llama and transformers whose weights lie in the folder and whose package is installed.
    device: auto, cpu, or (transformers only) any device of torch. vllm runs on the GPU that it finds. threads: of openvino and
    llama; None is their own choice.
    Raises EngineError, CheckpointError, MissingExtra."""
    folder = Path(folder)
    name = _first(folder) if name == "auto" else name
    if name in ("openvino", "llama") and device not in ("auto", "cpu"):
        raise EngineError(f"engine {name} runs on cpu, found device {device!r}")
    if name == "openvino":
        from gpa.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(folder, threads)
    if name == "llama":
        from gpa.engines.llama import LlamaEngine

        return LlamaEngine(folder, threads)
    if name == "vllm":
        if device == "cpu":
            raise EngineError("engine vllm runs on a GPU, found device 'cpu'")
        from gpa.engines.vllm import VLLMEngine

        return VLLMEngine(folder)
    if name == "transformers":
        from gpa.engines.transformers import TransformersEngine

        return TransformersEngine(folder, "cpu" if device == "auto" else device)
    raise EngineError(f"unknown engine {name!r} (legal: auto, {', '.join(ENGINES)})")


def _first(folder: Path) -> str:
    wanted = {"openvino": ("openvino_model.xml", "openvino"), "llama": ("model.gguf", "xllamacpp")}
    wanted["transformers"] = ("model.safetensors", "transformers")
    return next((name for name, (file, package) in wanted.items() if (folder / file).is_file() and find_spec(package)), "openvino")

"""Net: named arrays in, named arrays out. A pure function, from an exported file or from a torch module.

The rooms above (tokenizers, segment) call a Net and know neither torch nor OpenVINO.
"""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpa.engines.pages import sparing
from gpa.errors import CheckpointError

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]

COMPUTED = "computed"  # key of an ONNX file's metadata: what it is run in, where that is not f32


class Net(Protocol):
    """A pure function on named arrays. Thread-safe; shapes are the net's own business."""

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        """Named inputs -> named outputs. Raises CheckpointError when a name or a shape does not fit the net."""


def data_file(path: Path) -> Path:
    """Where the weights of an ONNX file or of an IR stand, if not in the file itself."""
    return path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")


def size(path: Path) -> int:
    """Bytes of a net, with its weights; 0 where there is none."""
    return sum(file.stat().st_size for file in (path, data_file(path)) if file.is_file())


class OpenVINONet:
    """A compiled `.onnx` or `.xml`. Calls from several threads run at once, each in an infer request of its own."""

    def __init__(self, path: Path, threads: int | None, device: str, cache_dir: Path | None, calls: int = 1, seldom: bool = False) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"{self.path} is missing: `gpa convert` writes it from the weights of a checkpoint")
        self._weights, self._fresh = data_file(self.path), True
        self._seldom = seldom and self._weights.is_file()  # of a small net nothing is to be had
        self.computed = ""  # what it is run in, on CPU: f32 or bf16
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if device == "CPU":
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # the default rounds what meets int8 weights to int8 too
            settings["ENABLE_CPU_PINNING"] = False  # every net of one thread would be pinned to the same processor
            settings["CPU_RUNTIME_CACHE_CAPACITY"] = 128  # the default keeps what it prepared for 5,000: every new length of sound stays
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"], settings["NUM_STREAMS"] = threads * calls, calls
        if cache_dir is not None:
            settings["CACHE_DIR"] = str(cache_dir)
        try:
            with sparing(self._weights):
                net = _core().read_model(str(self.path))
                if device == "CPU":
                    self.computed = _computed(net)  # the default is bfloat16 for all nets where the CPU has it
                    settings["INFERENCE_PRECISION_HINT"] = self.computed
                self._model: Any = _core().compile_model(net, device, settings)
        except RuntimeError as error:
            raise CheckpointError(f"{self.path} cannot be loaded on {device}: {error}") from error
        self._inputs = {name: port.get_element_type().to_dtype() for port in self._model.inputs for name in port.get_names()}
        self._names = [port.get_any_name() for port in self._model.inputs]
        self._idle: deque[Any] = deque()

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        """See `Net`."""
        if len(arrays) != len(self._names) or not self._inputs.keys() >= arrays.keys():
            raise CheckpointError(f"{self.path} takes {', '.join(self._names)}; given: {', '.join(arrays) or 'nothing'}")
        fed = {name: np.asarray(array, self._inputs[name], order="C") for name, array in arrays.items()}
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._model.create_infer_request()
        try:
            with sparing(self._weights) if self._fresh else nullcontext():  # the first call repacks what it multiplies by
                out = request.infer(fed, share_inputs=True)  # outputs are copied, so the request is free again
        except RuntimeError as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in fed.items())
            raise CheckpointError(f"{self.path} failed on {shapes}: {error}") from error
        self._idle.append(request)
        self._fresh = False
        if self._seldom:
            self._model.release_memory()
        return {name: value for port, value in out.items() for name in port.get_names()}


class TorchNet:
    """A torch module whose forward takes its tensors by name and returns a dict of tensors."""

    def __init__(self, module: torch.nn.Module, device: str = "cpu") -> None:
        self._module = module.to(device).eval()
        self._device = device

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        """See `Net`. Floats are fed as float32."""
        import torch

        fed = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        fed = {name: (x.float() if x.is_floating_point() else x).to(self._device) for name, x in fed.items()}
        with torch.inference_mode():
            out = self._module(**fed)
        return {name: tensor.cpu().numpy() for name, tensor in out.items()}


def load_net(
    path: Path, threads: int | None = None, device: str = "CPU", cache_dir: Path | None = None, *, calls: int = 1, seldom: bool = False
) -> Net:
    """Compile an `.onnx` or OpenVINO `.xml` file, once, for calls from any thread.

    Where it was never written, torch runs the weights beside it, if torch is installed; on a device `cuda` always.
    threads: of one call; None leaves it to OpenVINO. calls: how many run at once, each with its `threads`; others wait.
    cache_dir: keep the compiled net there for a faster next start. seldom: a large net gives back what lay between its layers after
    every call, and takes it anew at the next.
    Raises CheckpointError for a file that is missing or damaged."""
    path = Path(path)
    weights = any((path.parent / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
    if device.startswith("cuda") or (not path.is_file() and weights and find_spec("torch")):
        from gpa.nets.unexported import open_weights

        return open_weights(path, "cpu" if device == "CPU" else device)
    return OpenVINONet(path, threads, device, cache_dir, calls, seldom)


def _computed(net: Any) -> str:
    """What a net is run in on CPU: f32, unless its file says otherwise and the processor can."""
    try:
        wanted = net.get_rt_info(["framework", COMPUTED]).astype(str)
    except RuntimeError:  # it says nothing
        return "f32"
    known = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return str(wanted) if str(wanted).upper() in known else "f32"


@lru_cache(maxsize=1)
def _core() -> Any:
    """One OpenVINO core for all nets."""
    import openvino

    return openvino.Core()

"""The tokenizer folders of a checkpoint <-> torch modules: published names, config beside the weights, keys and shapes strict."""

from __future__ import annotations

import json
import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from gpa.errors import CheckpointError, MissingExtra
from gpa.nets.bicodec import BiCodec
from gpa.nets.lm import LM
from gpa.nets.lm_config import LMConfig
from gpa.nets.wav2vec2 import STATES, UNUSED, Wav2Vec2, Wav2Vec2Config, published_keys
from gpa.nets.weights import Weights
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig

WEIGHTS = "model.safetensors"
PICKLE = "pytorch_model.bin"  # what the published wav2vec2 folder holds instead
WAV2VEC2 = "wav2vec2-large-xlsr-53"  # folder inside BiCodec's
Module = TypeVar("Module", bound=nn.Module)
Unused = Callable[[str], bool]  # whether a tensor of a published file is known, and read by nothing

_BUFFERS = ("cluster_size", "ema_count", "ema_weight", "num_batches_tracked")  # of training


def read_bicodec(folder: Path) -> BiCodec:
    """FOLDER/config.yaml and model.safetensors -> the codec, in eval mode. Raises CheckpointError."""
    folder = Path(folder)
    with unfilled():
        codec = _built(lambda: BiCodec(BiCodec.load_config(folder)), folder / "config.yaml")
    return _loaded(codec, folder / WEIGHTS, lambda name: name.endswith(_BUFFERS) or name.startswith("mel_transformer."))


def read_glm(folder: Path) -> WhisperVQ:
    """FOLDER/config.json and model.safetensors -> the linguistic tokenizer, in eval mode. Raises CheckpointError."""
    folder = Path(folder)
    config = _of(WhisperVQConfig.of, folder / "config.json")
    with unfilled():
        net = WhisperVQ(config)

    def unused(name: str) -> bool:  # the published file ends at the quantiser; others of its kind hold all of Whisper's encoder
        return name.endswith(_BUFFERS) or name.startswith("layer_norm.") or _beyond(name, "layers.", config.quantize_position)

    return _loaded(net, folder / WEIGHTS, unused)


def read_wav2vec2(folder: Path) -> Wav2Vec2:
    """FOLDER/config.json and model.safetensors or, in its place, the published pickle -> the features' net, in eval mode.

    Of a pickle only tensors are read; what else it holds is refused. Raises CheckpointError."""
    folder = Path(folder)
    config = _of(Wav2Vec2Config.of, folder / "config.json")
    with unfilled():
        net = Wav2Vec2(config)

    def unused(name: str) -> bool:
        return name.startswith(UNUSED) or _beyond(name, "wav2vec2.encoder.layers.", max(STATES))

    if not (folder / WEIGHTS).is_file() and (folder / PICKLE).is_file():
        state = read_pickle(folder / PICKLE)
        check_tensors(folder / PICKLE, {name: value.shape for name, value in state.items()}, shapes(net), unused)
        return _filled(net, state)
    return _loaded(net, folder / WEIGHTS, unused)


def convert_pickle(folder: Path) -> Path | None:
    """Write what `read_wav2vec2` reads of a pickle as safetensors beside it, once; None where there is nothing to do."""
    folder = Path(folder)
    if (folder / WEIGHTS).is_file() or not (folder / PICKLE).is_file():
        return None
    return _save(read_wav2vec2(folder).state_dict(), folder)


def read_lm(folder: Path) -> LM:
    """FOLDER/config.json and model.safetensors -> the language model, in eval mode. Raises CheckpointError."""
    folder = Path(folder)
    with unfilled():
        net = _built(lambda: LM(LMConfig.load(folder)), folder / "config.json")
    return _loaded(net, folder / WEIGHTS, lambda name: net.config.tie_word_embeddings and name == "lm_head.weight")


def check_lm(folder: Path) -> None:
    """Whether FOLDER/model.safetensors holds the tensors that config.json asks for, no others. Raises CheckpointError."""
    folder = Path(folder)
    weights = Weights(folder / WEIGHTS)
    with torch.device("meta"):
        net = _built(lambda: LM(LMConfig.load(folder)), folder / "config.json")
    check_tensors(folder / WEIGHTS, weights.shapes, shapes(net), lambda name: net.config.tie_word_embeddings and name == "lm_head.weight")


def write_bicodec(config: dict[str, Any], state: dict[str, Tensor], folder: Path) -> None:
    """Write FOLDER/config.yaml and model.safetensors (float16 where `state` is)."""
    folder = _made(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, default_flow_style=None))
    _save(state, folder)


def write_glm(config: dict[str, Any], state: dict[str, Tensor], folder: Path) -> None:
    """Write FOLDER/config.json, preprocessor_config.json and model.safetensors."""
    folder = _made(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    numbers = {"feature_size": config["num_mel_bins"], "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400, "chunk_length": 30}
    kind = {"feature_extractor_type": "WhisperFeatureExtractor", "padding_side": "right", "padding_value": 0.0}
    (folder / "preprocessor_config.json").write_text(json.dumps({**kind, **numbers}, indent=1) + "\n")
    _save(state, folder)


def write_lm(config: LMConfig, state: dict[str, Tensor], folder: Path, stop_id: int, pad_id: int) -> None:
    """Write FOLDER/config.json and model.safetensors of the language model; its tokenizer's files are written elsewhere."""
    folder = _made(folder)
    (folder / "config.json").write_text(json.dumps(config.to_json(stop_id, pad_id), indent=1) + "\n")
    _save(state, folder)


def shapes(net: nn.Module) -> dict[str, Sequence[int]]:
    """Name -> shape of every tensor in the state dict."""
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def check_tensors(path: Path, found: Mapping[str, Sequence[int]], legal: Mapping[str, Sequence[int]], unused: Unused) -> None:
    """Raise CheckpointError, in one sentence, unless a file holds exactly what its config asks for.

    Buffers that only training reads may be missing; what `unused` knows may be there."""
    missing = [name for name in legal if name not in found and not name.endswith(_BUFFERS)]
    unknown = [name for name in found if name not in legal and not unused(name)]
    misshapen = [name for name in legal if name in found and tuple(found[name]) != tuple(legal[name])]
    if missing:
        raise CheckpointError(f"{path} lacks {_some(missing)} (legal: all {len(legal)} tensors that the config beside it asks for)")
    if misshapen:
        name = misshapen[0]
        where = f"{name} of shape {tuple(found[name])}"
        raise CheckpointError(f"{path} does not fit the config beside it: found {where} (legal: {tuple(legal[name])})")
    if unknown:
        raise CheckpointError(f"{path} holds {_some(unknown)}, unknown to such a net (legal: what the config beside it asks for)")


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a published `pytorch_model.bin`, under published keys; nothing in it is ever run. Raises CheckpointError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler's own errors, and whatever a damaged archive raises
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path} is damaged, or holds more than tensors and stays closed (legal: a state dict): {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path} holds a {type(state).__name__} (legal: a state dict, names and tensors)")
    return published_keys(state)


def _some(names: Sequence[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _beyond(name: str, stem: str, layers: int) -> bool:
    """Whether a tensor is of a layer after the last one that is used."""
    found = re.match(re.escape(stem) + r"(\d+)\.", name)
    return found is not None and int(found[1]) >= layers


def _of(parse: Callable[[dict[str, Any]], Any], path: Path) -> Any:
    """A config.json as its dataclass."""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (CheckpointError, OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _built(build: Callable[[], Module], path: Path) -> Module:
    """A net of a config without a schema of its own: what cannot be built of it is the config's fault."""
    try:
        return build()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (KeyError, TypeError, ValueError, OSError, yaml.YAMLError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise CheckpointError(f"{path} describes no net that can be built (legal: the published schema): {reason}") from error


@contextmanager
def unfilled() -> Iterator[None]:
    """Modules built in this thread meanwhile get parameters without memory: weights are about to be put in their place."""
    here = threading.get_ident()

    def emptied(_module: nn.Module, _name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad) if threading.get_ident() == here else None

    handle = register_module_parameter_registration_hook(emptied)  # type: ignore[arg-type]  # what it returns is taken
    try:
        yield
    finally:
        handle.remove()


def _made(folder: Path) -> Path:
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def _save(state: dict[str, Tensor], folder: Path) -> Path:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtra("safetensors", "torch") from error
    path = folder / WEIGHTS
    draft = path.with_suffix(".tmp")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, str(draft), {"format": "pt"})
    os.replace(draft, path)
    return path


def _loaded(net: Module, path: Path, unused: Unused) -> Module:
    """The net with the weights at `path`; tensors that it does not need are not read."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtra("safetensors", "torch") from error
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        with safe_open(str(path), "pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no mapping
            legal = shapes(net)
            check_tensors(path, found, legal, unused)
            return _filled(net, {name: file.get_tensor(name) for name in found if name in legal})
    except SafetensorError as error:
        raise CheckpointError(f"{path} is cut short or no safetensors file: {error}") from error


def _filled(net: Module, state: dict[str, Tensor]) -> Module:
    """The net with the tensors of `state` in place of its own, floats as float32."""
    own = net.state_dict()
    buffers = {name: value for name, value in own.items() if name.endswith(_BUFFERS)}
    given = {name: value.float() if value.is_floating_point() else value for name, value in state.items() if name in own}
    net.load_state_dict({**buffers, **given}, assign=True)
    return net.eval()

"""The two tokenizer folders of a checkpoint <-> torch modules: published names, safetensors, config beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from gpa.errors import CheckpointError, MissingExtra
from gpa.nets.bicodec import BiCodec, load_state
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig

WEIGHTS = "model.safetensors"
Module = TypeVar("Module", bound=nn.Module)


def read_bicodec(folder: Path) -> BiCodec:
    """FOLDER/config.yaml and model.safetensors -> the codec, in eval mode. Raises CheckpointError."""
    codec = BiCodec(BiCodec.load_config(Path(folder)))
    return _loaded(codec, Path(folder))


def read_glm(folder: Path) -> WhisperVQ:
    """FOLDER/config.json and model.safetensors -> the linguistic tokenizer, in eval mode. Raises CheckpointError."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    return _loaded(WhisperVQ(WhisperVQConfig.of(json.loads(path.read_text()))), Path(folder))


def write_bicodec(config: dict[str, Any], state: dict[str, Tensor], folder: Path, trained: bool = False) -> None:
    """Write FOLDER/config.yaml and model.safetensors (float16 where `state` is).

    trained: `state` is the weight average of our own training, whose codes lie on the unit sphere; the average of unit
    vectors is shorter, so they are brought back to length 1. Published codes are of any length and stay as they are."""
    if trained:
        name = "quantizer.codebook.weight"
        state = {**state, name: F.normalize(state[name].float(), dim=-1).to(state[name].dtype)}
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


def _made(folder: Path) -> Path:
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def _save(state: dict[str, Tensor], folder: Path) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtra("safetensors", "torch") from error
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, str(folder / WEIGHTS), {"format": "pt"})


def _loaded(module: Module, folder: Path) -> Module:
    """The module with the weights of `folder`, upcast to float32."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtra("safetensors", "torch") from error
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load_file(str(path)).items()}
    try:
        load_state(module, state)
    except RuntimeError as error:  # torch names the keys and shapes that do not fit
        raise CheckpointError(f"{path} does not fit the config beside it: {error}") from error
    return module.eval()

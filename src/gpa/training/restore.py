"""A checkpoint that holds exports alone -> the weights that training goes on from.

Exports keep the names of their weights; what is stored in int8 comes back as code times scale, so that exporting it again stores the
same codes. Nets that only training reads, such as BiCodec's postnet, are in no export: they start anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpa.engines.openvino import XML
from gpa.errors import CheckpointError, MissingExtra
from gpa.nets.bicodec import BiCodec
from gpa.nets.export_lm import WEIGHTS_OF, rows_of
from gpa.nets.folders import check_tensors, shapes, write_bicodec, write_glm, write_lm
from gpa.nets.lm import LM
from gpa.nets.lm_config import LMConfig
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig

BICODEC = ("encoder.onnx", "decoder.onnx", "speaker.onnx")
X_VECTOR = tuple(f"speaker_encoder.speaker_encoder.{part}." for part in ("pool", "bn", "linear"))
ANEW = ("postnet.", "mel_transformer.", *X_VECTOR)  # of BiCodec, in no export: only training reads them, or nothing does
SCALE = ":scale"  # as gpa.nets.compress names it
Array = NDArray[Any]


def restore(folder: Path, out: Path) -> list[str]:
    """Write `model.safetensors` (float32) of the three nets of `folder` into `out`, which gets the published layout without
    exports; returns the tensors that start anew. Raises CheckpointError, MissingExtra."""
    folder, out = Path(folder), Path(out)
    anew = _restore_bicodec(folder / "BiCodec", out / "BiCodec")
    _restore_glm(folder / "glm-4-voice-tokenizer", out / "glm-4-voice-tokenizer")
    _restore_lm(folder, out)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "card.json"):
        if (folder / name).is_file():
            (out / name).write_bytes((folder / name).read_bytes())
    for voice in sorted((folder / "voices").glob("*.json")):
        (out / "voices").mkdir(exist_ok=True)
        (out / "voices" / voice.name).write_bytes(voice.read_bytes())
    return anew


def _restore_bicodec(folder: Path, out: Path) -> list[str]:
    config = BiCodec.load_config(folder)
    net = BiCodec(config)
    found: dict[str, Array] = {}
    for name in BICODEC:
        found |= onnx_weights(folder / name)
    state = _state(net, found, folder, ANEW)
    write_bicodec(config, state, out)
    return [name for name in shapes(net) if name not in found and name.startswith("postnet.")]


def _restore_glm(folder: Path, out: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    net = WhisperVQ(WhisperVQConfig.of(config))
    write_glm(config, _state(net, onnx_weights(folder / "model.onnx"), folder, ("quantizer.out_project.",)), out)


def _state(net: nn.Module, found: dict[str, Array], folder: Path, anew: tuple[str, ...]) -> dict[str, Tensor]:
    """The net's state with the tensors found in place of its own."""
    own = net.state_dict()
    legal = {name: shape for name, shape in shapes(net).items() if not name.startswith(anew)}
    check_tensors(folder, {name: value.shape for name, value in found.items() if name in own}, legal, lambda _: True)
    return {**own, **{name: torch.from_numpy(value.astype(np.float32)) for name, value in found.items() if name in own}}


def onnx_weights(path: Path) -> dict[str, Array]:
    """Name -> float32 value of every initialiser of an export, int8 ones multiplied out. Raises CheckpointError, MissingExtra."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "train") from error
    try:
        proto = onnx.load(str(path))
    except Exception as error:  # protobuf's own errors
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    axes = {node.input[0]: node.attribute[0].i for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    for name, axis in axes.items():
        codes = values[name]
        scale = values.pop(name + SCALE).reshape([-1 if i == axis else 1 for i in range(codes.ndim)])
        values[name] = codes.astype(np.float32) * scale
    return values


def _restore_lm(folder: Path, out: Path) -> None:
    config, weights = LMConfig.load(folder), lm_weights(folder / XML)
    with torch.device("meta"):
        legal = shapes(LM(config))
    check_tensors(folder / XML, {name: value.shape for name, value in weights.items()}, legal, lambda _: False)
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    write_lm(config, state, out, said["eos_token_id"], said["pad_token_id"])


def lm_weights(path: Path) -> dict[str, Array]:
    """transformers' name -> float32 value of every weight of an exported language model. Raises CheckpointError.

    Of int4 nothing is restored: too little is left. Nor of a model whose head is not its embedding: an export holds but
    the rows of it that its tasks choose from."""
    import openvino

    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    weights: dict[str, Array] = {}
    for node in openvino.Core().read_model(str(path)).get_ordered_ops():
        if node.get_friendly_name().startswith(WEIGHTS_OF):
            rows = rows_of(node.get_friendly_name())
            pieces = np.split(_value(node, path), np.cumsum(list(rows.values()))[:-1])
            weights |= zip(rows, pieces, strict=True)
    if not weights:
        raise CheckpointError(f"{path} names no weights (legal: an export of this version; `gpa convert` writes it)")
    return weights


def _value(node: Any, path: Path) -> Array:
    """What a node of constants comes to, as float32."""
    kind = node.get_type_name()
    if kind == "Constant":
        if node.get_element_type().get_type_name() == "i4":
            raise CheckpointError(f"{path} holds int4 (legal: f32, f16, int8)")
        return np.array(node.get_data(), np.float32)
    parts = [_value(node.input_value(i).get_node(), path) for i in range(node.get_input_size())]
    if kind == "Convert":
        return parts[0]
    return np.multiply(*parts)

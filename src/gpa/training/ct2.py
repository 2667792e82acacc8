"""Reads a CTranslate2 Whisper file (model.bin, version 6): the small Whisper that starts the nano tokenizers ships so."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpa.errors import CheckpointError

_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, code: str) -> int:
        value: int = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        length = self.number("H")
        text = self.data[self.at : self.at + length - 1].decode()  # ends in a zero byte
        self.at += length
        return text


def read_ct2(path: Path) -> dict[str, NDArray[np.generic]]:
    """{variable name: array} of a model.bin. Raises CheckpointError."""
    reader = _Reader(Path(path).read_bytes())
    version = reader.number("I")
    if version != 6:
        raise CheckpointError(f"{path} has CTranslate2 format version {version}; version 6 is read here")
    reader.string()  # model specification
    reader.number("I")  # its revision
    arrays: dict[str, NDArray[np.generic]] = {}
    for _ in range(reader.number("I")):
        name = reader.string()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        dtype = np.dtype(_DTYPES[reader.number("B")])
        size = reader.number("I")
        arrays[name] = np.frombuffer(reader.data, dtype, size // dtype.itemsize, reader.at).reshape(shape)
        reader.at += size
    return arrays


def whisper_encoder_state(path: Path, positions: int = 1500) -> dict[str, Tensor]:
    """State of the encoder in WhisperVQ's keys: conv1, conv2, embed_positions, layers.N, layer_norm."""
    file = {k.removeprefix("encoder/"): v for k, v in read_ct2(path).items() if k.startswith("encoder/") and v.ndim}
    arrays = {k: torch.tensor(np.asarray(v, np.float32)) for k, v in file.items()}
    state: dict[str, Tensor] = {}

    def linear(ours: str, weight: Tensor, bias: Tensor) -> None:
        state[f"{ours}.weight"], state[f"{ours}.bias"] = weight, bias

    def norm(ours: str, theirs: str) -> None:
        linear(ours, arrays[f"{theirs}/gamma"], arrays[f"{theirs}/beta"])

    for conv in ("conv1", "conv2"):
        linear(conv, arrays[f"{conv}/weight"], arrays[f"{conv}/bias"])
    norm("layer_norm", "layer_norm")
    layers = len({k.split("/")[0] for k in arrays if k.startswith("layer_") and k[6].isdigit()})
    for i in range(layers):
        ours, theirs = f"layers.{i}", f"layer_{i}"
        weights = arrays[f"{theirs}/self_attention/linear_0/weight"].chunk(3)
        biases = arrays[f"{theirs}/self_attention/linear_0/bias"].chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            linear(f"{ours}.self_attn.{name}_proj", weight, bias)
        del state[f"{ours}.self_attn.k_proj.bias"]  # zero in every Whisper
        linear(f"{ours}.self_attn.out_proj", *(arrays[f"{theirs}/self_attention/linear_1/{p}"] for p in ("weight", "bias")))
        norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
        for k in (1, 2):
            linear(f"{ours}.fc{k}", *(arrays[f"{theirs}/ffn/linear_{k - 1}/{p}"] for p in ("weight", "bias")))
        norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
    dim = state["conv1.bias"].shape[0]
    rate = torch.exp(-np.log(10_000) / (dim // 2 - 1) * torch.arange(dim // 2))
    angle = torch.arange(positions)[:, None] * rate[None]
    state["embed_positions.weight"] = torch.cat([angle.sin(), angle.cos()], 1)
    return state

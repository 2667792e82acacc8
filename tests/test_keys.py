"""Our nets at the published sizes have the published tensors, by name and shape; nothing is computed, memory stays empty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from gpa.nets.bicodec import BiCodec
from gpa.nets.fake_published import _FULL_BICODEC, _FULL_LM
from gpa.nets.folders import shapes, unfilled
from gpa.nets.lm import LM
from gpa.nets.lm_config import LMConfig
from gpa.nets.wav2vec2 import STATES, UNUSED, Wav2Vec2, Wav2Vec2Config
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig

KEYS = Path(__file__).parent / "golden" / "keys"


def published(name: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = json.loads((KEYS / f"{name}.json").read_text())
    return found


def config(name: str) -> dict[str, Any]:
    read = yaml.safe_load if name.endswith(".yaml") else json.loads
    raw: dict[str, Any] = read((KEYS / name).read_text())
    return raw


def compare(net: nn.Module, file: dict[str, list[int]]) -> set[str]:
    """Every tensor of ours is in the file, in its shape; what the file has besides comes back."""
    ours = {name: list(shape) for name, shape in shapes(net).items()}
    assert {name: file.get(name) for name in ours} == ours
    return file.keys() - ours.keys()


def test_bicodec() -> None:
    with unfilled():
        net = BiCodec(config("bicodec.config.yaml"))
    assert compare(net, published("bicodec")) == {"quantizer.cluster_size"}
    assert yaml.safe_load(_FULL_BICODEC)["audio_tokenizer"] == config("bicodec.config.yaml")["audio_tokenizer"]


def test_glm() -> None:
    with unfilled():
        net = WhisperVQ(WhisperVQConfig.of(config("glm-4-voice-tokenizer.config.json")))
    assert compare(net, published("glm-4-voice-tokenizer")) == {"ema_count", "ema_weight"}


@pytest.mark.parametrize("layers", [16, 24])
def test_wav2vec2(layers: int) -> None:
    with unfilled():
        net = Wav2Vec2(Wav2Vec2Config.of(config("wav2vec2-large-xlsr-53.config.json")), (*STATES, layers))
    over = compare(net, published("wav2vec2-large-xlsr-53"))
    later = {name for name in over if name.startswith("wav2vec2.encoder.layers.")}
    assert all(name.startswith(UNUSED) for name in over - later)
    assert {int(name.split(".")[3]) for name in later} == set(range(layers, 24))


def test_language_model() -> None:
    raw = config("qwen3_0.3b.config.json")
    known = LMConfig(**{name: raw[name] for name in LMConfig.__dataclass_fields__})
    with torch.device("meta"):
        net = LM(known)
    assert not compare(net, published("qwen3_0.3b"))
    assert vars(known) == {**vars(_FULL_LM), "vocab_size": raw["vocab_size"]}

"""Checkpoints: found by name, folder or published id; every damage has its message; nothing is fetched unasked."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from fakes import write_checkpoint
from gpa import hub
from gpa.engines.base import Sampling
from gpa.errors import CheckpointError

CARD = {
    "name": "nano",
    "license": "Apache-2.0",
    "languages": ["en"],
    "sources": [{"source": "LJ", "license": "public domain", "attribution": "x", "utterances": 2, "hours": 1}],
    "scores": [{"task": "tts", "set": "amy", "metric": "wer", "value": 9.5, "low": 8.0, "high": 11.0, "count": 100}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_tells_where_its_parts_are(folder: Path) -> None:
    found = hub.resolve(folder)
    assert (found.name, found.folder) == ("model", folder)
    assert found.bicodec == folder / "BiCodec"
    assert found.glm == folder / "glm-4-voice-tokenizer"
    assert list(found.voices) == ["amy", "bob"]
    assert found.default_voice == "amy"
    assert found.card is None
    assert hub.resolve(str(folder)) == found


def test_card_and_default_voice(folder: Path) -> None:
    (folder / "card.json").write_text(json.dumps({**CARD, "default_voice": "bob"}))
    found = hub.resolve(folder)
    assert found.default_voice == "bob"
    assert found.card is not None
    assert found.card.sources[0].hours == 1.0
    assert found.card.scores[0].metric == "wer"


def test_sampling_comes_from_generation_config(folder: Path) -> None:
    raw = {"eos_token_id": 9, "transformers_version": "5", "tts": {"temperature": 0.7, "top_p": 0.9}, "asr": {}}
    (folder / "generation_config.json").write_text(json.dumps(raw))
    found = hub.resolve(folder).sampling
    assert found["tts"] == Sampling(temperature=0.7, top_p=0.9, top_k=50, repetition_penalty=1.2)
    assert found["asr"] == Sampling()  # greedy
    assert found["vc"].temperature == 0.2


def put(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda folder: (folder / "BiCodec" / "config.yaml").unlink(), "lacks BiCodec/config.yaml"),
        (put("config.json", "{"), "config.json is damaged"),
        (put("config.json", '{"model_type": "llama", "vocab_size": 9}'), "found .*llama.*legal: model_type 'qwen3'"),
        (put("config.json", '{"model_type": "qwen3"}'), "integer vocab_size"),
        (put("card.json", json.dumps({**CARD, "licence": "MIT"})), r"card.json: unknown keys \['licence'\]"),
        (put("card.json", '{"name": "x"}'), r"missing keys \['license'\]"),
        (put("card.json", json.dumps({**CARD, "scores": [{"task": "tts"}]})), r"scores\[0\]: .*missing keys"),
        (put("card.json", json.dumps({**CARD, "default_voice": "zoe"})), "default_voice is 'zoe' .legal: amy, bob"),
        (put("generation_config.json", '{"tts": {"temprature": 1}}'), r"tts: unknown keys \['temprature'\]"),
        (put("generation_config.json", '{"vc": {"top_p": 2}}'), "illegal sampling: top_p=2"),
        (put("generation_config.json", '{"vc": 3}'), "vc: found a int .legal: an object"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        hub.resolve(folder)


@pytest.mark.parametrize("name", ["nosuch", "a/b/c", "/no/such/folder", "../nosuch", "nul\0l"])
def test_unknown_names_list_what_is_legal(name: str) -> None:
    with pytest.raises(CheckpointError, match="legal: nano, an existing folder, or a published id"):
        hub.resolve(name)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("offline", [None, "1", "", "no"])
def test_a_published_id_is_not_fetched_unasked(monkeypatch: pytest.MonkeyPatch, offline: str | None) -> None:
    monkeypatch.delenv("GPA_OFFLINE", raising=False)
    if offline is not None:
        monkeypatch.setenv("GPA_OFFLINE", offline)
    with pytest.raises(CheckpointError, match=r"downloads are off: set GPA_OFFLINE=0 or pass allow_download=True"):
        hub.resolve("some/model")


def test_download_when_allowed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked: list[tuple[str, bool]] = []

    def fetch(name: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, local_files_only))
        assert not any(pattern.endswith((".py", ".pt", ".pkl")) for pattern in allow_patterns)  # no code
        assert {pattern for pattern in allow_patterns if pattern.endswith(".bin")} == {
            "BiCodec/wav2vec2-large-xlsr-53/pytorch_model.bin",  # the one pickle, read as tensors only
            "openvino_model.bin",
        }
        for name in ("openvino_model.xml", "BiCodec/decoder.onnx", "BiCodec/decoder.onnx.data", "model.safetensors"):
            assert any(fnmatch(name, pattern) for pattern in allow_patterns), name
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.delenv("GPA_OFFLINE", raising=False)
    assert hub.resolve("some/model").name == "some/model"  # stored on this machine: no download needed
    hub.resolve("some/model", allow_download=True)
    monkeypatch.setenv("GPA_OFFLINE", "0")
    hub.resolve("some/model")
    hub.resolve("some/model", allow_download=False)
    assert asked == [("some/model", True), ("some/model", False), ("some/model", False), ("some/model", True)]

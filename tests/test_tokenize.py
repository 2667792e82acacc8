"""Packs -> shards: an utterance has the same codes alone and among others, with features prepared or not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gpa.data import manifest
from gpa.data.manifest import Utterance
from gpa.data.shards import read_shard
from gpa.nets.bicodec import BiCodec
from gpa.nets.fake import tiny_bicodec, tiny_glm
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig
from gpa.training import tokenize
from gpa.training.features import prepare_pack


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> tokenize.PackTokenizer:
    monkeypatch.setattr("gpa.training.features.fast_bf16", lambda: False)
    monkeypatch.setattr(tokenize, "fast_bf16", lambda: False)
    torch.manual_seed(0)
    return tokenize.PackTokenizer(BiCodec(tiny_bicodec("nano")), WhisperVQ(WhisperVQConfig.of(tiny_glm("nano"))))


def test_an_utterance_has_the_same_codes_alone_and_in_its_pack(tokenizer, tmp_path: Path):
    rng = np.random.default_rng(0)
    rows, samples = [], 0
    for i in range(15):
        length = 1280 * (6 + i % 2)
        rows.append(
            Utterance(f"u{i}", f"text {i}", "h000", "p.pcm", "hibari-tts", "Apache-2.0", samples, length, f"u{i ^ 1}" if i < 4 else None)
        )
        samples += length
    manifest.write(tmp_path / "p.jsonl", rows)
    (rng.standard_normal(samples) * 2000).astype("<i2").tofile(tmp_path / "p.pcm")
    assert tokenizer.tokenise_pack(tmp_path / "p.jsonl", tmp_path / "fly.npz") == 15
    prepare_pack(tmp_path / "p.jsonl", tokenizer.glm, (1, 2), with_pitch=False)
    tokenizer.tokenise_pack(tmp_path / "p.jsonl", tmp_path / "prepared.npz")
    pcm = np.fromfile(tmp_path / "p.pcm", "<i2").astype(np.float32) / 32768
    same = []
    for row, fly, prepared in zip(rows, read_shard(tmp_path / "fly.npz"), read_shard(tmp_path / "prepared.npz"), strict=True):
        wav = pcm[row.offset : row.offset + row.samples]
        alone = tokenizer.encode([wav], tokenizer.features([wav]))[0]
        assert fly.text == row.text
        for name, codes in zip(("semantic", "glm", "voice"), alone, strict=True):
            assert getattr(fly, name).tolist() == codes.tolist(), name
            same.append(np.mean(getattr(prepared, name) == codes))
    assert np.mean(same) > 0.9  # prepared features are float16
    assert [row.pair for row in read_shard(tmp_path / "fly.npz")] == [1, 0, 3, 2] + [-1] * 11

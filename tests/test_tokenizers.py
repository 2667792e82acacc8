"""The tokenizers: lengths, framing as in training, loudness, reference clips, and what they refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpa.data.pack import level
from gpa.errors import AudioError, CheckpointError
from gpa.nets.folders import read_glm
from gpa.nets.mel import WhisperMel
from gpa.tokenizers import volume
from gpa.tokenizers.bicodec import BiCodec
from gpa.tokenizers.fit import Fit
from gpa.tokenizers.glm import GLMTokenizer


def speech(samples: int, loudness: float = 0.05) -> np.ndarray:
    t = np.arange(samples) / 16_000
    voice = sum(np.sin(2 * np.pi * 130 * k * t) / k for k in range(1, 20)) * (np.sin(2 * np.pi * 1.5 * t) > -0.2)
    noise = np.random.default_rng(0).standard_normal(samples)
    return (loudness * (voice + 0.02 * noise)).astype(np.float32)


@pytest.fixture(scope="module")
def glm(nano_checkpoint: Path) -> GLMTokenizer:
    return GLMTokenizer(nano_checkpoint / "glm-4-voice-tokenizer", threads=1)


@pytest.fixture(scope="module")
def bicodec(nano_checkpoint: Path, glm: GLMTokenizer) -> BiCodec:
    return BiCodec(nano_checkpoint / "BiCodec", glm, threads=1)


def test_rates(glm: GLMTokenizer, bicodec: BiCodec, published_checkpoint: Path) -> None:
    assert (glm.sample_rate, glm.samples_per_code, glm.frame_rate) == (16_000, 1280, 12.5)
    assert (bicodec.sample_rate, bicodec.samples_per_code, bicodec.frame_rate) == (16_000, 640, 25.0)
    assert (bicodec.codebook_size, bicodec.token_num) == (128, 4)
    published = BiCodec(published_checkpoint / "BiCodec")
    assert (published.samples_per_code, published.frame_rate, published.token_num) == (320, 50.0, 32)


@pytest.mark.parametrize("samples", [0, 1, 1279, 1280, 1281, 16_000])
def test_a_code_for_every_begun_80_ms(glm: GLMTokenizer, bicodec: BiCodec, samples: int) -> None:
    wav = speech(samples)
    codes, features = glm.encode_with_features(wav)
    assert np.array_equal(glm.encode(wav), codes)
    assert codes.shape == (-(-samples // 1280),)
    assert len(features) == 4 * len(codes)
    semantic = bicodec.encode(features)
    assert semantic.shape == (2 * len(codes),)
    assert np.array_equal(bicodec.encode(wav), semantic)
    for found in (codes, semantic):
        assert found.dtype == np.int64
        assert not len(found) or (found.min() >= 0 and found.max() < 128)


@torch.inference_mode()
def test_features_are_those_of_training(glm: GLMTokenizer, nano_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed clip, encoded in a batch with a longer one, gives what the tokenizer makes of the clip."""
    from gpa.training import features

    monkeypatch.setattr(features, "fast_bf16", lambda: False)
    net = read_glm(nano_checkpoint / "glm-4-voice-tokenizer")
    wav = speech(20_000)
    packed = [(level(x) * 32767).round().astype("<i2").astype(np.float32) / 32768 for x in (wav, speech(30_000))]
    last, states = features.encode_batch(net, WhisperMel(80), packed)[0]
    codes, ours = glm.encode_with_features(wav)
    np.testing.assert_allclose(ours, torch.cat(states, -1), atol=5e-3)  # packs are rounded to int16
    assert np.array_equal(codes, net.quantize(net.pooled(last[None]))[0])
    exact = level(wav)
    _, states = features.encode_batch(net, WhisperMel(80), [exact])[0]
    np.testing.assert_allclose(ours, torch.cat(states, -1), atol=1e-4)


def test_long_clips_go_in_pieces(glm: GLMTokenizer) -> None:
    assert glm.longest == 1492 * 320  # 30 s less the tail, in whole codes
    wav = level(speech(glm.longest + 5000))  # loud as asked for, so that the pieces are too
    codes, features = glm.encode_with_features(wav)
    assert len(codes) == -(-len(wav) // 1280)
    assert len(features) == 4 * len(codes)
    split = glm.longest // 1280
    raw = GLMTokenizer.__new__(GLMTokenizer)
    raw.__dict__.update(glm.__dict__, _level=volume.unchanged)
    assert np.array_equal(codes[:split], raw.encode(volume.rms(wav)[: glm.longest]))
    assert np.array_equal(codes[split:], raw.encode(volume.rms(wav)[glm.longest :]))


def test_loudness_does_not_matter_where_clips_are_levelled(glm: GLMTokenizer, bicodec: BiCodec) -> None:
    quiet, loud = speech(24_000, 0.02), speech(24_000, 0.1)
    assert np.mean(glm.encode(quiet) == glm.encode(loud)) > 0.9
    assert np.array_equal(bicodec.voice(quiet), bicodec.voice(loud))


@given(gain=st.floats(1e-5, 10), samples=st.integers(1, 4000))
@settings(max_examples=30, deadline=None)
def test_rms_is_the_rule_of_packs(gain: float, samples: int) -> None:
    wav = speech(samples, gain)
    np.testing.assert_array_equal(volume.rms(wav), level(wav)[:samples])
    assert np.abs(volume.rms(wav)).max() <= 1 + 1e-6


@pytest.mark.parametrize("name", volume.RULES)
def test_silence_and_nothing_have_a_volume(name: str) -> None:
    rule = volume.RULES[name]
    assert not len(rule(np.zeros(0, np.float32)))
    assert not rule(np.zeros(100, np.float32)).any()
    assert rule(speech(100)).dtype == np.float32


def test_reference_clips_are_repeated_or_cut(bicodec: BiCodec) -> None:
    short = speech(10_000)
    clip = bicodec.reference(short)
    assert clip.shape == (96_000,)
    np.testing.assert_array_equal(clip[10_000:20_000], clip[:10_000])
    long = speech(100_000)
    np.testing.assert_array_equal(bicodec.reference(long), volume.rms(long)[:96_000])


@pytest.mark.parametrize(("seconds", "samples"), [(2.999, 47_680), (1.05, 16_640), (0.4999, 7_680)])
def test_reference_length_is_whole_codes(published_checkpoint: Path, tmp_path: Path, seconds: float, samples: int) -> None:
    config = yaml.safe_load((published_checkpoint / "BiCodec" / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "ref_segment_duration": seconds}))
    assert len(BiCodec(tmp_path).reference(speech(1000))) == samples


def test_voices(bicodec: BiCodec, published_checkpoint: Path) -> None:
    for codec, count, size in ((bicodec, 4, 64), (BiCodec(published_checkpoint / "BiCodec", threads=1), 32, 256)):
        codes = codec.voice(speech(30_000))
        assert codes.shape == (count,)
        assert codes.dtype == np.int64
        assert codes.min() >= 0
        assert codes.max() < size
    with pytest.raises(AudioError, match="empty"):
        bicodec.voice(np.zeros(0, np.float32))


def test_what_is_refused(bicodec: BiCodec, nano_checkpoint: Path, published_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="give it the GLM tokenizer"):
        BiCodec(nano_checkpoint / "BiCodec").encode(speech(1000))
    silent = GLMTokenizer(published_checkpoint / "glm-4-voice-tokenizer", threads=1)
    assert silent.encode_with_features(speech(1000))[1] is None
    with pytest.raises(CheckpointError, match="gives no features"):
        BiCodec(nano_checkpoint / "BiCodec", silent).encode(speech(1000))
    with pytest.raises(CheckpointError, match=r"0\.\.127, found 128\.\.128"):
        bicodec.decode([128], [0] * 4)
    with pytest.raises(CheckpointError, match=r"0\.\.127, found -1"):
        bicodec.decode([-1], [0] * 4)
    with pytest.raises(CheckpointError, match="4 global codes, found 3"):
        bicodec.stream([0] * 3)
    with pytest.raises(CheckpointError, match="no rows for it"):
        BiCodec(published_checkpoint / "BiCodec").stream([0] * 32, fit=Fit(pitch=50))


def test_folders_that_do_not_hold_a_tokenizer(nano_checkpoint: Path, tmp_path: Path) -> None:
    for tokenizer in (BiCodec, GLMTokenizer):
        with pytest.raises(CheckpointError, match="cannot be read"):
            tokenizer(tmp_path)
    (tmp_path / "config.yaml").write_text("sample_rate: 16000")
    with pytest.raises(CheckpointError, match="lacks audio_tokenizer"):
        BiCodec(tmp_path)
    (tmp_path / "config.yaml").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        BiCodec(tmp_path)
    shutil.copy(nano_checkpoint / "glm-4-voice-tokenizer/config.json", tmp_path)
    with pytest.raises(CheckpointError, match="gpa convert"):
        GLMTokenizer(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "volume": "louder"}))
    with pytest.raises(CheckpointError, match="louder is unknown"):
        GLMTokenizer(tmp_path)


def test_a_config_whose_rates_disagree(nano_checkpoint: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((nano_checkpoint / "BiCodec" / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "latent_hop_length": 320}))
    with pytest.raises(CheckpointError, match="640 samples a code, latent_hop_length is 320"):
        BiCodec(tmp_path)


def test_running_needs_no_torch() -> None:
    code = "import sys, gpa.tokenizers.bicodec, gpa.tokenizers.glm; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

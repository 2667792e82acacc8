"""The mark: equal however it is streamed, found after codecs, never where none is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gpa import audio, hub
from gpa.cli import app
from gpa.errors import AudioError, GPAError
from gpa.watermark import DEPTH, PAYLOADS, RATE, Watermark, detect, embed


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """6 s of a person, at 16 kHz."""
    clip = audio.decode(hub.embedded() / "demo.opus", RATE)
    return np.tile(clip, 1 + 6 * RATE // len(clip))[: 6 * RATE]


@pytest.fixture(scope="module")
def marked(speech: np.ndarray) -> np.ndarray:
    return embed(speech, RATE)


# ---- the stream ----


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([8_000, 16_000, 22_050, 24_000]), st.lists(st.integers(0, 3000), max_size=8), st.integers(0, 9000))
def test_streamed_is_offline(rate: int, sizes: list[int], length: int) -> None:
    wav = np.random.default_rng(length).normal(0, 0.1, length).astype(np.float32)
    stream, parts, start = Watermark(rate, 3), [], 0
    for size in [*sizes, length]:
        parts.append(stream.push(wav[start : start + size]))
        assert len(parts[-1]) == len(wav[start : start + size])  # no latency
        start += size
    assert np.array_equal(np.concatenate(parts), embed(wav, rate, 3))


def test_one_sample_at_a_time() -> None:
    wav = np.random.default_rng(0).normal(0, 0.1, 1100).astype(np.float32)
    stream = Watermark(RATE)
    assert np.array_equal(np.concatenate([stream.push(wav[i : i + 1]) for i in range(len(wav))]), embed(wav, RATE))


def test_what_goes_in_stays_untouched(speech: np.ndarray) -> None:
    before = speech.copy()
    embed(speech, RATE)
    assert np.array_equal(before, speech)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_silence_stays_silence(rate: int) -> None:
    wav = np.zeros(rate, np.float32)
    assert not embed(wav, rate).any()
    wav[: rate // 2] = 0.5
    assert not embed(wav, rate)[rate // 2 + rate // 100 :].any()


def test_it_is_small_and_in_proportion(speech: np.ndarray, marked: np.ndarray) -> None:
    change = marked - speech
    assert 20 < 10 * np.log10(np.sum(speech**2) / np.sum(change**2)) < 26  # dB
    assert np.allclose(embed(speech / 4, RATE), marked / 4, atol=1e-6)
    power = [np.abs(np.fft.rfft(wav)) ** 2 for wav in (speech, marked)]
    assert abs(10 * np.log10(power[1].sum() / power[0].sum())) < DEPTH / 2


@pytest.mark.parametrize("payload", [-1, 16, 99])
def test_an_illegal_payload_is_named(payload: int) -> None:
    with pytest.raises(GPAError, match=r"legal: 0\.\.15"):
        Watermark(RATE, payload)


def test_an_illegal_rate_is_named() -> None:
    with pytest.raises(AudioError, match=r"legal: 4000\.\."):
        Watermark(100)


# ---- finding it ----


@pytest.mark.parametrize("payload", [0, 5, 15])
def test_the_payload_is_read_back(speech: np.ndarray, payload: int) -> None:
    found = detect(embed(speech, RATE, payload))
    assert found.marked
    assert found.payload == payload
    assert found.spans == ((0.0, 6.0),)


@pytest.mark.parametrize("format", ["mp3", "aac", "opus"])
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_found_after_a_codec(marked: np.ndarray, format: str, rate: int) -> None:
    heard = audio.decode(audio.encode(marked, RATE, format, out_rate=rate), RATE)
    assert detect(heard[3_217:]).marked


def test_found_after_resampling_gain_and_cropping(marked: np.ndarray) -> None:
    wav = marked
    for rate_in, rate_out in ((16_000, 24_000), (24_000, 48_000)):
        wav = audio.as_wav(wav, rate_in, rate_out)
    assert detect(0.05 * wav[12_345:], 48_000).marked


def test_found_where_it_was_made_at_24_khz(speech: np.ndarray) -> None:
    assert detect(embed(audio.as_wav(speech, RATE, 24_000), 24_000), 24_000).marked


def test_a_person_is_not_marked(speech: np.ndarray) -> None:
    for wav in (speech, speech[::-1].copy(), audio.decode(audio.encode(speech, RATE, "mp3"), RATE)):
        found = detect(wav)
        assert not found.marked
        assert found.spans == ()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90_000))
def test_noise_is_not_marked(seed: int, length: int) -> None:
    assert detect(np.random.default_rng(seed).normal(0, 0.1, length).astype(np.float32)).score < 6


@pytest.mark.parametrize("length", [1, 100, RATE, 11 * RATE])
def test_silence_is_not_marked(length: int) -> None:
    found = detect(np.zeros(length, np.float32))
    assert (found.score, found.marked, found.spans) == (0.0, False, ())


def test_the_marked_stretch_of_a_long_sound_is_named(speech: np.ndarray, marked: np.ndarray) -> None:
    wav = np.concatenate([speech, speech, speech, speech, marked, marked, speech, speech, speech])
    found = detect(wav)
    assert found.marked
    (start, end), *others = found.spans
    assert not others
    assert 15 <= start <= 25
    assert 35 <= end <= 45


def test_every_payload_has_a_key_of_its_own(speech: np.ndarray) -> None:
    short = speech[:4000]
    assert len({embed(short, RATE, payload).tobytes() for payload in PAYLOADS}) == len(PAYLOADS)


# ---- gpa detect ----


def test_the_verb(speech: np.ndarray, marked: np.ndarray, tmp_path: Path) -> None:
    audio.save(tmp_path / "machine.mp3", marked, RATE)
    audio.save(tmp_path / "person.wav", speech, RATE)
    result = CliRunner().invoke(app, ["detect", str(tmp_path / "machine.mp3"), str(tmp_path / "person.wav")])
    assert result.exit_code == 0
    machine, person = result.stdout.splitlines()
    assert "machine.mp3: marked (score" in machine
    assert "payload 0) at 0.0-6.0 s" in machine
    assert "person.wav: no mark (score 0." in person


def test_the_verb_as_json_goes_on_after_a_broken_file(marked: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    audio.save(tmp_path / "machine.flac", marked, RATE)
    result = CliRunner().invoke(app, ["detect", "--json", str(tmp_path / "broken.wav"), str(tmp_path / "machine.flac")])
    assert result.exit_code == 1
    row = json.loads(result.stdout)
    assert row["file"].endswith("machine.flac")
    assert row["marked"] is True
    assert row["spans"] == [[0.0, 6.0]]
    assert "1 of 2 sounds failed" in result.stderr

"""gpa.segment: speech is found, silence, noise and music are not; blocks change nothing; nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpa.audio import as_wav, decode
from gpa.errors import AudioError
from gpa.nets.net import load_net
from gpa.segment import CONTEXT, FRAME, Detection, Segmenter, _Spotter, segments, speech_spans

RATE = 16_000
SPEECH = decode(Path(__file__).parent / "data" / "speech.opus", RATE)  # 3.6 s, silence trimmed
MODEL = Path(sys.modules["gpa"].__file__ or "").parent / "nano" / "silero_vad.onnx"
few = settings(max_examples=10, deadline=None)


def silence(seconds: float) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(round(seconds * RATE)).astype(np.float32) * 1e-3


def unlike_speech() -> dict[str, np.ndarray]:
    rng, t = np.random.default_rng(0), np.arange(10 * RATE) / RATE
    melody = np.zeros(len(t))
    for beat in range(20):  # plucked notes with six harmonics
        pitch, now = 440 * 2 ** (rng.integers(-12, 12) / 12), t[: RATE // 2]
        note = sum(np.sin(2 * np.pi * pitch * h * now) / h for h in range(1, 7))
        melody[beat * RATE // 2 :][: RATE // 2] += 0.2 * np.exp(-4 * now) * note
    drums = 0.4 * np.exp(-((t * RATE) % (RATE // 4)) / 400) * rng.standard_normal(len(t))
    return {
        "digital silence": np.zeros(len(t)),
        "quiet noise": 1e-3 * rng.standard_normal(len(t)),
        "loud noise": 0.3 * rng.standard_normal(len(t)),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * t),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * t),
        "chord": 0.1 * sum(np.sin(2 * np.pi * f * t) for f in (261.6, 329.6, 392.0)),
        "melody": melody,
        "drums": drums,
        "clicks": (rng.random(len(t)) < 1e-4).astype(float),
        "offset": np.full(len(t), 0.5),
    }


@pytest.mark.parametrize("name", sorted(unlike_speech()))
def test_no_speech_no_spans(name: str) -> None:
    wav = unlike_speech()[name].astype(np.float32)
    assert speech_spans(wav) == []
    assert list(segments(wav)) == []


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_real_speech_is_found(rate: int) -> None:
    wav = as_wav(np.concatenate([silence(1), SPEECH, silence(2), SPEECH, silence(1)]), RATE, rate)
    spans = speech_spans(wav, rate)
    length = len(SPEECH) / RATE
    assert len(spans) == 2
    for span, start in zip(spans, (1, 3 + length), strict=True):
        assert span.start == pytest.approx(start, abs=0.25)
        assert -0.3 < span.end - (start + length) < 0.3 + Detection().unit


def test_the_net_gives_the_numbers_of_its_authors() -> None:
    """Against silero_vad.onnx of silero-vad 6.2.3, run frame by frame in onnxruntime 1.32 on a tone that rises."""
    t = np.arange(8 * FRAME) / RATE
    wav = (0.4 * np.sin(2 * np.pi * (120 + 40 * t) * t) * (1 + np.sin(2 * np.pi * 5 * t))).astype(np.float32)
    frames = wav.reshape(-1, FRAME)
    contexts = np.concatenate([np.zeros((1, CONTEXT), np.float32), frames[:-1, -CONTEXT:]])
    state = np.zeros((1, 1, 128), np.float32)
    scores = load_net(MODEL, threads=1)(input=np.concatenate([contexts, frames], axis=1), h=state, c=state)["speech_probs"]
    np.testing.assert_allclose(scores, GOLDEN, atol=1e-4)


GOLDEN = [0.03755, 0.06977, 0.03893, 0.04197, 0.08017, 0.15418, 0.17639, 0.4476]


@few
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=10), st.sampled_from([1.0, 2.5, 30.0]), st.sampled_from([RATE, 22_050]))
def test_blocks_change_nothing(sizes: list[int], max_seconds: float, rate: int) -> None:
    wav = as_wav(np.concatenate([silence(0.5), SPEECH, silence(1.2), SPEECH[:RATE]]), RATE, rate)
    segmenter, parts, start = Segmenter(max_seconds, rate), [], 0
    for size in [*sizes, len(wav)]:
        parts += segmenter.push(wav[start : start + size])
        start += size
    parts += segmenter.flush()
    whole = list(segments(wav, max_seconds, rate))
    assert [(part.start, part.end) for part in parts] == [(part.start, part.end) for part in whole]
    for part, same in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(part.wav, same.wav)


@few
@given(st.floats(0.5, 6.0), st.floats(0.0, 1.0), st.integers(1, 3))
def test_segments_are_short_apart_and_lose_no_speech(max_seconds: float, gap: float, times: int) -> None:
    wav = np.concatenate([silence(0.3), *([SPEECH, silence(gap)] * times)])
    found = list(segments(wav, max_seconds))
    held = np.zeros(len(wav), bool)
    for segment in found:
        a, b = round(segment.start * RATE), round(segment.end * RATE)
        assert 0 < b - a == len(segment.wav) <= max_seconds * RATE
        np.testing.assert_array_equal(segment.wav, wav[a:b])
        assert not held[a:b].any()
        held[a:b] = True
    assert [segment.start for segment in found] == sorted(segment.start for segment in found)
    padding = round(Detection().padding * RATE)
    for span in speech_spans(wav):
        assert held[round(span.start * RATE) : round(span.end * RATE) - padding].all()


@few
@given(st.floats(1.5, 6.0), st.lists(st.floats(0.0, 1.5), min_size=1, max_size=4), st.sampled_from([RATE, 22_050]))
def test_spans_are_whole_units_long(max_seconds: float, gaps: list[float], rate: int) -> None:
    """All but one that the end of the sound ends: so the nets behind meet few lengths."""
    wav = as_wav(np.concatenate([silence(0.3), *(part for gap in gaps for part in (SPEECH, silence(gap))), silence(1)]), RATE, rate)
    unit, segmenter = round(Detection().unit * rate), Segmenter(max_seconds, rate)
    lengths = [len(found.wav) for found in segmenter.push(wav)]
    assert lengths
    assert all(abs(length - round(length / unit) * unit) <= 1 for length in lengths)  # frames are no whole samples at 22 kHz
    assert segmenter.begun is None or len(segmenter.begun.wav) % unit <= 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=300), st.one_of(st.none(), st.floats(0.5, 5)), st.integers(0, 5), st.integers(0, 8))
def test_the_spotter_loses_no_frame_of_speech(scores: list[float], max_seconds: float | None, padding: int, silent: int) -> None:
    frame = FRAME / RATE
    detection = Detection(padding=padding * frame, min_silence=(2 * padding + silent) * frame, min_speech=0)
    spotter = _Spotter(detection, max_seconds)
    spans = [span for score in scores for span in spotter.push(score)] + spotter.flush()
    assert all(a < b for a, b in spans)
    assert all(b <= c for (_, b), (c, _) in pairwise(spans))
    held = {i for a, b in spans for i in range(a, b)}
    assert {i for i, score in enumerate(scores) if score >= detection.threshold} <= held
    if max_seconds is not None:
        assert all((b - a) * frame <= max_seconds for a, b in spans)


@pytest.mark.parametrize("minutes", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_long_sound_in_flat_memory(minutes: int) -> None:
    block = np.concatenate([SPEECH, silence(10 - len(SPEECH) / RATE)])
    list(segments(SPEECH))  # load the net
    tracemalloc.start()
    try:
        count = sum(1 for _ in segments((block for _ in range(6 * minutes)), 5.0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 6 * minutes
    assert peak < 6e6, f"{peak / 1e6:.1f} MB"  # the whole is 19 or 230 MB


def test_speaking_is_told_while_it_lasts() -> None:
    segmenter = Segmenter()
    assert not segmenter.speaking
    segmenter.push(silence(1))
    assert not segmenter.speaking
    segmenter.push(SPEECH[:RATE])
    assert segmenter.speaking
    assert len(segmenter.push(silence(1))) == 1
    assert not segmenter.speaking


def test_short_and_empty_sounds() -> None:
    for wav in (np.zeros(0, np.float32), np.zeros(1, np.float32), silence(0.01)):
        assert speech_spans(wav) == []
    assert list(segments(iter([]))) == []


def test_bad_input() -> None:
    with pytest.raises(AudioError, match="NaN"):
        speech_spans(np.array([np.nan, 0], np.float32))
    with pytest.raises(AudioError, match="legal: 4000"):
        speech_spans(SPEECH, 1)
    with pytest.raises(AudioError, match="shape"):
        speech_spans(np.zeros((2, 100), np.float32))
    with pytest.raises(ValueError, match="legal: at least"):
        Segmenter(0.1)
    with pytest.raises(ValueError, match="legal: 0 < release"):
        Detection(threshold=0.2)
    with pytest.raises(ValueError, match="padding"):
        Detection(padding=0.3)


def test_import_is_cheap() -> None:
    code = "import sys, gpa.segment; print([name for name in ('av', 'soxr', 'openvino', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

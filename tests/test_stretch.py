"""Speed: exact length, exact streaming, the same pitch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpa.stretch import Stretcher

RATE = 16_000


def stretched(wav: np.ndarray, speed: float, sizes: list[int] | None = None) -> np.ndarray:
    stretcher = Stretcher(speed, RATE)
    parts, start = [], 0
    for size in [*(sizes or []), len(wav)]:
        parts.append(stretcher.push(wav[start : start + size]))
        start += size
    return np.concatenate([*parts, stretcher.flush()])


def tone(hertz: float, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def pitch(wav: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav))))
    return float(np.argmax(spectrum) * RATE / len(wav))


def test_speed_one_changes_no_sample() -> None:
    wav = tone(200, 0.7)
    assert np.array_equal(stretched(wav, 1.0, [1, 500]), wav)


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.8, 1.25, 2.0, 4.0])
def test_length_changes_and_pitch_stays(speed: float) -> None:
    wav = tone(220, 1.5)
    out = stretched(wav, speed)
    assert len(out) == round(len(wav) / speed)
    assert abs(pitch(out) - 220) < 4
    middle = out[len(out) // 4 : -len(out) // 4]
    assert 0.45 < np.abs(middle).max() < 0.55  # windows add up: no tremor, no gain


@settings(max_examples=25, deadline=None)
@given(st.floats(0.25, 4.0), st.lists(st.integers(0, 3000), max_size=8), st.integers(0, 9000))
def test_streamed_is_offline(speed: float, sizes: list[int], length: int) -> None:
    wav = np.random.default_rng(length).normal(0, 0.1, length).astype(np.float32)
    out = stretched(wav, speed, sizes)
    assert len(out) == round(length / speed)
    assert np.array_equal(out, stretched(wav, speed))


def test_a_long_stream_holds_little() -> None:
    stretcher = Stretcher(0.7, RATE)
    for _ in range(50):
        stretcher.push(tone(150, 1.0))
    assert len(stretcher._held) < RATE


@pytest.mark.parametrize("speed", [0, -1, 0.2, 5, float("nan")])
def test_illegal_speed_is_named(speed: float) -> None:
    with pytest.raises(ValueError, match=r"legal: 0\.25 to 4"):
        Stretcher(speed, RATE)

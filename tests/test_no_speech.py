"""Where nobody speaks nothing is heard, also where the detector of speech finds something; where somebody speaks, it stays heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fakes
from gpa import align
from gpa.audio import as_wav, decode
from gpa.errors import AudioError
from gpa.segment import Segment, segments, sureness
from gpa.sounds import LIKE, SURE, Ear, spans

RATE = 16_000
SPEECH = decode(Path(__file__).parent / "data" / "speech.opus", RATE)


def buzzer(seed: int, seconds: float = 4.0) -> np.ndarray:
    """Square waves that change their pitch as often as speech its syllables. In those of FOUND the detector finds speech."""
    rng, count = np.random.default_rng(seed), int(seconds * RATE)
    step = int(RATE * rng.uniform(0.1, 0.3))
    pitch = np.repeat(rng.uniform(80, 600, count // step + 1) * (rng.random(count // step + 1) < 0.8), step)[:count]
    return (0.05 * np.sign(np.sin(2 * np.pi * np.cumsum(pitch) / RATE)) * (pitch > 0)).astype(np.float32)


FOUND = (0, 8, 24)


@pytest.mark.parametrize("seed", FOUND)
def test_a_buzzer_is_found_and_not_heard(seed: int) -> None:
    found = list(segments(buzzer(seed)))
    assert found
    assert not any(Ear(RATE).hears(span) for span in found)
    assert all(sureness(span.wav) < SURE and align.likeness(span.wav) < LIKE for span in found)
    assert [len(wav) for _, wav in spans(buzzer(seed), RATE)] == [0]


@pytest.mark.parametrize("partials", [False, True])
def test_a_buzzer_never_reaches_the_model(tmp_path: Path, partials: bool) -> None:
    model = fakes.model(tmp_path / "fake")
    sound = np.concatenate([buzzer(8), np.zeros(RATE, np.float32), SPEECH, np.zeros(RATE, np.float32), buzzer(24)])
    heard = [segment for segment in model.stream_asr(sound, partials=partials) if not segment.partial]
    assert [segment.text for segment in heard] == ["Hello there."]
    assert 4.5 < heard[0].start < 5.5
    before = len(model.engine.asked)  # type: ignore[attr-defined]
    assert model.asr(buzzer(0)).segments == ()
    assert len(model.engine.asked) == before  # type: ignore[attr-defined]


@pytest.mark.parametrize("decibel", [0, -20, -40])
def test_speech_is_heard_however_quiet(decibel: int) -> None:
    wav = SPEECH * np.float32(10 ** (decibel / 20))
    assert sureness(wav) >= SURE
    assert [len(part) > RATE for _, part in spans(wav, RATE)] == [True, False]


def test_letters_are_told_from_tones() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    syllable = SPEECH[RATE : RATE * 3 // 2]
    assert sureness(syllable) < SURE
    assert align.likeness(syllable) > LIKE
    assert Ear(RATE).hears(Segment(1.0, 1.5, syllable))
    assert align.likeness(SPEECH) > -25
    assert align.likeness(tone) < -1000
    assert align.likeness(SPEECH * np.float32(0.01)) == pytest.approx(align.likeness(SPEECH), abs=0.1)
    assert align.likeness(SPEECH[:0]) < -1000
    assert sureness(SPEECH[:0]) == 0
    with pytest.raises(AudioError):
        sureness(SPEECH, 0)


def test_what_was_speech_stays_it_and_goes_on() -> None:
    """A span that is still open, its end, and the rest of a cut: the latter two may be a syllable that says nothing alone."""
    noise = buzzer(8)[:RATE]
    ear = Ear(RATE)
    assert not ear.hears(Segment(0.0, 1.0, noise))
    assert ear.hears(Segment(2.0, 5.0, SPEECH))
    assert ear.hears(Segment(2.0, 6.0, noise))
    assert ear.hears(Segment(6.0, 6.5, noise))
    assert ear.hears(Segment(6.5, 6.7, noise))
    assert not ear.hears(Segment(7.0, 8.0, noise))


def test_another_rate() -> None:
    assert [len(wav) > 0 for _, wav in spans(np.repeat(SPEECH, 2), 2 * RATE)] == [True, False]
    assert [len(wav) > 0 for _, wav in spans(np.repeat(buzzer(8), 2), 2 * RATE)] == [False]


def crowd(voices: int, count: int = 4 * RATE) -> np.ndarray:
    """So many over each other, each at a pitch and from a moment of its own."""
    rng, total = np.random.default_rng(voices), np.zeros(count, np.float32)
    for _ in range(voices):
        voice = as_wav(SPEECH, RATE, round(RATE * rng.uniform(0.8, 1.25)))
        total += np.resize(np.roll(voice, int(rng.integers(len(voice)))), count)
    return total * np.float32(0.06 / total.std())


def test_a_crowd_is_nobody_and_one_before_it_is_somebody() -> None:
    assert all(list(segments(crowd(voices))) for voices in range(7, 14))  # the detector hears speech
    heard = [voices for voices in range(7, 14) if len(list(spans(crowd(voices), RATE))) > 1]
    assert len(heard) <= 1, heard
    assert align.many(crowd(14))
    one = np.resize(SPEECH, 4 * RATE) * np.float32(0.06 / SPEECH.std())
    for wav in (one, one + 0.5 * crowd(14), crowd(1), crowd(2)):
        assert not align.many(wav.astype(np.float32))
        assert len(list(spans(wav, RATE))) > 1


@pytest.mark.parametrize("decibel", [20, 10, 5, 0])
def test_one_voice_under_noise_is_no_crowd(decibel: int) -> None:
    noise = np.random.default_rng(0).standard_normal(len(SPEECH)).astype(np.float32) * SPEECH.std() * 10 ** (-decibel / 20)
    assert not align.many(SPEECH + noise.astype(np.float32))
    assert not align.many(noise.astype(np.float32))

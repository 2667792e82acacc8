"""Live sources: chunks in, results out while they come; how a sound is cut into chunks changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fakes
from gpa import audio, hub, sounds
from gpa.engines.base import Context
from gpa.errors import AudioError, LimitError
from gpa.listening import Hearing, listen_live
from gpa.pipeline import GPA

RATE = 16_000
CLIP = audio.decode(hub.embedded() / "demo.opus", RATE)  # 3.5 s of a human, who begins within 0.3 s
QUIET = 1e-4 * np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
TALK = np.concatenate([QUIET, CLIP, QUIET, CLIP[: 2 * RATE]])
Wav = np.ndarray


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GPA:
    return fakes.model(tmp_path_factory.mktemp("model") / "fake")


def chunks(wav: Wav, sizes: Sequence[int]) -> Iterator[Wav]:
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(wav):
            return
        yield wav[start : start + size]
        start += size


class Microphone:
    """Gives a sound in chunks of 20 ms and counts what was taken."""

    def __init__(self, wav: Wav) -> None:
        self.taken = 0
        self._chunks = chunks(wav, [320])

    def __iter__(self) -> Microphone:
        return self

    def __next__(self) -> Wav:
        chunk = next(self._chunks)
        self.taken += len(chunk)
        return chunk


sizes = st.lists(st.sampled_from([1, 7, 160, 320, 1280, 5000, 40_000]), min_size=1, max_size=4).filter(lambda x: sum(x) > 200)
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(sizes)
def test_chunks_change_nothing(model: GPA, sizes: list[int]) -> None:
    assert list(model.stream_asr(chunks(TALK, sizes))) == list(model.stream_asr(TALK))
    assert list(model.stream_asr(chunks(TALK, sizes), partials=True)) == list(model.stream_asr(TALK, partials=True))
    assert np.array_equal(model.vc(chunks(TALK, sizes), "bob").wav, model.vc(TALK, "bob").wav)
    assert np.array_equal(model.vc(chunks(TALK, sizes), "bob", window=0.32).wav, model.vc(TALK, "bob", window=0.32).wav)
    assert model.voice(chunks(CLIP, sizes)) == model.voice(CLIP)


def test_bad_chunks(model: GPA) -> None:
    for task in (model.asr, lambda sound: model.vc(sound, "amy"), lambda sound: model.vc(sound, "amy", window=0.16)):
        with pytest.raises(AudioError, match="NaN"):
            task(iter([CLIP, np.full(9, np.nan, np.float32)]))
        with pytest.raises(AudioError, match="mix its channels"):
            task([np.zeros((9, 2), np.float32)])
        with pytest.raises(AudioError, match="type int64"):
            task(iter([CLIP, np.zeros(9, np.int64)]))
    assert model.asr(iter([])).segments == ()
    assert model.asr([np.zeros(0, np.float32), QUIET]).text == ""
    assert model.vc([QUIET], "amy").duration == model.vc([QUIET], "amy", window=0.4).duration == 2
    with pytest.raises(AudioError, match="no voice can be heard"):
        model.voice(iter([]))
    with pytest.raises(LimitError, match="longer than 1 s"):
        list(sounds.blocks([QUIET], RATE, longest=1.0))
    with pytest.raises(ValueError, match="window is 9"):
        model.stream_vc(CLIP, "amy", window=9)


# ---- partial results ----


def reading(model: GPA, tmp_path: Path, answer: Callable[[float], str]) -> GPA:
    """A model that reads `answer(seconds)` in so many seconds of speech."""
    made = fakes.model(tmp_path / "fake")
    assert isinstance(made.engine, fakes.Engine)

    def answered(asked: Context) -> Sequence[int]:
        return made.vocab.encode(answer(len(asked.source) / 25))  # type: ignore[attr-defined]

    made.engine.answer = answered
    return made


def test_the_first_partial_comes_within_a_second_of_speech(model: GPA) -> None:
    source = Microphone(np.concatenate([QUIET, CLIP]))
    segments = model.stream_asr(source, partials=True)
    first = next(segments)
    assert first.partial
    assert first.text == "Hello"  # `there.` may be half a word
    onset = 2.0 + 0.3  # the clip begins with a breath
    assert source.taken / RATE - onset < 1.0
    rest = list(segments)
    assert [part.partial for part in rest] == [False]
    assert rest[0].text == "Hello there."
    assert (rest[0].start, rest[0].revised, first.revised) == (first.start, False, False)


def test_partials_grow_or_are_marked(tmp_path: Path, model: GPA) -> None:
    said = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    made = reading(model, tmp_path, lambda seconds: " ".join(said[: 2 * round(seconds)]))
    segments = list(made.stream_asr(CLIP, partials=True))
    assert len(segments) > 3
    assert [part.partial for part in segments] == [True] * (len(segments) - 1) + [False]
    for before, after in itertools.pairwise(segments):
        assert after.start == before.start
        assert after.end > before.end
        assert after.text.startswith(before.text)
        assert not after.revised


def test_a_changed_mind_is_marked(tmp_path: Path, model: GPA) -> None:
    made = reading(model, tmp_path, lambda seconds: "recognise speech well" if seconds < 2.5 else "wreck a nice beach and more")
    segments = list(made.stream_asr(CLIP, partials=True))
    assert [(part.text, part.revised) for part in segments] == [
        ("Recognise speech", False),
        ("Wreck a nice beach and", True),
        ("Wreck a nice beach and more", False),
    ]


def test_what_was_shown_and_was_nothing_is_taken_back(tmp_path: Path, model: GPA) -> None:
    made = reading(model, tmp_path, lambda seconds: "hm so" if seconds < len(CLIP) / RATE - 0.5 else "")
    segments = list(made.stream_asr(CLIP, partials=True))
    assert [(part.text, part.partial, part.revised) for part in segments] == [("Hm", True, False), ("", False, True)]


def test_who_is_late_reads_finished_spans_alone(model: GPA) -> None:
    hearing = Hearing.of(model)
    whole = list(listen_live(model, CLIP, hearing))
    assert any(part.partial for part in whole)
    assert list(listen_live(model, CLIP, hearing, late=lambda: True)) == [
        replace(part, revised=False) for part in whole if not part.partial
    ]


def test_silence_and_noise_give_no_partials(model: GPA) -> None:
    rng, t = np.random.default_rng(0), np.arange(8 * RATE) / RATE
    melody = sum(
        0.1 * np.sin(2 * np.pi * pitch * t) * (np.sin(2 * np.pi * t * beat) > 0) for pitch, beat in ((220, 1), (277, 2), (330, 0.5))
    )
    noise = 0.2 * rng.standard_normal(len(t))
    for wav in (np.zeros(len(t)), noise, melody, 0.3 * np.sin(2 * np.pi * 440 * t), melody + 0.3 * noise):
        assert list(model.stream_asr(chunks(wav.astype(np.float32), [320]), partials=True)) == []
        assert model.asr(wav.astype(np.float32)).text == ""


def test_words_have_times(model: GPA) -> None:
    segment = model.asr(TALK, words=True).segments[0]
    assert [word.text for word in segment.words] == ["Hello", "there."]
    assert segment.start <= segment.words[0].start <= segment.words[0].end <= segment.words[1].start <= segment.words[1].end <= segment.end
    assert model.asr(TALK, words=True).words[:2] == segment.words
    assert model.asr(TALK).words == ()


# ---- live conversion ----


@pytest.mark.parametrize("window", [0.16, 0.32, 1.0])
@pytest.mark.parametrize("length", [1, 5000, len(TALK) - 3])
def test_a_live_conversion_keeps_time(model: GPA, window: float, length: int) -> None:
    wav = TALK[:length]
    speech = model.vc(wav, "bob", window=window)
    assert len(speech.wav) == len(wav)
    assert not speech.wav[: 3 * RATE // 2].any()
    assert not speech.truncated
    if length == len(TALK) - 3:
        assert (speech.wav[3 * RATE : 5 * RATE] != 0).mean() > 0.7  # code 0 sounds like silence here


def test_a_live_conversion_is_late_by_what_is_stated(model: GPA) -> None:
    """A window, the look-ahead, and what this decoder holds back: three codes."""
    source, given = Microphone(TALK), 0
    late: list[float] = []

    def taken() -> Iterator[Wav]:
        for chunk in source:
            late.append((source.taken - len(chunk) - given) / RATE)
            yield chunk

    for wav in model.stream_vc(taken(), "bob", window=0.32):
        given += len(wav)
    assert given == len(TALK)
    assert 0.48 <= max(late) <= 0.32 + 0.16 + fakes.LAG * 0.04 + 1e-6


def test_a_live_conversion_goes_on_from_what_it_said(model: GPA) -> None:
    fake = model.engine
    assert isinstance(fake, fakes.Engine)
    before = len(fake.asked)
    model.vc(TALK, "bob", window=0.32)
    asked = fake.asked[before:]
    assert all(sampling.min_new_ids == sampling.max_new_ids == 8 for _, sampling in asked[:-1])
    assert max(len(prompt.context) for prompt, _ in asked) <= 76 + 8 + 4 + 76 + 10  # three seconds of source and of speech
    assert len({sampling.seed for _, sampling in asked}) > 5


def test_where_the_model_falls_short_the_source_speaks(tmp_path: Path) -> None:
    made = fakes.model(tmp_path / "fake", lambda _: [])
    assert len(made.vc(TALK, "bob", window=0.32).wav) == len(TALK)

"""Whatever the text and however the model behaves: no runaway, no empty success; a bad sentence is drawn anew, and it is told."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import fakes
from adversarial import Said, push, shortened, texts
from gpa import bounds
from gpa.engines.base import Context, Sampling, Token
from gpa.errors import TextError
from gpa.pipeline import GPA
from gpa.speaking import GOOD, TRIES, character_errors, pieces_of

Answer = Callable[[GPA, random.Random], Iterator[int]]


class Moody(fakes.Engine):
    """Behaves at the worst within its contract: never stops, stops at once, goes round in circles; keeps to the bounds it is given."""

    def __init__(self, model: GPA) -> None:
        super().__init__(lambda _: [])
        self.vocab = model.vocab
        self.made = 0  # ids

    def _stream(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        draw = random.Random(sum(prompt.context) + sampling.seed)
        pattern = draw.choice([1, 3, 60, 10**9])
        wanted = draw.choice([0, sampling.min_new_ids, sampling.max_new_ids, 10**9])
        first = self.vocab.bicodec_semantic.first
        for i in range(min(max(wanted, sampling.min_new_ids), sampling.max_new_ids)):
            self.made += 1
            yield Token(first + hash((i % pattern, 7)) % 32, -1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GPA:
    made = fakes.model(tmp_path_factory.mktemp("model") / "fake")
    made.engine = Moody(made)
    return made


def test_no_runaway_and_no_empty_success(model: GPA) -> None:
    """Over 2,400 texts: each is an error that says what is legal, or sound of at most twice the expected length."""
    refused = spoken = 0
    for text in texts():
        try:
            pieces = list(pieces_of(model, text, None))
        except TextError:
            refused += 1
            with pytest.raises(TextError, match="legal"):
                model.stream_tts(text)
            continue
        spoken += 1
        expected = sum(piece.pause or bounds.speech_seconds(piece.text) for piece in pieces)
        speech = model.tts(text)
        seconds, grain = speech.duration, 0.04 * len(pieces)
        assert 0 < seconds <= bounds.SLACK * expected + grain, text
        assert speech.looped or seconds >= bounds.LEAST * expected - grain, text
        assert all(len(piece.text) <= 120 for piece in pieces)
    assert spoken + refused == len(texts()) >= 2000
    assert spoken > 1800


def test_what_is_told_of_every_text(model: GPA) -> None:
    """As a real model is tested with, many at a time."""
    said = list(push(model, shortened(texts())[:240], streams=4))
    assert [one.text for one in said] == shortened(texts())[:240]
    assert not any(one.runaway or one.empty or one.failed for one in said)
    assert any(one.truncated for one in said)
    assert any(one.looped for one in said)
    assert any(one.refused for one in said)
    assert Said("a", 1.0, 2.5, 1).runaway
    assert Said("a", 1.0, 0.0, 1).empty


def test_checked_speech_of_a_moody_model(model: GPA) -> None:
    for text in texts(48):
        try:
            speech = model.tts(text, check=True)
        except TextError:
            continue
        assert len(speech.wav)
        assert speech.checks
        assert all(1 <= check.tries <= TRIES for check in speech.checks)


# ---- the check ----


class Reader(fakes.Engine):
    """Speaks the letters of a text as codes, and reads codes back; `spoil` changes what is spoken, by seed."""

    def __init__(self, model: GPA, spoil: Callable[[list[int], int], list[int]]) -> None:
        super().__init__(lambda _: [])
        self.vocab, self.spoil = model.vocab, spoil

    def _stream(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        assert hasattr(prompt, "source")
        source = [prompt.context[i] for i in prompt.source]
        if prompt.allowed == self.vocab.text:
            assert not any(id in self.vocab.glm.ids for id in prompt.context)
            ids: Sequence[int] = self.vocab.encode("".join(LETTERS[self.vocab.bicodec_semantic.code(id)] for id in source))
        else:
            letters = [LETTERS.index(char) for char in self.vocab.decode(source) if char in LETTERS]
            ids = self.vocab.bicodec_semantic.encode(self.spoil(letters, sampling.seed))
        for id in list(ids)[: sampling.max_new_ids]:
            yield Token(id, -0.1)


LETTERS = "abcdefghijklmnopqrstuvwxyz ,.'-"


def reader(tmp_path: Path, spoil: Callable[[list[int], int], list[int]]) -> GPA:
    made = fakes.model(tmp_path / "fake")
    made.engine = Reader(made, spoil)
    return made


def test_a_good_sentence_is_spoken_as_it_is(tmp_path: Path) -> None:
    made = reader(tmp_path, lambda codes, _: codes)
    speech = made.tts("A good sentence. And another one to follow.", check=True)
    assert [(check.cer, check.tries) for check in speech.checks] == [(0, 1), (0, 1)]
    assert speech.checks[0].heard == "A good sentence."
    assert speech.cer == 0
    assert speech.retried == 0
    plain = made.tts("A good sentence. And another one to follow.")
    assert np.array_equal(speech.wav, plain.wav)
    assert (plain.cer, plain.checks) == (None, ())


def test_a_bad_sentence_alone_is_drawn_anew(tmp_path: Path) -> None:
    made = reader(tmp_path, lambda codes, seed: codes[:6] if seed == 5 and len(codes) > 20 else codes)
    text = "A short one here. But this one is longer than that."
    speech = made.tts(text, seed=5, check=True)
    assert [check.tries for check in speech.checks] == [1, 2]
    assert speech.retried == 1
    assert speech.cer == 0
    assert len(speech.wav) > len(made.tts(text, seed=5).wav)
    assert np.array_equal(np.concatenate(list(made.stream_tts(text, seed=5, check=True))), speech.wav)


def test_the_best_of_bad_tries_is_spoken_and_told(tmp_path: Path) -> None:
    lost = {0: 12, 1_000_003: 8, 2_000_006: 16}
    speech = reader(tmp_path, lambda codes, seed: codes[: -lost[seed]]).tts("a sentence with an end to lose", check=True)
    (check,) = speech.checks
    assert (check.tries, check.heard) == (3, "A sentence with an end")
    assert speech.cer == check.cer == pytest.approx(8 / 30)
    assert check.cer > GOOD


def test_only_what_is_spoken_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all its codes are read before the first of them is."""
    lost, decoded, asked = {0: 12, 1_000_003: 8, 2_000_006: 16}, [], []
    made = reader(tmp_path, lambda codes, seed: codes[: -lost[seed]])

    def push(decoder: fakes.Decoder, codes: Sequence[int]) -> np.ndarray:
        decoded.extend(codes)
        asked.append(len(made.engine.asked))
        return fakes.sound_of(codes)

    monkeypatch.setattr(fakes.Decoder, "push", push)
    text = "a sentence with an end to lose"
    speech = made.tts(text, check=True)
    assert speech.retried == 2
    assert len(decoded) == len(text) - 8
    assert set(asked) == {6}  # three generations and three readings


def test_a_loop_and_a_runaway_are_drawn_anew(tmp_path: Path) -> None:
    def spoil(codes: list[int], seed: int) -> list[int]:
        return codes + [[3, 4] * 300, [(i * i) % 29 for i in range(300)], []][seed // 1_000_003]

    speech = reader(tmp_path, spoil).tts("a sentence that may go on", check=True)
    assert (speech.looped, speech.truncated, speech.cer, speech.retried) == (False, False, 0, 2)


def test_what_counts_as_an_error_of_reading() -> None:
    assert character_errors("Hello, there! It's me.", "hello there its me") == 0
    assert character_errors("abcd", "abxd") == 0.25
    assert character_errors("ab", "") == 1
    assert character_errors("...", "") == 0
    assert character_errors("你好", "你坏") == 0.5


@pytest.mark.slow
def test_nano_never_runs_away() -> None:
    """The embedded model on all of the texts, most cut short, sixteen at a time: a quarter of an hour of one processor."""
    import gpa

    with gpa.load() as nano:
        said = list(push(nano, shortened(texts())))
    assert len(said) >= 2000
    assert [one for one in said if one.runaway or one.empty or one.failed] == []
    assert sum(bool(one.seconds) for one in said) > 1800

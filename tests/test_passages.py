"""Text streams in: what is spoken does not depend on how the text was cut, and starts before the text ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fakes
from gpa.errors import LimitError, TextError
from gpa.passages import LONGEST, passages
from gpa.pipeline import GPA, MAX_CHARS

TEXTS = st.text(st.sampled_from("abC .!?\"')\n[]:pause1s,。好 Dr"), max_size=300) | st.lists(
    st.sampled_from(
        [
            "This is a sentence. ",
            "Dr. Smith said hi! ",
            "No. ",
            "One",
            "\n\n",
            "[pause:0.5s] ",
            "你好,世界。",
            '"Really?" he asked. ',
            "word " * 30,
        ]
    ),
    max_size=20,
).map("".join)
CUTS = st.lists(st.integers(1, 60), min_size=1, max_size=8)


def cut(text: str, sizes: list[int]) -> Iterator[str]:
    start = turn = 0
    while start < len(text):
        yield text[start : start + sizes[turn % len(sizes)]]
        start, turn = start + sizes[turn % len(sizes)], turn + 1


@settings(max_examples=300, deadline=None)
@given(TEXTS, CUTS)
def test_passages_do_not_depend_on_the_pieces(text: str, sizes: list[int]) -> None:
    whole = list(passages(text))
    assert list(passages(cut(text, sizes))) == whole
    assert "".join(whole) == text
    assert all(0 < len(passage) <= LONGEST + 64 for passage in whole)


def test_sentences_are_passages() -> None:
    text = "Dr. Smith came in. He said nothing at all, e.g. no word. Yes. Then he left again for good."
    assert list(passages(text)) == ["Dr. Smith came in.", " He said nothing at all, e.g. no word.", " Yes. Then he left again for good."]
    assert list(passages("Too short. To part.")) == ["Too short. To part."]
    assert [len(part) for part in passages("word " * 200)] == [400, 400, 200]
    assert all(part.count("[") == part.count("]") for part in passages(("x" * 388 + " [pause: 1s] ") * 3))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GPA:
    return fakes.model(tmp_path_factory.mktemp("model") / "fake")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, CUTS)
def test_text_in_pieces_sounds_as_the_whole(model: GPA, text: str, sizes: list[int]) -> None:
    try:
        whole = model.tts(text)
    except TextError:
        with pytest.raises(TextError):
            model.tts(cut(text, sizes))
        return
    assert np.array_equal(np.concatenate(list(model.stream_tts(cut(text, sizes)))), whole.wav)


def test_sound_comes_before_the_text_ends(model: GPA) -> None:
    text = "This is the first sentence. And this is the second one. The third is never asked for by anybody."
    pulled: list[str] = []

    def writing() -> Iterator[str]:
        for token in text.split():
            pulled.append(token)
            yield token + " "

    stream = model.stream_tts(writing())
    assert pulled == []
    assert len(next(stream))
    assert " ".join(pulled) == "This is the first sentence. And this is the second"  # so much that the first is certain to be over
    stream.close()


def test_a_stream_of_text_has_its_errors(model: GPA, tmp_path: Path) -> None:
    with pytest.raises(TextError, match="nothing to say in '😀 '"):
        list(model.stream_tts(iter(["😀", " "])))
    with pytest.raises(TextError, match="nothing to say in ''"):
        model.tts(iter([]))
    with pytest.raises(LimitError, match=rf"legal: up to {MAX_CHARS}"):
        model.tts("word " for _ in range(MAX_CHARS))
    with pytest.raises(TextError, match="unknown language"):
        list(model.stream_tts(iter(["hello there"]), language="xx"))
    stream = model.stream_tts(iter(["Hello there, all of you. ", "[pause:99s] and more than that."]))
    assert len(next(stream))
    with pytest.raises(TextError, match="pauses up to 10 s"):
        list(stream)


def test_a_passage_without_letters_is_read_like_the_one_before(model: GPA) -> None:
    fake = model.engine
    assert isinstance(fake, fakes.Engine)
    model.tts(iter(["Here is the first of all.\n\n", "1 2 3 4 5 6 7 8 9 10 11\n\n"]))
    spoken = [model.vocab.decode(asked.context[6:]) for asked, _ in fake.asked[-1:]]  # type: ignore[index]
    assert "eleven" in spoken[0]

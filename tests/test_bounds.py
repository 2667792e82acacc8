"""A generation never runs away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpa import bounds


def test_limit_is_twice_the_expected_length() -> None:
    text = "a sentence of forty-eight characters, about so.."
    assert bounds.speech_seconds(text) == pytest.approx(0.3 + 38 / 15 + 8 * 0.04)
    assert bounds.tts_limit(text, 25) == 158
    assert bounds.tts_limit(text, 50) == 316
    assert bounds.tts_floor(text, 25) == 31
    assert bounds.speech_seconds("你好世界") == pytest.approx(1.3, abs=0.05)  # a sign takes longer than a letter
    assert bounds.speech_seconds("w w w") == pytest.approx(0.3 + 3 * (0.6 + 0.04 + 1 / 15))  # and the name of a letter longer still
    assert bounds.asr_limit(10) == 308
    assert bounds.vc_limit(100) == 124


@given(st.text(max_size=300))
def test_every_text_may_take_some_time(text: str) -> None:
    assert 1 <= bounds.tts_floor(text, 25) < bounds.tts_limit(text, 25) / 4
    assert bounds.tts_limit(text, 25) >= 15


def heard(loop: bounds.Loop, ids: list[int]) -> tuple[int, int]:
    """(ids until the loop was noticed, how many of them are repetition)."""
    for count, id in enumerate(ids, 1):
        if again := loop.push(id):
            return count, again
    return 0, 0


@given(st.lists(st.integers(0, 500), min_size=1, max_size=64, unique=True), st.integers(0, 30))
def test_any_short_pattern_repeated_is_found(pattern: list[int], lead: int) -> None:
    ids = list(range(1000, 1000 + lead)) + pattern * 30
    count, again = heard(bounds.Loop(longest=64, repeats=4, shortest=24), ids)
    assert count == lead + max(4 * len(pattern), 24)
    assert ids[: count - again] == ids[: lead + len(pattern)]  # one copy of the pattern is left


@given(st.lists(st.integers(0, 10**6), max_size=300, unique=True))
def test_what_never_repeats_is_no_loop(ids: list[int]) -> None:
    assert heard(bounds.Loop(), ids) == (0, 0)


def test_a_word_said_three_times_is_no_loop() -> None:
    ids = [ord(char) for char in "no, no, no, that is not what i said."]
    assert heard(bounds.Loop(), ids) == (0, 0)

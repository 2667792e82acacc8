"""Word times: right on speech whose times are known, in order on anything, learned from nothing but texts."""

from __future__ import annotations

import json
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpa import align, audio, hub
from gpa.errors import AudioError

RATE = align.RATE
CLIP = audio.decode(hub.embedded() / "demo.opus", RATE)
SAID = json.loads((hub.embedded() / "demo.json").read_text())["text"].split()


def test_words_of_a_human_are_in_order_and_within_the_sound() -> None:
    times = align.words(CLIP, RATE, SAID)
    assert len(times) == len(SAID)
    assert all(0 <= time.start < time.end <= len(CLIP) / RATE for time in times)
    assert all(a.end <= b.start for a, b in pairwise(times))
    assert max(time.end - time.start for time in times) < 1.2


def test_a_pause_between_two_words_moves_what_follows() -> None:
    before = align.words(CLIP, RATE, SAID)
    middle = len(SAID) // 2
    place = round((before[middle - 1].end + before[middle].start) / 2 * RATE)
    longer = np.concatenate([CLIP[:place], 1e-3 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32), CLIP[place:]])
    after = align.words(longer, RATE, SAID)
    moved = [b.start - a.start for a, b in zip(before, after, strict=True)]
    assert np.abs(moved[:middle]).max() < 0.1
    assert np.median(np.abs(np.array(moved[middle:]) - 1)) < 0.02
    assert abs(moved[middle] - 1) < 0.1


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_times_that_flite_spoke_with() -> None:
    text = "the old man walked down to the river and sat there until the morning"
    command = ["flite", "-voice", "rms", "-t", text, "-psdur", "-o", "/dev/stdout"]
    sound = subprocess.run([*command[:-3], "-o", "/dev/stdout"], check=True, capture_output=True).stdout
    phones = subprocess.run([*command[:-1], "none"], check=True, capture_output=True, text=True).stdout.split()
    lengths = [2, 3, 3, 4, 3, 2, 2, 4, 3, 3, 3, 5, 2, 6]  # phones of each word
    ends = [float(phone.split(":")[1]) for phone in phones if not phone.startswith("pau")]
    last = np.cumsum(lengths) - 1
    assert last[-1] == len(ends) - 1
    found = align.words(audio.decode(sound, RATE), RATE, text.split())
    assert np.median([abs(time.end - ends[i]) for time, i in zip(found, last, strict=True)]) < 0.04


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=9), max_size=12), st.integers(0, 20_000))
def test_any_text_on_any_sound(said: list[str], length: int) -> None:
    """More letters than there is sound for, signs, nothing: the times are still in order and inside."""
    wav = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    times = align.words(wav, RATE, said)
    assert len(times) == len(said)
    assert all(0 <= time.start <= time.end <= length / RATE + 0.01 for time in times)
    assert all(a.end <= b.start for a, b in pairwise(times))


def test_spelling() -> None:
    assert align.spell("Thought,") == ["th", "ough", "t"]
    assert align.spell("these") == ["th", "e", "s", "e$"]
    assert align.spell("the") == ["th", "e$"]
    assert align.spell("don't") == ["d", "o", "n", "t"]
    assert align.spell("12") == align.spell("twelve")
    assert align.spell("好") == align.spell("!") == [align.OTHER]


def test_other_rates() -> None:
    with pytest.raises(AudioError, match="timed at 16000 Hz, found 8000"):
        align.words(CLIP, 8000, SAID)


def test_the_best_path_is_the_best() -> None:
    """Against every path, on a chain of three words."""
    rng = np.random.default_rng(0)
    chain = align.Chain((align.SILENCE, "a", "b"), [["a"], ["b", "a"], ["b"]])
    scores = rng.normal(size=(7, len(chain.states))) * 3

    def value(t: int, state: int) -> float:
        if t == 0:
            return scores[0, state] if state < 2 else -np.inf
        steps = [(value(t - 1, state - jump), chain.costs[jump, state]) for jump in range(5) if state >= jump]
        return scores[t, state] + max(before + cost for before, cost in steps if cost > -1e20)

    path = align.best_path(scores, chain.costs)
    best = max(value(6, state) for state in (len(chain.states) - 2, len(chain.states) - 1))
    jumps = np.diff(path)
    found = scores[np.arange(7), path].sum() + sum(chain.costs[jump, state] for jump, state in zip(jumps, path[1:], strict=True))
    assert found == pytest.approx(best)


def test_letters_are_learned_from_texts_alone(tmp_path: Path) -> None:
    aligner = pytest.importorskip("gpa.training.aligner")
    rng = np.random.default_rng(0)
    sound = {letter: rng.normal(size=26) * 2 for letter in "abcd"}
    sound["_"] = np.full(26, -3.0)
    utterances, truths = [], []
    for _ in range(60):
        words = ["".join(rng.choice(list("abcd"), rng.integers(2, 5), replace=False)) for _ in range(4)]
        rows, truth = [], []
        for word in words:
            rows += ["_"] * int(rng.integers(0, 6))
            begin = len(rows)
            for letter in word:
                rows += [letter] * int(rng.integers(3, 9))
            truth.append((begin, len(rows)))
        frames = np.stack([sound[row] for row in [*rows, "_"]]) + 0.3 * rng.normal(size=(len(rows) + 1, 26))
        utterances.append((frames, [list(word) for word in words]))
        truths.append(truth)
    acoustics = aligner.fit(utterances, (3, 1))
    acoustics.save(tmp_path / "letters.npz")
    acoustics = align.Acoustics.load(tmp_path / "letters.npz")
    errors = [np.abs(np.array(align.align(acoustics, *one)) - truth).max() for one, truth in zip(utterances, truths, strict=True)]
    assert np.median(errors) <= 1

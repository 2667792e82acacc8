"""Sentences -> counts of their words, pairs and triples (`gpa data ngrams`), which `gpa.ngrams` asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from gpa.data.manifest import read, read_list
from gpa.errors import GPAError
from gpa.ngrams import WORD, Counts, Ints

SHARED = 5  # words in a row that give a test away
LEAST = 2  # times that a triple was said, to be kept


def words_of(sentence: str) -> tuple[str, ...]:
    """The words of a sentence, as they are counted."""
    return tuple(WORD.findall(sentence.lower()))


def test_sentences(path: Path) -> list[str]:
    """What is to be left out: a list of sentences (.txt), or the texts of a manifest or of a folder of them."""
    return read_list(path) if path.suffix == ".txt" else [row.text for row in read(path)]


def apart(sentences: Iterable[str], tests: Iterable[str]) -> list[tuple[str, ...]]:
    """The words of those sentences that share no SHARED words in a row with a test, nor, if it is shorter, all of it."""
    told = {run for test in tests for run in _runs(words_of(test))}
    kept = []
    for words in map(words_of, sentences):
        if words and not told.intersection(_runs(words)):
            kept.append(words)
    return kept


def count(sentences: Sequence[Sequence[str]]) -> Counts:
    """Count words, pairs and triples; triples that were said less than LEAST times are dropped. Raises GPAError: no words."""
    single = Counter(word for sentence in sentences for word in sentence)
    if not single:
        raise GPAError("no words are left to count")
    words = sorted(single)
    index = {word: i for i, word in enumerate(words)}
    start = len(words)
    pair, triple = Counter[tuple[int, int]](), Counter[tuple[int, int, int]]()
    for sentence in sentences:
        ids = [start, *(index[word] for word in sentence)]
        pair.update(pairwise(ids))
        triple.update(zip(ids, ids[1:], ids[2:], strict=False))
    pairs = sorted(pair)
    places = {one: i for i, one in enumerate(pairs)}
    triples = sorted(one for one, said in triple.items() if said >= LEAST)
    return Counts(
        tuple(words),
        _ints(single[word] for word in words),
        _starts((first for first, _ in pairs), start + 1),
        _ints(second for _, second in pairs),
        _ints(pair[one] for one in pairs),
        _starts((places[one[:2]] for one in triples), len(pairs)),
        _ints(third for *_, third in triples),
        _ints(triple[one] for one in triples),
    )


def _runs(words: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    length = min(SHARED, len(words))
    return (words[i : i + length] for i in range(len(words) - length + 1)) if words else ()


def _ints(values: Iterable[int]) -> Ints:
    return np.fromiter(values, np.int32)


def _starts(groups: Iterable[int], size: int) -> Ints:
    """Numbers of groups, in order -> where each of `size` groups begins, and where the last ends: (size + 1,)."""
    sizes = np.zeros(size + 1, np.int32)
    for group, members in groupby(groups):
        sizes[group + 1] = sum(1 for _ in members)
    starts: Ints = np.cumsum(sizes, dtype=np.int32)
    return starts

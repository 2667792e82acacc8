"""N-grams: what is likely to be said before anything is heard, for checkpoints that write letter by letter.

A small net that spells by ear has met few words. Counts of words, and of pairs and triples of them, in many sentences tell it which
spellings are words and which words follow each other; a search adds their scores to its own (shallow fusion; Gulcehre et al., 2015).
The probability of the next letter is the share of the words that go on so, given the two words before: absolute discounting,
interpolated down to single words (Ney et al., 1994). A word that was never counted is spelled by counts of three letters.
`gpa data ngrams` counts; the file is `ngrams.npz` in a checkpoint's folder.
"""

from __future__ import annotations

import re
import unicodedata
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpa.errors import CheckpointError
from gpa.vocab import Vocab

FILE = "ngrams.npz"
LETTERS = "'abcdefghijklmnopqrstuvwxyz"  # what words are made of, in the order of their codes
WORD = re.compile(f"[{LETTERS}]+")
DISCOUNT = 0.75  # of every count, for what was not counted
UNKNOWN = 0.01  # of all words
EXPECTED, ALL_EXPECTED = 0.01, 0.2  # of all words: the share of each keyword, and of all of them at most
_END = 0  # the class of every id that ends a word; letter i of LETTERS is class i + 1
_KEPT = 4096  # spellings that are remembered
_LEAST = 1e-200  # a probability: no text makes it 0
_STOPS = ".!?"  # what ends a sentence
_STOP_AGAIN = -100.0  # natural log of how likely a sentence ends before its first letter: texts with dots after their end were learned
_LETTERS = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")  # of any script

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """How often W words, P pairs and T triples of them were counted. Word W stands for the beginning of a sentence.

    The pairs that begin with word w are the rows `pair_from[w]` to `pair_from[w + 1]`, ordered by their second word; the triples
    that begin with pair p likewise, by their third."""

    words: tuple[str, ...]  # in the order of their letters' codes
    single: Ints  # (W,)
    pair_from: Ints  # (W + 2,)
    pair_word: Ints  # (P,)
    pair: Ints  # (P,)
    triple_from: Ints  # (P + 1,)
    triple_word: Ints  # (T,)
    triple: Ints  # (T,)

    @classmethod
    def load(cls, path: Path) -> Counts:
        """Read what `save` wrote. Raises CheckpointError."""
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in (field.name for field in fields(cls))}
            words = tuple(bytes(arrays.pop("words")).decode("ascii").split("\n"))
            counts = cls(words, **{name: array.astype(np.int32) for name, array in arrays.items()})
        except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        counts._check(path)
        return counts

    def save(self, path: Path) -> None:
        """Write, as narrow as the numbers allow."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "words"}
        narrow = {name: array.astype(np.min_scalar_type(int(array.max(initial=0)))) for name, array in arrays.items()}
        np.savez_compressed(path, words=np.frombuffer("\n".join(self.words).encode("ascii"), np.uint8), **narrow)

    def _check(self, path: Path) -> None:
        W, P, T = len(self.words), len(self.pair), len(self.triple)
        found = [len(getattr(self, field.name)) for field in fields(self)[1:]]
        wanted = [W, W + 2, P, P, P + 1, T, T]
        if found != wanted or self.pair_from[-1] != P or self.triple_from[-1] != T or list(self.words) != sorted(set(self.words)):
            raise CheckpointError(f"{path}: arrays of {found} numbers for {W} words (legal: {wanted}, words in order)")


class NGrams:
    """Counts, ready to be asked; safe to use from several threads."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._index = {word: i for i, word in enumerate(counts.words)}
        self._single, self._pair, self._triple = (_sums(array) for array in (counts.single, counts.pair, counts.triple))
        self._spelling = _spelling(counts.words)
        self.start = len(counts.words)  # the word before the first
        self._edges = lru_cache(_KEPT)(self._find_edges)
        self.next = lru_cache(_KEPT)(self._next)

    def word(self, spelled: str) -> int:
        """The number of a word; -1 of one that was never counted."""
        return self._index.get(spelled, -1)

    def unknown(self, spelled: str) -> Floats:
        """Letters of a word that was never counted -> probabilities of its end and of each of LETTERS."""
        before = [LETTERS.index(letter) + 1 for letter in spelled[-2:]]
        shares: Floats = self._spelling[tuple([0, 0, *before][-2:])]
        return shares

    def _next(self, before: tuple[int, int], spelled: str, odds: float, expected: tuple[str, ...] = ()) -> Floats:
        """Natural-log probabilities (1 + letters,) that a word that begins so ends, or goes on with each of LETTERS.

        `before`: the two words before it. `odds`: how likely its letters are those of a word that was never counted. `expected`:
        words that are likelier than they were counted."""
        known = self._known(before, self._edges(spelled))
        shares = (1 - UNKNOWN) * known + UNKNOWN * odds * self.unknown(spelled)
        if expected:
            share = min(EXPECTED * len(expected), ALL_EXPECTED)
            shares = (1 - share) * shares + share / len(expected) * _following(expected, spelled)
        logs: Floats = np.log(shares / shares.sum())
        return logs

    def _known(self, before: tuple[int, int], edges: Ints) -> Floats:
        """Shares of all words between `edges`, after the words `before`."""
        counts, (first, second) = self._counts, before
        shares: Floats = np.diff(self._single[edges]) / self._single[-1]
        if second < 0:
            return shares
        low, high = counts.pair_from[second : second + 2]
        shares = _discounted(self._pair, counts.pair_word, low, high, edges, int(self._pair[high] - self._pair[low]), shares)
        pair = self._find_pair(first, second)
        if pair < 0:
            return shares
        low, high = counts.triple_from[pair : pair + 2]
        return _discounted(self._triple, counts.triple_word, low, high, edges, int(counts.pair[pair]), shares)

    def _find_pair(self, first: int, second: int) -> int:
        if first < 0 or second == self.start:
            return -1
        low, high = self._counts.pair_from[first : first + 2]
        at = low + int(np.searchsorted(self._counts.pair_word[low:high], second))
        return at if at < high and self._counts.pair_word[at] == second else -1

    def _find_edges(self, spelled: str) -> Ints:
        """Where among the words those that begin so start, with each of LETTERS after it, and end: (2 + letters,)."""
        words = self._counts.words
        found = [bisect_left(words, spelled + letter) for letter in ("", *LETTERS, "~")]
        return np.array(found, np.int32)


@dataclass(frozen=True)
class Said:
    """What has been written of a text so far (a `gpa.engines.base.Prior`)."""

    ngrams: NGrams
    classes: NDArray[np.int8]  # (vocabulary,)
    stops: NDArray[np.bool_]  # (vocabulary,): ids that end a sentence
    before: tuple[int, int]
    spelled: str = ""
    odds: float = 1.0
    expected: tuple[str, ...] = ()
    stopped: bool = True  # no letter since the beginning, or since a sentence ended

    @classmethod
    def nothing(cls, ngrams: NGrams, vocab: Vocab) -> Said:
        """Before the first letter. Raises CheckpointError: the vocabulary has tokens of several letters."""
        classes, stops = np.full(vocab.size, _END, np.int8), np.zeros(vocab.size, np.bool_)
        for id in (id for some in vocab.text for id in some):
            written = vocab.decode([id])
            if len(written) > 1:
                raise CheckpointError(f"{FILE} is for a vocabulary that writes letter by letter (found a token {written!r})")
            if written and written in LETTERS:
                classes[id] = LETTERS.index(written) + 1
            stops[id] = written != "" and written in _STOPS
        return cls(ngrams, classes, stops, (-1, ngrams.start))

    def scores(self, ids: NDArray[np.int64]) -> Floats:
        """Natural-log probabilities of `ids`: what may stand between words, and the end of a text, count as the end of a word.

        Between words they are free, but for the end of a sentence that has no letter yet."""
        logs = self.ngrams.next(self.before, self.spelled, self.odds, self.expected)[self.classes[ids]]
        if self.spelled:
            return logs
        free = np.where(self.classes[ids] == _END, 0.0, logs)
        return np.where(self.stops[ids], _STOP_AGAIN, free) if self.stopped else free

    def after(self, id: int) -> Said:
        """One id further."""
        place = int(self.classes[id])
        if place != _END:
            odds = max(self.odds * float(self.ngrams.unknown(self.spelled)[place]), _LEAST)
            return replace(self, spelled=self.spelled + LETTERS[place - 1], odds=odds, stopped=False)
        stopped = self.stopped or bool(self.stops[id])
        if not self.spelled:
            return self if stopped == self.stopped else replace(self, stopped=stopped)
        return replace(self, before=(self.before[1], self.ngrams.word(self.spelled)), spelled="", odds=1.0, stopped=stopped)


def spellings(keywords: Iterable[str]) -> dict[str, str]:
    """Keywords -> the letters of each of their words, as a checkpoint writes them, and the word as it was given.

    Signs, digits and letters of other scripts are left out."""
    words = [word for one in keywords for word in _LETTERS.findall(one)]
    plain = {word: unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode().lower() for word in words}
    return {spelled: word for word, spelled in plain.items() if WORD.fullmatch(spelled)}


def names(text: str, ngrams: NGrams) -> list[str]:
    """The words of a text that look like names or terms: capitals within a sentence, and what was never counted."""
    found, last = [], 0
    for match in _LETTERS.finditer(text):
        word = match[0]
        within = last > 0 and not set(".!?:\n") & set(text[last : match.start()])
        last = match.end()
        spelled = next(iter(spellings([word])), "")
        if spelled and (ngrams.word(spelled) < 0 or (within and word[0].isupper() and len(word) > 1)):
            found.append(word)
    return found


def _following(words: Iterable[str], spelled: str) -> Floats:
    """How many of `words` that begin so end, and go on with each of LETTERS."""
    counts = np.zeros(len(LETTERS) + 1)
    for word in words:
        if word.startswith(spelled):
            counts[LETTERS.index(word[len(spelled)]) + 1 if len(word) > len(spelled) else _END] += 1
    return counts


def _sums(counts: Ints) -> NDArray[np.int64]:
    """Sums of the first 0, 1, ... counts."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _discounted(sums: NDArray[np.int64], words: Ints, low: int, high: int, edges: Ints, total: int, lower: Floats) -> Floats:
    """Shares of the words between `edges` among the rows `low` to `high`, of `total` counts; what is missing is shared as in `lower`."""
    if not total:
        return lower
    at = low + np.searchsorted(words[low:high], edges)
    kept = (np.diff(sums[at]) - DISCOUNT * np.diff(at)) / total
    rest = 1 - (float(sums[high] - sums[low]) - DISCOUNT * float(high - low)) / total
    shares: Floats = kept + rest * lower
    return shares


def _spelling(words: tuple[str, ...]) -> Floats:
    """Of the words, by class of the two letters before (0: none), shares of the end and of each of LETTERS."""
    size = len(LETTERS) + 1
    classes = np.zeros(128, np.int64)
    classes[[ord(letter) for letter in LETTERS]] = np.arange(1, size)
    line = classes[np.frombuffer(("\n\n" + "\n\n".join(words) + "\n").encode("ascii"), np.uint8)]
    threes = (line[:-2] * size + line[1:-1]) * size + line[2:]
    counts = np.bincount(threes, minlength=size**3).reshape(size, size, size) + 0.1
    shares: Floats = counts / counts.sum(-1, keepdims=True)
    return shares

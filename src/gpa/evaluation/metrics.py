"""Metrics: texts -> error rates, numbers -> means, each with a 95 % interval. Pure functions, no audio, no model.

Rates are per cent. Intervals are percentile bootstraps over utterances (Efron 1979; for WER: Bisani and Ney, ICASSP 2004),
drawn from a fixed seed, so that the same results always give the same report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 1000
_TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor", "ok": "okay"}
_SPELLINGS = (  # British -> American, as recognisers write it
    (re.compile(r"\b(arm|behavi|col|endeav|fav|harb|hon|hum|lab|neighb|parl|rum|sav|vap)our"), r"\1or"),
    (re.compile(r"\b(cen|thea)tre"), r"\1ter"),
    (re.compile(r"\b(apolog|organ|real|recogn)is(e|ed|es|ing)\b"), r"\1iz\2"),
    (re.compile(r"\b(toward|afterward)s\b"), r"\1"),
    (re.compile(r"\bgrey"), "gray"),
)
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"}
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


@dataclass(frozen=True)
class Estimate:
    """A figure over `count` utterances and its 95 % interval."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def normalise(text: str) -> str:
    """Text -> what is scored: lower-case words of a-z and ', numbers up to 999,999 in words, titles and the commonest
    British spellings as recognisers write them, dashes as spaces."""
    text = text.lower().replace("’", "'").replace("-", " ")
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(\d{1,6})(st|nd|rd|th)?", lambda match: f" {_number(int(match[1]), ordinal=bool(match[2]))} ", text)
    words = (word.strip("'") for word in re.sub(r"[^a-z' ]", " ", text).split())
    text = " ".join(_TITLES.get(word, word) for word in words if word)
    for british, american in _SPELLINGS:
        text = british.sub(american, text)
    return text


def _number(n: int, ordinal: bool = False) -> str:
    if ordinal:
        *front, last = _number(n).split()
        return " ".join([*front, _ORDINALS.get(last, last.removesuffix("y") + "ie" * last.endswith("y") + "th")])
    if n < 20:
        return _NUMBERS.split()[n]
    if n < 100:
        return _TENS.split()[n // 10 - 2] + (f" {_number(n % 10)}" if n % 10 else "")
    unit, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    return f"{_number(n // unit)} {name}" + (f" {_number(n % unit)}" if n % unit else "")


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Fewest substitutions, deletions and insertions between two sequences (Levenshtein)."""
    table = {item: i for i, item in enumerate({*reference, *hypothesis})}
    columns = np.asarray([table[item] for item in hypothesis], np.int64)
    steps = np.arange(len(hypothesis) + 1)
    row = steps
    for i, item in enumerate(reference, 1):
        best = np.empty_like(row)
        best[0] = i
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (columns != table[item]))
        row = np.minimum.accumulate(best - steps) + steps  # insertions, left to right
    return int(row[-1])


def wer(references: Sequence[str], hypotheses: Sequence[str], seed: int = 0) -> Estimate:
    """Word error rate of normalised texts, per cent, over all words. Raises ValueError when there is nothing to score."""
    return _rate(references, hypotheses, str.split, seed)


def cer(references: Sequence[str], hypotheses: Sequence[str], seed: int = 0) -> Estimate:
    """Character error rate (spaces count) of normalised texts, per cent. Raises ValueError when there is nothing to score."""
    return _rate(references, hypotheses, list, seed)


def _rate(references: Sequence[str], hypotheses: Sequence[str], units: Callable[[str], list[str]], seed: int) -> Estimate:
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references, {len(hypotheses)} hypotheses: there must be one each")
    pairs = [(units(normalise(a)), units(normalise(b))) for a, b in zip(references, hypotheses, strict=True)]
    errors = np.asarray([edits(a, b) for a, b in pairs], float)
    lengths = np.asarray([len(a) for a, _ in pairs], float)
    if not lengths.sum():
        raise ValueError("the references hold no words: an error rate needs at least one")
    return _bootstrap(100 * errors, lengths, seed)


def mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """Mean of one number an utterance. Raises ValueError when there is none."""
    if not len(values):
        raise ValueError("a mean needs at least one value")
    return _bootstrap(np.asarray(values, float), np.ones(len(values)), seed)


def share(hits: Sequence[bool], seed: int = 0) -> Estimate:
    """Per cent of utterances for which something holds."""
    return mean([100.0 * bool(hit) for hit in hits], seed)


def _bootstrap(parts: NDArray[np.float64], weights: NDArray[np.float64], seed: int) -> Estimate:
    """sum(parts) / sum(weights) and the interval of that ratio under resampling of the utterances."""
    picks = np.random.default_rng(seed).integers(len(parts), size=(_RESAMPLES, len(parts)))
    below = weights[picks].sum(1)
    ratios = parts[picks].sum(1)[below > 0] / below[below > 0]
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Estimate(float(parts.sum() / weights.sum()), float(low), float(high), len(parts))

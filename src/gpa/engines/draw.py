"""Draw: scores of the legal ids -> the next id of one generation. transformers' rules, in numpy, on legal ids alone.

Nothing here is as wide as the vocabulary, and no generation knows of another: same seed, same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gpa.engines.base import Context, Sampling, Token
from gpa.engines.card import ids_of

Floats = NDArray[np.float32]
Places = NDArray[np.intp]


class Draw:
    """One generation: what it has seen, how many ids it has drawn, its source of chance."""

    def __init__(self, prompt: Context, sampling: Sampling, legal: tuple[range, ...]) -> None:
        """`legal`: the ids that scores are given of, `prompt.allowed` and `prompt.stop` together."""
        self._sampling, self._ids = sampling, _ids(legal)
        self._stops = self._places(prompt.stop)
        self._seen = np.zeros(len(self._ids), np.bool_)
        if sampling.repetition_penalty != 1:
            self._seen[self._places(prompt.context)] = True
        self._random = np.random.default_rng(sampling.seed)
        self._drawn = 0

    def next(self, scores: Floats) -> Token:
        """Scores (legal,) -> an id, possibly a stop, and its log-probability."""
        s = self._sampling
        bent = scores
        if self._drawn < s.min_new_ids or s.repetition_penalty != 1:
            bent = scores.copy()
        if self._drawn < s.min_new_ids:
            bent[self._stops] = -np.inf
        if s.repetition_penalty != 1:
            seen = bent[self._seen]
            penalty = np.float32(s.repetition_penalty)
            bent[self._seen] = np.where(seen > 0, seen / penalty, seen * penalty)
        place = self._pick(bent)
        self._seen[place] = True
        self._drawn += 1
        return Token(int(self._ids[place]), float(scores[place] - _log_sum(scores)))

    @property
    def full(self) -> bool:
        """Whether no further id may be drawn."""
        return self._drawn >= self._sampling.max_new_ids

    def _pick(self, scores: Floats) -> int:
        """Place of the drawn score: temperature, then top_k, then the smallest head of mass top_p."""
        s = self._sampling
        if s.temperature == 0:
            return int(scores.argmax())
        places = _best(scores, s.top_k or len(scores))
        shares = _softmax(scores[places] / s.temperature)
        before = shares.cumsum() - shares
        shares[before >= s.top_p] = 0.0
        ends = shares.cumsum()
        return int(places[np.searchsorted(ends, self._random.random() * ends[-1], "right").clip(0, np.flatnonzero(shares)[-1])])

    def _places(self, ids: Sequence[int]) -> Places:
        """Where those of `ids` stand that are legal."""
        wanted = np.unique(np.asarray(ids, np.int64))
        places = np.searchsorted(self._ids, wanted).clip(0, len(self._ids) - 1)
        found: Places = places[self._ids[places] == wanted]
        return found


def _best(scores: Floats, count: int) -> Places:
    """Places of the `count` largest scores, largest first, of equal ones the first."""
    if count < len(scores):
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        places = np.flatnonzero(scores >= least)
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind="stable")][:count]


def _softmax(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    shares = np.exp(scores.astype(np.float64) - float(scores.max()))
    normed: NDArray[np.float64] = shares / shares.sum()
    return normed


def _log_sum(scores: Floats) -> float:
    """Logarithm of the sum of their exponentials."""
    most = scores.max()
    return float(most + np.log(np.exp(scores - most).sum(dtype=np.float64)))


@lru_cache(maxsize=16)
def _ids(legal: tuple[range, ...]) -> NDArray[np.int64]:
    return ids_of(legal)

"""Draw: scores of the legal ids -> the next id of one generation. transformers' rules, in numpy, on legal ids alone.

Nothing here is as wide as the vocabulary, and no generation knows of another: same seed, same ids. What is as wide as the
legal ids is worked out for a whole batch at once: at each large array numpy lets other threads in, and waits for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
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
        self._sampling, self._ids = sampling, legal_ids(legal)
        self._stops = self._places(prompt.stop)
        self._seen = np.zeros(len(self._ids), np.bool_)
        if sampling.repetition_penalty != 1:
            self._seen[self._places(prompt.context)] = True
        self._prior = prompt.prior if sampling.prior_weight else None
        self._random = np.random.default_rng(sampling.seed)
        self._drawn = 0

    @property
    def count(self) -> int:
        """How many of the largest scores are drawn from."""
        greedy = self._sampling.temperature == 0
        return 1 if greedy else min(self._sampling.top_k or len(self._ids), len(self._ids))

    def bend(self, scores: Floats) -> None:
        """Bar stops, penalise what was seen and add the prior, in place."""
        s = self._sampling
        if self._drawn < s.min_new_ids:
            scores[self._stops] = -np.inf
        if s.repetition_penalty != 1:
            seen = scores[self._seen]
            penalty = np.float32(s.repetition_penalty)
            scores[self._seen] = np.where(seen > 0, seen / penalty, seen * penalty)
        if self._prior is not None:
            scores += s.prior_weight * self._prior.scores(self._ids)

    def pick(self, places: Places, scores: Floats) -> int:
        """One of `places` by their scores: temperature, then top_k, then the smallest head of mass top_p."""
        s = self._sampling
        if len(places) == 1:
            return int(places[0])
        best = np.argsort(-scores, kind="stable")[: self.count]
        shares = _softmax(scores[best] / s.temperature)
        before = shares.cumsum() - shares
        shares[before >= s.top_p] = 0.0
        ends = shares.cumsum()
        return int(places[best[np.searchsorted(ends, self._random.random() * ends[-1], "right").clip(0, np.flatnonzero(shares)[-1])]])

    def fork(self, place: int, logprob: float) -> tuple[Token, Draw]:
        """The id there, and a generation that has drawn it; this one has not."""
        other = copy(self)
        other._seen = self._seen.copy()
        return other.take(place, logprob), other

    def take(self, place: int, logprob: float) -> Token:
        """The id there; it counts as drawn."""
        self._seen[place] = True
        self._drawn += 1
        token = Token(int(self._ids[place]), logprob)
        if self._prior is not None:
            self._prior = self._prior.after(token.id)
        return token

    @property
    def full(self) -> bool:
        """Whether no further id may be drawn."""
        return self._drawn >= self._sampling.max_new_ids

    def _places(self, ids: Sequence[int]) -> Places:
        """Where those of `ids` stand that are legal."""
        wanted = np.unique(np.asarray(ids, np.int64))
        places = np.searchsorted(self._ids, wanted).clip(0, len(self._ids) - 1)
        found: Places = places[self._ids[places] == wanted]
        return found


def draw(draws: Sequence[Draw], scores: Sequence[Floats]) -> list[Token]:
    """Scores (legal,) of each generation -> an id for each, possibly a stop, and its log-probability."""
    tokens: dict[int, Token] = {}
    for size in {len(row) for row in scores}:
        which = [i for i, row in enumerate(scores) if len(row) == size]
        drawn = _together([draws[i] for i in which], np.stack([scores[i] for i in which]))
        tokens.update(zip(which, drawn, strict=True))
    return [tokens[i] for i in range(len(draws))]


def _together(draws: Sequence[Draw], scores: Floats) -> Iterator[Token]:
    """Scores (B, legal) -> an id for each row; they are bent."""
    most = scores.max(1)
    logs = most + np.log(np.exp(scores - most[:, None]).sum(1, dtype=np.float64))
    plain = scores.copy()
    for one, row in zip(draws, scores, strict=True):
        one.bend(row)
    places = [one.pick(found, row[found]) for one, found, row in zip(draws, _best(draws, scores), scores, strict=True)]
    for i, (one, place) in enumerate(zip(draws, places, strict=True)):
        yield one.take(place, float(plain[i, place] - logs[i]))


def _best(draws: Sequence[Draw], scores: Floats) -> list[Places]:
    """Places of the `count` largest scores of each row, and of those that equal the last of them."""
    found: dict[int, Places] = {}
    for count in {one.count for one in draws}:
        which = [i for i, one in enumerate(draws) if one.count == count]
        rows = scores[which]
        if count == 1:
            found.update(zip(which, rows.argmax(1)[:, None], strict=True))
            continue
        least = np.partition(rows, rows.shape[1] - count, axis=1)[:, rows.shape[1] - count]
        of, places = np.nonzero(rows >= least[:, None])
        found.update(zip(which, np.split(places, np.searchsorted(of, range(1, len(which)))), strict=True))
    return [found[i] for i in range(len(draws))]


def _softmax(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    shares = np.exp(scores.astype(np.float64) - float(scores.max()))
    normed: NDArray[np.float64] = shares / shares.sum()
    return normed


@lru_cache(maxsize=16)
def legal_ids(legal: tuple[range, ...]) -> NDArray[np.int64]:
    """The ids of ranges, made once."""
    return ids_of(legal)

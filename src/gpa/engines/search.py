"""Search: several continuations of one prompt side by side, the likeliest of them first (beam search).

A continuation that looks best letter by letter may be a bad one as a whole. So each step keeps the `beams` likeliest; one that has
ended is judged by its mean score an id, its stop included; the search ends when as many have ended as are kept. A score is the model's
log-probability and, where the prompt has a prior, that one's times a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpa.engines.base import Context, Sampling, Token
from gpa.engines.draw import Draw, Floats


@dataclass(frozen=True)
class _Kept:
    """A continuation that goes on."""

    draw: Draw
    tokens: tuple[Token, ...] = ()
    total: float = 0.0  # sum of the scores that it was chosen by

    def bent(self, scores: Floats) -> Floats:
        """Scores (legal,) as the next id is chosen by."""
        bent = scores.copy()
        self.draw.bend(bent)
        return bent


class _Ended(NamedTuple):
    mean: float
    tokens: tuple[Token, ...]


class Search:
    """One generation with `sampling.beams` continuations."""

    def __init__(self, prompt: Context, sampling: Sampling, legal: tuple[range, ...]) -> None:
        """`legal`: the ids that scores are given of, `prompt.allowed` and `prompt.stop` together."""
        self._beams, self._stop = sampling.beams, frozenset(prompt.stop)
        self._live = [_Kept(Draw(prompt, sampling, legal))]
        self._ended: list[_Ended] = []

    def step(self, scores: Sequence[Floats]) -> list[int]:
        """Scores (legal,) of each kept continuation -> of each that is kept now, the likeliest first, the number of the one that it
        goes on from. None is kept any more when the search is over."""
        plain = np.stack(scores)
        most = plain.max(1, keepdims=True)
        logs = most + np.log(np.exp(plain - most).sum(1, dtype=np.float64, keepdims=True))
        before = np.array([[one.total] for one in self._live])
        totals = np.stack([one.bent(row) for one, row in zip(self._live, plain, strict=True)]) - logs + before
        plain = plain - logs
        live, parents = list[_Kept](), list[int]()
        for rank, at in enumerate(_largest(totals.ravel(), 2 * self._beams)):
            parent, place = map(int, np.unravel_index(at, totals.shape))
            if totals[parent, place] == -np.inf or len(live) == self._beams:
                break
            token, draw = self._live[parent].draw.fork(place, float(plain[parent, place]))
            tokens = self._live[parent].tokens
            if token.id not in self._stop:
                live.append(_Kept(draw, (*tokens, token), float(totals[parent, place])))
                parents.append(parent)
            elif rank < self._beams:
                self._ended.append(_Ended(float(totals[parent, place]) / (len(tokens) + 1), tokens))
        if len(self._ended) >= self._beams:
            live, parents = [], []
        elif live and live[0].draw.full:
            self._ended += [_Ended(one.total / len(one.tokens), one.tokens) for one in live]
            live, parents = [], []
        self._live = live
        return parents

    @property
    def last(self) -> list[int]:
        """The last id of each kept continuation."""
        return [one.tokens[-1].id for one in self._live]

    @property
    def best(self) -> tuple[Token, ...]:
        """The best of those that have ended."""
        return max(self._ended, key=lambda one: one.mean).tokens


def _largest(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Where the `count` largest stand, the largest first, of equals the first."""
    found = np.argpartition(-values, min(count, len(values)) - 1)[:count]
    ordered: NDArray[np.intp] = found[np.lexsort((found, -values[found]))]
    return ordered

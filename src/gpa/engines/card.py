"""Card: what an exported language model says of itself, beside its weights, and what may be asked of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpa.engines.base import Context, Sampling
from gpa.engines.heads import Head, merge
from gpa.errors import CheckpointError, EngineError, LimitError


@dataclass(frozen=True)
class Card:
    """Written by the exports, read by the engines."""

    vocab_size: int
    precision: str  # of the stored weights
    cached_numbers_per_id: int  # keys and values that one id leaves in the cache
    heads: tuple[Head, ...]

    def save(self, path: Path) -> None:
        """Write the card as JSON."""
        path.write_text(json.dumps(vars(self) | {"heads": [head.to_json() for head in self.heads]}) + "\n")

    @classmethod
    def load(cls, model: Path, card: Path, cure: str) -> Card:
        """Read the card of `model`. Raises CheckpointError with the `cure` when either is missing or damaged."""
        if not model.is_file():
            raise CheckpointError(f"{model.parent} holds no {model.name}: make it with `{cure}`")
        try:
            raw = json.loads(card.read_text())
            heads = tuple(Head.from_json(head) for head in raw["heads"])
            return cls(int(raw["vocab_size"]), raw["precision"], int(raw["cached_numbers_per_id"]), heads)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{card} cannot be read ({error!r}): make it anew with `{cure}`") from error

    def check(self, prompt: Context, sampling: Sampling, capacity: int) -> int:
        """The number of the head that a prompt asks for. Raises EngineError where the model has none for it, LimitError
        for a prompt beyond `capacity` cached ids."""
        check_ids(prompt.context, self.vocab_size)
        last, legal = prompt.context[-1], _legal(tuple(prompt.allowed), tuple(prompt.stop))
        number = next((i for i, head in enumerate(self.heads) if any(last in r for r in head.after)), None)
        if number is None or self.heads[number].legal != legal:
            known = "no ids at all" if number is None else str(list(self.heads[number].legal))
            raise EngineError(f"this model was exported to generate {known} after id {last}; the prompt asks for {list(legal)}")
        if len(prompt.context) + sampling.max_new_ids > capacity:
            raise LimitError(
                f"{len(prompt.context)} ids and {sampling.max_new_ids} new ones exceed the cache of {capacity}: "
                "shorten the prompt or raise cache_gb"
            )
        return number


def check_ids(context: Sequence[int], vocab_size: int) -> None:
    """Raises EngineError unless there are ids, all of the vocabulary."""
    if not context or min(context) < 0 or max(context) >= vocab_size:
        raise EngineError(f"a context needs ids from 0 to {vocab_size - 1}; found {len(context)} ids, {list(context[:8])} ...")


def ids_of(ranges: Iterable[range]) -> NDArray[np.int64]:
    """All ids of ranges, in order."""
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(r.start, r.stop) for r in ranges)])


@lru_cache(maxsize=64)
def _legal(allowed: tuple[range, ...], stop: tuple[int, ...]) -> tuple[range, ...]:
    return merge([*allowed, *stop])

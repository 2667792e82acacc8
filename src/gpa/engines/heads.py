"""Heads: which ids may follow which. A head speaks for a task, and the id just fed decides which head speaks.

Every prompt ends in an id that names its task, and what a task generates stays in its own ranges: after a code come
codes, after a letter letters. So an exported model can bar all other ids by itself, a different task in each row of
a batch, and compute logits for no id that nobody may generate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpa.engines.base import Context


@dataclass(frozen=True)
class Head:
    """The ids that may come next (`legal`) when the id just fed is one of `after`. Ranges are disjoint, ascending."""

    after: tuple[range, ...]
    legal: tuple[range, ...]

    def to_json(self) -> dict[str, list[list[int]]]:
        """{"after": [[start, stop], ...], "legal": ...}."""
        return {"after": [[r.start, r.stop] for r in self.after], "legal": [[r.start, r.stop] for r in self.legal]}

    @classmethod
    def from_json(cls, raw: dict[str, list[list[int]]]) -> Head:
        """Inverse of `to_json`."""
        return cls(tuple(range(a, b) for a, b in raw["after"]), tuple(range(a, b) for a, b in raw["legal"]))


def merge(ids: Iterable[range | int]) -> tuple[range, ...]:
    """Ranges and single ids -> disjoint ascending ranges."""
    spans = sorted((r.start, r.stop) if isinstance(r, range) else (r, r + 1) for r in ids)
    merged: list[tuple[int, int]] = []
    for start, stop in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        elif stop > start:
            merged.append((start, stop))
    return tuple(range(start, stop) for start, stop in merged)


def heads_of(prompts: Sequence[Context]) -> tuple[Head, ...]:
    """The heads that these prompts need. Raises ValueError when the last id could not tell two of them apart."""
    after: dict[tuple[range, ...], list[range | int]] = {}
    for prompt in prompts:
        legal = merge([*prompt.allowed, *prompt.stop])
        after.setdefault(legal, [*prompt.allowed]).append(prompt.context[-1])
    heads = tuple(Head(merge(ids), legal) for legal, ids in after.items())
    together = merge(r for head in heads for r in head.after)
    if sum(map(len, together)) < sum(len(r) for head in heads for r in head.after):
        raise ValueError("two prompts end alike, or share ids to generate, but ask for different legal ids")
    return heads

"""Blocks: which blocks of a cache belong to whom, and beginnings of prompts that are kept in those that nobody needs.

Numbers only: what lies in a block, and how it is copied, is others' business. Not thread-safe.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

KEPT = 16  # beginnings at most: voices in turn; each has a block or two


class Blocks:
    """The blocks of one cache."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))  # a heap: low blocks first, so that memory once touched is used again
        self._kept: dict[tuple[int, ...], list[int]] = {}  # the one that was used last stands last

    @property
    def spare(self) -> int:
        """Blocks that a request may have: free ones, and those of beginnings."""
        return len(self._free) + sum(map(len, self._kept.values()))

    def take(self, count: int) -> list[int]:
        """So many, or none where there are not so many. Nobody waits for what is only kept: the oldest beginnings go first."""
        while len(self._free) < count <= self.spare:
            self._forget()
        return [heapq.heappop(self._free) for _ in range(count)] if count <= len(self._free) else []

    def give(self, blocks: Iterable[int]) -> None:
        """They are free again."""
        for block in blocks:
            heapq.heappush(self._free, block)

    def kept(self, ids: tuple[int, ...]) -> list[int]:
        """Where this beginning lies; empty if it is not kept. Whoever wants it copies it before anything else is taken."""
        if ids in self._kept:
            self._kept[ids] = self._kept.pop(ids)
        return self._kept.get(ids, [])

    def keep(self, ids: tuple[int, ...], count: int) -> list[int]:
        """`count` free blocks to copy this beginning to; empty if it is kept already or there are not so many."""
        if ids in self._kept or not KEPT:
            return []
        if len(self._kept) >= KEPT:
            self._forget()
        if len(self._free) < count:
            return []
        self._kept[ids] = self.take(count)
        return self._kept[ids]

    def _forget(self) -> None:
        self.give(self._kept.pop(next(iter(self._kept))))

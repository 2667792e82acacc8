"""Whose speech is decoded first: at most so many at once, and whose listener would have to wait soonest goes first."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from itertools import count
from pathlib import Path
from threading import Lock

from gpa.nets.net import size
from gpa.tokenizers.window import FIRST_SECONDS

BIG = 50_000_000  # bytes of a decoder from which a second thread pays


def lanes(net: Path) -> tuple[int, int]:
    """Threads of one call of a decoder, and how many calls run at once.

    Threads that share a small net wait for each other: two of them took 1.5 times the processor time of one to decode a
    second. So each call has its own. A big one has all: a language model as big steps with little more than one (measured)."""
    processors = os.cpu_count() or 1
    return (processors, 1) if size(net) >= BIG else (1, processors)


class Listener:
    """Who hears one utterance after the other as they are made: how much he was given, and until when that lasts."""

    def __init__(self) -> None:
        self.given = 0.0  # seconds of sound
        self.first = FIRST_SECONDS  # of sound that he was given at first, or will be
        self._since = time.monotonic()  # when he asked, then when he began to hear

    def give(self, seconds: float) -> None:
        """He gets so much more."""
        if not self.given:
            self._since, self.first = time.monotonic(), seconds
        self.given += seconds

    @property
    def due(self) -> float:
        """The moment (time.monotonic) at which he has heard everything."""
        return self._since + self.given


class Turns:
    """Takes at most `places` callers at a time."""

    def __init__(self, places: int) -> None:
        self._lock = Lock()  # holds what follows
        self._free = places
        self._waiting: list[tuple[float, int, Lock]] = []  # a heap; the lock opens when its owner's turn has come
        self._numbers = count()

    @contextmanager
    def turn(self, due: float) -> Iterator[None]:
        """Waits for a place; of those who wait the smallest `due` is first, of equals who came first."""
        ticket = due, next(self._numbers), Lock()
        ticket[2].acquire()
        with self._lock:
            heappush(self._waiting, ticket)
        self._admit(0)
        try:
            ticket[2].acquire()
        except BaseException:  # interrupted
            self._withdraw(ticket)
            raise
        try:
            yield
        finally:
            self._admit(1)

    def _admit(self, freed: int) -> None:
        with self._lock:
            self._free += freed
            while self._free and self._waiting:
                self._free -= 1
                heappop(self._waiting)[2].release()

    def _withdraw(self, ticket: tuple[float, int, Lock]) -> None:
        with self._lock:
            admitted = ticket not in self._waiting
            if not admitted:
                self._waiting.remove(ticket)
                heapify(self._waiting)
        self._admit(int(admitted))

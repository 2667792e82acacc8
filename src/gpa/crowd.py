"""Crowd: how many streams may be made at once, so that none that has begun is interrupted for the sake of those who come later.

Streams are chunks of sound in the making; nothing of how they are made is known here. As many are let in as are made in time to be
heard without a gap; the others wait, first come first served, until one ends or there is room, and at most LONGEST: a listener would
rather have gaps than silence. While somebody waits, whoever is far ahead of his listener rests.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from threading import Event, Lock

from gpa.audio import Wav

ALWAYS = 5  # streams a processor that never wait: no more is known before some were made
MARGIN = 2.0  # times as fast as they are heard: a gap-free stream needs 1.5 (`gpa.tokenizers.window.GROWTH`), and speed varies
KEEP_UP = 1.25  # times as fast, of all together, those that rest included
COMFORT = 6.0  # seconds ahead of a listener who hears as he gets: a sentence begun anew, its first 4 s at once, takes up to 5
LONGEST = 3.0  # seconds that a stream waits at most
PATIENCE = 0.5  # seconds after which a stream whose next chunk nobody asked for counts no more
_KEPT = 0.98  # of what is known, with each chunk: about the last fifty count
_ALWAYS_COUNTS, _NEVER_COUNTS = float("inf"), float("-inf")


class _One:
    """A stream that waits or was let in."""

    def __init__(self, came: float) -> None:
        self.let_in, self.came = Event(), came
        self.rests = False
        self.until = _ALWAYS_COUNTS  # the moment from which on it does not count
        self.given = self.since = 0.0  # seconds of sound, and when the first of it came

    def ahead(self, now: float) -> float:
        """Seconds that a listener who began with the first chunk has before him."""
        return self.given - (now - self.since)


class Crowd:
    """The streams of one model."""

    def __init__(self, always: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """`always`: streams that never wait; 0 is ALWAYS a processor."""
        self._processors, self._clock = os.cpu_count() or 1, clock
        self._always = always or ALWAYS * self._processors
        self._lock = Lock()  # holds what follows
        self._inside: set[_One] = set()
        self._waiting: deque[_One] = deque()
        self._made = self._took = 0.0  # seconds of sound, times how many were being made; seconds

    def through(self, stream: Generator[Wav, None, None], sample_rate: int) -> Generator[Wav, None, None]:
        """The same chunks, from when there is room for them. Closing it closes `stream` and makes room."""
        me = _One(self._clock())
        with closing(stream):
            try:
                self._enter(me)
                while True:
                    begun = self._ask(me)
                    try:
                        wav = next(stream)
                    except StopIteration:
                        return
                    self._note(me, len(wav) / sample_rate, begun)
                    yield wav
            finally:
                self._leave(me)

    def _enter(self, me: _One) -> None:
        with self._lock:
            self._waiting.append(me)
            self._admit()
        while not me.let_in.wait(PATIENCE):
            with self._lock:
                self._admit()  # some may count no more by now

    def _admit(self) -> None:
        """Let in who came first, as long as there is room, and who waited too long. The caller holds the lock."""
        while self._waiting and (self._room() or self._clock() - self._waiting[0].came >= LONGEST):
            one = self._waiting.popleft()
            self._inside.add(one)
            one.let_in.set()

    def _count(self) -> int:
        now = self._clock()
        return sum(one.until > now for one in self._inside)

    def _room(self) -> bool:
        if (count := self._count()) < self._always:
            return True
        fresh = sum(not one.given for one in self._inside)  # the beginning of a stream is more work than the rest
        wanted = max(MARGIN * (count + 1), KEEP_UP * (count + 1 + sum(one.rests for one in self._inside)))
        return fresh < self._processors and self._made >= wanted * self._took

    def _ask(self, me: _One) -> float:
        """The moment from which on the next chunk is made."""
        while self._waiting and (more := me.ahead(self._clock()) - COMFORT) > 0:
            with self._lock:
                me.rests, me.until = True, _NEVER_COUNTS
                self._admit()
            time.sleep(min(more, PATIENCE))
        with self._lock:
            me.rests, me.until = False, _ALWAYS_COUNTS
        return self._clock()

    def _note(self, me: _One, seconds: float, begun: float) -> None:
        """A chunk was made: what the machine makes in a second is what one stream gets of it, times all of them."""
        with self._lock:
            now = self._clock()
            self._made = self._made * _KEPT + self._count() * seconds
            self._took = self._took * _KEPT + now - begun
            me.since = me.since if me.given else now
            me.given += seconds
            me.until = now + PATIENCE
            self._admit()

    def _leave(self, me: _One) -> None:
        with self._lock:
            self._inside.discard(me)
            if me in self._waiting:  # interrupted
                self._waiting.remove(me)
            self._admit()

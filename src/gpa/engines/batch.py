"""One batch, many readers: a thread steps it while somebody needs ids, and ends when nobody does.

So a model goes on while its readers are busy with what they have, at most AHEAD ids in advance of each. An engine
says how to add a request, drop one and make a step; the rest is here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from gpa.engines.base import Token
from gpa.errors import EngineError

AHEAD = 100  # ids that wait for their reader before a generation needs no further step
CLOSED = "this engine is closed"


class Request:
    """One generation: what is asked, and what came of it."""

    def __init__(self, asked: tuple[Any, ...]) -> None:
        self.asked = asked
        self.handle: Any = None  # in the engine, once it was added
        self.tokens: SimpleQueue[Token | None] = SimpleQueue()  # None: no more
        self.finished = False
        self.error = ""

    def end(self, error: str = "") -> None:
        """Nothing more comes; its reader gets `error` as an EngineError, if there is one."""
        self.finished, self.error = True, error
        self.tokens.put(None)

    @property
    def hungry(self) -> bool:
        """Whether a reader may soon have to wait."""
        return not self.finished and self.tokens.qsize() < AHEAD


class Batch:
    """The requests of one engine, which is touched by one thread at a time and by nobody but here."""

    def __init__(self, add: Callable[[Request], None], drop: Callable[[Request], None], step: Callable[[list[Request]], None]) -> None:
        """`add` begins what a request asks for, `drop` ends it early, `step` hands out new ids; add and step may raise EngineError."""
        self._add, self._drop, self._step = add, drop, step
        self._engine = Lock()  # holds the engine and `live`
        self._gate = Lock()  # holds `_stepping` and `_closed`
        self._stepping = self._closed = False
        self.live: list[Request] = []
        self._joining: deque[Request] = deque()
        self._left: deque[Request] = deque()  # closed by their reader, still in the engine

    def read(self, request: Request, stop: Collection[int]) -> Iterator[Token]:
        """The ids of a request up to one of `stop`. Closing it frees its slot before the next step. Raises EngineError."""
        self._joining.append(request)
        try:
            while (token := self._next(request)) is not None and token.id not in stop:
                yield token
        finally:
            if not request.finished:
                self._left.append(request)
            self._release()

    def close(self, free: Callable[[], None]) -> None:
        """Readers get an EngineError from now on; `free` is called once nothing is left in the engine."""
        with self._gate:
            closed, self._closed = self._closed, True
        with self._engine:
            if not closed:
                self._left += [*self._joining, *self.live]
                self._step_all()  # an engine must not be freed with requests in it
                free()

    def _next(self, request: Request) -> Token | None:
        with self._gate:
            if self._closed:
                raise EngineError(CLOSED)
            if request.hungry and not self._stepping:
                Thread(target=self._run, name="gpa batch").start()  # no daemon: Python waits for its step before it ends
                self._stepping = True
        token = request.tokens.get()
        if token is None and request.error:
            raise EngineError(request.error)
        return token

    def _run(self) -> None:
        """Step until nobody needs it."""
        while self._needed():
            with self._engine:
                self._step_all()
        self._release()

    def _needed(self) -> bool:
        with self._gate:
            waiting = self._joining or self._left or any(request.hungry for request in self.live)
            self._stepping = bool(waiting) and not self._closed
            return self._stepping

    def _step_all(self) -> None:
        """Whoever left goes, whoever joins comes, and one step of all. The caller holds the engine."""
        while self._left:
            self._end(self._left.popleft(), CLOSED)  # whoever still reads it learns why
        while self._joining:
            self._join(self._joining.popleft())
        self.live = [request for request in self.live if not request.finished]
        try:
            self._step(self.live)
        except Exception as error:  # of whatever kind: the readers wait for it, and this is a thread's end
            for request in self.live:
                self._end(request, str(error))
        self.live = [request for request in self.live if not request.finished]

    def _join(self, request: Request) -> None:
        if not request.finished:
            try:
                self._add(request)
                self.live.append(request)
            except Exception as error:
                request.end(str(error))

    def _end(self, request: Request, error: str) -> None:
        if not request.finished:
            if request.handle is not None:
                self._drop(request)
            request.end(error)

    def _release(self) -> None:
        """Free the slots of closed generations now, unless a step is being made: then it is done before the next.

        Never waits: this also runs when the garbage collector closes a generation, perhaps inside a step."""
        while self._left and self._engine.acquire(blocking=False):
            try:
                if self._closed:
                    self._left.clear()
                else:
                    self._step_all()
            finally:
                self._engine.release()

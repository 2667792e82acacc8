"""Threads: blocking generators over the model, each on a thread of its own, that can be stopped between two ids.

A job is a module-level generator function `function(model, *args)`; what it yields goes to `tell` as Item, its end as End.
The same class serves in the server's process (tests) and inside the model's process (`gpa.server.process`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

from gpa.engines.base import Context, Engine, Sampling, Token
from gpa.pipeline import GPA

Function: TypeAlias = "Callable[..., Generator[Any, None, None]]"  # (model, *args) -> items


class Stopped(Exception):
    """The job was stopped: nobody waits for what it makes."""


@dataclass(frozen=True)
class Inlet:
    """Stands in a job's arguments for a stream that is fed while the job runs; the function sees an iterator."""

    number: int


@dataclass(frozen=True)
class Item:
    """One thing that a job yielded."""

    value: Any


@dataclass(frozen=True)
class Took:
    """A job took one thing from an inlet."""

    number: int


@dataclass(frozen=True)
class End:
    """A job's last event: how it failed, or None."""

    error: Exception | None = None


Event: TypeAlias = "Item | Took | End"
Tell: TypeAlias = "Callable[[Event], None]"  # called from the job's thread


class Work(Protocol):
    """A running job, as its owner sees it. Every method returns at once and may be called from any thread."""

    def stop(self) -> None:
        """End it at the next id; End is told when its slot is free."""

    def more(self) -> None:
        """An item was taken: the job may go one further ahead."""

    def feed(self, number: int, item: Any, last: bool = False) -> None:
        """Put one thing into an inlet; `last` closes it instead."""


class House(Protocol):
    """Where the model lives."""

    def start(self, function: Function, args: Sequence[Any], tell: Tell, ahead: int) -> Work:
        """Begin a job that may be `ahead` items ahead of its reader. Raises EngineError: the model is not there."""

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and alive."""

    def close(self) -> None:
        """End every job and free the model."""


class Threads:
    """A House: the model is in this process."""

    def __init__(self, model: GPA) -> None:
        if not isinstance(model.engine, _Stoppable):
            model.engine = _Stoppable(model.engine)
        self.model = model
        self._works: set[_Thread] = set()

    @property
    def ready(self) -> bool:
        """Always."""
        return True

    def start(self, function: Function, args: Sequence[Any], tell: Tell, ahead: int) -> Work:
        """See `House`."""
        work = _Thread(self.model, function, args, tell, ahead)
        self._works = {one for one in self._works if one.is_alive()} | {work}
        work.start()
        return work

    def close(self) -> None:
        """See `House`."""
        for work in self._works:
            work.stop()
        for work in self._works:
            work.join(5)
        self.model.close()


class _Thread(threading.Thread):
    def __init__(self, model: GPA, function: Function, args: Sequence[Any], tell: Tell, ahead: int) -> None:
        super().__init__(name=f"gpa {function.__name__}", daemon=True)
        self._model, self._function, self._tell = model, function, tell
        self._room = threading.Semaphore(ahead)
        self._stop_asked = threading.Event()
        self._inlets = {arg.number: _Inflow(self, arg.number) for arg in args if isinstance(arg, Inlet)}
        self._args = [self._inlets[arg.number] if isinstance(arg, Inlet) else arg for arg in args]

    def run(self) -> None:
        """Drain the generator; its thread is the only one that touches it."""
        _running.thread = self
        error: Exception | None = None
        try:
            with closing(self._function(self._model, *self._args)) as items:
                for item in items:
                    self._room.acquire()
                    self.check()
                    self._tell(Item(item))
        except Exception as caught:  # every failure goes to whoever waits for the job
            error = caught
        self._tell(End(error))

    def check(self) -> None:
        """Raises Stopped, in the job's thread, after `stop`."""
        if self._stop_asked.is_set():
            raise Stopped

    def told_taken(self, number: int) -> None:
        """An inlet gave out one thing."""
        self._tell(Took(number))

    def stop(self) -> None:
        """See `Work`."""
        self._stop_asked.set()
        self._room.release()
        for inlet in self._inlets.values():
            inlet.wake()

    def more(self) -> None:
        """See `Work`."""
        self._room.release()

    def feed(self, number: int, item: Any, last: bool = False) -> None:
        """See `Work`."""
        self._inlets[number].put(item, last)


class _Inflow(Iterator[Any]):
    """What the job's function iterates over."""

    def __init__(self, thread: _Thread, number: int) -> None:
        self._thread, self._number = thread, number
        self._items: deque[Any] = deque()
        self._ended = False
        self._changed = threading.Condition()

    def put(self, item: Any, last: bool) -> None:
        with self._changed:
            if last:
                self._ended = True
            else:
                self._items.append(item)
            self._changed.notify()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def __next__(self) -> Any:
        with self._changed:
            while not self._items:
                self._thread.check()
                if self._ended:
                    raise StopIteration
                self._changed.wait()
            item = self._items.popleft()
        self._thread.check()
        self._thread.told_taken(self._number)
        return item


class _Stoppable:
    """An engine whose generations end, and free their slot, when the job of their thread is stopped."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def generate(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        return self._stream(self._engine.generate(prompt, sampling))

    def _stream(self, tokens: Iterator[Token]) -> Iterator[Token]:
        thread = getattr(_running, "thread", None)
        with closing(cast("Generator[Token, None, None]", tokens)):
            for token in tokens:
                if thread is not None:
                    thread.check()
                yield token

    def close(self) -> None:
        self._engine.close()


_running = threading.local()  # .thread: the _Thread of the job that runs in this one

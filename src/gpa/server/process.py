"""Process: a House whose model lives in a process of its own, behind a pipe.

One step of the language model holds Python's global lock. In the server's own process every turn of the event loop would
wait for such steps, several times a request; here it never does. A crash of a codec on a damaged file ends that process
only: it is started anew, and who was waiting gets a 503. Inside, jobs run on `gpa.server.work.Threads`.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from gpa.engines.pages import one_heap
from gpa.errors import EngineError, GPAError
from gpa.pipeline import GPA
from gpa.server.work import End, Event, Function, Stopped, Tell, Threads, Work

log = logging.getLogger("gpa.server")
PATIENCE = 10.0  # seconds that the process is given to end by itself


@dataclass(frozen=True)
class _Start:
    job: int
    function: Function
    args: Sequence[Any]
    ahead: int


@dataclass(frozen=True)
class _Tell:
    """To the model's process: what `Work` has methods for."""

    job: int
    method: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Told:
    """From the model's process."""

    job: int
    event: Event


@dataclass(frozen=True)
class _Loaded:
    """The model is there; or `error` says why not."""

    error: str = ""


class Process:
    """Starts at once and loads beside the caller; jobs that are started before it is ready wait for it."""

    def __init__(self, open_model: Callable[[], GPA]) -> None:
        """`open_model`: picklable, such as `functools.partial(gpa.pipeline.load, "nano")`."""
        self.ready = False
        self.error = ""  # why the model cannot be loaded
        self.failed: Callable[[], None] = lambda: None  # called then, from a thread
        self._open_model = open_model
        self._numbers = count()
        self._lock = threading.Lock()  # holds `_tells`, `_closing` and which process is the current one
        self._tells: dict[int, Tell] = {}
        self._closing = False
        self._child = _Child(open_model)
        self._watcher = threading.Thread(target=self._watch, name="gpa model", daemon=True)
        self._watcher.start()

    def start(self, function: Function, args: Sequence[Any], tell: Tell, ahead: int) -> Work:
        """See `House`."""
        with self._lock:
            if self.error or self._closing:
                raise EngineError(self.error or "the server is going down")
            number = next(self._numbers)
            self._tells[number] = tell
            self._child.send(_Start(number, function, args, ahead))
            return _Far(self._child, number)

    def close(self) -> None:
        """See `House`."""
        with self._lock:
            self._closing = True
            self._child.end()
        self._watcher.join(PATIENCE + 5)

    def _watch(self) -> None:
        """Reads what the process tells, for as long as there is to be one."""
        while True:
            self._listen(self._child)
            self.ready = False
            if self._closing or self.error:
                return
            log.error("the model's process ended with code %s: starting it anew", self._child.process.exitcode)
            if time.monotonic() - self._child.began < 5:
                time.sleep(1)  # it may end right away again
            with self._lock:
                if self._closing:
                    return
                self._child = _Child(self._open_model)

    def _listen(self, child: _Child) -> None:
        with suppress(EOFError, OSError):
            while True:
                message = child.connection.recv()
                if isinstance(message, _Told):
                    self._tell(message)
                elif message.error and not self._closing:
                    self.error = message.error
                    self.failed()
                else:
                    self.ready = True
                    log.info("the model is ready, after %.1f s", time.monotonic() - child.began)
        child.join()
        with self._lock:
            tells, self._tells = self._tells, {}
        for tell in tells.values():
            tell(End(EngineError(self.error or "the model's process ended; it is started anew")))

    def _tell(self, message: _Told) -> None:
        with self._lock:
            ended = isinstance(message.event, End)
            tell = self._tells.pop(message.job, None) if ended else self._tells.get(message.job)
        if tell is not None:
            tell(message.event)


class _Child:
    """One process, and a thread that writes to it: a large body must not hold up the event loop."""

    def __init__(self, open_model: Callable[[], GPA]) -> None:
        self.began = time.monotonic()
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_main, args=(theirs, open_model), name="gpa model", daemon=True)
        self.process.start()
        theirs.close()
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="gpa model's mail", daemon=True)
        self._writer.start()

    def send(self, message: Any) -> None:
        self._outbox.put(message)

    def end(self) -> None:
        """The process stops its jobs and ends when it reads this."""
        self._outbox.put(None)

    def join(self) -> None:
        self._outbox.put(None)
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._writer.join()
        self.connection.close()

    def _write(self) -> None:
        with suppress(OSError):  # it is gone
            while True:
                message = self._outbox.get()
                self.connection.send(message)
                if message is None:
                    return


class _Far:
    """A job in the model's process, as its owner sees it."""

    def __init__(self, child: _Child, job: int) -> None:
        self._child, self._job = child, job

    def stop(self) -> None:
        self._child.send(_Tell(self._job, "stop"))

    def more(self) -> None:
        self._child.send(_Tell(self._job, "more"))

    def feed(self, number: int, item: Any, last: bool = False) -> None:
        self._child.send(_Tell(self._job, "feed", (number, item, last)))


def _main(connection: Connection, open_model: Callable[[], GPA]) -> None:
    """The model's process. It ends with its pipe, not with signals, which a terminal or a supervisor sends to both."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    one_heap()
    lock = threading.Lock()
    works: dict[int, Work] = {}

    def send(message: Any) -> None:
        with lock, suppress(OSError):  # nobody listens any more
            connection.send(message)

    def tell(job: int, event: Event) -> None:
        if isinstance(event, End):
            works.pop(job, None)
            event = End(_portable(event.error))
        send(_Told(job, event))

    try:
        model = open_model()
        warm(model)
        house = Threads(model)
    except GPAError as error:
        send(_Loaded(str(error)))
        return
    send(_Loaded())
    with suppress(EOFError, OSError):
        while (message := connection.recv()) is not None:
            if isinstance(message, _Start):
                works[message.job] = house.start(message.function, message.args, partial(tell, message.job), message.ahead)
            elif (work := works.get(message.job)) is not None:
                getattr(work, message.method)(*message.args)
    house.close()


def warm(model: GPA) -> None:
    """Speak, listen and convert once: nets load when they are first used, and a first request should not wait for them."""
    with suppress(GPAError):  # a checkpoint without voices, or without one of the tasks
        speech = model.tts("Hello there.")
        model.asr(speech)
        for _ in model.stream_vc(speech, model.voice()):
            pass


def _portable(error: Exception | None) -> Exception | None:
    """The error as it can cross: one of gpa's kinds with its message, or a RuntimeError for what is not meant to be seen."""
    if error is None:
        return None
    if isinstance(error, GPAError):
        kind = type(error) if type(error).__init__ is Exception.__init__ else GPAError
        return kind(str(error))
    if not isinstance(error, Stopped):
        log.error("a job failed", exc_info=error)
    return RuntimeError(repr(error))

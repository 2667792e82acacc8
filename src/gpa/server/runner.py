"""Runner: the only door from the event loop to the model. Slots bound how many jobs run and how many wait.

    async with runner.slot("tts", caller) as slot:          # raises Busy: 429
        async for item in slot.stream(jobs.speak, text, voice, "mp3", 1.0): ...

`jobs.speak` is a module-level generator function `(model, *args)`; model, arguments and items may cross into another
process, so they are plain picklable values. Leaving the `async with` (an error, a disconnect, a cancelled task) stops the
job at its next id. Its slot is free when it is gone, or `LEAVING` later: what it computes at the moment (a stretch of sound
decoded at once, a long file) cannot be interrupted, and the next in line need not wait for it. A job that is fed while it runs:

    blocks = slot.inlet()                                    # the function sees an iterator
    async for segment in slot.stream(jobs.listen_live, blocks): ...
    await blocks.put(wav); blocks.end()                      # from another task
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from gpa.errors import EngineError, GPAError
from gpa.server.metrics import Metrics
from gpa.server.settings import Settings
from gpa.server.work import End, Event, Function, House, Inlet, Item, Took, Work

INLET = 64  # things that may wait in an inlet
LEAVING = 0.05  # seconds that a stopped job may keep its slot
STANDING = 0.8  # share of the last while in which somebody waited: above it, it is overload and no burst


class Busy(GPAError):
    """No slot, and no room to wait for one. `seconds`: when to try again."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Runner:
    """Made once an app; `slot` is used from its event loop only."""

    def __init__(self, house: House, settings: Settings, metrics: Metrics) -> None:
        self.house, self.settings, self.metrics = house, settings, metrics
        self.draining = False  # no new jobs: the server is going down
        self._line: deque[asyncio.Future[None]] = deque()  # who waits for a slot, in order of arrival
        self._callers: Counter[str] = Counter()
        self._leaving: set[asyncio.Future[None]] = set()
        self._seconds = 1.0  # running mean of how long a job holds its slot
        self._standing, self._noted = 0.0, time.monotonic()  # share of time in which somebody waited, up to when
        self.running = 0
        self.ending = 0  # jobs that were stopped, lost their slot, and end their last step; never more than there are slots

    @property
    def waiting(self) -> int:
        """Jobs in line for a slot."""
        return len(self._line)

    @asynccontextmanager
    async def slot(self, task: str, caller: str = "") -> AsyncIterator[Slot]:
        """A place at the model, waited for in order of arrival. `task` is a label of the metrics (tts, asr, vc, voice).

        `caller` is who asks (`gpa.server.access.caller`), "" where nobody is counted. Raises Busy, EngineError."""
        settings = self.settings
        if self.draining:
            raise EngineError("the server is going down")
        if settings.per_key and caller and self._callers[caller] >= settings.per_key:
            self.metrics.rejected(task, "per_key")
            raise Busy(f"this key has {settings.per_key} requests under way (legal: up to {settings.per_key})", self._seconds)
        room = self._room()
        if self.running >= settings.concurrency and self.waiting >= room:
            self.metrics.rejected(task, "queue")
            raise Busy(f"{self.running} requests run and {self.waiting} wait (legal now: {room} waiting)", self._wait())
        self._callers[caller] += 1
        try:
            await self._enter(task)
        except BaseException:
            self._uncount(caller)
            raise
        slot = Slot(self, task)
        try:
            yield slot
        finally:  # in a task of its own: the slot comes back even where this one is cancelled again and again
            leaving = asyncio.ensure_future(self._leave(slot, caller))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            await asyncio.shield(leaving)

    def _room(self) -> int:
        """How many may wait now. A burst may fill the line. One that stands is overload: as many leave it as come however long it
        is, so it only makes everybody late, and one job a slot is enough to keep the model busy."""
        self._note()
        settings = self.settings
        return settings.queue if self._standing < STANDING else min(settings.queue, settings.concurrency)

    def _note(self) -> None:
        """Before the line changes: a mean over time that forgets within `burst_seconds`."""
        now, waits = time.monotonic(), float(bool(self._line))
        past = math.exp((self._noted - now) / self.settings.burst_seconds)
        self._standing, self._noted = waits + (self._standing - waits) * past, now

    def _wait(self) -> float:
        """When a slot may be free, in seconds, by how long jobs took lately."""
        return max(1.0, self._seconds * (self.waiting + 1) / self.settings.concurrency)

    async def _enter(self, task: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._note()
        self._line.append(turn)
        self._advance()
        try:
            await asyncio.wait({turn}, timeout=self.settings.queue_seconds)
        except asyncio.CancelledError:
            if turn.done():  # its turn came in the same moment
                self._free()
            raise
        finally:
            if not turn.done():
                self._note()
                self._line.remove(turn)
        if not turn.done():
            self.metrics.rejected(task, "wait")
            raise Busy(f"no slot was free within {self.settings.queue_seconds:g} s", self._wait())

    def _advance(self) -> None:
        """Give free slots to those who wait."""
        self._note()
        while self._line and self.running < self.settings.concurrency:
            self.running += 1
            self._line.popleft().set_result(None)

    def _free(self) -> None:
        self.running -= 1
        self._advance()

    async def _leave(self, slot: Slot, caller: str) -> None:
        closing = asyncio.ensure_future(slot.close())
        await asyncio.wait({closing}, timeout=LEAVING)
        if self.ending >= self.settings.concurrency:
            await asyncio.wait({closing})
        self._seconds += 0.2 * (time.monotonic() - slot.started - self._seconds)
        self._free()
        self._uncount(caller)
        self.ending += 1
        try:
            await closing
        finally:
            self.ending -= 1

    def _uncount(self, caller: str) -> None:
        self._callers[caller] -= 1
        if not self._callers[caller]:
            del self._callers[caller]


class Slot:
    """A place at the model: one job after the other."""

    def __init__(self, runner: Runner, task: str) -> None:
        self.task, self.started = task, time.monotonic()
        self._runner = runner
        self._loop = asyncio.get_running_loop()
        self._job: _Job | None = None
        self._inlets: list[Feed] = []

    def inlet(self) -> Feed:
        """A stream to be handed to the next `stream` as an argument, and fed while it runs."""
        self._inlets.append(Feed(len(self._inlets)))
        return self._inlets[-1]

    async def stream(self, function: Function, *args: Any) -> AsyncIterator[Any]:
        """What `function(model, *args)` yields. Raises what it raises; from another process, errors of gpa and RuntimeError."""
        await self.close()
        job = self._job = _Job(self._loop, self._inlets)
        self._inlets = []
        plain = [Inlet(arg.number) if isinstance(arg, Feed) else arg for arg in args]
        job.begin(self._runner.house.start(function, plain, job.tell, self._runner.settings.ahead))
        while True:
            event = await job.events.get()
            if isinstance(event, End):
                if event.error is not None:
                    raise event.error
                return
            job.work.more()
            yield event.value

    async def call(self, function: Function, *args: Any) -> Any:
        """The last thing that a job yields."""
        result = None
        async for item in self.stream(function, *args):
            result = item
        return result

    async def close(self) -> None:
        """Stop the job, and return when it is gone from the model."""
        if self._job is not None:
            await self._job.close()
            self._job = None


class Feed:
    """The loop's end of an inlet."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._job: _Job | None = None
        self._early: list[tuple[Any, bool]] = []  # put before the job began
        self._room = asyncio.Semaphore(INLET)

    async def put(self, item: Any) -> None:
        """Waits while INLET things are not yet taken."""
        await self._room.acquire()
        self._feed(item, False)

    def end(self) -> None:
        """Nothing follows."""
        self._feed(None, True)

    def took(self) -> None:
        """The job took one."""
        self._room.release()

    def begin(self, job: _Job) -> None:
        """The job runs: hand it what came before."""
        self._job = job
        for item, last in self._early:
            job.work.feed(self.number, item, last)
        self._early = []

    def _feed(self, item: Any, last: bool) -> None:
        if self._job is None:
            self._early.append((item, last))
        elif not self._job.ended.is_set():
            self._job.work.feed(self.number, item, last)


class _Job:
    """A job's events, brought from its thread to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, inlets: list[Feed]) -> None:
        self.events: asyncio.Queue[Item | End] = asyncio.Queue()
        self.ended = asyncio.Event()
        self._loop, self._inlets = loop, {feed.number: feed for feed in inlets}
        self.work: Work

    def begin(self, work: Work) -> None:
        self.work = work
        for feed in self._inlets.values():
            feed.begin(self)

    def tell(self, event: Event) -> None:
        """From the job's thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._heard, event)

    def _heard(self, event: Event) -> None:
        if isinstance(event, Took):
            self._inlets[event.number].took()
            return
        if isinstance(event, End):
            self.ended.set()
            for feed in self._inlets.values():
                for _ in range(INLET):
                    feed.took()  # whoever waits to put goes on
        self.events.put_nowait(event)

    async def close(self) -> None:
        if not self.ended.is_set():
            self.work.stop()
            await asyncio.shield(self.ended.wait())

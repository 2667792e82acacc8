"""A cancellation that comes in the moment in which what is waited for succeeds: nobody goes on, no slot is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from starlette.types import Message

import fakes
from gpa.server.metrics import Metrics
from gpa.server.patience import end, patient, within
from gpa.server.pour import Pour
from gpa.server.runner import Busy, Runner
from gpa.server.settings import Settings
from gpa.server.work import Threads

TURNS = range(8)  # of the loop, by which one of two events comes before the other


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("late", TURNS)
def test_a_cancellation_counts_though_the_wait_succeeds(late: int) -> None:
    async def run() -> None:
        came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def wait() -> None:
            await within(30, came)
            await turns(2)

        waiting = asyncio.ensure_future(wait())
        await turns(3)
        came.set_result(None)
        await turns(late)
        in_time = waiting.cancel()
        await asyncio.wait({waiting}, timeout=5)
        assert waiting.cancelled() == in_time

    asyncio.run(run())


def test_waiting_ends_with_what_was_waited_for() -> None:
    async def run() -> None:
        log = list[str]()

        async def slow() -> None:
            try:
                await asyncio.sleep(30)
            finally:
                log.append("ended")

        with pytest.raises(asyncio.TimeoutError):
            await within(0.01, slow())
        waiting = asyncio.ensure_future(within(30, slow()))
        await turns(3)
        await end(waiting)
        assert waiting.cancelled()
        assert log == ["ended", "ended"]
        assert await within(1, asyncio.sleep(0, "value")) == "value"
        with pytest.raises(ZeroDivisionError):
            await within(1, failing())

    async def failing() -> None:
        raise ZeroDivisionError

    asyncio.run(run())


def test_an_iterator_that_ends_is_no_silence() -> None:
    async def some() -> AsyncGenerator[int, None]:
        yield 1
        yield 2

    async def run() -> list[int]:
        return [item async for item in patient(some(), 1.0)]

    assert asyncio.run(run()) == [1, 2]


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    settings = Settings(voices=tmp_path / "voices", concurrency=1, queue=4, queue_seconds=0.5)
    return Runner(Threads(fakes.model(tmp_path / "fake")), settings, Metrics())


async def hold(runner: Runner, until: asyncio.Event, log: list[str], name: str) -> None:
    async with runner.slot("tts"):
        log.append(name)
        await until.wait()


@pytest.mark.parametrize("late", TURNS)
def test_who_is_cancelled_as_the_slot_comes_gives_it_back(runner: Runner, late: int) -> None:
    async def run() -> list[str]:
        log, free, never = list[str](), asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(hold(runner, free, log, "first"))
        second = asyncio.ensure_future(hold(runner, never, log, "second"))
        await turns(5)
        assert (runner.running, runner.waiting) == (1, 1)
        free.set()
        await turns(late)
        second.cancel()
        await asyncio.wait({first, second}, timeout=5)
        assert second.cancelled()
        for _ in range(100):  # its slot comes back a moment later
            await turns(1)
        assert (runner.running, runner.waiting) == (0, 0)
        await asyncio.wait_for(hold(runner, free, log, "third"), 5)
        return log

    assert asyncio.run(run()) in (["first", "third"], ["first", "second", "third"])


def test_slots_come_in_order_of_arrival(runner: Runner) -> None:
    async def run() -> list[str]:
        log, free, never = list[str](), asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(hold(runner, never, log, "first"))
        await turns(5)
        waiting = [asyncio.ensure_future(hold(runner, free, log, name)) for name in "abcd"]
        await turns(5)
        with pytest.raises(Busy, match="4 wait"):
            await hold(runner, free, log, "e")
        await end(waiting[1])
        free.set()
        await end(first)
        await asyncio.wait({waiting[0], *waiting[2:]}, timeout=5)
        second = asyncio.ensure_future(hold(runner, never, log, "second"))
        await turns(5)
        with pytest.raises(Busy, match="within"):
            await hold(runner, free, log, "late")
        await end(second)
        return log

    assert asyncio.run(run()) == ["first", "a", "c", "d", "second"]


def test_a_burst_may_wait_and_a_line_that_stands_is_cut(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("gpa.server.runner.time.monotonic", lambda: now)
    runner._noted = now

    async def run() -> None:
        nonlocal now
        never, log = asyncio.Event(), list[str]()
        held = [asyncio.ensure_future(hold(runner, never, log, "x")) for _ in range(4)]
        await turns(5)
        assert (runner.waiting, runner._room()) == (3, 4)
        now += 5.0  # of the line; it counts as overload after 8
        assert runner._room() == 4
        now += 4.0
        assert runner._room() == 1
        with pytest.raises(Busy, match=r"3 wait \(legal now: 1 waiting\)"):
            await hold(runner, never, log, "late")
        for task in held[1:]:
            await end(task)
        now += 0.1  # once empty for a moment, it is still overload
        assert runner._room() == 1
        now += 2.0
        assert runner._room() == 4
        await end(held[0])

    asyncio.run(run())


@pytest.mark.parametrize("late", TURNS)
def test_a_pour_ends_though_a_write_succeeds_as_its_reader_goes(late: int) -> None:
    async def run() -> int:
        loop = asyncio.get_running_loop()
        written, gone, begun = loop.create_future(), loop.create_future(), asyncio.Event()
        poured = 0

        async def items() -> AsyncGenerator[bytes, None]:
            nonlocal poured
            while True:
                await asyncio.sleep(0)
                poured += 1
                yield b"sound"

        async def receive() -> Message:
            await gone
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body" and not written.done():
                begun.set()
                await written
            else:
                await asyncio.sleep(0.001)

        pouring = asyncio.ensure_future(Pour(items(), "audio/pcm", 30.0)({"type": "http"}, receive, send))
        await begun.wait()
        gone.set_result(None)
        await turns(late)
        if not written.done():
            written.set_result(None)
        await asyncio.wait({pouring}, timeout=5)
        ended = pouring.done()
        with suppress(asyncio.CancelledError):
            await end(pouring)
        assert ended, "it pours for a reader that has gone"
        return poured

    assert asyncio.run(run()) < 20

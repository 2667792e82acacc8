"""gpa.crowd: who has begun goes on in time, the others wait their turn, and nobody waits for somebody who is not there."""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

import fakes
from gpa.crowd import PATIENCE, Crowd

RATE = 100


def chunks(seconds: float, each: float = 0.0, count: int = 3, gate: Event | None = None) -> Generator[np.ndarray, None, None]:
    """`count` chunks of sound, each made in `each` seconds; the second one not before `gate` opens."""
    for number in range(count):
        time.sleep(each)
        if number == 1 and gate is not None:
            assert gate.wait(30)
        yield np.full(round(seconds * RATE), number, np.float32)


def begun(crowd: Crowd, pool: ThreadPoolExecutor, stream: Generator[np.ndarray, None, None]) -> tuple[Future[list[int]], Event]:
    """A listener of his own thread; the event is set with his first chunk."""
    first = Event()

    def listen() -> list[int]:
        heard = []
        for wav in crowd.through(stream, RATE):
            first.set()
            heard.append(len(wav))
        return heard

    return pool.submit(listen), first


def test_nothing_is_changed() -> None:
    wavs = list(Crowd(1).through(chunks(0.5), RATE))
    assert [(len(wav), wav[0]) for wav in wavs] == [(50, 0), (50, 1), (50, 2)]


def test_closing_closes_and_makes_room() -> None:
    crowd, closed = Crowd(1), []

    def stream() -> Generator[np.ndarray, None, None]:
        try:
            yield from chunks(0.5)
        finally:
            closed.append(True)

    left = crowd.through(stream(), RATE)
    next(left)
    left.close()
    assert closed == [True]
    assert not crowd._inside
    never = crowd.through(stream(), RATE)
    never.close()  # before it was asked for anything
    assert not crowd._waiting


def test_an_error_makes_room() -> None:
    crowd = Crowd(1)

    def broken() -> Generator[np.ndarray, None, None]:
        yield np.zeros(10, np.float32)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(crowd.through(broken(), RATE))
    assert not crowd._inside


def test_where_sound_is_made_too_slowly_the_next_waits() -> None:
    crowd, gate = Crowd(1), Event()
    with ThreadPoolExecutor(2) as pool:
        one, heard = begun(crowd, pool, chunks(0.01, 0.05, gate=gate))  # a fifth of the speed of hearing
        assert heard.wait(30)
        other, first = begun(crowd, pool, chunks(0.01))
        assert not first.wait(2 * PATIENCE)
        gate.set()
        assert first.wait(30)
        assert one.done()
        assert (len(one.result()), len(other.result())) == (3, 3)


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpa.crowd.LONGEST", 1.5)
    crowd, gate = Crowd(1), Event()
    with ThreadPoolExecutor(2) as pool:
        one, heard = begun(crowd, pool, chunks(0.01, 0.05, gate=gate))
        assert heard.wait(30)
        other, first = begun(crowd, pool, chunks(0.01))
        assert not first.wait(0.8)
        assert first.wait(30)
        assert len(other.result()) == 3
        assert not one.done()
        gate.set()


def test_where_there_is_room_nobody_waits() -> None:
    crowd, gate = Crowd(1), Event()
    with ThreadPoolExecutor(2) as pool:
        one, heard = begun(crowd, pool, chunks(1.0, 0.001, gate=gate))  # hundreds of times faster
        assert heard.wait(30)
        other, first = begun(crowd, pool, chunks(1.0))
        assert first.wait(30)
        assert len(other.result()) == 3
        assert not one.done()
        gate.set()


def test_who_is_far_ahead_rests_while_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sound of the first lasts for minutes, so the second begins, though the first was made no faster than it is heard."""
    monkeypatch.setattr("gpa.crowd.MARGIN", 1e9)
    crowd, gate = Crowd(1), Event()

    def ahead() -> Generator[np.ndarray, None, None]:
        yield np.zeros(100 * RATE, np.float32)
        assert gate.wait(30)
        yield from chunks(1.0)

    with ThreadPoolExecutor(2) as pool:
        one, heard = begun(crowd, pool, ahead())
        assert heard.wait(30)
        other, first = begun(crowd, pool, chunks(1.0))
        assert not first.wait(2 * PATIENCE)  # the first is busy with its next chunk
        gate.set()
        assert first.wait(30)
        assert [len(other.result()), len(one.result())] == [3, 4]


def test_who_came_first_begins_first() -> None:
    crowd, gate, order = Crowd(1), Event(), []

    def named(name: int) -> Generator[np.ndarray, None, None]:
        order.append(name)
        yield from chunks(0.01, 0.05, 1)

    with ThreadPoolExecutor(4) as pool:
        _, heard = begun(crowd, pool, chunks(0.01, 0.05, gate=gate))
        assert heard.wait(30)
        for name in range(3):
            begun(crowd, pool, named(name))
            while len(crowd._waiting) <= name:
                time.sleep(0.001)
        gate.set()
    assert order == [0, 1, 2]


def test_one_thread_may_listen_to_many_in_turn() -> None:
    """Whoever is not asked for his next chunk holds up nobody."""
    crowd = Crowd(1)
    streams = [crowd.through(chunks(0.01, 0.02), RATE) for _ in range(4)]
    begin = time.monotonic()
    for _ in range(3):
        assert [len(next(stream)) for stream in streams] == [1] * 4
    assert time.monotonic() - begin < 20 * PATIENCE


def test_who_waits_for_text_takes_nobodys_place(tmp_path: Path) -> None:
    model = fakes.model(tmp_path / "fake")
    arriving, whole = model.stream_tts(iter(["Hello there, all of you. ", "And more."])), model.stream_tts("Hello there.")
    next(arriving)
    assert not model.crowd._inside
    next(whole)
    assert len(model.crowd._inside) == 1
    whole.close()
    arriving.close()
    assert not model.crowd._inside

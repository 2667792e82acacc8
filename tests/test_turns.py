"""Who is decoded first."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock, Thread

import pytest

from gpa.tokenizers.turns import BIG, Listener, Turns, lanes


@pytest.mark.parametrize("places", [1, 3])
def test_never_more_than_its_places(places: int) -> None:
    turns, lock = Turns(places), Lock()
    inside, most = 0, 0

    def one(due: int) -> None:
        nonlocal inside, most
        with turns.turn(due):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.001)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(40)))
    assert 0 < most <= places


def test_who_would_have_to_wait_soonest_is_first() -> None:
    turns = Turns(1)
    order: list[float] = []

    def one(due: float) -> None:
        with turns.turn(due):
            order.append(due)

    threads = [Thread(target=one, args=(due,)) for due in (5.0, 1.0, 9.0, 3.0)]
    with turns.turn(0.0):
        for thread in threads:
            thread.start()
        while len(turns._waiting) < len(threads):
            time.sleep(0.001)
    for thread in threads:
        thread.join(60)
    assert order == [1.0, 3.0, 5.0, 9.0]


def test_who_fails_or_gives_up_leaves_the_place() -> None:
    turns = Turns(1)
    with pytest.raises(ValueError, match="inside"), turns.turn(0.0):
        raise ValueError("inside")
    ticket = (1.0, 99, Lock())
    turns._waiting.append(ticket)
    turns._withdraw(ticket)  # while it waits
    turns._free -= 1
    turns._withdraw(ticket)  # when it was let in just now
    with turns.turn(0.0):
        assert turns._free == 0
    assert turns._free == 1


def test_a_listener_has_until_he_has_heard_everything() -> None:
    asked = time.monotonic()
    listener = Listener()
    assert asked <= listener.due <= time.monotonic()
    time.sleep(0.01)
    listener.give(2.0)
    listener.give(1.0)
    assert listener.given == 3.0
    assert asked + 3.01 <= listener.due <= time.monotonic() + 3.0


def test_a_small_decoder_has_one_thread_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    net = tmp_path / "decoder.onnx"
    assert lanes(net) == (1, 8)
    with net.open("wb") as file:
        file.truncate(BIG)
    assert lanes(net) == (8, 1)

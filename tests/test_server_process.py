# ruff: noqa: E402  (the extra `server` may be missing)
"""The model in a process of its own: the same jobs, what crosses, what happens when it dies, and the command `gpa serve`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, TypeAlias

import numpy as np
import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import fakes
from gpa import audio, hub, watermark
from gpa.cli.serve import serve
from gpa.errors import EngineError, GPAError, LimitError, MissingExtra
from gpa.pipeline import GPA
from gpa.server import jobs, main
from gpa.server.main import listeners
from gpa.server.process import Process
from gpa.server.settings import Settings
from gpa.server.work import End, Event, Inlet, Item, Took, Work

HUMAN = audio.encode(np.tile(audio.decode(Path(__file__).parent / "data" / "speech.opus", 16_000), 2), 16_000, "wav")  # 7 s
SLOW_START = 180.0  # seconds: a new interpreter, on a busy machine


def opened(folder: Path) -> GPA:
    """In the model's process."""
    return fakes.model(folder / f"process-{os.getpid()}")


def missing(folder: Path) -> GPA:
    return GPA(hub.resolve(folder))


def doubled(model: GPA, numbers: Iterator[int]) -> Generator[int, None, None]:
    yield from (2 * number for number in numbers)


def endless(model: GPA) -> Generator[str, None, None]:
    while True:
        yield from (voice for voice in model.voices)


def failing(model: GPA, error: Exception) -> Generator[str, None, None]:
    yield "before"
    raise error


def lacking(model: GPA) -> Generator[str, None, None]:
    yield "before"
    raise MissingExtra("torch", "train")


def dying(model: GPA) -> Generator[str, None, None]:
    yield "before"
    os._exit(3)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("process") / "fake"
    folder.mkdir()
    found = Process(partial(opened, folder))
    yield found
    found.close()
    assert not found._child.process.is_alive()


class Told:
    """What a job tells, in order."""

    def __init__(self) -> None:
        self.events: Queue[Event] = Queue()

    def values(self, work: Work) -> tuple[list[Any], Exception | None]:
        found = []
        while not isinstance(event := self.events.get(timeout=SLOW_START), End):
            if isinstance(event, Item):
                found.append(event.value)
                work.more()
        return found, event.error


def run(process: Process, function: Any, *args: Any) -> tuple[list[Any], Exception | None]:
    told = Told()
    return told.values(process.start(function, args, told.events.put, 4))


def test_a_job_started_before_the_model_is_there_waits_for_it(process: Process) -> None:
    items, error = run(process, jobs.speak, "Hello there.", "amy", "pcm", 1.0)
    assert error is None
    assert process.ready
    assert isinstance(items[-1], jobs.Usage)
    assert sum(len(item.data) for item in items[:-1]) == round(len("Hello there.") / 25 * 24_000) * 2


def test_inlets_cross(process: Process) -> None:
    told = Told()
    work = process.start(doubled, (Inlet(0),), told.events.put, 4)
    for number in range(3):
        work.feed(0, number)
        assert isinstance(told.events.get(timeout=9), Took)
        assert told.events.get(timeout=9) == Item(2 * number)
        work.more()
    work.feed(0, None, last=True)
    assert told.events.get(timeout=9) == End()


def test_a_job_goes_no_further_ahead_than_it_may(process: Process) -> None:
    told = Told()
    work = process.start(endless, (), told.events.put, 4)
    time.sleep(0.3)
    assert told.events.qsize() == 4
    work.stop()
    while not isinstance(event := told.events.get(timeout=9), End):
        assert isinstance(event, Item)
    assert type(event.error).__name__ == "RuntimeError"


@pytest.mark.parametrize("kind", [GPAError, LimitError, EngineError])
def test_errors_cross_with_their_kind(process: Process, kind: type[GPAError]) -> None:
    items, error = run(process, failing, kind("what was found"))
    assert items == ["before"]
    assert type(error) is kind
    assert str(error) == "what was found"


def test_other_errors_cross_too(process: Process) -> None:
    _, error = run(process, failing, ZeroDivisionError("x"))
    assert type(error) is RuntimeError
    _, error = run(process, lacking)
    assert type(error) is GPAError
    assert "pip install 'gpa[train]'" in str(error)


def test_a_process_that_dies_is_started_anew(process: Process) -> None:
    waiting = Told()
    process.start(endless, (), waiting.events.put, 1)
    items, error = run(process, dying)
    assert items == ["before"]
    assert isinstance(error, EngineError)
    while not isinstance(event := waiting.events.get(timeout=9), End):
        pass
    assert isinstance(event.error, EngineError)
    deadline = time.monotonic() + SLOW_START
    while not process.ready and time.monotonic() < deadline:
        time.sleep(0.02)
    assert run(process, jobs.speak, "Hello.", "amy", "pcm", 1.0)[1] is None


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    failed = threading.Event()
    process = Process(partial(missing, tmp_path / "nothing"))
    process.failed = failed.set
    told = Told()
    work = process.start(endless, (), told.events.put, 1)
    _, error = told.values(work)
    assert isinstance(error, EngineError)
    assert "no checkpoint" in str(error)
    assert failed.wait(5)
    with pytest.raises(EngineError, match="no checkpoint"):
        process.start(endless, (), told.events.put, 1)
    process.close()


Command: TypeAlias = "tuple[subprocess.Popen[str], str, list[str]]"  # the process, its address, and its log so far


@pytest.fixture
def command(nano_checkpoint: Path, tmp_path: Path) -> Iterator[Command]:
    """`gpa serve` on a checkpoint with random weights."""
    keys = tmp_path / "keys"
    keys.write_text("sk-of-the-command\n")
    with serving("--model", str(nano_checkpoint), "--voices", str(tmp_path / "voices"), "--api-key-file", str(keys)) as found:
        yield found


@contextmanager
def serving(*options: str) -> Iterator[Command]:
    """`gpa serve` with these options, at a free port."""
    process = subprocess.Popen([sys.executable, "-m", "gpa", "serve", "--port", "0", *options], stderr=subprocess.PIPE, text=True)
    log: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=log.extend, args=(process.stderr,))
    reader.start()
    try:
        deadline = time.monotonic() + SLOW_START
        while not (found := re.search(r"listening at (\S+)", "".join(log))):
            assert process.poll() is None, "".join(log)
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process, found[1], log
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def test_the_command(command: Command) -> None:
    process, url, log = command
    with httpx.Client(base_url=url, verify=False, timeout=SLOW_START) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/v1/models").status_code == 401
        client.headers["authorization"] = "Bearer sk-of-the-command"
        body = {"model": "tts-1", "input": "Secret words.", "voice": "alloy", "response_format": "wav"}
        answer = client.post("/v1/audio/speech", json=body)  # waits for the model
        assert answer.status_code == 200, answer.text
        assert client.get("/health/ready").json()["status"] == "ready"
        with client.stream("POST", "/v1/audio/speech", json=body | {"input": "Hello there, everybody. " * 20}) as long:
            chunks = long.iter_raw()
            next(chunks)
            process.send_signal(signal.SIGTERM)
            assert sum(map(len, chunks)) > 10_000, "what runs may end"
    assert process.wait(30) == 0
    text = "".join(log)
    requests = [json.loads(line) for line in log if line.startswith("{")]
    assert ("/v1/audio/speech", 200) in [(row["route"], row["status"]) for row in requests]
    assert {"time", "id", "method", "seconds", "caller"} < requests[0].keys()
    assert "the model is ready, after" in text
    assert "Secret" not in text
    assert "sk-of" not in text


@pytest.mark.slow
def test_the_models_process_ends_with_its_server(command: Command) -> None:
    process, _, _ = command
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False)
    children = [int(pid) for pid in listed.stdout.split()]
    assert children
    process.kill()
    process.wait()
    deadline = time.monotonic() + SLOW_START
    while any(Path(f"/proc/{pid}/exe").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--no-watermark",)], ids=["marked", "--no-watermark"])
def test_the_mark_of_a_server(tmp_path: Path, options: tuple[str, ...]) -> None:
    """What the embedded checkpoint speaks and converts behind `gpa serve`, as `gpa detect` sees it."""
    text = "The harbour was quiet that morning. A boat came in slowly, and somebody on the pier waved to it with a red scarf."
    with serving("--voices", str(tmp_path / "voices"), *options) as (_, url, _), httpx.Client(base_url=url, timeout=SLOW_START) as client:
        spoken = client.post("/v1/audio/speech", json={"model": "tts-1", "input": text, "voice": "alloy", "response_format": "mp3"})
        assert spoken.status_code == 200, spoken.text
        form = {"voice": "nova", "response_format": "wav"}
        converted = client.post("/v1/audio/conversions", data=form, files={"file": HUMAN})
        assert converted.status_code == 200, converted.text
    for answer in (spoken, converted):
        found = watermark.detect(answer.content)
        assert found.marked == (not options), found


@pytest.mark.parametrize("modules", [["websockets"], ["python_multipart", "multipart"]])
def test_half_an_extra(monkeypatch: pytest.MonkeyPatch, modules: list[str]) -> None:
    """What would only be missed at a client's first request."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"is not installed: pip install 'gpa\[server\]'"):
        serve()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    (door,) = listeners("127.0.0.1", 0)
    with door:
        port = door.getsockname()[1]
        with pytest.raises(GPAError, match=f"port {port}: another program listens there .*--port {port + 1}"):
            listeners("127.0.0.1", port)
        checkpoint = str(fakes.write_checkpoint(tmp_path / "fake").folder)
        for wanted in (Settings(port=port), Settings(port=0, wyoming=port)):
            with pytest.raises(GPAError, match="another program"):
                main.run(checkpoint, wanted)
    with pytest.raises(GPAError, match="this machine has no such address"):
        listeners("203.0.113.7", 0)
    both = listeners("localhost", 0)
    assert len({one.getsockname()[1] for one in both}) == 1
    for one in both:
        one.close()


def test_small_pieces_are_sent_at_once() -> None:
    """A body behind its head, a chunk of sound behind another: without this each waits 40 ms on a kept connection."""

    async def nodelay() -> int:
        told: asyncio.Queue[int] = asyncio.Queue()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            told.put_nowait(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        (door,) = listeners("127.0.0.1", 0)
        async with await asyncio.start_server(connected, sock=door):
            _, writer = await asyncio.open_connection(*door.getsockname())
            writer.close()
            return await asyncio.wait_for(told.get(), 5)

    assert asyncio.run(nodelay())

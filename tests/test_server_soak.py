# ruff: noqa: E402  (the extra `server` may be missing)
"""Thousands of mixed requests at overload: the process lives, the next answer is right, memory is flat, no voice is mixed up."""

from __future__ import annotations

import logging
import os
import random
import re
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import fakes
from gpa import audio, hub
from gpa.pipeline import GPA
from gpa.server.process import Process
from live import Live, served, until
from test_server_live import Slow

pytestmark = pytest.mark.slow

CLIP = audio.encode(audio.decode(hub.embedded() / "demo.opus", 16_000)[:32_000], 16_000, "wav")
LEVELS = {"amy": 1 / 20, "bob": 5 / 20}  # the first code of the voice, as the codec below sounds it


class Voiced(fakes.Codec):
    """Sounds like the voice's first code, whatever is said."""

    def stream(self, voice: tuple[int, ...], seed: int = 0, **how: object) -> fakes.Decoder:
        decoder = fakes.Decoder()
        decoder.push = lambda codes: np.full(fakes.HOP * len(codes), voice[0] / 20, np.float32)  # type: ignore[method-assign]
        decoder.flush = lambda: np.zeros(0, np.float32)  # type: ignore[method-assign]
        return decoder


def voiced(folder: Path, pause: float = 0.0) -> GPA:
    model = fakes.model(folder)
    model.bicodec = Voiced()  # type: ignore[assignment]
    if pause:
        model.engine = Slow(model.engine.answer)  # type: ignore[attr-defined]
        model.engine.pause = pause  # type: ignore[attr-defined]
    return model


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    settings = {"concurrency": 2, "queue": 4, "write_seconds": 1.0, "read_seconds": 1.0}
    checkpoint = fakes.model(tmp_path / "fake").checkpoint
    with served(Process(partial(again, tmp_path)), tmp_path / "voices", checkpoint, **settings) as found:
        until(lambda: found.app.state.desk.runner.house.ready, 180)
        yield found


def again(folder: Path) -> GPA:
    """In the model's process."""
    return voiced(folder / f"process-{os.getpid()}")


class Crowd:
    """What came of the requests."""

    def __init__(self, live: Live) -> None:
        self.live, self.seen, self.wrong = live, Counter[str](), list[str]()
        self.http = httpx.Client(base_url=live.url, verify=False, timeout=600.0, limits=httpx.Limits(keepalive_expiry=1.0))

    def ask(self, seed: int) -> None:
        draw = random.Random(seed)
        kind = draw.choice([self.speak] * 6 + [self.listen, self.convert, self.leave, self.close_half, self.stall, self.babble])
        kind(draw)

    def _count(self, kind: str, answer: httpx.Response, *legal: int) -> bool:
        self.seen[f"{kind} {answer.status_code}"] += 1
        if answer.status_code not in (*legal, 429):
            self.wrong.append(f"{kind}: {answer.status_code} {answer.text[:100]}")
        if answer.status_code == 429:
            time.sleep(0.1)
        return answer.status_code == 200

    def speak(self, draw: random.Random) -> None:
        voice = draw.choice(sorted(LEVELS))
        body = {"model": "x", "input": "Hello there. " * draw.randrange(1, 5), "voice": voice, "response_format": "pcm"}
        answer = self.http.post("/v1/audio/speech", json=body)
        if self._count("speak", answer, 200):
            level = float(np.median(np.frombuffer(answer.content, "<i2"))) / 32768
            if abs(level - LEVELS[voice]) > 0.02:
                self.wrong.append(f"{voice} sounds like {level:.3f}")

    def listen(self, draw: random.Random) -> None:
        answer = self.http.post("/v1/audio/transcriptions", data={"model": "x"}, files={"file": CLIP})
        if self._count("listen", answer, 200) and answer.json()["text"] != "Hello there.":
            self.wrong.append(f"heard {answer.text}")

    def convert(self, draw: random.Random) -> None:
        voice = draw.choice(sorted(LEVELS))
        form = {"voice": voice, "response_format": "pcm"}
        answer = self.http.post("/v1/audio/conversions", data=form, files={"file": CLIP})
        if self._count("convert", answer, 200):
            sound = np.frombuffer(answer.content, "<i2") / 32768
            if abs(float(np.median(sound[np.abs(sound) > 0.01])) - LEVELS[voice]) > 0.02:
                self.wrong.append(f"converted to another voice than {voice}")

    def leave(self, draw: random.Random) -> None:
        body = {"model": "x", "input": "Hello there. " * 20, "voice": "amy", "response_format": "pcm"}
        with self.http.stream("POST", "/v1/audio/speech", json=body) as answer:
            self.seen[f"leave {answer.status_code}"] += 1
            if answer.status_code == 200:
                chunks = answer.iter_raw()
                next(chunks)

    def close_half(self, draw: random.Random) -> None:
        self._raw(b'{"model": "x", "input": "Hello.", "voice": "amy"}', lambda connection: connection.shutdown(socket.SHUT_WR))

    def stall(self, draw: random.Random) -> None:
        text = b"Hello there, everybody. " * 40
        self._raw(b'{"model": "x", "input": "%b", "voice": "amy", "response_format": "wav"}' % text, lambda _: time.sleep(0.1))

    def babble(self, draw: random.Random) -> None:
        answer = self.http.post("/v1/audio/transcriptions", data={"model": "x"}, files={"file": draw.randbytes(300)})
        self._count("babble", answer, 400)

    def _raw(self, body: bytes, then: object) -> None:
        with socket.create_connection(("127.0.0.1", self.live.port), timeout=30) as connection:
            head = b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            connection.sendall(head % len(body) + body)
            then(connection)  # type: ignore[operator]
        self.seen["raw"] += 1


def resident(*processes: int) -> tuple[float, ...]:
    """MiB of each."""
    pages = [int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in processes]
    return tuple(count * resource.getpagesize() / 2**20 for count in pages)


@pytest.mark.parametrize("count", [5000])
def test_soak(live: Live, count: int) -> None:
    crowd = Crowd(live)
    runner = live.app.state.desk.runner
    processes = (os.getpid(), runner.house._child.process.pid)  # the server's (and the clients'), the model's
    sizes = list[tuple[float, ...]]()
    with crowd.http, ThreadPoolExecutor(12) as pool:
        for start in range(0, count, 500):
            list(pool.map(crowd.ask, range(start, start + 500)))
            sizes.append(resident(*processes))
            logging.info("%d asked, %s MiB, load %.1f: %s", start + 500, sizes[-1], os.getloadavg()[0], dict(crowd.seen))
        until(lambda: runner.running == runner.waiting == 0, 20)
        page = crowd.http.get("/metrics").text
        assert crowd.http.post("/v1/audio/transcriptions", data={"model": "x"}, files={"file": CLIP}).json()["text"] == "Hello there."
    assert not crowd.wrong, crowd.wrong[:5]
    assert crowd.seen["speak 200"] > count / 40
    refused = sum(int(number) for number in re.findall(r"gpa_rejected_total{.*} (\d+)", page))
    counted = sum(number for kind, number in crowd.seen.items() if kind.endswith(" 429"))
    assert counted <= refused <= counted + crowd.seen["raw"], "every 429 is counted"
    assert refused
    assert processes[1] == runner.house._child.process.pid, "the model's process lives"
    for grown in zip(*sizes, strict=True):
        assert max(grown[-3:]) < grown[2] + 40, f"memory grows: {sizes}"
    assert len(threading.enumerate()) < 40


def test_accepted_requests_stay_quick_at_overload(tmp_path: Path) -> None:
    def p95(live: Live, clients: int) -> float:
        took: list[float] = []

        def client(seed: int) -> None:
            with httpx.Client(base_url=live.url, verify=False, timeout=60.0) as http:
                end = time.monotonic() + 6
                while time.monotonic() < end:
                    started = time.monotonic()
                    body = {"model": "x", "input": "Hello there, you two.", "voice": "amy", "response_format": "pcm"}
                    answer = http.post("/v1/audio/speech", json=body)
                    if answer.status_code == 200:
                        took.append(time.monotonic() - started)
                    else:
                        time.sleep(0.2)

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(client, range(clients)))
        return float(np.percentile(took, 95))

    with served(voiced(tmp_path / "fake", 0.01), tmp_path / "voices", concurrency=2, queue=6) as live:
        admitted, overload = p95(live, 8), p95(live, 16)
    assert overload < 1.5 * admitted, f"{overload:.3f} s, {admitted:.3f} s"

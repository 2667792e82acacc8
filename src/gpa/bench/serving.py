"""The server under load, over HTTP on this machine: what it adds to a call of the model, what overload does to those who are
served, and how soon a client that goes away frees its place. The server is `gpa serve` in a process of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from gpa.bench.process import Worker
from gpa.bench.speaker import ARRIVALS, OURS, said
from gpa.errors import EngineError

START = 120.0  # seconds that the server may take to be ready
FULL = 429


@dataclass(frozen=True)
class Plan:
    """What to measure. `rates` are shares of what `concurrency` clients get served, each asking again as soon as it was."""

    concurrency: int = 4
    queue: int = 16
    seconds: float = 1.0  # of sound, of a text
    requests: int = 200  # of each load
    warm_s: float = 12.0  # of requests that come before those, at the same rate: what counts is a load that lasts
    rates: Sequence[float] = (0.8, 1.0, 2.0)
    pairs: int = 30  # calls of the model and of the server, in turns
    disconnects: int = 100


@dataclass(frozen=True)
class Load:
    """Requests that came at random moments, whatever was still being served. Milliseconds, of those that were served."""

    share: float  # of capacity; 0: as many clients as slots
    asked: int
    served: int
    refused: int  # with 429
    failed: int
    first_p50: float
    first_p95: float
    whole_p50: float
    whole_p95: float
    served_per_s: float


@dataclass(frozen=True)
class Report:
    """Milliseconds; medians and 95th percentiles."""

    checkpoint: str
    first_ms: tuple[float, float]  # of the model's own call: from the question to the first samples
    first_http_ms: tuple[float, float]  # of the server: to the first byte of sound
    overhead_ms: float  # median of the differences
    loads: tuple[Load, ...]
    freed_ms: tuple[float, float, float]  # from a disconnect to a free slot, beside as many streams as other slots; and the most


@dataclass(frozen=True)
class Answer:
    """Seconds since the question."""

    status: int
    first: float
    whole: float


def measure(folder: Path, engine: str = "auto", plan: Plan = Plan(), say: Callable[[str], None] = lambda line: None) -> Report:
    """Measure the server on the checkpoint `folder`. `say` hears of every part. Raises EngineError: it does not come up."""
    folder = Path(folder).resolve()
    with served(folder, engine, plan) as port:
        with Worker(OURS, "gpa.bench.speaker", str(folder), engine, OURS) as model, closing(Client(port)) as client:
            pairs = [_pair(model, client, plan.seconds) for _ in range(plan.pairs + 2)][2:]
        own, http = zip(*pairs, strict=True)
        over = float(np.median(np.subtract(http, own)))
        say(f"first chunk: model {_spread(own)}, server {_spread(http)} ms (P50, P95); it adds {over:.1f} ms")
        base = _load(port, plan, 0.0, 0.0)
        say(_line(base))
        loads = [base]
        for share in plan.rates:
            loads.append(_load(port, plan, share, share * base.served_per_s))
            say(_line(loads[-1]))
        freed = _freed(port, plan) if plan.disconnects else [0.0]
        say(f"a disconnect frees its slot: {_spread(freed)} ms (P50, P95), at most {max(freed):.0f}")
    last = float(np.median(freed)), _p95(freed), max(freed)
    return Report(folder.name, (float(np.median(own)), _p95(own)), (float(np.median(http)), _p95(http)), over, tuple(loads), last)


@contextmanager
def served(folder: Path, engine: str, plan: Plan) -> Iterator[int]:
    """`gpa serve` on a free port, which it gives; ready. Raises EngineError."""
    with TemporaryDirectory() as voices:
        command = [sys.executable, "-m", "gpa", "serve", "--model", str(folder), "--engine", engine, "--port", "0", "--voices", voices]
        command += ["--concurrency", str(plan.concurrency), "--queue", str(plan.queue)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        log: list[str] = []
        assert process.stderr is not None
        reader = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
        reader.start()
        try:
            yield _ready(process, log)
        finally:
            process.terminate()
            process.wait()
            reader.join()
            process.stderr.close()


def _ready(process: subprocess.Popen[str], log: list[str]) -> int:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"listening at http://\S+:(\d+)", "".join(log))
        if found and Client(int(found[1])).get("/health/ready")[0] == 200:
            return int(found[1])
        time.sleep(0.05)
    raise EngineError(f"the server does not come up: {''.join(log[-3:]).strip() or 'it said nothing'}")


class Client:
    """One connection, kept."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=120)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        self._connection.request("GET", path)
        with self._connection.getresponse() as answer:
            return answer.status, answer.read().decode()

    def speak(self, text: str, enough: Callable[[], bool] = lambda: False) -> Answer:
        """A text as raw sound, read to its end or until it is `enough`. Status 0: no answer, or a broken one."""
        began, first, status = time.perf_counter(), 0.0, 0
        try:
            body = json.dumps({"model": "gpa", "input": text, "response_format": "pcm"})
            self._connection.request("POST", "/v1/audio/speech", body, {"content-type": "application/json"})
            with self._connection.getresponse() as answer:
                while answer.read1(1 << 16) and not enough():
                    first = first or time.perf_counter() - began
                status = answer.status
        except (OSError, HTTPException):
            self._connection.close()
        return Answer(status, first, time.perf_counter() - began)


def _pair(model: Worker, client: Client, seconds: float) -> tuple[float, float]:
    """Milliseconds to the first sound of the same text: of a call, and over HTTP."""
    run = model.ask(streams=1, rate=0.0, requests=1, seconds=seconds)
    return run["heard"][0]["chunks"][0][0] * 1e3, client.speak(said(seconds, 0)).first * 1e3


def _load(port: int, plan: Plan, share: float, rate: float) -> Load:
    """So many requests a second, each on a connection of its own; 0: from as many clients as there are slots."""
    before = round(rate * plan.warm_s)
    total = before + plan.requests
    drawn = np.random.default_rng(ARRIVALS).exponential(1 / rate, total).cumsum() if rate else np.zeros(total)

    def one(number: int) -> Answer:
        with closing(Client(port)) as client:
            return client.speak(said(plan.seconds, number))

    began = time.perf_counter()
    with ThreadPoolExecutor(plan.concurrency + plan.queue + 16 if rate else plan.concurrency) as pool:
        asked = []
        for number, moment in enumerate(drawn):
            time.sleep(max(0.0, moment - (time.perf_counter() - began)))
            asked.append(pool.submit(one, number))
        answers = [future.result() for future in asked][before:]
    wall = time.perf_counter() - began - (drawn[before] if rate else 0.0)
    good = [answer for answer in answers if answer.status == 200]
    refused = sum(answer.status == FULL for answer in answers)
    firsts, wholes = ([getattr(answer, name) * 1e3 for answer in good] or [0.0] for name in ("first", "whole"))
    failed = len(answers) - len(good) - refused
    spreads = float(np.median(firsts)), _p95(firsts), float(np.median(wholes)), _p95(wholes)
    return Load(share, len(answers), len(good), refused, failed, *spreads, len(good) / wall)


def _freed(port: int, plan: Plan) -> list[float]:
    """Milliseconds from a disconnect at a random moment to a free slot, as /metrics tells it, beside streams at all other slots."""
    stop, draw, taken = threading.Event(), np.random.default_rng(ARRIVALS), list[float]()
    others = plan.concurrency - 1

    def stream() -> None:
        while not stop.is_set():
            with closing(Client(port)) as client:
                client.speak(said(20.0, 0), stop.is_set)

    with closing(Client(port)) as watch, ThreadPoolExecutor(plan.concurrency) as pool:

        def running() -> int:
            return int(re.findall(r"^gpa_jobs_running (\d+)", watch.get("/metrics")[1], re.MULTILINE)[0])

        try:
            for _ in range(others):
                pool.submit(stream)
            while len(taken) < plan.disconnects:
                client = Client(port)
                client.speak(said(20.0, 1), partial(_past, time.perf_counter() + draw.uniform(0.1, 0.5)))
                full = running() > others
                began = time.perf_counter()
                client.close()
                while running() > others:
                    time.sleep(0.001)
                if full:  # else another stream was just between two texts
                    taken.append((time.perf_counter() - began) * 1e3)
        finally:
            stop.set()
    return taken


def _past(moment: float) -> bool:
    return time.perf_counter() > moment


def _p95(values: Sequence[float]) -> float:
    return float(np.percentile(values, 95))


def _spread(values: Sequence[float]) -> str:
    return f"{np.median(values):.0f}, {_p95(values):.0f}"


HEADS = ("offered", "asked", "served", "429", "failed", "TTFC ms P50", "P95", "whole ms P50", "P95", "served/s")


def _cells(load: Load) -> list[str]:
    offered = f"{load.share:g} x" if load.share else "as many clients as slots"
    times = (load.first_p50, load.first_p95, load.whole_p50, load.whole_p95)
    counts = (load.asked, load.served, load.refused, load.failed)
    return [offered, *map(str, counts), *(f"{ms:.0f}" for ms in times), f"{load.served_per_s:.1f}"]


def _line(load: Load) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(HEADS, _cells(load), strict=True))


def table(report: Report) -> Iterator[str]:
    """The loads as rows of a Markdown table."""
    yield f"| {' | '.join(HEADS)} |"
    yield f"|{'---|' * len(HEADS)}"
    for load in report.loads:
        yield f"| {' | '.join(_cells(load))} |"

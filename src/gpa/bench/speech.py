"""Speech under load: time to the first chunk, real-time factor, gaps, throughput and memory, beside the plain way.

Each way speaks in a process of its own (`gpa.bench.speaker`), and every case is measured of one, then of the other.
The table has the columns of the paper's: first chunk (TTFC) and real-time factor (RTF) as average, P50 and P99.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gpa.bench.process import Worker
from gpa.bench.speaker import OURS, REFERENCE, WAYS, Heard
from gpa.errors import EngineError, MissingExtra


@dataclass(frozen=True)
class Plan:
    """What to measure: every one of `streams` (clients of the closed loop) and of `rates` (requests a second of the open
    loop), with texts of each of `seconds`."""

    streams: Sequence[int] = (1, 10, 40)
    seconds: Sequence[float] = (1, 10, 60)
    rates: Sequence[float] = ()
    requests: int = 20  # of a case, and never fewer than its clients
    baseline: bool = True


@dataclass(frozen=True)
class Spread:
    """Of one figure over requests, or over chunks."""

    average: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Case:
    """One way under one load."""

    way: str  # gpa or reference
    loop: str  # closed or open
    streams: int  # clients; in the open loop the most requests at once
    rate: float  # requests a second of the open loop, else 0
    seconds: float  # of sound, asked for
    requests: int
    failed: int
    error: str  # of the first that failed
    audio_s: float  # of sound, on average
    ttfc_ms: Spread
    rtf: Spread  # from the question to the last sample, over the length of the sound
    between_ms: Spread  # from one chunk to the next
    underruns: int  # times at which a player that began with the first chunk had nothing to play
    silent_ms: float  # the longest of them
    codes_per_s: float  # of all streams, by the clock
    audio_per_s: float  # seconds of sound
    audio_per_cpu_s: float  # by processor time: other work disturbs this less
    times_reference: float | None  # audio_per_s over the reference's
    rss_mb: float  # after the case
    peak_mb: float  # so far


@dataclass(frozen=True)
class Report:
    """All cases, and per way the seconds from the start of a process to its first samples."""

    checkpoint: str
    engine: str
    cold_start_s: dict[str, float]
    cases: tuple[Case, ...]


def measure(folder: Path, engine: str = "auto", plan: Plan = Plan(), say: Callable[[str], None] = lambda line: None) -> Report:
    """Measure speech of the checkpoint `folder`. `say` hears of every case.

    Raises EngineError: the model cannot be opened, or every request of a case failed."""
    folder = Path(folder).resolve()
    loads = [(streams, 0.0) for streams in plan.streams] + [(0, rate) for rate in plan.rates]
    cases: list[Case] = []
    with ExitStack() as stack:
        ways = WAYS if plan.baseline else (OURS,)
        workers = [stack.enter_context(Worker(way, "gpa.bench.speaker", str(folder), engine, way)) for way in ways]
        for seconds in plan.seconds:
            for streams, rate in loads:
                asked = {"streams": streams, "rate": rate, "requests": max(plan.requests, streams), "seconds": seconds}
                pair = [_case(worker, asked) for worker in workers]
                beside = next((case.audio_per_s for case in pair if case.way == REFERENCE), None)
                for case in pair:
                    cases.append(replace(case, times_reference=case.audio_per_s / beside if beside else None))
                    say(", ".join(f"{name} {value}" for name, value in zip(HEADS, _cells(cases[-1]), strict=True)))
        return Report(folder.name, engine, {worker.name: worker.ready for worker in workers}, tuple(cases))


def _case(worker: Worker, asked: dict[str, float]) -> Case:
    run = worker.ask(**asked)
    served = [Heard(**request) for request in run["heard"]]
    good = [request for request in served if not request.error]
    errors = [request.error for request in served if request.error]
    if not good:
        raise EngineError(f"{worker.name} cannot be measured: {errors[0]}")
    rate = worker.hello["rate"]
    lengths = [sum(samples for _, samples in request.chunks) / rate for request in good]
    silent = [gap for request in good for gap in silences(request.chunks, rate)]
    return Case(
        worker.name,
        "open" if asked["rate"] else "closed",
        int(asked["streams"]) or most_at_once(served),
        asked["rate"],
        asked["seconds"],
        len(served),
        len(errors),
        next(iter(errors), ""),
        float(np.mean(lengths)),
        spread([request.chunks[0][0] * 1e3 for request in good]),
        spread([request.chunks[-1][0] / length for request, length in zip(good, lengths, strict=True)]),
        spread([gap for request in good for gap in np.diff([moment * 1e3 for moment, _ in request.chunks])]),
        len(silent),
        max(silent, default=0.0) * 1e3,
        sum(lengths) * worker.hello["codes_per_s"] / run["wall"],
        sum(lengths) / run["wall"],
        sum(lengths) / run["cpu"],
        None,
        run["rss"] / 1e6,
        run["peak"] / 1e6,
    )


def spread(values: Sequence[float]) -> Spread:
    """Average, P50 and P99; zeros of nothing."""
    if not values:
        return Spread(0.0, 0.0, 0.0)
    return Spread(float(np.mean(values)), *map(float, np.percentile(values, [50, 99])))


def silences(chunks: Sequence[tuple[float, int]], rate: int) -> list[float]:
    """Seconds that a player waits, each time it runs dry: it begins with the first of `chunks` (moment, samples)."""
    gaps, dry = [], chunks[0][0]
    for moment, samples in chunks:
        if moment > dry:
            gaps.append(moment - dry)
        dry = max(dry, moment) + samples / rate
    return gaps


def most_at_once(served: Sequence[Heard]) -> int:
    """The most requests that were being served, or waited, at one moment."""
    ends = [(request.asked + (request.chunks[-1][0] if request.chunks else 0.0), -1) for request in served]
    steps = sorted([*ends, *((request.asked, 1) for request in served)])
    return int(np.cumsum([step for _, step in steps]).max())


HEADS = (
    *("way", "loop", "streams", "audio s", "TTFC ms avg", "P50", "P99", "RTF avg", "P50", "P99", "underruns", "longest ms"),
    *("codes/s", "audio s/s", "audio s/CPU s", "x reference", "RSS MB", "failed"),
)


def table(report: Report) -> Iterator[str]:
    """The report as rows of a Markdown table."""
    yield f"| {' | '.join(HEADS)} |"
    yield f"|{'---|' * len(HEADS)}"
    for case in report.cases:
        yield f"| {' | '.join(_cells(case))} |"


def _cells(case: Case) -> list[str]:
    loop = f"open, {case.rate:g}/s" if case.rate else "closed"
    times = "-" if case.times_reference is None else f"{case.times_reference:.2f}"
    first = [f"{x:.0f}" for x in (case.ttfc_ms.average, case.ttfc_ms.p50, case.ttfc_ms.p99)]
    factor = [f"{x:.3f}" for x in (case.rtf.average, case.rtf.p50, case.rtf.p99)]
    flow = [str(case.underruns), f"{case.silent_ms:.0f}", f"{case.codes_per_s:.1f}"]
    flow += [f"{case.audio_per_s:.2f}", f"{case.audio_per_cpu_s:.2f}", times]
    return [case.way, loop, str(case.streams), f"{case.audio_s:.1f}", *first, *factor, *flow, f"{case.rss_mb:.0f}", str(case.failed)]


def figures() -> Any:
    """matplotlib's figures. Raises MissingExtra."""
    try:
        return import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error


def plot(report: Report, file: Path) -> None:
    """Draw TTFC (P50, and P99 dashed) and RTF over the streams to `file`, whose suffix names the format. Raises MissingExtra."""
    figure = figures().Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    groups = sorted({(case.way, case.loop, case.seconds) for case in report.cases})
    for color, group in enumerate(groups):
        cases = sorted((c for c in report.cases if (c.way, c.loop, c.seconds) == group), key=lambda case: case.streams)
        streams, label = [case.streams for case in cases], f"{group[0]}, {group[1]}, {group[2]:g} s"
        for axis, name in zip(axes, ("ttfc_ms", "rtf"), strict=True):
            spreads: list[Spread] = [getattr(case, name) for case in cases]
            axis.plot(streams, [one.p50 for one in spreads], "o-", color=f"C{color}", label=label)
            axis.plot(streams, [one.p99 for one in spreads], ".--", color=f"C{color}")
    for axis, title in zip(axes, ("time to the first chunk, ms", "real-time factor"), strict=True):
        axis.set(xlabel="streams", title=title, xscale="log", yscale="log")
    axes[0].legend(fontsize="small")
    figure.savefig(file)

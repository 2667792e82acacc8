"""What the server counts, in Prometheus' text format. No client library: four kinds of rows need eighty lines, and no global registry."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator

FIRST = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30)  # seconds
FACTORS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 4)
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counted on the event loop only."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._spread: dict[str, dict[Labels, _Histogram]] = defaultdict(dict)
        self._gauges: dict[str, Callable[[], float]] = {}

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """A figure that is read when it is asked for."""
        self._gauges[name] = read

    def answered(self, route: str, status: int) -> None:
        """A request is over. `route` is a template, never a path that a client made up."""
        self._counts["gpa_requests_total"][(("route", route), ("status", str(status)))] += 1

    def rejected(self, task: str, reason: str) -> None:
        """A job found no place: queue, wait or per_key."""
        self._counts["gpa_rejected_total"][(("task", task), ("reason", reason))] += 1

    def first(self, task: str, seconds: float) -> None:
        """From the request to the first chunk or segment."""
        self._observe("gpa_first_chunk_seconds", task, FIRST, seconds)

    def done(self, task: str, sound: float, took: float, tokens_in: int = 0, tokens_out: int = 0) -> None:
        """A job is over: seconds of sound heard or made, seconds it took, ids in and out."""
        labels: Labels = (("task", task),)
        self._counts["gpa_audio_seconds_total"][labels] += sound
        self._counts["gpa_tokens_total"][(*labels, ("kind", "input"))] += tokens_in
        self._counts["gpa_tokens_total"][(*labels, ("kind", "output"))] += tokens_out
        if sound:
            self._observe("gpa_realtime_factor", task, FACTORS, took / sound)

    def _observe(self, name: str, task: str, edges: tuple[float, ...], value: float) -> None:
        self._spread[name].setdefault((("task", task),), _Histogram(edges)).add(value)

    def text(self) -> str:
        """The whole page."""
        return "".join(f"{row}\n" for row in self._rows())

    def _rows(self) -> Iterator[str]:
        for name, read in self._gauges.items():
            yield f"# TYPE {name} gauge"
            yield f"{name} {read():g}"
        for name, rows in self._counts.items():
            yield f"# TYPE {name} counter"
            for labels, value in rows.items():
                yield f"{name}{_braces(labels)} {value:.15g}"
        for name, spread in self._spread.items():
            yield f"# TYPE {name} histogram"
            for labels, histogram in spread.items():
                yield from histogram.rows(name, labels)


class _Histogram:
    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges, self.counts, self.sum, self.total = edges, [0] * len(edges), 0.0, 0

    def add(self, value: float) -> None:
        self.sum += value
        self.total += 1
        for i, edge in enumerate(self.edges):
            self.counts[i] += value <= edge

    def rows(self, name: str, labels: Labels) -> Iterator[str]:
        for edge, count in zip((*(f"{edge:g}" for edge in self.edges), "+Inf"), (*self.counts, self.total), strict=True):
            yield f"{name}_bucket{_braces((*labels, ('le', edge)))} {count}"
        yield f"{name}_sum{_braces(labels)} {self.sum:.9g}"
        yield f"{name}_count{_braces(labels)} {self.total}"


def _braces(labels: Labels) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{key}="{escaped(value)}"' for key, value in labels) + "}" if labels else ""


class Clock:
    """Times one job: from here to its first result, and to its end."""

    def __init__(self, metrics: Metrics, task: str) -> None:
        self._metrics, self._task, self._started, self._heard = metrics, task, time.monotonic(), False

    def first(self) -> None:
        """Called with every result; only the first one counts."""
        if not self._heard:
            self._heard = True
            self._metrics.first(self._task, time.monotonic() - self._started)

    def done(self, sound: float, tokens_in: int = 0, tokens_out: int = 0) -> None:
        """See `Metrics.done`."""
        self._metrics.done(self._task, sound, time.monotonic() - self._started, tokens_in, tokens_out)

"""Speed and memory of the engines on one checkpoint, beside the path of the published script, measured in turns.

Each engine runs in a process of its own (`gpa.bench.worker`). Figures are medians over the rounds; in a round every engine
gets its turn, so that other work on the machine falls on all of them alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpa.bench.process import Worker, threads
from gpa.bench.worker import REFERENCE
from gpa.convert import convert_lm
from gpa.engines.card import Card
from gpa.errors import EngineError
from gpa.vocab import Vocab

CONTEXT, LONG = 150, 1000  # ids of the prompt whose continuation is measured, and of the one for prefill
STORED = {"f32": 32.0, "f16": 16.0, "int8": 8.0, "int4": 4.0}  # bits of a weight, without its scales
EXPORTS = {"openvino": ("openvino_model.xml", "openvino_model.json"), "llama": ("model.gguf", "model.gguf.json")}  # and their cards


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    streams: Sequence[int] = (1, 8)
    new: int = 64  # ids of a continuation
    rounds: int = 3
    threads: int | None = None  # of every engine, the reference's too; None: each engine's own choice, half the cores for the reference


@dataclass(frozen=True)
class Rate:
    """Decoding in `streams` streams together."""

    streams: int
    ids_per_s: float  # of all streams, by the clock
    ids_per_cpu_s: float  # by the time that the process had of the processors: other work disturbs this less
    first_ms: float  # until a stream has its first id
    times_reference: float | None  # by the clock, at as many streams
    times_reference_cpu: float | None


@dataclass(frozen=True)
class Row:
    """One engine."""

    engine: str
    load_s: float
    peak_mb: float  # of memory, after one stream
    prefill_ids_per_s: float
    weights_mb: float  # read for every id in a single stream
    of_limit: float  # share of `Report.limit_gb_per_cpu_s` that one stream reads of weights
    rates: tuple[Rate, ...]


@dataclass(frozen=True)
class Report:
    """All of them, and the limit: what a thread reads from memory in a second of its processor."""

    checkpoint: str
    limit_gb_per_cpu_s: float
    rows: tuple[Row, ...]


def measure(folder: Path, engines: Sequence[str], plan: Plan = Plan(), say: Callable[[str], None] = lambda line: None) -> Report:
    """Measure `engines` on the checkpoint `folder`: names of engines, or `reference`.

    `openvino:int4` measures an export made for the purpose (f32, f16, int8, int4; openvino and llama), a bare name what lies in the
    folder. `say` hears of every single run. Raises EngineError when one cannot be opened."""
    folder = Path(folder).resolve()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="gpa-bench-")))
        places = [_place(folder, engine, scratch) for engine in engines]
        workers = [stack.enter_context(opened(place, engine, plan.threads)) for place, engine in zip(places, engines, strict=True)]
        reads = [bytes_per_id(folder, place, engine) for place, engine in zip(places, engines, strict=True)]
        samples: dict[tuple[str, int], list[dict[str, float]]] = {}
        limits: list[float] = []
        long: dict[str, float] = {}
        peaks: dict[str, float] = {}
        for _ in range(plan.rounds):
            for streams in plan.streams:
                limits.append(read_limit(plan.threads or threads()))
                for worker in workers:
                    run = worker.ask(context=CONTEXT, streams=streams, new=plan.new)
                    say(f"{worker.name}, streams: {streams}, " + ", ".join(f"{name} {value:.4g}" for name, value in run.items()))
                    samples.setdefault((worker.name, streams), []).append(run)
                    peaks.setdefault(worker.name, samples[worker.name, streams][0]["peak"])
        for worker in workers:
            long[worker.name] = LONG / worker.ask(context=LONG, streams=1, new=2)["first"]
    rates = {key: _rate(key[1], runs, samples.get((REFERENCE, key[1]))) for key, runs in samples.items()}
    limit = median(limits)
    rows = []
    for worker, read in zip(workers, reads, strict=True):
        mine = tuple(rates[worker.name, streams] for streams in plan.streams)
        alone = next((rate.ids_per_cpu_s for rate in mine if rate.streams == 1), 0.0)
        share = alone * read / limit
        rows.append(Row(worker.name, worker.hello["load"], peaks[worker.name] / 1e6, long[worker.name], read / 1e6, share, mine))
    return Report(folder.name, limit / 1e9, tuple(rows))


def installed(folder: Path) -> list[str]:
    """The engines that can run from `folder` here, and the reference where its weights are at hand."""
    files = {REFERENCE: "model.safetensors", "openvino": "openvino_model.xml", "llama": "model.gguf", "transformers": "model.safetensors"}
    packages = {REFERENCE: "transformers", "openvino": "openvino", "llama": "xllamacpp", "transformers": "transformers"}
    return [name for name, file in files.items() if (folder / file).is_file() and find_spec(packages[name])]


def once(model: Path, engine: str) -> str:
    """One line on the size and speed of an exported language model, tried in one stream."""
    with opened(model.parent, engine) as worker:
        run = worker.ask(context=CONTEXT, streams=1, new=64)
    size = sum(file.stat().st_size for file in {model, model.with_suffix(".bin")} if file.is_file()) / 1e6
    speed = f"{run['ids'] / run['wall']:.0f} ids/s, the first after {CONTEXT} in {run['first'] * 1e3:.0f} ms"
    return f"{model.name}: {size:.1f} MB, loads in {worker.hello['load']:.1f} s, {speed}, {run['peak'] / 1e6:.0f} MB of memory"


def opened(folder: Path, engine: str, limit: int | None = None) -> Worker:
    """A process that holds one engine, with so many threads."""
    return Worker(engine, "gpa.bench.worker", str(folder), engine.split(":")[0], *([str(limit)] if limit else []), limit=limit)


def _place(folder: Path, engine: str, scratch: Path) -> Path:
    """The folder that holds what `engine` runs from, made where its name asks for a precision. Raises EngineError."""
    name, _, stored = engine.partition(":")
    if not stored:
        return folder
    if name not in EXPORTS or stored not in STORED:
        raise EngineError(f"{engine!r} cannot be made (legal: {' or '.join(EXPORTS)}, a colon, and {', '.join(STORED)})")
    place = scratch / f"{name}-{stored}"
    convert_lm(folder, place, name, stored)  # type: ignore[arg-type]
    (place / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    return place


def _rate(streams: int, runs: Sequence[dict[str, float]], reference: Sequence[dict[str, float]] | None) -> Rate:
    clock, cpu = (median(run["ids"] / run[key] for run in runs) for key in ("wall", "cpu"))
    beside = [median(run["ids"] / run[key] for run in reference) for key in ("wall", "cpu")] if reference else None
    first = median(run["first"] for run in runs) * 1e3
    return Rate(streams, clock, cpu, first, clock / beside[0] if beside else None, cpu / beside[1] if beside else None)


def bytes_per_id(folder: Path, place: Path, engine: str) -> float:
    """Bytes of weights that one id of speech reads: the layers, and the rows of the head that the engine multiplies."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    hidden, head = config["hidden_size"], config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    attention = 2 * hidden * head * (config["num_attention_heads"] + config["num_key_value_heads"])
    layers = config["num_hidden_layers"] * (attention + 3 * hidden * config["intermediate_size"])
    name = engine.split(":")[0]
    stored = 32.0
    if name in EXPORTS:
        model, card = (place / file for file in EXPORTS[name])
        stored = STORED[Card.load(model, card, f"gpa convert {folder}").precision]
    if name == "vllm":
        stored = 16.0
    scale = 0.5 if name == "llama" and stored < 16 else 0.0  # a float16 for every 32 weights
    legal = len(Vocab.load(folder).bicodec_semantic.ids) + 1
    rows = config["vocab_size"] if name in (REFERENCE, "llama", "vllm") else legal
    of_head = 8.0 if name == "openvino" and stored < 8 else stored
    return float(layers * (stored + scale) + rows * hidden * (of_head + scale)) / 8


def read_limit(count: int, megabytes: int = 1024) -> float:
    """Bytes that a thread reads from memory in a second of its processor while `count` of them read."""
    parts = [np.ones(megabytes * (1 << 20) // 4 // count, np.float32) for _ in range(count)]
    with ThreadPoolExecutor(len(parts)) as pool:
        return max(sum(part.nbytes for part in parts) / sum(pool.map(_reading, parts)) for _ in range(3))


def _reading(part: NDArray[np.float32]) -> float:
    begun = time.thread_time()
    float(part @ part)
    return time.thread_time() - begun


def table(report: Report) -> Iterator[str]:
    """The report as rows of a Markdown table."""
    streams = [rate.streams for rate in report.rows[0].rates]
    heads = ["engine", "load s", "peak MB", "prefill ids/s", "of read limit"]
    heads += [f"{n}: {what}" for n in streams for what in ("first id ms", "ids/s", "ids per CPU s", "x reference (clock, CPU)")]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in report.rows:
        cells = [row.engine, f"{row.load_s:.1f}", f"{row.peak_mb:.0f}", f"{row.prefill_ids_per_s:.0f}", f"{row.of_limit:.0%}"]
        for rate in row.rates:
            times = [f"{x:.1f}" for x in (rate.times_reference, rate.times_reference_cpu) if x is not None]
            cells += [f"{rate.first_ms:.0f}", f"{rate.ids_per_s:.1f}", f"{rate.ids_per_cpu_s:.1f}", ", ".join(times) or "-"]
        yield f"| {' | '.join(cells)} |"

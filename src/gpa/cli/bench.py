"""gpa bench: how fast it is here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gpa.cli.options import EngineName, Json, note, print_json


def engines(
    folder: Annotated[Path | None, typer.Argument(help="Checkpoint folder; default: the embedded one.")] = None,
    names: Annotated[
        str,
        typer.Option(
            "--engines", help="reference, openvino, llama, transformers, vllm, separated by commas; openvino:int4 makes an export."
        ),
    ] = "",
    streams: Annotated[str, typer.Option("--streams", help="How many at once, separated by commas.")] = "1,8",
    new: Annotated[int, typer.Option("--new", min=2, help="Ids of a continuation.")] = 64,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each engine; the median counts.")] = 3,
    threads: Annotated[
        int,
        typer.Option("--threads", min=0, help="Threads of every engine, the reference too; 0: its own choice, half the cores for torch."),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Measure the engines on a checkpoint's language model, beside the path of the published script."""
    from gpa.bench.engines import Plan, installed, measure, table
    from gpa.hub import embedded

    place = folder or embedded()
    chosen = names.split(",") if names else installed(place)
    report = measure(place, chosen, Plan(_counts("--streams", streams), new, rounds, threads or None), note)
    if as_json:
        print_json(asdict(report))
        return
    note(f"{report.checkpoint}: a thread reads {report.limit_gb_per_cpu_s:.1f} GB of memory in a second of its processor")
    for line in table(report):
        typer.echo(line)


def speech(
    folder: Annotated[Path | None, typer.Argument(help="Checkpoint folder; default: the embedded one.")] = None,
    engine: EngineName = "auto",
    streams: Annotated[str, typer.Option("--streams", help="How many clients at once, separated by commas.")] = "1,10,40",
    seconds: Annotated[str, typer.Option("--seconds", help="How long the texts take to say, separated by commas.")] = "1,10,60",
    rate: Annotated[
        str, typer.Option("--rate", help="Requests a second that come whatever is still being served, separated by commas.")
    ] = "",
    requests: Annotated[int, typer.Option("--requests", min=1, help="Texts of a case; never fewer than its clients.")] = 20,
    baseline: Annotated[
        bool,
        typer.Option("--baseline/--no-baseline", help="Measure the plain way beside it: one at a time, decoded in full for every chunk."),
    ] = True,
    plot_to: Annotated[Path | None, typer.Option("--plot", help="File for a drawing (.svg, .png); needs matplotlib.")] = None,
    as_json: Json = False,
) -> None:
    """Measure speech under load: first chunk, real-time factor, gaps, throughput, memory, cold start."""
    from gpa.bench.speech import Plan, figures, measure, plot, table
    from gpa.hub import embedded

    if plot_to is not None:
        figures()  # before minutes of measuring
    rates = _positive("--rate", rate) if rate else ()
    plan = Plan(_counts("--streams", streams), _positive("--seconds", seconds), rates, requests, baseline)
    report = measure(folder or embedded(), engine, plan, note)
    if plot_to is not None:
        plot(report, plot_to)
    if as_json:
        print_json(asdict(report))
        return
    cold = ", ".join(f"{way} {seconds:.2f} s" for way, seconds in report.cold_start_s.items())
    note(f"{report.checkpoint}: a fresh process has its first samples after: {cold}")
    for line in table(report):
        typer.echo(line)


def serve(
    folder: Annotated[Path | None, typer.Argument(help="Checkpoint folder; default: the embedded one.")] = None,
    engine: EngineName = "auto",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at the model at once.")] = 4,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long the texts take to say.")] = 1.0,
    requests: Annotated[int, typer.Option(min=1, help="Requests of a load.")] = 200,
    rate: Annotated[str, typer.Option("--rate", help="Loads as shares of what is served at most, separated by commas.")] = "0.8,1,2",
    disconnects: Annotated[int, typer.Option(min=0, help="Clients that go away in the middle.")] = 100,
    as_json: Json = False,
) -> None:
    """Measure the server: what it adds to the first chunk, what overload does to those who are served, what a disconnect frees."""
    from gpa.bench.serving import Plan, measure, table
    from gpa.hub import embedded

    plan = Plan(concurrency, queue, seconds, requests, rates=_positive("--rate", rate), disconnects=disconnects)
    report = measure(folder or embedded(), engine, plan, note)
    if as_json:
        print_json(asdict(report))
        return
    for line in table(report):
        typer.echo(line)


def _counts(option: str, given: str) -> tuple[int, ...]:
    numbers = _positive(option, given)
    if any(number % 1 for number in numbers):
        raise typer.BadParameter(f"{option} {given!r}: whole numbers separated by commas are legal")
    return tuple(map(int, numbers))


def _positive(option: str, given: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in given.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{option} {given!r}: numbers separated by commas are legal") from error
    if not all(0 < number < float("inf") for number in numbers):
        raise typer.BadParameter(f"{option} {given!r}: numbers above 0 are legal")
    return numbers

"""gpa bench: how fast it is here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gpa.cli.options import Json, note, print_json


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
    as_json: Json = False,
) -> None:
    """Measure the engines on a checkpoint's language model, beside the path of the published script."""
    from gpa.bench.engines import Plan, installed, measure, table
    from gpa.hub import embedded

    place = folder or embedded()
    try:
        counts = tuple(int(count) for count in streams.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"--streams {streams!r}: numbers separated by commas are legal") from error
    chosen = names.split(",") if names else installed(place)
    report = measure(place, chosen, Plan(counts, new, rounds), note)
    if as_json:
        print_json(asdict(report))
        return
    note(f"{report.checkpoint}: a thread reads {report.limit_gb_per_cpu_s:.1f} GB of memory in a second of its processor")
    for line in table(report):
        typer.echo(line)

"""gpa detect: sounds in, whether each carries the mark of generated speech."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gpa.cli.options import Json, note, print_json, sound_from
from gpa.errors import GPAError

if TYPE_CHECKING:
    from gpa.watermark import Detection


def detect(
    files: Annotated[list[str], typer.Argument(help="Sounds to look into; - reads standard input.")],
    json: Json = False,
) -> None:
    """Look for the mark of speech that was made with gpa. No mark does not mean that a person spoke."""
    from gpa import watermark

    failed = 0
    for file in files:
        try:
            with sound_from(file) as sound:
                found = watermark.detect(sound)
        except GPAError as error:
            if len(files) == 1:
                raise
            note(f"gpa: {file}: {error}")
            failed += 1
            continue
        if json:
            print_json({"file": file, "marked": found.marked, **asdict(found)})
        else:
            typer.echo(f"{file}: {_told(found)}")
    if failed:
        note(f"gpa: {failed} of {len(files)} sounds failed")
        raise typer.Exit(1)


def _told(found: Detection) -> str:
    if not found.marked:
        return f"no mark (score {found.score:.1f})"
    spans = ", ".join(f"{start:.1f}-{end:.1f} s" for start, end in found.spans)
    return f"marked (score {found.score:.1f}, payload {found.payload}) at {spans}"

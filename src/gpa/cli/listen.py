"""gpa asr: sounds in, texts out."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpa.cli.options import Checkpoint, Compat, EngineName, Json, note, open_model, print_json, sound_from
from gpa.errors import GPAError

if TYPE_CHECKING:
    from gpa.pipeline import GPA
    from gpa.results import Transcript


class TextFormat(str, Enum):
    """How a transcript is written."""

    text = "text"
    json = "json"
    srt = "srt"
    vtt = "vtt"


_SUFFIXES = {TextFormat.text: ".txt"}


def asr(
    files: Annotated[list[str], typer.Argument(help="Sounds to transcribe; patterns like '*.mp3' are expanded, - reads standard input.")],
    format: Annotated[TextFormat, typer.Option("--format", "-f", help="How to write what was said.")] = TextFormat.text,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for one file a sound, instead of stdout.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Time every word, in the JSON.")] = False,
    keywords: Annotated[str, typer.Option("--keywords", "-k", help="Names and terms that may be said, separated by commas.")] = "",
    checkpoint: Checkpoint = "nano",
    engine: EngineName = "auto",
    compat: Compat = "",
    json: Json = False,
) -> None:
    """Transcribe sounds."""
    from gpa.engines.pages import one_heap

    one_heap()  # a file may last for hours
    format = TextFormat.json if json else format
    names = _expanded(files)
    if len(names) > 1 and out is None and format in (TextFormat.srt, TextFormat.vtt):
        raise typer.BadParameter(f"{len(names)} sounds as {format.value} need a folder to go to: --out DIR")
    if out is not None:
        _make(out)
    failed = 0
    with open_model(checkpoint, engine, compat) as model:
        for name in names:
            try:
                _put(name, _transcribe(model, name, words, keywords.split(",")), format, out, several=len(names) > 1)
            except GPAError as error:
                if len(names) == 1 or isinstance(error.__cause__, BrokenPipeError):
                    raise
                note(f"gpa: {name}: {error}")
                failed += 1
    if failed:
        note(f"gpa: {failed} of {len(names)} sounds failed")
        raise typer.Exit(1)


def _expanded(files: Sequence[str]) -> list[str]:
    """Patterns that the shell left alone -> the files they match; anything else stays."""
    names: list[str] = []
    for file in files:
        found = [] if file == "-" or Path(file).exists() else sorted(glob.glob(file, recursive=True))
        names += found or [file]
    return names


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GPAError(f"{folder} cannot be made: {error.strerror or error}") from error


def _transcribe(model: GPA, name: str, words: bool, keywords: Sequence[str]) -> Transcript:
    """The transcript; on a terminal a counter shows how far it is."""
    from gpa.results import Transcript

    segments = []
    watched = sys.stderr.isatty()
    with sound_from(name) as sound:
        for segment in model.stream_asr(sound, words=words, keywords=keywords):
            segments.append(segment)
            if watched:
                typer.echo(f"\r{name}: {segment.end:.0f} s", err=True, nl=False)
    if watched:
        typer.echo("\r\033[K", err=True, nl=False)
    return Transcript(" ".join(segment.text for segment in segments), tuple(segments))


def _put(name: str, transcript: Transcript, format: TextFormat, out: Path | None, several: bool) -> None:
    row: dict[str, Any] = {"file": name, **asdict(transcript)}
    for segment in row["segments"]:
        for key in ("partial", "revised", *(() if segment["words"] else ("words",))):
            del segment[key]
    if out is None and format is TextFormat.json:
        print_json(row)
        return
    if format is TextFormat.json:
        import json

        body = json.dumps(row, ensure_ascii=False, indent=1) + "\n"
    else:
        body = {TextFormat.text: transcript.text + "\n", TextFormat.srt: transcript.srt(), TextFormat.vtt: transcript.vtt()}[format]
    if out is None:
        typer.echo(f"{name}: {body}" if several else body, nl=False)
        return
    path = out / (("stdin" if name == "-" else Path(name).stem) + _SUFFIXES.get(format, f".{format.value}"))
    try:
        path.write_text(body, encoding="utf-8")
    except OSError as error:
        raise GPAError(f"{path} cannot be written: {error.strerror or error}") from error

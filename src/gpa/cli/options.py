"""Options that several verbs share, and what they do on the way in and out."""

from __future__ import annotations

import codecs
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypeAlias

import typer

from gpa.errors import AudioError

if TYPE_CHECKING:
    from gpa.audio import Source
    from gpa.parts import Stream
    from gpa.pipeline import GPA

SPOOL = 64 << 20  # bytes of standard input kept in memory; more go to a temporary file

Checkpoint: TypeAlias = Annotated[str, typer.Option("--checkpoint", "-c", help="nano, a checkpoint folder, or a published id.")]
EngineName: TypeAlias = Annotated[str, typer.Option("--engine", help="auto, openvino, llama, transformers or vllm.")]
Compat: TypeAlias = Annotated[
    str, typer.Option("--compat", help="reference: hear, prompt and speak as the published code does, faults included.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Out: TypeAlias = Annotated[str, typer.Option("--out", "-o", help="File to write; its suffix names the format. - is stdout.")]
AudioFormat: TypeAlias = Annotated[
    str, typer.Option("--format", "-f", help="wav, pcm, flac, mp3, opus or aac; default: the suffix, or wav.")
]
VoiceName: TypeAlias = Annotated[str, typer.Option("--voice", "-v", help="A name (see gpa voice list), a voice file, or a clip.")]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same samples.")]


def open_model(checkpoint: str, engine: str, compat: str = "") -> GPA:
    """Load the model that a verb asked for."""
    from gpa.engines.pages import large_apart
    from gpa.pipeline import load

    large_apart()
    return load(checkpoint, engine, compat=compat or None)


def note(line: str) -> None:
    """One line on stderr."""
    typer.echo(line, err=True)


def print_json(result: dict[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    typer.echo(json.dumps(result, ensure_ascii=False))


def text_from(text: str) -> str | Iterator[str]:
    """The text itself; - is standard input, as it comes."""
    return _typed() if text == "-" else text


def _typed() -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    stdin: Any = sys.stdin.buffer
    while data := stdin.read1(1 << 16):
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


@contextmanager
def sound_from(name: str) -> Iterator[Source]:
    """A path as it is; - is standard input, whole."""
    if name != "-":
        yield name
        return
    head = sys.stdin.buffer.read(SPOOL)
    if len(head) < SPOOL:
        yield head
        return
    with tempfile.TemporaryFile() as file:
        file.write(head)
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.seek(0)
        yield file


def check_out(out: str, as_json: bool = False) -> None:
    """Refuse what cannot work before any work is done. Raises BadParameter, AudioError."""
    if out == "-":
        if as_json:
            raise typer.BadParameter("--json and -o - both want stdout")
        if sys.stdout.isatty():
            raise typer.BadParameter("stdout is a terminal: give a file (-o hello.wav) or pipe the sound on")
    elif not Path(out).parent.is_dir():
        raise AudioError(f"{out} cannot be written: {Path(out).parent} is no folder")


def pour(stream: Stream, sample_rate: int, format: str) -> int:
    """Encode a stream to stdout as it comes; returns the number of samples."""
    from gpa.audio import Encoder

    encoder, out, samples = Encoder(format or "wav", sample_rate), sys.stdout.buffer, 0
    with closing(stream):
        for wav in stream:
            samples += len(wav)
            _write(out, encoder.push(wav))
    _write(out, encoder.flush())
    return samples


def _write(out: BinaryIO, data: bytes) -> None:
    if data:
        out.write(data)
        out.flush()

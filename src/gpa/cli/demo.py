"""gpa demo: every task once, with what it takes and what it gets wrong, as one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpa.cli.options import Checkpoint, EngineName, Json, open_model, print_json
from gpa.errors import GPAError

if TYPE_CHECKING:
    from gpa.pipeline import GPA
    from gpa.results import Speech

SENTENCES = ("The morning train was late, but nobody seemed to mind.", "She opened the window and listened to the rain.")
VOICES = 3
_WIDTHS = (6, 22, 8, 8, 6, 6)


@dataclass(frozen=True)
class Clip:
    """The recording that comes with a checkpoint: demo.json beside it says what it is."""

    audio: str  # file name
    text: str
    source: str
    license: str
    attribution: str


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    task: str
    what: str
    seconds: float  # of audio
    took: float  # seconds
    wer: float | None  # per cent, against the known text
    result: str  # the file written, or the text heard

    @property
    def factor(self) -> float:
        """Real-time factor: below 1 is faster than the sound lasts."""
        return self.took / self.seconds if self.seconds else 0.0


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the sounds.")] = Path("gpa-demo"),
    checkpoint: Checkpoint = "nano",
    engine: EngineName = "auto",
    json: Json = False,
) -> None:
    """Speak, listen and convert a voice, and show what it takes."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GPAError(f"{out} cannot be made: {error.strerror or error}") from error
    with open_model(checkpoint, engine) as model:
        if not json:
            typer.echo(_line("task", "what", "audio s", "taken s", "rtf", "WER %", "result"))
        for row in perform(model, out):
            if json:
                print_json({**asdict(row), "factor": row.factor})
                continue
            wrong = "" if row.wer is None else f"{row.wer:.0f}"
            typer.echo(_line(row.task, row.what, f"{row.seconds:.2f}", f"{row.took:.2f}", f"{row.factor:.2f}", wrong, row.result))


def _line(*cells: str) -> str:
    return " ".join([*(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=False)), cells[-1]]).rstrip()


def perform(model: GPA, out: Path) -> Iterator[Row]:
    """Do everything, row by row; sounds go to the folder `out`. Raises GPAError: a checkpoint without voices."""
    voices = [name for name in (model.checkpoint.default_voice, *model.voices) if name]
    voices = list(dict.fromkeys(voices))[:VOICES]
    if not voices:
        raise GPAError(f"{model.checkpoint.folder} has no voices to speak with")
    for voice in voices:
        for place, text in enumerate(SENTENCES, 1):
            speech, took = _timed(partial(model.tts, text, voice))
            yield _saved("tts", voice, speech, took, out / f"{voice}-{place}.wav")
            yield _recognised(model, f"{voice} {place}", speech, text)
    clip = _clip(model)
    if clip is None:
        return
    sound, text = clip
    yield _recognised(model, "a human", sound, text)
    speech, took = _timed(partial(model.vc, sound, voices[0]))
    yield _saved("vc", f"a human -> {voices[0]}", speech, took, out / f"converted-{voices[0]}.wav")
    yield _recognised(model, f"a human -> {voices[0]}", speech, text)


def _timed(work: Callable[[], Speech]) -> tuple[Speech, float]:
    started = time.perf_counter()
    speech = work()
    return speech, time.perf_counter() - started


def _saved(task: str, what: str, speech: Speech, took: float, path: Path) -> Row:
    speech.save(path)
    return Row(task, what, speech.duration, took, None, str(path))


def _recognised(model: GPA, what: str, speech: Speech, text: str) -> Row:
    from gpa.evaluation.metrics import wer

    started = time.perf_counter()
    heard = model.asr(speech).text
    took = time.perf_counter() - started
    return Row("asr", what, speech.duration, took, wer([text], [heard]).value, heard)


def _clip(model: GPA) -> tuple[Speech, str] | None:
    """The bundled recording and its text, where the checkpoint has one."""
    from gpa import audio, strict
    from gpa.results import Speech

    folder = model.checkpoint.folder
    if not (folder / "demo.json").is_file():
        return None
    clip = strict.load(Clip, folder / "demo.json")
    return Speech(audio.decode(folder / clip.audio, model.sample_rate), model.sample_rate), clip.text

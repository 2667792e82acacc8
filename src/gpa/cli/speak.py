"""gpa tts, gpa vc: a text or a sound in, speech out."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpa.cli.options import (
    AudioFormat,
    Checkpoint,
    EngineName,
    Json,
    Out,
    Seed,
    VoiceName,
    check_out,
    note,
    open_model,
    pour,
    print_json,
    read_text,
    sound_from,
)

if TYPE_CHECKING:
    from gpa.pipeline import GPA, Stream
    from gpa.results import Speech


def tts(
    text: Annotated[str, typer.Argument(help="What to say; - reads standard input.")],
    out: Out,
    voice: VoiceName = "",
    speed: Annotated[float, typer.Option("--speed", min=0.25, max=4.0, help="2 is twice as fast; the pitch stays.")] = 1.0,
    seed: Seed = 0,
    language: Annotated[str, typer.Option("--language", help="en or zh; default: by the script of the text.")] = "",
    format: AudioFormat = "",
    checkpoint: Checkpoint = "nano",
    engine: EngineName = "auto",
    json: Json = False,
) -> None:
    """Speak a text."""
    check_out(out, json)
    words = read_text(text)
    with open_model(checkpoint, engine) as model:
        target = model.voice(voice or None)
        said = language or None
        whole = partial(model.tts, words, target, speed=speed, seed=seed, language=said)
        stream = partial(model.stream_tts, words, target, speed=speed, seed=seed, language=said)
        _deliver(model, whole, stream, out, format, json)


def vc(
    source: Annotated[str, typer.Argument(help="The sound to convert; - reads standard input.")],
    voice: VoiceName,
    out: Out,
    seed: Seed = 0,
    format: AudioFormat = "",
    checkpoint: Checkpoint = "nano",
    engine: EngineName = "auto",
    json: Json = False,
) -> None:
    """Say the same in another voice."""
    check_out(out, json)
    with sound_from(source) as sound, open_model(checkpoint, engine) as model:
        target = model.voice(voice)
        _deliver(model, partial(model.vc, sound, target, seed=seed), partial(model.stream_vc, sound, target, seed=seed), out, format, json)


def _deliver(model: GPA, whole: Callable[[], Speech], stream: Callable[[], Stream], out: str, format: str, as_json: bool) -> None:
    """To a file as a whole, to stdout as it comes; then say how long it took."""
    started = time.perf_counter()
    if out == "-":
        result: dict[str, Any] = {"seconds": pour(stream(), model.sample_rate, format) / model.sample_rate}
    else:
        speech = whole()
        speech.save(out, format or None)
        result = {"file": out, "seconds": speech.duration, "truncated": speech.truncated, "looped": speech.looped}
    took = time.perf_counter() - started
    result |= {"sample_rate": model.sample_rate, "took": round(took, 3)}
    if as_json:
        print_json(result)
    else:
        note(f"{out}: {result['seconds']:.2f} s of speech in {took:.2f} s")
        if result.get("truncated") or result.get("looped"):
            note("gpa: a sentence ran on and was cut; another --seed may do better")

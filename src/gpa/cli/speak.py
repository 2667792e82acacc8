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
    Compat,
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
    sound_from,
    text_from,
)

if TYPE_CHECKING:
    from gpa.parts import Stream
    from gpa.pipeline import GPA
    from gpa.results import Speech


def tts(
    text: Annotated[str, typer.Argument(help="What to say; - reads standard input, and speaks each sentence when it has come.")],
    out: Out,
    voice: VoiceName = "",
    speed: Annotated[float, typer.Option("--speed", min=0.25, max=4.0, help="2 is twice as fast; the pitch stays.")] = 1.0,
    seed: Seed = 0,
    language: Annotated[str, typer.Option("--language", help="en or zh; default: by the script of the text.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Read every sentence again before it is heard; draw a bad one anew.")] = False,
    format: AudioFormat = "",
    checkpoint: Checkpoint = "nano",
    engine: EngineName = "auto",
    compat: Compat = "",
    json: Json = False,
) -> None:
    """Speak a text."""
    check_out(out, json)
    words = text_from(text)
    with open_model(checkpoint, engine, compat) as model:
        target = model.voice(voice or None)
        said = language or None
        whole = partial(model.tts, words, target, speed=speed, seed=seed, language=said, check=check)
        stream = partial(model.stream_tts, words, target, speed=speed, seed=seed, language=said, check=check)
        _deliver(model, whole, stream, out, format, json)


def vc(
    source: Annotated[str, typer.Argument(help="The sound to convert; - reads standard input.")],
    voice: VoiceName,
    out: Out,
    seed: Seed = 0,
    window: Annotated[
        float,
        typer.Option(
            "--window", min=0, max=4, help="For live talk: convert every so many seconds, 0.16 to 4; 0: whole stretches of speech."
        ),
    ] = 0.0,
    format: AudioFormat = "",
    checkpoint: Checkpoint = "nano",
    engine: EngineName = "auto",
    compat: Compat = "",
    json: Json = False,
) -> None:
    """Say the same in another voice."""
    check_out(out, json)
    if 0 < window < 0.16:
        raise typer.BadParameter(f"--window is {window} (legal: 0, or 0.16 to 4)")
    with sound_from(source) as sound, open_model(checkpoint, engine, compat) as model:
        target, size = model.voice(voice), window or None
        whole = partial(model.vc, sound, target, seed=seed, window=size)
        _deliver(model, whole, partial(model.stream_vc, sound, target, seed=seed, window=size), out, format, json)


def _deliver(model: GPA, whole: Callable[[], Speech], stream: Callable[[], Stream], out: str, format: str, as_json: bool) -> None:
    """To a file as a whole, to stdout as it comes; then say how long it took."""
    started = time.perf_counter()
    if out == "-":
        result: dict[str, Any] = {"seconds": pour(stream(), model.sample_rate, format) / model.sample_rate}
    else:
        speech = whole()
        speech.save(out, format or None)
        result = {"file": out, "seconds": speech.duration, "truncated": speech.truncated, "looped": speech.looped}
        if speech.checks:
            result |= {"cer": round(speech.cer or 0.0, 3), "retried": speech.retried}
    took = time.perf_counter() - started
    result |= {"sample_rate": model.sample_rate, "took": round(took, 3)}
    if as_json:
        print_json(result)
    else:
        note(f"{out}: {result['seconds']:.2f} s of speech in {took:.2f} s")
        if result.get("truncated") or result.get("looped"):
            note("gpa: a sentence ran on and was cut; another --seed may do better")

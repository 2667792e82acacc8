"""What runs at the model: generator functions `(model, *args)`, started by `Slot.stream`. Arguments and items are plain values.

They run on a thread, perhaps in another process: they know no request, no socket and no event loop.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

from gpa import audio
from gpa.errors import GPAError
from gpa.pipeline import GPA
from gpa.results import Segment
from gpa.voice import Voice

RATE = 24_000  # Hz, of every sound that leaves: what the clients' players assume of pcm


@dataclass(frozen=True)
class Sound:
    """Bytes of an audio file in the making, and how many seconds went into them."""

    data: bytes
    seconds: float


@dataclass(frozen=True)
class Usage:
    """The last item of a job: ids in and out, and seconds of sound."""

    input_tokens: int
    output_tokens: int
    seconds: float


@dataclass(frozen=True)
class Limits:
    """Of one file."""

    seconds: float
    decoded: int  # bytes as float32


def speak(
    model: GPA, text: str, voice: Voice | str | None, format: str, speed: float, language: str | None = None
) -> Generator[Sound | Usage, None, None]:
    """A text as an audio file of `RATE` Hz (`gpa.audio.FORMATS`), chunk by chunk; then Usage."""
    encoder, seconds = audio.Encoder(format, model.sample_rate, out_rate=RATE), 0.0
    with closing(model.stream_tts(text, voice, speed=speed, language=language)) as stream:
        for wav in stream:
            part = len(wav) / model.sample_rate
            seconds += part
            yield Sound(encoder.push(wav), part)
    yield Sound(encoder.flush(), 0.0)
    yield Usage(len(model.vocab.encode(text)), round(seconds * speed * model.bicodec.frame_rate), seconds)


def listen(model: GPA, data: bytes, limits: Limits, words: bool = False) -> Generator[Segment | Usage, None, None]:
    """What is said in a file, segment by segment; then Usage. Raises AudioError, LimitError, GPAError (no times of words)."""
    if words and "words" not in signature(model.stream_asr).parameters:
        raise GPAError("this version gives no times of words (legal: timestamp_granularities segment)")
    wav = audio.decode(data, model.sample_rate, limits.seconds, limits.decoded)
    seconds, written = len(wav) / model.sample_rate, 0
    options: dict[str, Any] = {"words": True} if words else {}
    for segment in model.stream_asr(wav, **options):
        written += len(model.vocab.encode(segment.text))
        yield segment
    yield Usage(round(seconds * model.bicodec.frame_rate), written, seconds)


def convert(model: GPA, data: bytes, voice: Voice | str, format: str, limits: Limits) -> Generator[Sound | Usage, None, None]:
    """A file said in another voice, as `speak` gives it. Raises AudioError, LimitError."""
    wav = audio.decode(data, model.sample_rate, limits.seconds, limits.decoded)
    encoder, seconds = audio.Encoder(format, model.sample_rate, out_rate=RATE), 0.0
    with closing(model.stream_vc(wav, voice)) as stream:
        for part in stream:
            seconds += len(part) / model.sample_rate
            yield Sound(encoder.push(part), len(part) / model.sample_rate)
    yield Sound(encoder.flush(), 0.0)
    codes = round(len(wav) / model.sample_rate * model.bicodec.frame_rate)
    yield Usage(codes, round(seconds * model.bicodec.frame_rate), seconds)


def make_voice(model: GPA, data: bytes, name: str, limits: Limits) -> Generator[Voice, None, None]:
    """The voice of a clip. Raises AudioError, LimitError."""
    wav = audio.decode(data, model.sample_rate, limits.seconds, limits.decoded)
    yield replace(model.voice(wav), name=name)

"""What runs at the model: generator functions `(model, *args)`, started by `Slot.stream`. Arguments and items are plain values.

They run on a thread, perhaps in another process: they know no request, no socket and no event loop.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeAlias

from gpa import audio
from gpa.audio import Wav
from gpa.ngrams import names
from gpa.pipeline import GPA
from gpa.results import Segment
from gpa.voice import Voice

PROMPT_NAMES = 200  # that are heeded
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


Job: TypeAlias = "Generator[Sound | Usage, None, None]"


@dataclass(frozen=True)
class Limits:
    """Of one file."""

    seconds: float
    decoded: int  # bytes as float32


@dataclass(frozen=True)
class Hints:
    """What a client says of a sound that is to be understood."""

    keywords: tuple[str, ...] = ()
    prompt: str = ""

    def heeded(self, model: GPA) -> list[str]:
        """The keywords and the first names of the prompt; none where the checkpoint cannot listen for them."""
        if model.prior is None or not model.checkpoint.sampling["asr"].prior_weight:
            return []
        return [*self.keywords, *names(self.prompt, model.prior.ngrams)[:PROMPT_NAMES]]


NO_HINTS = Hints()


class Writer:
    """Samples of the model -> an audio file of `RATE` Hz as it grows."""

    def __init__(self, model: GPA, format: str) -> None:
        """`format`: one of `gpa.audio.FORMATS`."""
        self._encoder, self._rate = audio.Encoder(format, model.sample_rate, out_rate=RATE), model.sample_rate
        self.seconds = 0.0  # written so far

    def push(self, wav: Wav) -> Sound:
        """(T,) at the model's sample rate."""
        seconds = len(wav) / self._rate
        self.seconds += seconds
        return Sound(self._encoder.push(wav), seconds)

    def flush(self) -> Sound:
        """The end of the file."""
        return Sound(self._encoder.flush(), 0.0)


def speak(model: GPA, text: str, voice: Voice | str | None, format: str, speed: float = 1.0) -> Job:
    """A text as an audio file (`Writer`), chunk by chunk; then Usage."""
    out = Writer(model, format)
    with closing(model.stream_tts(text, voice, speed=speed)) as stream:
        yield from map(out.push, stream)
    yield out.flush()
    yield Usage(len(model.vocab.encode(text)), round(out.seconds * speed * model.bicodec.frame_rate), out.seconds)


def listen(model: GPA, data: bytes, limits: Limits, words: bool = False, hints: Hints = NO_HINTS) -> Generator[Segment | Usage, None, None]:
    """What is said in a file, segment by segment, with the times of its words where asked for; then Usage. Raises AudioError,
    LimitError."""
    wav = audio.decode(data, model.sample_rate, limits.seconds, limits.decoded)
    seconds, written = len(wav) / model.sample_rate, 0
    for segment in model.stream_asr(wav, words=words, keywords=hints.heeded(model)):
        written += len(model.vocab.encode(segment.text))
        yield segment
    yield Usage(round(seconds * model.bicodec.frame_rate), written, seconds)


def convert(model: GPA, data: bytes, voice: Voice | str, format: str, limits: Limits) -> Job:
    """A file said in another voice, as `speak` gives it. Raises AudioError, LimitError."""
    wav = audio.decode(data, model.sample_rate, limits.seconds, limits.decoded)
    out = Writer(model, format)
    with closing(model.stream_vc(wav, voice)) as stream:
        yield from map(out.push, stream)
    yield out.flush()
    heard = round(len(wav) / model.sample_rate * model.bicodec.frame_rate)
    yield Usage(heard, round(out.seconds * model.bicodec.frame_rate), out.seconds)


def make_voice(model: GPA, data: bytes, name: str, limits: Limits) -> Generator[Voice, None, None]:
    """The voice of a clip. Raises AudioError, LimitError."""
    wav = audio.decode(data, model.sample_rate, limits.seconds, limits.decoded)
    yield replace(model.voice(wav), name=name)

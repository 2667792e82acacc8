"""Jobs that are fed while they run: text or sound comes in pieces, and what is made of it goes out before the last piece came.

Like those of jobs.py they run on a thread at the model. Sound comes in Blocks, mono, at a rate that is said with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gpa import audio, converting, listening
from gpa.audio import Wav
from gpa.listening import Hearing
from gpa.parts import Outcome, Parts
from gpa.pipeline import GPA
from gpa.results import Segment
from gpa.server import jobs
from gpa.server.jobs import NO_HINTS, Hints, Sound, Usage
from gpa.voice import Voice

LONGEST = 8.0  # seconds of speech that are read at once
PROMPT = 0.3  # seconds after a block came in which it is the newest


@dataclass(frozen=True, eq=False)
class Block:
    """Sound that came in, (T,), and when: `time.monotonic()` is the same in every process."""

    pcm: NDArray[np.int16]
    came: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Codes:
    """What was heard from `start` to `end` in seconds of the source, as a model reads it."""

    start: float
    end: float
    glm: list[int]
    semantic: list[int]


def speak(model: GPA, texts: Iterator[str], voice: Voice | str | None, format: str, speed: float, language: str | None) -> jobs.Job:
    """A text in pieces, spoken sentence by sentence as an audio file (`jobs.Writer`); then Usage. Raises TextError, AudioError."""
    out, written = jobs.Writer(model, format), 0

    def counted() -> Iterator[str]:
        nonlocal written
        for text in texts:
            written += len(model.vocab.encode(text))
            yield text

    with closing(model.stream_tts(counted(), voice, speed=speed, language=language)) as stream:
        yield from map(out.push, stream)
    yield out.flush()
    yield Usage(written, round(out.seconds * speed * model.bicodec.frame_rate), out.seconds)


def hear(model: GPA, blocks: Iterator[Block], rate: int, partials: bool, hints: Hints = NO_HINTS) -> Generator[Segment | Usage, None, None]:
    """Live sound -> segments, partial ones too if asked for; then Usage."""
    heard, written = _Heard(blocks, rate, model.sample_rate), 0
    keywords = hints.heeded(model)
    live = listening.listen_live(model, iter(heard), Hearing.of(model, keywords=keywords), late=lambda: heard.behind > PROMPT)
    for segment in live if partials else model.stream_asr(iter(heard), keywords=keywords):
        written += 0 if segment.partial else len(model.vocab.encode(segment.text))
        yield segment
    yield Usage(round(heard.seconds * model.bicodec.frame_rate), written, heard.seconds)


class _Heard:
    """Blocks as a model takes them; `seconds` of them so far, of which the last one came `behind` seconds ago."""

    def __init__(self, blocks: Iterator[Block], rate: int, wanted: int) -> None:
        self.seconds, self._came = 0.0, time.monotonic()
        self._blocks, self._rate, self._wanted = blocks, rate, wanted

    @property
    def behind(self) -> float:
        return time.monotonic() - self._came

    def __iter__(self) -> Iterator[Wav]:
        resampler = audio.Resampler(self._rate, self._wanted)
        for block in self._blocks:
            self._came = block.came
            self.seconds += len(block.pcm) / self._rate
            if len(wav := resampler.push(block.pcm.astype(np.float32) / np.float32(32768))):
                yield wav
        if len(wav := resampler.flush()):
            yield wav


def convert(
    model: GPA, blocks: Iterator[Block], voice: Voice | str | None, rate: int, window: float | None
) -> Generator[Sound | Codes | Usage, None, None]:
    """Live sound -> s16le in another voice, and the Codes that it was made from, to be read; then Usage."""
    heard, ears, out = _Heard(blocks, rate, model.sample_rate), _Ears(model, window), jobs.Writer(model, "pcm")
    asked = (cast(Parts, ears), iter(heard), model.voice(voice), model.sampling("vc", None, 0), Outcome())
    with closing(converting.convert(*asked) if window is None else converting.convert_live(*asked, window)) as stream:
        for wav in stream:
            yield from ears.taken(out.seconds)
            if len(wav):
                yield out.push(wav)
    yield from ears.taken(out.seconds)
    yield out.flush()
    yield Usage(round(heard.seconds * model.bicodec.frame_rate), round(out.seconds * model.bicodec.frame_rate), out.seconds)


def read(model: GPA, codes: Codes) -> Generator[Segment, None, None]:
    """What a conversion heard, as text: one segment, perhaps of no text."""
    found = listening.read(model, codes.glm, codes.semantic, Hearing.of(model))
    yield Segment(codes.start, codes.end, found.text, found.confidence, found.truncated, found.looped)


class _Ears:
    """A model as a conversion uses it, that keeps what it encodes: captions need no second encoding.

    A conversion by windows encodes each with up to CONTEXT seconds before it and LOOKAHEAD behind: only its own codes are kept."""

    def __init__(self, model: GPA, window: float | None) -> None:
        self._model, self._whole = model, window is None
        self._unit = round(converting.UNIT * model.sample_rate)  # samples
        self._size = max(1, round((window or 0) / converting.UNIT)) * self._unit
        self._context = round(converting.CONTEXT / converting.UNIT) * self._unit
        self._done = 0  # samples of the utterance
        self._glm, self._semantic, self._start = list[int](), list[int](), 0.0
        self._new: list[tuple[list[int], list[int]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, wav: Wav) -> tuple[list[int], list[int]]:
        """As the model does."""
        glm, semantic = self._model.encode(wav)
        before, size = (0, len(wav)) if self._whole else (min(self._done, self._context), self._size)
        size = min(size, len(wav) - before)
        self._done += size
        hop = self._model.sample_rate / self._model.bicodec.frame_rate
        self._new.append((_part(glm, before / self._unit, size / self._unit), _part(semantic, before / hop, size / hop)))
        return glm, semantic

    def semantic_codes(self, wav: Wav) -> list[int]:
        """Captions need the linguistic codes as well."""
        return self.encode(wav)[1]

    def taken(self, given: float) -> Iterator[Codes]:
        """After each step of the conversion, which had given out so many seconds before it: what is to be read now."""
        new, self._new = self._new, []
        if not new:  # a silence
            self._done = 0
            yield from self._close()
        for glm, semantic in new:
            if not self._semantic:
                self._start = max(given, self._start)
            self._glm += glm
            self._semantic += semantic
            if self._whole or len(self._semantic) >= LONGEST * self._model.bicodec.frame_rate:
                yield from self._close()

    def _close(self) -> Iterator[Codes]:
        if self._semantic:
            end = self._start + len(self._semantic) / self._model.bicodec.frame_rate
            yield Codes(self._start, end, self._glm, self._semantic)
            self._glm, self._semantic, self._start = [], [], end


def _part(codes: list[int], first: float, count: float) -> list[int]:
    return codes[round(first) : round(first) + math.ceil(count)]

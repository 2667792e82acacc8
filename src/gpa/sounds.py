"""Any sound in, blocks or spans of speech out: what recognition and conversion hear. Flat memory over hours and live sources.

A sound is a path, bytes, a binary file, a Speech, an array (T,) at the rate asked for, or chunks: an iterator (or list) of such
arrays, as a microphone gives them. What comes out does not depend on how the chunks were cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias, cast

import numpy as np

from gpa import align, audio, segment
from gpa.audio import Source, Wav
from gpa.errors import LimitError
from gpa.results import Speech

Sound: TypeAlias = "Source | Speech | Wav | Iterable[Wav]"

BLOCK = 30.0  # seconds of a long sound that are held at once
SPAN = 10.0  # seconds of speech that are heard at once; longer speech is cut where it is least likely
SURE = 0.9  # of the detector (`segment.sureness`): somebody speaks
LIKE = -21.0  # of the letters (`align.likeness`): somebody speaks, though the detector is not sure


def blocks(sound: Sound, sample_rate: int, seconds: float = BLOCK, longest: float | None = None) -> Iterator[Wav]:
    """A sound in blocks of at most `seconds`, at `sample_rate`; chunks of a live source as they come, longer ones cut.

    Raises AudioError (no sound, damaged, not a wav) and LimitError (beyond `longest` seconds of a file or of chunks), while iterating.
    """
    if isinstance(sound, Speech):
        sound = audio.as_wav(sound.wav, sound.sample_rate, sample_rate)
    size = round(seconds * sample_rate)
    if isinstance(sound, np.ndarray):
        return _cut(audio.as_wav(sound, sample_rate, sample_rate), size)
    if isinstance(sound, (Iterator, list, tuple)) and not hasattr(sound, "read"):  # open files are iterators too
        return _live(cast("Iterable[Wav]", sound), sample_rate, size, longest)
    return audio.blocks(cast("Source", sound), sample_rate, seconds, longest)


def steps(sound: Sound, sample_rate: int, seconds: float, longest: float | None = None) -> Iterator[Wav]:
    """A sound in steps of exactly `seconds`, the last one shorter, however its chunks were cut. Raises as `blocks` does."""
    size = round(seconds * sample_rate)
    held = np.zeros(0, np.float32)
    for block in blocks(sound, sample_rate, BLOCK, longest):
        held = np.concatenate([held, block])
        whole = len(held) - len(held) % size
        yield from _cut(held[:whole], size)
        held = held[whole:]
    yield from _cut(held, size)


def spans(sound: Sound, sample_rate: int, longest: float | None = None) -> Iterator[tuple[float, Wav]]:
    """(start in seconds, wav) of each stretch of speech; the last one is empty and stands where the sound ends."""
    heard, ear = 0, Ear(sample_rate)

    def counted() -> Iterator[Wav]:
        nonlocal heard
        for wav in blocks(sound, sample_rate, BLOCK, longest):
            heard += len(wav)
            yield wav

    for found in segment.segments(counted(), SPAN, sample_rate):
        if ear.hears(found):
            yield found.start, found.wav
    yield heard / sample_rate, np.zeros(0, np.float32)


class Ear:
    """Tells in which of the spans that a `Segmenter` finds somebody speaks, so that a buzzer or a hum is not heard as words.

    The detector must be sure, or else what it found must sound like letters, as one short word does; and it must be no crowd of which
    nobody stands out. None of these knows a checkpoint."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._start = self._until = -1.0  # of the last span in which somebody spoke

    def hears(self, found: segment.Segment) -> bool:
        """Whether somebody speaks in a span, which may still be open. What was speech stays it, and so is what goes on from its end."""
        spoken = found.start in (self._start, self._until) or self._spoken(found.wav)
        if spoken:
            self._start, self._until = found.start, found.end
        return spoken

    def _spoken(self, wav: Wav) -> bool:
        heard = audio.as_wav(wav, self._rate, align.RATE)
        if segment.sureness(wav, self._rate) < SURE and align.likeness(heard) < LIKE:
            return False
        return not align.many(heard)


def silence(seconds: float, sample_rate: int) -> Iterator[Wav]:
    """Zeros, in blocks; none for a time that is not after now."""
    left = round(seconds * sample_rate)
    while left > 0:
        part = min(left, round(BLOCK * sample_rate))
        yield np.zeros(part, np.float32)
        left -= part


def _live(chunks: Iterable[Wav], sample_rate: int, size: int, longest: float | None) -> Iterator[Wav]:
    heard = 0
    for chunk in chunks:
        if isinstance(chunk, np.ndarray) and not chunk.size:
            continue
        wav = audio.as_wav(chunk, sample_rate, sample_rate)
        heard += len(wav)
        if longest is not None and heard > longest * sample_rate:
            raise LimitError(f"the sound is longer than {longest:g} s (legal: up to {longest:g} s)")
        yield from _cut(wav, size)


def _cut(wav: Wav, size: int) -> Iterator[Wav]:
    return (wav[start : start + size] for start in range(0, len(wav), size))

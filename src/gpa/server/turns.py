"""Turns: when somebody begins to speak and when they are done, in live sound; what a session's turn detection asks for.

Sound at any rate goes in; what comes out is at `VAD_RATE`, in whole frames of 32 ms, and only where somebody speaks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpa.audio import Resampler, Wav
from gpa.segment import FRAME, FRAME_SECONDS, VAD_RATE, Detection, Segmenter

START = 3  # frames of speech in a row that begin a turn: shorter bursts are clicks
LONGEST = 60.0  # seconds of a turn; speech beyond it is a turn of its own
_STEP = 64  # frames that the detector sees at once at most: its memory of an endless sound stays small


@dataclass(frozen=True)
class Manner:
    """How turns are found; the names and defaults of OpenAI's `server_vad`."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300  # kept of what came before
    silence_duration_ms: int = 500  # that ends a turn


@dataclass(frozen=True)
class Began:
    """Speech began; its sound follows. `ms` since the session began, padding included."""

    ms: int


@dataclass(frozen=True, eq=False)
class Spoken:
    """Sound of the open turn: int16 at `VAD_RATE`."""

    pcm: NDArray[np.int16]


@dataclass(frozen=True)
class Over:
    """Speech ended, after its silence. `ms` since the session began."""

    ms: int


Event: TypeAlias = "Began | Spoken | Over"


class Turns:
    """Blocks in, events out. What comes out does not depend on how the sound was cut."""

    def __init__(self, rate: int, manner: Manner) -> None:
        """`rate` in Hz, of what is pushed. Raises AudioError: illegal."""
        self._resampler = Resampler(rate, VAD_RATE)
        self._rest = np.zeros(0, np.float32)  # less than a frame
        self._ears = _Ears(manner.threshold)
        self._prefix: deque[Wav] = deque(maxlen=_frames(manner.prefix_padding_ms) + START)
        self._silence = max(1, _frames(manner.silence_duration_ms))
        self._frame = 0  # frames seen
        self._row = 0  # of them, the last ones that hold speech (between turns) or none (in a turn)
        self._began = 0
        self.speaking = False

    def push(self, wav: Wav) -> list[Event]:
        """(T,) at the rate of the source -> what is certain."""
        wav = np.concatenate([self._rest, self._resampler.push(wav)])
        whole = len(wav) - len(wav) % FRAME
        self._rest = wav[whole:].copy()
        return list(self._events(wav[:whole].reshape(-1, FRAME)))

    def stop(self) -> list[Event]:
        """End the open turn here, as a client's commit does."""
        self._row = 0
        self._prefix.clear()
        if not self.speaking:
            return []
        self.speaking = False
        return [Over(self.ms)]

    @property
    def ms(self) -> int:
        """Of sound that was heard so far."""
        return round(self._frame * FRAME_SECONDS * 1000)

    def _events(self, frames: Wav) -> Iterator[Event]:
        for frame, voiced in zip(frames, self._ears.push(frames), strict=True):
            self._frame += 1
            if not self.speaking:
                self._prefix.append(frame)
                self._row = self._row + 1 if voiced else 0
                if self._row >= START:
                    yield from self._begin()
                continue
            yield Spoken(_pcm(frame))
            self._row = 0 if voiced else self._row + 1
            if self._row >= self._silence or (self._frame - self._began) * FRAME_SECONDS >= LONGEST:
                yield from self.stop()

    def _begin(self) -> Iterator[Event]:
        self._began = self._frame - len(self._prefix)
        yield Began(round(self._began * FRAME_SECONDS * 1000))
        yield Spoken(_pcm(np.concatenate(list(self._prefix))))
        self.speaking, self._row = True, 0
        self._prefix.clear()


class _Ears:
    """Whole frames in, whether each holds speech out."""

    def __init__(self, threshold: float) -> None:
        threshold = min(max(threshold, 0.05), 1.0)
        release = max(threshold - 0.15, 0.02)  # as Silero has it
        self._segmenter = Segmenter(30.0, VAD_RATE, Detection(threshold, release, 0.0, FRAME_SECONDS, 0.0))
        self._frame = 0

    def push(self, frames: Wav) -> list[bool]:
        """(n, FRAME) -> n answers."""
        return [voiced for at in range(0, len(frames), _STEP) for voiced in self._some(frames[at : at + _STEP])]

    def _some(self, frames: Wav) -> list[bool]:
        voiced = [False] * len(frames)
        found = self._segmenter.push(frames.reshape(-1))
        begun = self._segmenter.begun
        for span in [*found, *([begun] if begun is not None else [])]:
            first, end = (round(seconds / FRAME_SECONDS) - self._frame for seconds in (span.start, span.end))
            for at in range(max(first, 0), min(end, len(voiced))):
                voiced[at] = True
        self._frame += len(frames)
        return voiced


def _frames(ms: int) -> int:
    return round(ms / 1000 / FRAME_SECONDS)


def _pcm(wav: Wav) -> NDArray[np.int16]:
    return np.rint(wav * 32768).clip(-32768, 32767).astype(np.int16)

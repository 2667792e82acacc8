"""Where speech is: long audio in, speech spans out, cut at pauses, in flat memory.

The detector is Silero VAD (MIT, in the package): one speech probability a frame of 32 ms. A pure function of the sound:
neither the length of the blocks nor what else runs changes a span. Times are seconds from the start of the sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpa.audio import Resampler, Wav, as_wav
from gpa.nets.net import Net, load_net

VAD_RATE = 16_000  # Hz
FRAME = 512  # samples at VAD_RATE: 32 ms
CONTEXT = 64  # samples of the frame before that the net sees too
FRAME_SECONDS = FRAME / VAD_RATE
_BLOCK_SECONDS = 30.0  # a whole array is looked at in blocks
_ROW = 6  # frames (0.19 s): a syllable
_QUIET, _USUAL = 10 ** (-50 / 20), 10 ** (-23 / 20)  # RMS: the detector hears less in what is quieter than that; what speech mostly has


@dataclass(frozen=True)
class Span:
    """Speech from `start` to `end`, in seconds."""

    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Segment:
    """A span and its sound: `wav` (T,) at the rate of the source."""

    start: float
    end: float
    wav: Wav


@dataclass(frozen=True)
class Detection:
    """When a frame counts as speech. Probabilities 0..1, durations in seconds."""

    threshold: float = 0.5  # speech begins at this probability ...
    release: float = 0.35  # ... and goes on down to this one (Silero's own: threshold - 0.15)
    min_speech: float = 0.16  # shorter bursts are clicks, not words
    min_silence: float = 0.4  # a shorter pause does not end a span
    padding: float = 0.16  # kept before and after: soft consonants score low
    unit: float = 0.16  # spans are whole numbers of it long, as far as the pause behind them reaches: few lengths are met

    def __post_init__(self) -> None:
        ordered = 0 < self.release <= self.threshold <= 1 and 0 <= 2 * self.padding <= self.min_silence
        if not (ordered and self.min_speech >= 0 and self.unit > 0):
            legal = "0 < release <= threshold <= 1, min_speech >= 0, 0 <= 2 * padding <= min_silence, unit > 0"
            raise ValueError(f"illegal {self}; legal: {legal}")


def speech_spans(wav: Wav, sample_rate: int = VAD_RATE, detection: Detection | None = None) -> list[Span]:
    """The spans of (T,) that hold speech, in order and apart; empty for silence, noise and music.

    Raises AudioError: not a wav, illegal rate."""
    return [Span(segment.start, segment.end) for segment in segments(wav, None, sample_rate, detection)]


def segments(
    sound: Wav | Iterable[Wav], max_seconds: float | None = 30.0, sample_rate: int = VAD_RATE, detection: Detection | None = None
) -> Iterator[Segment]:
    """Speech out of a wav (T,) or of its blocks (`gpa.audio.blocks`), as soon as each piece is over.

    A span longer than `max_seconds` is cut where speech is least likely, in the second half of what is allowed; the
    two pieces touch. No speech is lost: the segments together hold every span of `speech_spans`, in order, apart.
    Memory holds one block and one segment. Raises AudioError: not a wav, illegal rate.
    """
    segmenter = Segmenter(max_seconds, sample_rate, detection)
    step = round(_BLOCK_SECONDS * sample_rate)
    blocks = (sound[i : i + step] for i in range(0, len(sound), step)) if isinstance(sound, np.ndarray) else sound
    for block in blocks:
        yield from segmenter.push(block)
    yield from segmenter.flush()


def sureness(wav: Wav, sample_rate: int = VAD_RATE) -> float:
    """How sure the detector is that (T,) holds speech, 0 .. 1: the mean probability of its likeliest 0.19 s, heard by itself
    and, if it is quiet, louder. Raises AudioError: not a wav, illegal rate."""
    if not np.any(wav):
        return 0.0
    wav = as_wav(wav, sample_rate, VAD_RATE)
    rms = float(np.sqrt(np.mean(np.square(wav))))
    if rms < _QUIET:
        wav = wav * np.float32(min(_USUAL / rms, 1 / np.abs(wav).max()))
    vad = _Vad(VAD_RATE)
    probabilities = np.concatenate([vad.push(wav), vad.flush()])
    row = min(_ROW, len(probabilities))
    return float(np.convolve(probabilities, np.full(row, 1 / row), "valid").max())


class Segmenter:
    """Blocks in, finished segments out; for live sound. `speaking` tells whether a span is open at the end of the input."""

    def __init__(self, max_seconds: float | None = 30.0, sample_rate: int = VAD_RATE, detection: Detection | None = None) -> None:
        detection = detection or Detection()
        self._rate = sample_rate
        self._vad = _Vad(sample_rate)
        self._spotter = _Spotter(detection, max_seconds)
        self._held = np.zeros(0, np.float32)  # the sound from sample `_base` on
        self._base = 0

    @property
    def speaking(self) -> bool:
        """Whether speech has begun and not yet ended."""
        return self._spotter.begin is not None

    @property
    def begun(self) -> Segment | None:
        """The open span, as far as whole units of it have come; None while nobody speaks."""
        if self._spotter.begin is None:
            return None
        start, end = max(self._sample(self._spotter.begin), self._base), self._base + len(self._held)
        end -= (end - start) % self._sample(self._spotter.unit)
        return Segment(start / self._rate, end / self._rate, self._held[start - self._base : end - self._base].copy())

    def push(self, block: Wav) -> list[Segment]:
        """(T,) -> the segments that ended in it. Raises AudioError."""
        if not len(block):
            return []
        block = as_wav(block, self._rate, self._rate)
        self._held = np.concatenate([self._held, block])
        return self._segments([span for p in self._vad.push(block) for span in self._spotter.push(float(p))])

    def flush(self) -> list[Segment]:
        """The segment that the end of the sound closes, if any; nothing may be pushed afterwards."""
        spans = [span for p in self._vad.flush() for span in self._spotter.push(float(p))]
        return self._segments(spans + self._spotter.flush())

    def _segments(self, spans: list[tuple[int, int]]) -> list[Segment]:
        found = []
        for first, end in spans:  # frames
            a = max(self._sample(first), self._base)
            b = min(self._sample(end), self._base + len(self._held))
            if a < b:
                wav = self._held[a - self._base : b - self._base].copy()
                found.append(Segment(a / self._rate, b / self._rate, wav))
        keep = min(max(self._sample(self._spotter.needed), self._base), self._base + len(self._held))
        self._held, self._base = self._held[keep - self._base :].copy(), keep
        return found

    def _sample(self, frame: int) -> int:
        """First sample of a frame, at the rate of the source."""
        return frame * FRAME * self._rate // VAD_RATE


class _Spotter:
    """Speech probabilities in, spans of frames (first, end) out."""

    def __init__(self, detection: Detection, max_seconds: float | None) -> None:
        self._detection = detection
        self._padding = _frames(detection.padding)
        room = max(1, _frames(detection.min_silence)) - self._padding  # of a pause, behind the padding
        self.unit = max(1, min(_frames(detection.unit), room))  # frames
        self._longest = None if max_seconds is None else int(max_seconds / FRAME_SECONDS)
        if self._longest is not None and self._longest < 2 * self._padding + 4:
            least = (2 * self._padding + 4) * FRAME_SECONDS
            raise ValueError(f"max_seconds is {max_seconds} (legal: at least {least:.3f}, two paddings and four frames)")
        self._frame = 0  # frames seen
        self._last = 0  # end of the last span given out
        self.begin: int | None = None  # first frame of the open span, padding included
        self._voiced = 0  # end of its last frame of speech
        self._loud = 0  # its frames of speech
        self._probabilities: list[float] = []  # of the frames from `begin` on, where a cut may become necessary

    @property
    def needed(self) -> int:
        """The first frame that a later span may still hold."""
        return max(self._last, self._frame - self._padding) if self.begin is None else self.begin

    def push(self, probability: float) -> list[tuple[int, int]]:
        """One frame -> the spans that it ends."""
        detection, frame = self._detection, self._frame
        self._frame += 1
        if self.begin is None:
            if probability < detection.threshold:
                return []
            self.begin = max(frame - self._padding, self._last)
            self._loud, self._probabilities = 0, [1.0] * (frame - self.begin)
        self._probabilities += [probability] if self._longest is not None else []
        if probability >= detection.release:
            self._voiced = self._frame
            self._loud += 1
        elif self._frame - self._voiced >= max(1, _frames(detection.min_silence)):
            return self.flush()
        if self._longest is not None and self._frame - self.begin >= self._longest - self._padding:
            return self._cut()
        return []

    def flush(self) -> list[tuple[int, int]]:
        """Close the open span; a short one is dropped, unless it is the rest of a cut."""
        if self.begin is None:
            return []
        end = self._voiced + self._padding
        span = self.begin, end + (self.begin - end) % self.unit
        real = self._loud >= max(1, _frames(self._detection.min_speech)) or (self.begin == self._last and self.begin > 0)
        self.begin = None
        if not real or self._voiced <= span[0]:
            return []
        self._last = span[1]
        return [span]

    def _cut(self) -> list[tuple[int, int]]:
        """End the open span at its least likely frame of the second half that is a unit's end, and begin the next one there."""
        assert self.begin is not None
        smooth = np.convolve(self._probabilities, np.ones(3) / 3, mode="same")
        half = len(smooth) // 2
        first = half + -half % self.unit
        places = smooth[first : -1 : self.unit]
        place = first + self.unit * int(np.argmin(places)) if len(places) else half
        span = self.begin, self.begin + place
        self.begin = self._last = span[1]
        self._probabilities = self._probabilities[place:]
        return [span]


class _Vad:
    """Blocks in, one speech probability a whole frame out; holds the recurrent state."""

    def __init__(self, sample_rate: int) -> None:
        self._resampler = Resampler(sample_rate, VAD_RATE)
        self._rest = np.zeros(0, np.float32)  # less than a frame
        self._context = np.zeros((1, CONTEXT), np.float32)
        self._h = self._c = np.zeros((1, 1, 128), np.float32)

    def push(self, block: Wav) -> NDArray[np.float32]:
        """(T,) at the source's rate -> (frames,)."""
        return self._score(np.concatenate([self._rest, self._resampler.push(block)]))

    def flush(self) -> NDArray[np.float32]:
        """The last frame, filled up with silence."""
        wav = np.concatenate([self._rest, self._resampler.flush()])
        return self._score(np.pad(wav, (0, -len(wav) % FRAME)))

    def _score(self, wav: Wav) -> NDArray[np.float32]:
        count = len(wav) // FRAME
        self._rest = wav[count * FRAME :]
        if not count:
            return np.zeros(0, np.float32)
        frames = wav[: count * FRAME].reshape(count, FRAME)
        contexts = np.concatenate([self._context, frames[:-1, -CONTEXT:]])
        out = _net()(input=np.concatenate([contexts, frames], axis=1), h=self._h, c=self._c)  # (frames, 64 + 512)
        self._context, self._h, self._c = frames[-1:, -CONTEXT:].copy(), out["hn"], out["cn"]
        scores: NDArray[np.float32] = out["speech_probs"]
        return scores


@cache
def _net() -> Net:
    """The embedded detector, loaded once for all threads; one core runs it at about 1500 times real time."""
    return load_net(Path(__file__).parent / "nano" / "silero_vad.onnx", threads=1)


def _frames(seconds: float) -> int:
    return round(seconds / FRAME_SECONDS)

"""Speech -> the same in another voice: spans of speech -> semantic codes -> prompt -> semantic codes -> sound.

Two ways, both exact in time. By spans: speech is converted as a whole once its pause is heard, which sounds best and is late by the
length of a span. By windows, for live talk: every `window` seconds are converted by themselves, with what was said before
as context and LOOKAHEAD seconds of the source behind them; what is heard is late by a window, the look-ahead, the work, and
what the codec holds back (nano: 0.16 to 0.28 s).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gpa import bounds, prompt, sounds
from gpa.audio import Wav
from gpa.engines.base import Sampling
from gpa.parts import Outcome, Parts, Stream
from gpa.segment import Segment, Segmenter
from gpa.sounds import SPAN, Sound
from gpa.tokenizers.window import FIRST_SECONDS
from gpa.voice import Voice

UNIT = 0.08  # seconds: one linguistic code; windows are whole numbers of them
LOOKAHEAD = 0.16  # seconds of the source behind a window that its codes are worked out with
CONTEXT = 3.0  # seconds before a window that it goes on from
WINDOWS = (0.16, 4.0)  # legal, seconds


def convert(parts: Parts, sound: Sound, target: Voice, sampling: Sampling, outcome: Outcome, longest: float | None = None) -> Stream:
    """By spans: each starts where it started in the source, as far as what was said before leaves room; between is silence."""
    given = 0
    for start, wav in sounds.spans(sound, parts.sample_rate, longest):
        for part in sounds.silence(start - given / parts.sample_rate, parts.sample_rate):
            yield part
            given += len(part)
        if not len(wav):
            break
        codes = parts.semantic_codes(wav)
        bounded = replace(sampling, max_new_ids=bounds.vc_limit(len(codes)), min_new_ids=bounds.vc_floor(len(codes)))
        decoder = parts.bicodec.stream(target.codes, sampling.seed, fit=target.fit)
        for code in parts.semantic(prompt.vc(parts.vocab, target.codes, codes), bounded, outcome):
            part = decoder.push([code])
            yield part
            given += len(part)
        part = decoder.flush()
        yield part
        given += len(part)


def convert_live(
    parts: Parts, sound: Sound, target: Voice, sampling: Sampling, outcome: Outcome, window: float, longest: float | None = None
) -> Stream:
    """By windows of `window` seconds: as many samples as the source has. Raises ValueError: an illegal window."""
    live = _Live(parts, target, sampling, outcome, window)

    def stream() -> Stream:
        for block in sounds.steps(sound, parts.sample_rate, UNIT, longest):
            yield from live.push(block)
        yield from live.flush()

    return stream()


class _Live:
    """A conversion by windows: what is held of the source, and the utterance that is being said."""

    def __init__(self, parts: Parts, target: Voice, sampling: Sampling, outcome: Outcome, window: float) -> None:
        if not WINDOWS[0] <= window <= WINDOWS[1]:
            raise ValueError(f"window is {window} s (legal: {WINDOWS[0]} to {WINDOWS[1]})")
        self._parts, self._target, self._sampling, self._outcome = parts, target, sampling, outcome
        unit = round(UNIT * parts.sample_rate)
        self._size = max(1, round(window / UNIT)) * unit
        self._ahead, self._context = (round(seconds / UNIT) * unit for seconds in (LOOKAHEAD, CONTEXT))
        self._hop = round(parts.sample_rate / parts.bicodec.frame_rate)
        self._held = np.zeros(0, np.float32)  # the source from sample `_base` on
        self._base = self._at = 0  # `_at`: where the next window begins
        self._ears = Segmenter(SPAN, parts.sample_rate)
        self._spoken_until = 0.0  # seconds: end of the last span that is over
        self._utterance: _Utterance | None = None

    def push(self, block: Wav) -> Iterator[Wav]:
        """(T,) of the source -> what is settled of the sound."""
        self._held = np.concatenate([self._held, block])
        self._hear(self._ears.push(block))
        while self._base + len(self._held) >= self._at + self._size + self._ahead:
            yield from self._window(self._size)

    def flush(self) -> Iterator[Wav]:
        """The rest."""
        self._hear(self._ears.flush())
        while (left := self._base + len(self._held) - self._at) > 0:
            yield from self._window(min(left, self._size))
        yield from self._hush()

    def _hear(self, found: list[Segment]) -> None:
        self._spoken_until = max([self._spoken_until, *(span.end for span in found)])

    def _window(self, size: int) -> Iterator[Wav]:
        """The next `size` samples of the source -> sound, of which some may come with a later window."""
        start, end = self._at, self._at + size
        self._at = end
        begun = self._ears.begun
        if self._spoken_until * self._parts.sample_rate > start or (begun is not None and begun.start * self._parts.sample_rate < end):
            if self._utterance is None:
                self._utterance = _Utterance(self._parts, self._target, self._sampling, start, size / self._parts.sample_rate)
            yield self._speak(self._utterance, size)
        else:
            yield from self._hush()
            yield np.zeros(size, np.float32)
        keep = max(self._base, self._at - self._context)
        self._held, self._base = self._held[keep - self._base :].copy(), keep

    def _speak(self, utterance: _Utterance, size: int) -> Wav:
        first = max(utterance.start, self._base)
        wav = self._held[first - self._base : self._at + self._ahead - self._base]
        codes = self._parts.semantic_codes(wav)
        before = (self._at - size - first) // self._hop
        return utterance.say(codes, before, -(-size // self._hop), size, self._outcome)

    def _hush(self) -> Iterator[Wav]:
        """End the utterance, if one is being said."""
        if self._utterance is not None:
            yield self._utterance.flush()
            self._utterance = None


class _Utterance:
    """Speech between two silences: its codes so far and its decoder. It gives out as many samples as the source had."""

    def __init__(self, parts: Parts, target: Voice, sampling: Sampling, start: int, window: float) -> None:
        self.start = start  # sample of the source
        self._parts, self._target, self._sampling = parts, target, sampling
        self._decoder = parts.bicodec.stream(target.codes, sampling.seed, longest=min(window, FIRST_SECONDS), fit=target.fit)
        self._said: list[int] = []
        self._due = 0  # samples that are owed

    def say(self, source: list[int], before: int, count: int, size: int, outcome: Outcome) -> Wav:
        """Codes of the source, of which `before` were converted already and `count` are now -> sound.

        Where the model falls short the source's own codes are spoken: they hold the words, not the voice."""
        spoken = self._said[len(self._said) - before :] if before else []
        asked = prompt.vc(self._parts.vocab, self._target.codes, source, spoken=spoken)
        drawn = replace(self._sampling, max_new_ids=count, min_new_ids=count, seed=self._sampling.seed + len(self._said))
        own = Outcome()  # every window ends at its limit: that is no sign of a runaway
        codes = list(self._parts.semantic(asked, drawn, own))
        codes += source[before + len(codes) : before + count]
        outcome.looped |= own.looped
        self._said += codes
        self._due += size
        return self._given(self._decoder.push(codes))

    def flush(self) -> Wav:
        """The rest; silence where the source ended within a code."""
        wav = self._given(self._decoder.flush())
        return np.pad(wav, (0, self._due))

    def _given(self, wav: Wav) -> Wav:
        wav = wav[: self._due]  # the last code may be longer than the source
        self._due -= len(wav)
        return wav

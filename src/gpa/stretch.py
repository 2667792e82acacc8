"""Speaking faster or slower at the same pitch: waveform-similarity overlap-add (WSOLA; Verhelst and Roelands, ICASSP 1993).

Windows of 30 ms are laid at a fixed distance; each is taken from where the sound goes on most like the one before,
within 8 ms of where the speed asks. Streaming is exact: however the sound is cut into pushes, the output is the same.
"""

from __future__ import annotations

import math

import numpy as np

from gpa.audio import Wav

SPEEDS = (0.25, 4.0)  # legal, slowest and fastest
WINDOW = 0.030  # seconds
TOLERANCE = 0.008  # seconds


class Stretcher:
    """`speed` 2 halves the duration. A speed of exactly 1 hands every sample through unchanged."""

    def __init__(self, speed: float, sample_rate: int) -> None:
        """Raises ValueError: a speed outside SPEEDS."""
        if not SPEEDS[0] <= speed <= SPEEDS[1]:
            raise ValueError(f"speed is {speed} (legal: {SPEEDS[0]:g} to {SPEEDS[1]:g})")
        self.speed = speed
        self.hop = round(WINDOW * sample_rate / 2)  # between windows of the output
        self.reach = round(TOLERANCE * sample_rate)
        ramp = np.arange(2 * self.hop) / (2 * self.hop)
        self.window = (0.5 - 0.5 * np.cos(2 * np.pi * ramp)).astype(np.float32)  # two halves overlapped add to 1
        self.first = np.concatenate([np.ones(self.hop, np.float32), self.window[self.hop :]])  # does not fade in
        self._held = np.zeros(0, np.float32)  # samples from `_start` on
        self._start = 0  # place of the first held sample in the input
        self._heard = 0  # samples pushed
        self._given = 0  # samples put out
        self._frames = 0  # windows laid
        self._next = 0  # where the sound of the last window goes on, in the input
        self._tail = np.zeros(0, np.float32)  # second half of the last window, not yet overlapped

    def push(self, wav: Wav) -> Wav:
        """(T,) -> the samples that are settled."""
        if self.speed == 1:
            return wav
        self._held = np.concatenate([self._held, wav])
        self._heard += len(wav)
        return self._lay(final=False)

    def flush(self) -> Wav:
        """The rest: all pushes and the flush together have round(T / speed) samples. Nothing may be pushed afterwards."""
        if self.speed == 1:
            return np.zeros(0, np.float32)
        length = round(self._heard / self.speed)
        missing = length - self._given
        self._held = np.pad(self._held, (0, 4 * self.hop + 2 * self.reach + round(self.hop * self.speed)))
        rest = self._lay(final=True, until=length)
        out: Wav = rest[:missing]
        return out

    def _lay(self, final: bool, until: int = 0) -> Wav:
        """Lay windows while the input they may be taken from is there; at the end, until `until` samples are out."""
        parts = []
        while self._given < until if final else self._ready():
            place = self._place()
            window = self._cut(place, 2 * self.hop) * (self.window if self._frames else self.first)
            parts.append(window[: self.hop] + self._tail if self._frames else window[: self.hop])
            self._tail = window[self.hop :]
            self._next = place + self.hop
            self._frames += 1
            self._given += self.hop
            self._forget()
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _aim(self) -> int:
        """Where the speed asks the next window to be taken from."""
        return round(self._frames * self.hop * self.speed)

    def _ready(self) -> bool:
        """Whether all the next window may look at is there, and what it brings is not more than the whole will hold."""
        return self._heard >= max(self._aim() + self.reach, self._next) + math.ceil(max(2.0, self.speed) * self.hop)

    def _place(self) -> int:
        """The start, within reach of the aim, of what is most like the natural continuation of the last window."""
        aim = self._aim()
        if not self._frames:
            return aim
        low = max(aim - self.reach, 0)
        wanted = self._cut(self._next, 2 * self.hop)
        there = self._cut(low, aim + self.reach - low + 2 * self.hop)
        likeness = np.correlate(there, wanted)
        energy = np.convolve(there**2, np.ones(2 * self.hop, np.float32), "valid")
        return low + int(np.argmax(likeness / np.sqrt(np.maximum(energy, 1e-6))))

    def _cut(self, start: int, length: int) -> Wav:
        """Samples of the input; zeros beyond its end."""
        found = self._held[start - self._start : start - self._start + length]
        return np.pad(found, (0, length - len(found)))

    def _forget(self) -> None:
        """Drop what no later window can need."""
        keep = max(min(self._aim() - self.reach, self._next), self._start)
        self._held = self._held[keep - self._start :]
        self._start = keep

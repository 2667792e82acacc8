"""Rows of a source-filter head -> wave, without torch and exactly streamable: pushes and flush equal one push of all.

The maths is that of gpa.nets.source_filter (pulses and render). A wave sample is settled once the rows around it are
known (`lookahead`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpa.errors import CheckpointError

Array: TypeAlias = NDArray[np.float64]
HARMONIC_TOP = 7600.0  # Hz: the pulse train holds no harmonic above


class Rows(NamedTuple):
    """N frames of the head: (N,) or (N, n_fft // 2 + 1), float32."""

    f0: NDArray[np.float32]  # Hz, continuous through unvoiced frames
    voiced: NDArray[np.float32]  # logit; voiced where > 0
    harmonic: NDArray[np.float32]  # log-magnitude of the pulse filter
    phase: NDArray[np.float32]  # radians of the pulse filter
    noise: NDArray[np.float32]  # log-magnitude of the noise filter

    def part(self, start: int, stop: int | None = None) -> Rows:
        """Rows start .. stop - 1."""
        return Rows(*(x[start:stop] for x in self))

    def then(self, later: Rows) -> Rows:
        """These rows and those after them."""
        return Rows(*(np.concatenate(pair) for pair in zip(self, later, strict=True)))

    def with_voiced_noise(self, decibels: float) -> Rows:
        """These rows with more noise where they are voiced, or with less."""
        gain = np.where(self.voiced > 0, np.float32(decibels * np.log(10) / 20), np.float32(0))
        return self._replace(noise=self.noise + gain[:, None])


class SourceFilterSynthesis:
    """One utterance: its pulse phase, its noise (a function of seed and frame alone) and its overlapping windows."""

    def __init__(self, n_fft: int, hop_length: int, sample_rate: int, seed: int = 0, start: float = 0.0) -> None:
        """`start`: phase of the first pulse, in cycles. Raises CheckpointError."""
        if n_fft % (2 * hop_length):
            raise CheckpointError(f"n_fft {n_fft} is no even multiple of hop_length {hop_length}")
        self.n_fft, self.hop_length, self.sample_rate, self.seed = n_fft, hop_length, sample_rate, seed
        self._philox = np.random.Philox(key=seed)
        self._start, self._normal = self._philox.state, np.random.Generator(self._philox).standard_normal
        self._window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
        self._cycles = start  # phase after the last sample
        self._gate = math.nan  # voicing of the row before
        self._held: Rows | None = None  # the last row: its f0 leads to the next one's
        self._waiting: Rows | None = None  # rows whose frame is not complete
        self._excitation: Array = np.zeros(n_fft // 2)  # of the frames that are not complete
        self._frame = 0  # number of the next frame
        self._wave: Array = np.zeros(n_fft)  # sum of the frames so far, from the first sample that is not given out
        self._envelope: Array = np.zeros(n_fft)  # sum of their squared windows
        self._skip = n_fft // 2  # the first frame is centred on the first sample

    @property
    def lookahead(self) -> int:
        """Rows that follow a row before all its samples are settled."""
        return self.n_fft // self.hop_length

    def push(self, rows: Rows) -> Array:
        """Rows -> the samples they settle (T,), possibly none."""
        rows = self._held.then(rows) if self._held is not None else rows
        if not len(rows.f0):
            return np.zeros(0)
        self._held = rows.part(-1)
        return self._settle(rows.part(0, -1), rows.f0[1:])

    def flush(self) -> Array:
        """The rest (T,): hop_length samples for each row were given out then."""
        if self._held is None:
            return np.zeros(0)
        last, self._held = self._held, None
        settled = self._settle(last, last.f0)
        # the frame centred on the end of the last row repeats its filters
        self._waiting = self._waiting.then(last) if self._waiting is not None else last
        end = self._synthesise(np.zeros(self.n_fft // 2))
        return np.concatenate([settled, end, self._drain(self.n_fft // 2 - self.hop_length)])

    def whole(self, rows: Rows) -> Array:
        """All rows of an utterance -> all its samples (N * hop_length,)."""
        return np.concatenate([self.push(rows), self.flush()])

    def _settle(self, rows: Rows, following: NDArray[np.float32]) -> Array:
        """Rows and the f0 after each -> samples."""
        self._waiting = self._waiting.then(rows) if self._waiting is not None else rows
        return self._synthesise(self._pulses(rows, following))

    def _pulses(self, rows: Rows, following: NDArray[np.float32]) -> Array:
        """Band-limited unit pulse train (N * hop_length,), f0 linear between rows."""
        N, hop = len(rows.f0), self.hop_length
        ramp = (np.arange(hop) / hop).astype(np.float32)
        hertz = rows.f0[:, None] + (following - rows.f0)[:, None] * ramp  # float32, as in training
        within = np.cumsum(hertz.astype(np.float64) / self.sample_rate, axis=1)
        before = np.cumsum(np.concatenate([[self._cycles], within[:, -1]]))
        self._cycles = float(before[-1])
        angle = (before[:-1, None] + within) % 1.0 * (2 * np.pi)
        harmonics = np.floor(np.float32(HARMONIC_TOP) / hertz) + 0.5
        half = 2 * np.sin(angle / 2)
        near = np.abs(half) < 2e-3  # at the pulse itself the quotient below is 0 / 0; its limit is 2 * harmonics
        train = np.where(near, harmonics, np.sin(harmonics * angle) / np.where(near, 1.0, half)) - 0.5
        return (train * self._gates(rows.voiced, N)).reshape(-1)

    def _gates(self, voiced: NDArray[np.float32], N: int) -> Array:
        """0 or 1 a sample (N, hop_length): half a row of each row's samples still follows the row before."""
        now = (voiced > 0).astype(np.float64)
        before = np.concatenate([[self._gate], now])[:N]
        if N and math.isnan(before[0]):
            before[0] = now[0]
        self._gate = float(now[-1]) if N else self._gate
        late = self.hop_length // 2
        return np.concatenate([np.repeat(before[:, None], late, 1), np.repeat(now[:, None], self.hop_length - late, 1)], 1)

    def _synthesise(self, train: Array) -> Array:
        """More excitation -> the samples whose frames are now complete."""
        self._excitation = np.concatenate([self._excitation, train])
        K = max(0, (len(self._excitation) - self.n_fft) // self.hop_length + 1)
        if not K or self._waiting is None:
            return np.zeros(0)
        frames = np.lib.stride_tricks.sliding_window_view(self._excitation, self.n_fft)[:: self.hop_length][:K]
        rows, self._waiting = self._waiting.part(0, K), self._waiting.part(K)
        wave = np.fft.irfft(self._filtered(np.fft.rfft(frames * self._window), rows), self.n_fft) * self._window
        self._excitation = self._excitation[K * self.hop_length :]
        self._frame += K
        return self._overlap(wave)

    def _filtered(self, spectrum: NDArray[np.complex128], rows: Rows) -> NDArray[np.complex128]:
        # real arithmetic: numpy rounds a complex product differently when it works in place, as it does on large arrays
        harmonic, phase, hiss = (np.asarray(x, np.float64) for x in (rows.harmonic, rows.phase, rows.noise))
        noise = np.exp(hiss)[:, None] * np.stack([self._noise(self._frame + k) for k in range(len(spectrum))])
        magnitude = np.exp(harmonic)
        real, imaginary = magnitude * np.cos(phase), magnitude * np.sin(phase)
        out = np.empty_like(spectrum)
        out.real = spectrum.real * real - spectrum.imag * imaginary + noise[:, 0]
        out.imag = spectrum.real * imaginary + spectrum.imag * real + noise[:, 1]
        return out

    def _noise(self, frame: int) -> Array:
        """White noise (2, bins) of one frame: what a Philox of this key gives from the counter frame << 128 on."""
        self._start["state"]["counter"][2] = frame
        self._philox.state = self._start  # in half the time that a new generator takes
        return self._normal((2, self.n_fft // 2 + 1))

    def _overlap(self, frames: Array) -> Array:
        """Add windowed frames (K, n_fft), oldest first, and give out what no later frame reaches."""
        K, hop = len(frames), self.hop_length
        grown = np.zeros((K - 1) * hop)
        wave, envelope = np.concatenate([self._wave, grown]), np.concatenate([self._envelope, grown])
        blocks = frames.reshape(K, -1, hop)
        square = (self._window**2).reshape(-1, hop)
        for q in reversed(range(len(square))):  # the q-th part of a frame falls on the q-th block after it
            wave[q * hop : (q + K) * hop] += blocks[:, q].reshape(-1)
            envelope[q * hop : (q + K) * hop] += np.tile(square[q], K)
        self._wave, self._envelope = wave, envelope
        return self._drain(K * hop)

    def _drain(self, count: int) -> Array:
        """Give out the next `count` samples, but for those before the first."""
        skipped, self._skip = min(count, self._skip), max(0, self._skip - count)
        wave = self._wave[skipped:count] / self._envelope[skipped:count]
        empty = np.zeros(count)
        self._wave = np.concatenate([self._wave[count:], empty])[: self.n_fft]
        self._envelope = np.concatenate([self._envelope[count:], empty])[: self.n_fft]
        return wave


def synthesis_of(config: dict[str, Any], seed: int = 0) -> SourceFilterSynthesis:
    """The synthesis of one utterance, as a codec's config.yaml has its head."""
    head = config["audio_tokenizer"]["decoder"]
    return SourceFilterSynthesis(head.get("n_fft", 640), head.get("hop_length", 160), config["sample_rate"], seed)

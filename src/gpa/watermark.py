"""The mark that generated sound carries: "made by a machine with gpa". Ears miss it, `detect` finds it.

In every slot of 32 ms, each of 35 bands is made DEPTH louder or softer, as a public key says: patchwork in the
time-frequency plane, so the mark is where the sound is, and as loud; silence stays silence. `Watermark` is a causal
filter that changes with the slot: no latency, equal however the sound is cut. It proves nothing about unmarked sound, and whoever
wants to remove or forge it can: the key is in this file. What it survives is measured in docs/watermark.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpa import audio
from gpa.audio import Source, Wav
from gpa.errors import AudioError, GPAError

Array = NDArray[np.float64]

DEPTH = 0.7  # dB, up or down; deeper is found sooner, and costs DNSMOS more than 0.02
SLOT = 0.032  # seconds; the key is read anew in every slot
PERIOD = 32  # slots after which the key repeats
EDGES = np.arange(200.0, 7_201.0, 200.0)  # Hz, of the bands; beyond them nothing is changed
PAYLOADS = range(16)  # each has a key of its own
THRESHOLD = 3.0  # score from which a sound counts as marked: at most one unmarked sound in 10 ** 3

RATE = 16_000  # Hz, at which marks are looked for
BLOCK = 5.0  # seconds; a mark is looked for in two neighbouring blocks at a time

_TAPS = 0.008  # seconds of the filters: shorter ones blur the bands
_SMOOTH = 31.25  # Hz, standard deviation of the slopes between bands
_ALIGNMENTS = 4  # looked at in a slot
_FLOOR = 1e-6  # of the loud cells' energy: what is quieter is taken for noise
_NOISE = 10  # percentile of a band's energies that is taken for its steady noise
_RIDGE = 0.03  # of the bands' mean variance, added before the covariance is inverted
_TRIALS = len(PAYLOADS) * PERIOD * _ALIGNMENTS


def _key(payload: int) -> Array:
    """(PERIOD, bands) of -1 and 1. Raises GPAError: no such payload."""
    if payload not in PAYLOADS:
        raise GPAError(f"found the payload {payload!r} (legal: {PAYLOADS.start}..{PAYLOADS.stop - 1})")
    bands = len(EDGES) - 1
    digest = shake_256(f"gpa watermark 1 payload {payload}".encode()).digest(PERIOD * bands // 8)
    return np.where(np.unpackbits(np.frombuffer(digest, np.uint8)), 1.0, -1.0).reshape(PERIOD, bands)


def _band_of(frequencies: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    """The band of each frequency in Hz; -1 and the number of bands stand for none."""
    return np.searchsorted(EDGES, frequencies, side="right") - 1


@lru_cache(maxsize=32)
def _filters(sample_rate: int, payload: int) -> Wav:
    """(PERIOD, taps): the minimum-phase filter of each slot, from its gains by way of the real cepstrum."""
    taps = round(_TAPS * sample_rate)
    size = 1 << (16 * taps).bit_length()  # long enough for the cepstrum to die away
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    gains = np.pad(_key(payload) * DEPTH * math.log(10) / 20, ((0, 0), (0, 2)))  # the pad is read for frequencies in no band
    quefrency = np.arange(size // 2 + 1) / sample_rate
    cepstrum = np.fft.irfft(gains[:, _band_of(frequencies)], axis=1)[:, : size // 2 + 1]
    cepstrum *= np.exp(-2 * (np.pi * _SMOOTH * quefrency) ** 2)
    cepstrum[:, 1:-1] *= 2  # all of it at positive times: the response becomes causal
    response = np.fft.irfft(np.exp(np.fft.rfft(cepstrum, size, axis=1)), axis=1)[:, :taps]
    fade = np.minimum(1, 2 - 2 * np.arange(taps) / taps)
    return np.asarray(response * (0.5 - 0.5 * np.cos(np.pi * fade)), np.float32)


class Watermark:
    """Marks a stream. `push` gives as many samples as it takes, at once; there is nothing to flush."""

    def __init__(self, sample_rate: int, payload: int = 0) -> None:
        """`sample_rate` in Hz. `payload`: four bits that `detect` reads back.

        Raises AudioError (illegal rate), GPAError (illegal payload)."""
        if sample_rate not in audio.RATES:
            raise AudioError(f"cannot mark a sound at {sample_rate} Hz (legal: {audio.RATES.start}..{audio.RATES.stop - 1})")
        self._filters = _filters(sample_rate, payload)
        self._slot_size = SLOT * sample_rate  # samples, perhaps not whole
        self._past = self._filters.shape[1] - 1  # samples that a filter looks back
        self._block = np.zeros(self._past + math.ceil(self._slot_size), np.float32)  # the past, and the slot as far as it is known
        self._slot, self._at = 0, 0  # number of the slot, samples of it that are done

    def push(self, wav: Wav) -> Wav:
        """(T,) -> (T,), marked."""
        marked = np.empty(len(wav), np.float32)
        start = 0
        while start < len(wav):
            size = round((self._slot + 1) * self._slot_size) - round(self._slot * self._slot_size)
            stop = min(len(wav), start + size - self._at)
            marked[start:stop] = self._filtered(wav[start:stop], size)
            start = stop
        return marked

    def _filtered(self, wav: Wav, size: int) -> Wav:
        """What lies in one slot of `size` samples. The whole block is filtered, known or not: the same shapes, the same rounding."""
        self._block[self._past + self._at : self._past + self._at + len(wav)] = wav
        now, then = (np.convolve(self._block, self._filters[slot % PERIOD], "valid") for slot in (self._slot, self._slot + 1))
        rise = np.clip(2 * np.arange(len(now)) / size - 1, 0, 1)  # the second half of a slot leads over to the next
        marked: Wav = now + np.float32(0.5) * (1 - np.cos(np.pi * rise)).astype(np.float32) * (then - now)
        part = marked[self._at : self._at + len(wav)]
        self._at += len(wav)
        if self._at == size:
            self._block[: self._past] = self._block[size : size + self._past].copy()
            self._block[self._past :] = 0
            self._slot, self._at = self._slot + 1, 0
        return part


def embed(wav: Wav, sample_rate: int, payload: int = 0) -> Wav:
    """(T,) -> (T,), marked: what a `Watermark` makes of the whole. Raises as it does."""
    return Watermark(sample_rate, payload).push(wav)


@dataclass(frozen=True)
class Detection:
    """What was found. `spans` are the marked stretches, (start, end) in seconds, as far as blocks of BLOCK seconds can tell.

    score: -log10 of a bound on the probability that an unmarked sound of this length gets as far; grows with the length marked."""

    score: float
    payload: int
    spans: tuple[tuple[float, float], ...]

    @property
    def marked(self) -> bool:
        """Whether the score reaches THRESHOLD."""
        return self.score >= THRESHOLD


def detect(source: Source | Wav, sample_rate: int = RATE) -> Detection:
    """Look for a mark in a file, in flat memory, or in an array (T,) at `sample_rate` Hz. Raises AudioError."""
    found = list(_looked_at(_blocks(source, sample_rate)))
    several = math.log10(len(found))  # looking often is being lucky often
    best = max(found, key=lambda window: window.score)
    spans = list[tuple[float, float]]()
    for window in found:
        if window.score - several >= THRESHOLD:
            start = spans.pop()[0] if spans and spans[-1][1] >= window.start else window.start
            spans.append((start, window.end))
    return Detection(max(0.0, best.score - several), best.payload, tuple(spans))


@dataclass(frozen=True)
class _Window:
    start: float
    end: float
    score: float
    payload: int


def _blocks(source: Source | Wav, sample_rate: int) -> Iterator[Wav]:
    if not isinstance(source, np.ndarray):
        return audio.blocks(source, RATE, BLOCK)
    wav, size = audio.as_wav(source, sample_rate, RATE), round(BLOCK * RATE)
    return (wav[start : start + size] for start in range(0, len(wav), size))


def _looked_at(blocks: Iterable[Wav]) -> Iterator[_Window]:
    """Every two neighbouring blocks; a lone one by itself."""
    before, start, pairs = np.zeros(0, np.float32), 0, 0
    for block in blocks:
        if len(before):
            pairs += 1
            yield _window(np.concatenate([before, block]), start)
            start += len(before)
        before = block
    if not pairs:
        yield _window(before, start)


def _window(wav: Wav, start: int) -> _Window:
    strength, payload = _strength(_evidence(*_energies(wav)))
    return _Window(start / RATE, (start + len(wav)) / RATE, _surprise(strength), payload)


def _energies(wav: Wav) -> tuple[Array, Array]:
    """(T,) at RATE -> (frames, bands), natural log, and the share of it that is no steady noise, 0 .. 1.

    A frame is as long as a slot; _ALIGNMENTS of them begin in one."""
    size = round(SLOT * RATE)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wav, size), size)[:: size // _ALIGNMENTS]
    power = np.abs(np.fft.rfft(frames * np.hanning(size + 1)[:-1])) ** 2
    inside = _band_of(np.fft.rfftfreq(size, 1 / RATE))[:, None] == np.arange(len(EDGES) - 1)
    energies = power @ (inside / inside.sum(0)) + np.finfo(np.float64).tiny
    noise = np.percentile(energies, _NOISE, axis=0)
    return np.log(energies + _FLOOR * np.percentile(energies.mean(1), 90)), np.maximum(0, 1 - noise / energies)


def _evidence(energies: Array, share: Array) -> Array:
    """(frames, bands) -> the same, freed of what speech does by itself: bands that rise and fall together tell nothing.

    The generalised least squares of a mark that noise does not bear."""
    moves = energies - energies.mean(0)
    covariance = moves.T @ moves / len(moves)
    ridge = _RIDGE * np.trace(covariance) / len(covariance)
    if not ridge > 0:  # silence, or a single sample
        return np.zeros_like(moves)
    whitened = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), moves.T).T
    return np.asarray(whitened * share)


def _strength(evidence: Array) -> tuple[float, int]:
    """The largest correlation with a key, in its standard deviations, over keys, cyclic shifts and alignments; and its payload."""
    spectra = np.fft.rfft([_key(payload) for payload in PAYLOADS], axis=1)
    best = (0.0, 0)
    for alignment in range(_ALIGNMENTS):
        rows = evidence[alignment::_ALIGNMENTS]
        rows = np.pad(rows, ((0, -len(rows) % PERIOD), (0, 0))).reshape(-1, PERIOD, rows.shape[1]).sum(0)
        if (norm := float(np.linalg.norm(rows))) > 0:
            products = (np.fft.rfft(rows, axis=0) * spectra.conj()).sum(2)
            peaks = np.fft.irfft(products, PERIOD, axis=1).max(1) / norm
            best = max(best, (float(peaks.max()), int(peaks.argmax())))
    return best


def _surprise(strength: float) -> float:
    """-log10 of a bound on the chance that any of _TRIALS keys, shifts and alignments correlates so well with an unmarked sound.

    Keys are fair coins, independent of the sound. A sum of such signs with weights of norm 1 exceeds x with a probability
    of at most 3.178 (1 - Phi(x)): Bentkus and Dzindzalieta, A tight Gaussian bound for weighted sums of Rademacher
    random variables, Bernoulli 21 (2015)."""
    tail = 3.178 * 0.5 * math.erfc(strength / math.sqrt(2))
    return -math.log10(max(_TRIALS * tail, 1e-300))

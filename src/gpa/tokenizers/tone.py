"""Tone: what a voice's global codes leave out of its sound, as gains of the rows that are rendered.

A few codes hold the long-term spectrum of a voice and its room only roughly. So a clip is rendered from its own codes, and where
the recording is stronger or weaker on average, the difference is kept with the voice: a band at a time on the mel scale, for voiced and
for unvoiced frames. It is the same for every row of a kind, so streams stay exact, and what is said in the clip cancels out of it.
A voice is made fainter where the clip would be rendered with peaks that no wave file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gpa.audio import Wav
from gpa.audio.mel import mel_corners, triangles
from gpa.errors import CheckpointError
from gpa.tokenizers.excitation import Rows, SourceFilterSynthesis

STEP = 0.5  # dB of one unit
MOST = 40  # units, either way
ROUNDS = 3  # bands overlap, so that one does not find all
FEW = 10  # frames at which half of a difference is believed
PEAK = 0.9  # of the rendered clip, at most: what else is said in the voice may be a little louder
QUIET = 1e-3  # of the power of a loud frame: what is fainter says nothing of a voice
NEPER = 20 / np.log(10)  # dB
Array = NDArray[np.float64]


def fit(rows: Rows, clip: Wav, synthesis: Callable[[], SourceFilterSynthesis], bands: int) -> list[int]:
    """The rows of a clip's own codes and the clip (T,), levelled -> 2 * bands gains in STEP dB: of unvoiced frames, then of voiced ones.

    `synthesis` gives what turns the rows of one utterance into samples."""
    made = synthesis()
    filters = _filters(bands, made.n_fft // 2 + 1, made.sample_rate)
    voiced = rows.voiced > 0

    def toned(tone: Array) -> Array:
        return synthesis().whole(with_tone(rows, tone, made.sample_rate))

    recorded = _powers(clip, filters, made.hop_length)
    tone = np.zeros(2 * bands)
    for _ in range(ROUNDS):
        rendered = _powers(toned(tone), filters, made.hop_length)
        count = min(len(recorded), len(rendered), len(voiced))
        heard = _audible(recorded[:count]) & _audible(rendered[:count])
        lacking = np.log(recorded[:count] / rendered[:count]) / 2 * NEPER / STEP
        for kind, gains in enumerate(np.split(tone, 2)):  # views
            chosen = lacking[heard & (voiced[:count] == kind)]
            gains += chosen.sum(0) / (len(chosen) + FEW)
    tone -= np.log(max(1.0, np.abs(toned(tone)).max() / PEAK)) * NEPER / STEP
    return [int(gain) for gain in np.clip(tone, -MOST, MOST).round()]


def with_tone(rows: Rows, tone: Sequence[int] | Array, sample_rate: int) -> Rows:
    """Rows with the gains of a tone (2 * bands,); an empty one changes nothing. Raises CheckpointError."""
    if not len(tone):
        return rows
    if len(tone) % 2:
        raise CheckpointError(f"a tone has {len(tone)} gains (legal: as many of unvoiced frames as of voiced ones)")
    gains = np.asarray(tone, np.float64).reshape(2, -1) @ _curves(len(tone) // 2, rows.harmonic.shape[1], sample_rate) * (STEP / NEPER)
    gain = gains.astype(np.float32)[(rows.voiced > 0).astype(np.intp)]
    return rows._replace(harmonic=rows.harmonic + gain, noise=rows.noise + gain)


def _powers(wav: Wav | Array, filters: Array, hop_length: int) -> Array:
    """(T,) -> power in each band of frames centred on the rows' (N, bands), above zero."""
    n_fft = 2 * (filters.shape[1] - 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wav, n_fft // 2), n_fft)[::hop_length]
    power: Array = np.abs(np.fft.rfft(frames * window)) ** 2 @ filters.T
    return power + 1e-9


def _audible(power: Array) -> NDArray[np.bool_]:
    loudness = power.sum(1)
    heard: NDArray[np.bool_] = loudness > QUIET * np.quantile(loudness, 0.95)
    return heard


@lru_cache(maxsize=4)
def _filters(bands: int, bins: int, sample_rate: int) -> Array:
    """Triangles (bands, bins) of height 1."""
    return triangles(mel_corners(0, sample_rate / 2, bands), np.linspace(0, sample_rate / 2, bins))


@lru_cache(maxsize=4)
def _curves(bands: int, bins: int, sample_rate: int) -> Array:
    """How much each band's gain counts at each bin (bands, bins): linear between the centres, the outermost beyond them."""
    hertz, centres = np.linspace(0, sample_rate / 2, bins), mel_corners(0, sample_rate / 2, bands)[1:-1]
    return np.stack([np.interp(hertz, centres, band) for band in np.eye(bands)])

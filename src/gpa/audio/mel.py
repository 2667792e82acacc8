"""Mel filters: triangles over the bins of a spectrum, on the two scales that are in use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_KNEE, _STEP = 1000.0, np.log(6.4) / 27  # Slaney's scale: linear up to here (Hz), above it a mel is so many nepers


def mel_filters(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> NDArray[np.float32]:
    """(n_mels, n_fft // 2 + 1) triangles of unit area between two frequencies in Hz, on Slaney's scale: librosa's default."""
    low, high = (hz * 15 / _KNEE if hz < _KNEE else 15 + np.log(hz / _KNEE) / _STEP for hz in (f_min, f_max))
    mels = np.linspace(low, high, n_mels + 2)
    corners = np.where(mels < 15, mels * _KNEE / 15, _KNEE * np.exp(_STEP * (mels - 15)))
    areas = (corners[2:] - corners[:-2]) / 2
    return (triangles(corners, np.linspace(0, sample_rate / 2, n_fft // 2 + 1)) / areas[:, None]).astype(np.float32)


def mel_corners(low: float, high: float, bands: int) -> Array:
    """Corners in Hz (bands + 2,) of bands from `low` to `high`, even on the scale of HTK: 2595 log10(1 + hertz / 700)."""
    corners: Array = 700 * np.expm1(np.linspace(np.log1p(low / 700), np.log1p(high / 700), bands + 2))
    return corners


def triangles(corners: Array, hertz: Array) -> Array:
    """Corners (bands + 2,) and bins (B,), in Hz -> filters (bands, B): 1 at a band's own corner, 0 at its neighbours' and beyond."""
    edges, widths = corners[:, None], np.diff(corners)[:, None]
    filters: Array = np.maximum(0, np.minimum((hertz - edges[:-2]) / widths[:-1], (edges[2:] - hertz) / widths[1:]))
    return filters

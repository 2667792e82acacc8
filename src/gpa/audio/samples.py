"""What samples are: float32 mono, checked where they come in, and at another rate where that is asked for."""

from __future__ import annotations

import os
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpa.errors import AudioError

Wav: TypeAlias = NDArray[np.float32]  # (T,), mono, full scale is -1 .. 1
Target: TypeAlias = "str | os.PathLike[str] | BinaryIO"  # a str is a path
Source: TypeAlias = "Target | bytes"

RATES = range(4_000, 384_001)  # Hz, legal sample rates
LOUDEST = 1_000.0  # times full scale; what lies beyond is no sound, or was never scaled


def as_wav(array: Any, rate_in: int, rate_out: int) -> Wav:
    """An array at `rate_in` Hz -> (T,) float32 at `rate_out` Hz.

    Legal: float of any width (full scale 1) or int16 (full scale 32768), of shape (T,), (T, 1) or (1, T).
    Raises AudioError: another dtype or shape (which axis is time cannot be known), no samples, NaN or infinite ones.
    """
    wav = checked(array)
    if not len(wav):
        raise AudioError("the array holds no samples (legal: at least one)")
    resampler = Resampler(rate_in, rate_out)
    return np.concatenate([resampler.push(wav), resampler.flush()])


class Resampler:
    """Streaming sample-rate conversion: the pushes and the flush together equal one conversion of the whole."""

    def __init__(self, rate_in: int, rate_out: int) -> None:
        if rate_in not in RATES or rate_out not in RATES:
            raise AudioError(f"cannot convert {rate_in} Hz to {rate_out} Hz (legal: {RATES.start}..{RATES.stop - 1})")
        self._stream: Any = None
        if rate_in != rate_out:
            import soxr

            self._stream = soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32", quality="VHQ")  # as the published tokenizers resample

    def push(self, wav: Wav) -> Wav:
        """(T,) at the rate that comes in -> the samples that are settled, (T',) at the rate that goes out."""
        return wav if self._stream is None else self._stream.resample_chunk(wav)

    def flush(self) -> Wav:
        """The rest; nothing may be pushed afterwards."""
        return np.zeros(0, np.float32) if self._stream is None else self._stream.resample_chunk(np.zeros(0, np.float32), last=True)


def finite(array: NDArray[Any]) -> Wav:
    """(T,) or (C, T) -> the mean of the channels, checked to be numbers. Raises AudioError."""
    with np.errstate(all="ignore"):  # what overflows float32 becomes infinite, and is found
        wav = np.ascontiguousarray(array if array.ndim == 1 else array[0] if len(array) == 1 else array.mean(axis=0), dtype=np.float32)
    bad = len(wav) - int((np.abs(wav) <= LOUDEST).sum())  # NaN compares false
    if bad:
        raise AudioError(f"{bad} of {len(wav)} samples are NaN, infinite or beyond {LOUDEST:g} (legal: floats with full scale 1)")
    return wav


def checked(array: Any) -> Wav:
    """Shape, type and values of samples that a caller hands in; float32 (T,), possibly empty. Raises AudioError."""
    array = np.asarray(array)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise AudioError(f"found an array of shape {array.shape} (legal: (T,), (T, 1), (1, T)); mix its channels to mono first")
    if array.dtype == np.int16:
        array = array / np.float32(32768)
    if array.dtype.kind != "f":
        raise AudioError(f"found samples of type {array.dtype} (legal: float, full scale 1; int16, full scale 32768)")
    return finite(array)

"""Any container in: a path, bytes or a binary file, 4 to 384 kHz, any channels -> float32 mono (T,) at the rate asked for."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from gpa.audio.samples import Resampler, Source, Wav, finite
from gpa.errors import AudioError, LimitError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

MAX_SECONDS = 3_600.0  # of one decoded array; longer sounds go through `blocks`
MAX_BYTES = 1 << 30  # of one decoded array

# Left out: playlists and the like, which would open other files and addresses; AVI, which takes any size a file claims.
_DEMUXERS = "wav,w64,aiff,au,caf,mp3,flac,ogg,aac,mov,matroska,mpegts,mpeg,flv,asf,amr,ac3,eac3,wv"
_OPEN = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"}


def decode(source: Source, sample_rate: int, max_seconds: float | None = MAX_SECONDS, max_bytes: int = MAX_BYTES) -> Wav:
    """The whole sound as (T,) at `sample_rate` Hz, the mean of its channels.

    A damaged or truncated file gives the samples that can be decoded. AAC without a container (ADTS) keeps the
    1024 samples its encoder put in front: nothing in such a file tells them apart.
    Raises AudioError (unreadable, not audio, no samples, NaN) and LimitError (too long, or too large an array).
    """
    parts, held = [], 0
    for wav in blocks(source, sample_rate, 10.0, max_seconds):
        parts.append(wav)
        if (held := held + wav.nbytes) > max_bytes:
            raise LimitError(f"the sound exceeds {max_bytes} bytes as float32 at {sample_rate} Hz (legal: up to {max_bytes})")
    return np.concatenate(parts)


def blocks(source: Source, sample_rate: int, seconds: float, max_seconds: float | None = None, first: bool = False) -> Iterator[Wav]:
    """The sound in arrays of `seconds` at `sample_rate` Hz, the last one shorter: flat memory over hours.

    At least one block is yielded, none is empty. `first`: the first channel, not the mean of all. Raises as `decode` does, while iterating.
    """
    size = round(seconds * sample_rate)
    if size < 1:
        raise AudioError(f"a block of {seconds} s at {sample_rate} Hz holds no sample (legal: at least one)")
    held, count = list[Wav](), 0
    for wav in _resampled(source, sample_rate, max_seconds, first):
        held.append(wav)
        count += len(wav)
        if count >= size:
            whole = np.concatenate(held)
            end = count - count % size
            yield from (whole[start : start + size] for start in range(0, end, size))
            held, count = [whole[end:].copy()], count - end
    if count:
        yield np.concatenate(held)


def _resampled(source: Source, sample_rate: int, max_seconds: float | None, first: bool) -> Iterator[Wav]:
    """The sound at `sample_rate` Hz as it is decoded; at least one sample or an AudioError."""
    rate, seconds, count = sample_rate, 0.0, 0
    resampler = Resampler(rate, sample_rate)
    for rate_in, wav in _decoded(source, first):
        if rate_in != rate:  # chained files may change it on the way
            yield resampler.flush()
            rate, resampler = rate_in, Resampler(rate_in, sample_rate)
        seconds += len(wav) / rate
        if max_seconds is not None and seconds > max_seconds:
            raise LimitError(f"the sound is longer than {max_seconds:g} s (legal: up to {max_seconds:g} s)")
        out = resampler.push(wav)
        count += len(out)
        yield out
    tail = resampler.flush()
    if count + len(tail) == 0:
        raise AudioError(f"the file holds no samples at {sample_rate} Hz (legal: at least one)")
    yield tail


def _decoded(source: Source, first: bool) -> Iterator[tuple[int, Wav]]:
    """(sample rate in Hz, mono wav) of every frame that can be decoded; damaged packets are skipped."""
    import av

    with _opened(source) as (container, name):
        packets = container.demux(container.streams.audio[0])
        damaged = decoded = 0
        while True:
            try:
                packet = next(packets, None)  # None after the last one, and after an error of the container
                wavs = [_mono(frame, first) for frame in packet.decode()] if packet is not None else []
            except (av.FFmpegError, OSError, ValueError, LookupError, RuntimeError) as error:  # all of them seen on damaged files
                if not isinstance(error, av.error.InvalidDataError):
                    raise AudioError(f"{name}: reading failed: {error}") from error
                damaged += 1
                continue
            if packet is None:
                break
            decoded += len(wavs)
            yield from wavs
        if damaged and not decoded:
            raise AudioError(f"{name}: none of {damaged} damaged packets can be decoded")


def _mono(frame: av.AudioFrame, first: bool) -> tuple[int, Wav]:
    """One frame, any sample format and layout -> (sample rate in Hz, the first channel or the mean of all)."""
    if frame.format.is_planar and frame.layout.nb_channels > 7:  # PyAV (12 to 18) reads past the planes of such a frame
        from av import AudioResampler

        (frame,) = AudioResampler("flt").resample(frame)
    array = frame.to_ndarray()
    array = array if frame.format.is_planar else array.reshape(frame.samples, -1).T  # (1, T * C) -> (C, T)
    if array.dtype.kind in "iu":
        middle = 2 ** (8 * array.dtype.itemsize - 1)
        array = (array - np.float32(middle if array.dtype.kind == "u" else 0)) / np.float32(middle)
    return frame.sample_rate, finite(array[:1] if first else array)


@contextmanager
def _opened(source: Source) -> Iterator[tuple[InputContainer, str]]:
    """(demuxer, name for messages); a path is closed afterwards, a file of the caller is not. Raises AudioError: no audio."""
    import av

    with _file(source) as (file, name):
        try:
            container = av.open(file, "r", options=_OPEN)
        except (av.FFmpegError, OSError, ValueError, TypeError) as error:  # TypeError: a text file gives str
            reason = getattr(error, "strerror", None) or error
            raise AudioError(f"cannot read audio from {name}: found {_found(file)} ({reason})") from error
        with container:
            if not container.streams.audio:
                raise AudioError(f"no audio in {name}: found {container.format.long_name}, {len(container.streams)} other streams")
            yield container, name


@contextmanager
def _file(source: Source) -> Iterator[tuple[BinaryIO, str]]:
    """The bytes of a source and its name. A file of the caller is read from its beginning, or from where a pipe stands."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source), "the given bytes"
    elif not isinstance(source, (str, os.PathLike)):
        with suppress(OSError, AttributeError):
            source.seek(0)
        yield source, f"the given {type(source).__name__}"
    else:
        with ExitStack() as stack:
            try:
                file = stack.enter_context(Path(source).open("rb"))
            except (OSError, ValueError) as error:  # ValueError: a null character in the path
                raise AudioError(f"{source!s} cannot be opened: {error}") from error
            yield file, str(source)


def _found(file: BinaryIO) -> str:
    with suppress(OSError, AttributeError):
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return f"{size} bytes, the first {file.read(8)!r}" if size else "an empty file, 0 bytes"
    return "a stream that cannot be rewound"

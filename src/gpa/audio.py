"""Any container in, any container out: the only file that opens audio.

A path, bytes or a binary file, 4 to 384 kHz, any channels -> float32 mono (T,) at the rate asked for, and back. `decode`
drains `blocks`, `encode` and `save` drain an `Encoder`: the result never depends on how the sound was cut.
"""

from __future__ import annotations

import io
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from gpa.errors import AudioError, LimitError

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream
    from av.container import InputContainer

Wav: TypeAlias = NDArray[np.float32]  # (T,), mono, full scale is -1 .. 1
Target: TypeAlias = "str | os.PathLike[str] | BinaryIO"  # a str is a path
Source: TypeAlias = "Target | bytes"

RATES = range(4_000, 384_001)  # Hz, legal sample rates
MAX_SECONDS = 3_600.0  # of one decoded array; longer sounds go through `blocks`
MAX_BYTES = 1 << 30  # of one decoded array
LOUDEST = 1_000.0  # times full scale; what lies beyond is no sound, or was never scaled

# Left out: playlists and the like, which would open other files and addresses; AVI, which takes any size a file claims.
_DEMUXERS = "wav,w64,aiff,au,caf,mp3,flac,ogg,aac,mov,matroska,mpegts,mpeg,flv,asf,amr,ac3,eac3,wv"
_OPEN = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"}


@dataclass(frozen=True)
class Format:
    """How FFmpeg writes one output format. `rates` in Hz (empty: any), `bit_rate` in bit/s (0: the codec's own)."""

    media_type: str
    container: str
    codec: str
    samples: str = "s16"
    bit_rate: int = 0
    rates: tuple[int, ...] = ()
    options: dict[str, str] = field(default_factory=dict)


_MPEG = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_OPUS = (8_000, 12_000, 16_000, 24_000, 48_000)
FORMATS = {
    "wav": Format("audio/wav", "wav", "pcm_s16le"),
    "pcm": Format("audio/pcm", "s16le", "pcm_s16le"),  # no header
    "flac": Format("audio/flac", "flac", "flac"),
    "mp3": Format("audio/mpeg", "mp3", "libmp3lame", "fltp", 64_000, _MPEG, {"id3v2_version": "0"}),
    "opus": Format("audio/ogg", "ogg", "libopus", "flt", 32_000, _OPUS, {"page_duration": "200000"}),  # microseconds
    "aac": Format("audio/aac", "adts", "aac", "fltp", 64_000, (7_350, *_MPEG, 64_000, 88_200, 96_000)),
}
_SUFFIXES = {**{f".{name}": name for name in FORMATS}, ".ogg": "opus", ".oga": "opus", ".raw": "pcm", ".wave": "wav"}


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


def as_wav(array: Any, rate_in: int, rate_out: int) -> Wav:
    """An array at `rate_in` Hz -> (T,) float32 at `rate_out` Hz.

    Legal: float of any width (full scale 1) or int16 (full scale 32768), of shape (T,), (T, 1) or (1, T).
    Raises AudioError: another dtype or shape (which axis is time cannot be known), no samples, NaN or infinite ones.
    """
    wav = _checked(array)
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


class Encoder:
    """Samples in, bytes of an audio file out, as they become ready.

    Every way of cutting the sound into pushes gives the same bytes. `file`, a seekable binary file, takes the bytes
    instead (push and flush then give b"") and lets the header tell the length; without it a WAV has the sizes
    0xFFFFFFFF (its 44 bytes of header come with the first samples) and an MP3 has no gapless header.
    """

    def __init__(self, format: str, sample_rate: int, *, out_rate: int | None = None, file: BinaryIO | None = None) -> None:
        """`sample_rate` of the samples, `out_rate` of the file (None: `sample_rate`, or the next one the format has).

        Raises AudioError: unknown format, illegal rate."""
        import av

        if format not in FORMATS:
            raise AudioError(f"unknown audio format {format!r} (legal: {', '.join(FORMATS)})")
        self.format = FORMATS[format]
        rates = self.format.rates
        self.rate = out_rate or next((rate for rate in rates if rate >= sample_rate), max(rates, default=sample_rate))
        if rates and self.rate not in rates:
            raise AudioError(f"{format} cannot hold {self.rate} Hz (legal: {', '.join(map(str, rates))})")
        self._resampler = Resampler(sample_rate, self.rate)
        self._pipe = _Pipe()
        self._written, self._fed, self._flushed = 0, False, False  # samples, anything pushed, flush called
        options = {"flush_packets": "1", "fflags": "+bitexact", **self.format.options}  # bitexact: no random serial numbers
        self._container = av.open(file or self._pipe, "w", format=self.format.container, options=options)
        self._stream = cast("AudioStream", self._container.add_stream(self.format.codec, rate=self.rate))
        self._stream.layout, self._stream.format = "mono", self.format.samples
        if self.format.bit_rate:
            self._stream.bit_rate = self.format.bit_rate

    def push(self, wav: Wav) -> bytes:
        """(T,) -> the bytes that are ready, possibly none. Raises AudioError: not a wav, or already flushed."""
        if self._flushed:
            raise AudioError("the encoder is flushed: it takes no more samples")
        wav = _checked(wav)
        self._fed = self._fed or len(wav) > 0
        self._write(self._resampler.push(wav))
        return self._pipe.drain()

    def flush(self) -> bytes:
        """The last bytes; b"" when no sample was ever pushed."""
        if self._fed and not self._flushed:
            self._write(self._resampler.flush())
            self._mux(None)
        self._flushed = True
        return self._pipe.drain()

    def __del__(self) -> None:
        with suppress(Exception):  # dropped half-way; PyAV before 18 crashes when an open container is collected
            self._container.close()

    def _write(self, wav: Wav) -> None:
        from av import AudioFrame

        if len(wav):
            array: Any = np.rint(wav * 32768).clip(-32768, 32767).astype(np.int16) if self.format.samples == "s16" else wav.clip(-1, 1)
            frame = AudioFrame.from_ndarray(array[None], format=self.format.samples, layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = self.rate, Fraction(1, self.rate), self._written
            self._written += len(wav)
            self._mux(frame)

    def _mux(self, frame: av.AudioFrame | None) -> None:
        from av import FFmpegError

        try:
            self._container.mux(self._stream.encode(frame))
            if frame is None:
                self._container.close()
        except FFmpegError as error:
            raise AudioError(f"the sound cannot be encoded: {error}") from error


def encode(wav: Wav, sample_rate: int, format: str, *, out_rate: int | None = None) -> bytes:
    """(T,) at `sample_rate` Hz -> the bytes of an audio file (`FORMATS`). Raises AudioError: not a wav, empty, unknown format."""
    _encode_into(file := io.BytesIO(), wav, sample_rate, format, out_rate)
    return file.getvalue()


def save(target: Target, wav: Wav, sample_rate: int, format: str | None = None, *, out_rate: int | None = None) -> None:
    """Write (T,) at `sample_rate` Hz to a path, to standard output ("-") or to a binary file.

    `format` None is read from the suffix of a path, else wav. A file appears whole or not at all.
    Raises AudioError: not a wav, empty, unknown format or suffix, target not writable.
    """
    if isinstance(target, (str, os.PathLike)) and os.fspath(target) != "-":
        suffix = Path(target).suffix.lower()
        if format is None and suffix not in _SUFFIXES:
            raise AudioError(f"{target} has the suffix {suffix!r}: name a format (legal: {', '.join(_SUFFIXES)})")
        return _save_file(Path(target), wav, sample_rate, format or _SUFFIXES[suffix], out_rate)
    data = encode(wav, sample_rate, format or "wav", out_rate=out_rate)
    out: BinaryIO = sys.stdout.buffer if isinstance(target, (str, os.PathLike)) else target
    try:
        out.write(data)
        out.flush()
    except (OSError, ValueError) as error:  # ValueError: a closed file
        raise AudioError(f"the output cannot be written: {error}") from error


def _encode_into(file: BinaryIO, wav: Wav, sample_rate: int, format: str, out_rate: int | None) -> None:
    wav = as_wav(wav, sample_rate, sample_rate)
    encoder = Encoder(format, sample_rate, out_rate=out_rate, file=file)
    for start in range(0, len(wav), 10 * sample_rate):
        encoder.push(wav[start : start + 10 * sample_rate])
    encoder.flush()


def _save_file(path: Path, wav: Wav, sample_rate: int, format: str, out_rate: int | None) -> None:
    """Write beside the target, then rename; a device or pipe is written in place."""
    try:
        path = Path(os.path.realpath(path))  # a link stays, what it points to is replaced
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(encode(wav, sample_rate, format, out_rate=out_rate))
            return
        draft = path.with_name(f".gpa-{secrets.token_hex(8)}.tmp")
        try:
            with draft.open("xb") as file:
                _encode_into(file, wav, sample_rate, format, out_rate)
            os.replace(draft, path)
        finally:
            with suppress(OSError):  # already renamed, or never made
                draft.unlink()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise AudioError(f"{path} cannot be written: {error}") from error


class _Pipe(io.BytesIO):
    """A file one can only append to; what was written is taken out with `drain`."""

    def seekable(self) -> bool:
        return False

    def drain(self) -> bytes:
        data = self.getvalue()
        self.truncate(self.seek(0))
        return data


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
    return frame.sample_rate, _finite(array[:1] if first else array)


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


def _finite(array: NDArray[Any]) -> Wav:
    """(T,) or (C, T) -> the mean of the channels, checked to be numbers."""
    with np.errstate(all="ignore"):  # what overflows float32 becomes infinite, and is found
        wav = np.ascontiguousarray(array if array.ndim == 1 else array[0] if len(array) == 1 else array.mean(axis=0), dtype=np.float32)
    bad = len(wav) - int((np.abs(wav) <= LOUDEST).sum())  # NaN compares false
    if bad:
        raise AudioError(f"{bad} of {len(wav)} samples are NaN, infinite or beyond {LOUDEST:g} (legal: floats with full scale 1)")
    return wav


def _checked(array: Any) -> Wav:
    """Shape, type and values of samples that a caller hands in; float32 (T,), possibly empty."""
    array = np.asarray(array)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise AudioError(f"found an array of shape {array.shape} (legal: (T,), (T, 1), (1, T)); mix its channels to mono first")
    if array.dtype == np.int16:
        array = array / np.float32(32768)
    if array.dtype.kind != "f":
        raise AudioError(f"found samples of type {array.dtype} (legal: float, full scale 1; int16, full scale 32768)")
    return _finite(array)

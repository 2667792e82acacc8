"""Any container out: samples -> the bytes of an audio file, as they become ready."""

from __future__ import annotations

import io
import os
import secrets
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from gpa.audio.samples import Resampler, Target, Wav, as_wav, checked
from gpa.errors import AudioError

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream


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


class Encoder:
    """Samples in, bytes of an audio file out, as they become ready.

    Every way of cutting the sound into pushes gives the same bytes. `file`, a seekable binary file, takes the bytes
    instead (push and flush then give b"") and lets the header tell the length; without it a WAV has the sizes
    0xFFFFFFFF (its 44 bytes of header come with the first samples) and an MP3 has no gapless header.
    """

    def __init__(
        self, format: str, sample_rate: int, *, out_rate: int | None = None, bit_rate: int | None = None, file: BinaryIO | None = None
    ) -> None:
        """`sample_rate` of the samples, `out_rate` of the file (None: `sample_rate`, or the next one the format has);
        `bit_rate` in bit/s of a lossy format (None: the one of `FORMATS`).

        Raises AudioError: unknown format, illegal rate."""
        import av

        if format not in FORMATS:
            raise AudioError(f"unknown audio format {format!r} (legal: {', '.join(FORMATS)})")
        self.format = FORMATS[format]
        rates = self.format.rates
        self.rate = out_rate or next((rate for rate in rates if rate >= sample_rate), max(rates, default=sample_rate))
        if rates and self.rate not in rates:
            raise AudioError(f"{format} cannot hold {self.rate} Hz (legal: {', '.join(map(str, rates))})")
        if bit_rate is not None and not (self.format.bit_rate and bit_rate > 0):
            lossy = ", ".join(name for name, known in FORMATS.items() if known.bit_rate)
            raise AudioError(f"{format} cannot have {bit_rate} bit/s (legal: a positive number, for {lossy})")
        self._resampler = Resampler(sample_rate, self.rate)
        self._pipe = _Pipe()
        self._written, self._fed, self._flushed = 0, False, False  # samples, anything pushed, flush called
        options = {"flush_packets": "1", "fflags": "+bitexact", **self.format.options}  # bitexact: no random serial numbers
        self._container = av.open(file or self._pipe, "w", format=self.format.container, options=options)
        self._stream = cast("AudioStream", self._container.add_stream(self.format.codec, rate=self.rate))
        self._stream.layout, self._stream.format = "mono", self.format.samples
        if self.format.bit_rate:
            self._stream.bit_rate = bit_rate or self.format.bit_rate

    def push(self, wav: Wav) -> bytes:
        """(T,) -> the bytes that are ready, possibly none. Raises AudioError: not a wav, or already flushed."""
        if self._flushed:
            raise AudioError("the encoder is flushed: it takes no more samples")
        wav = checked(wav)
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


def encode(wav: Wav, sample_rate: int, format: str, *, out_rate: int | None = None, bit_rate: int | None = None) -> bytes:
    """(T,) at `sample_rate` Hz -> the bytes of an audio file (`FORMATS`); rates as for `Encoder`.

    Raises AudioError: not a wav, empty, unknown format, illegal rate."""
    _encode_into(file := io.BytesIO(), wav, sample_rate, format, out_rate, bit_rate)
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


def _encode_into(file: BinaryIO, wav: Wav, sample_rate: int, format: str, out_rate: int | None, bit_rate: int | None = None) -> None:
    wav = as_wav(wav, sample_rate, sample_rate)
    encoder = Encoder(format, sample_rate, out_rate=out_rate, bit_rate=bit_rate, file=file)
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

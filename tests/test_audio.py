"""gpa.audio: every container in and out, streaming equal to one-shot, and a defined answer to every bad input."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import wave
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpa.audio import FORMATS, Encoder, Resampler, as_wav, blocks, decode, encode, save
from gpa.errors import AudioError, LimitError

RATE = 16_000
LOSSLESS = ("wav", "flac")
EXACT_LENGTH = ("wav", "flac", "mp3", "opus")  # ADTS cannot tell its padding
few = settings(max_examples=15, deadline=None)


def tone(samples: int, rate: int = RATE) -> np.ndarray:
    """A 300 Hz tone whose loudness swings, so that a shift in time is seen."""
    t = np.arange(samples) / rate
    return (0.4 * np.sin(2 * np.pi * 300 * t) * (0.6 + 0.4 * np.sin(2 * np.pi * 3.3 * t))).astype(np.float32)


def wav_file(samples: np.ndarray, rate: int) -> bytes:
    """(T, C) -> 16-bit WAV, written by the standard library."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def float_wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    data = samples.astype("<f4").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32, b"data", len(data))
    return head + data


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    length = min(len(a), len(b))
    return float(np.corrcoef(a[:length], b[:length])[0, 1])


def streamed(wav: np.ndarray, format: str, cuts: list[int]) -> bytes:
    """Push the wav in pieces that end at `cuts` (sample indices, any order)."""
    encoder = Encoder(format, RATE)
    edges = [0, *sorted(cut % len(wav) for cut in cuts), len(wav)]
    return b"".join(encoder.push(wav[a:b]) for a, b in pairwise(edges)) + encoder.flush()


@few
@given(
    st.sampled_from(sorted(set(FORMATS) - {"pcm"})), st.integers(4_000, 40_000), st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000])
)
def test_what_is_encoded_is_decoded(format: str, samples: int, rate: int) -> None:
    wav = tone(samples, rate)
    data = encode(wav, rate, format, out_rate=None)
    back = decode(data, rate)
    if format in EXACT_LENGTH:
        assert -1 <= len(back) - samples <= (1152 if format == "mp3" else 1)  # FFmpeg cuts the padding of an MP3 to a frame
    else:  # ADTS: 1024 samples of priming at the rate of the file, and a padded last frame
        delay = round(1024 * rate / Encoder(format, rate).rate)
        assert samples <= len(back) <= samples + 3 * 1024
        back = back[delay:]
    assert correlation(wav, back) > (0.99999 if format in LOSSLESS else 0.98)


@pytest.mark.parametrize("format", LOSSLESS)
def test_lossless_formats_keep_16_bits(format: str) -> None:
    steps = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    wav = as_wav(steps, RATE, RATE)
    np.testing.assert_array_equal(decode(encode(wav, RATE, format), RATE), wav)


@few
@given(st.sampled_from(sorted(FORMATS)), st.lists(st.integers(0, 10**6), max_size=12), st.integers(1, 30_000))
def test_streaming_encoder_does_not_depend_on_the_cuts(format: str, cuts: list[int], samples: int) -> None:
    wav = tone(samples)
    assert streamed(wav, format, cuts) == streamed(wav, format, [])


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"pcm", "mp3"}))
def test_streamed_file_holds_the_same_sound_as_the_whole_one(format: str) -> None:
    wav = tone(20_000)
    np.testing.assert_array_equal(decode(streamed(wav, format, [7, 9000]), RATE), decode(encode(wav, RATE, format), RATE))


def test_streamed_mp3_differs_from_the_whole_one_by_the_encoder_delay_only() -> None:
    wav = tone(20_000)
    delay = 1105  # samples: LAME's 576 and the decoder's 529; only a whole file has the header that removes them
    whole = decode(encode(wav, RATE, "mp3"), RATE)
    np.testing.assert_allclose(decode(streamed(wav, "mp3", [123]), RATE)[delay : delay + len(wav)], whole, atol=1e-3)


def test_streamed_wav_follows_the_contract() -> None:
    wav = tone(4_000)
    encoder = Encoder("wav", RATE)
    assert encoder.push(wav[:0]) == b""
    first = encoder.push(wav[:100])
    assert len(first) == 44 + 200  # the header comes with the first samples
    assert first[:4] == b"RIFF"
    assert struct.unpack("<I", first[4:8])[0] == struct.unpack("<I", first[40:44])[0] == 0xFFFFFFFF
    data = first + encoder.push(wav[100:]) + encoder.flush()
    with wave.open(io.BytesIO(data)) as file:
        assert file.getparams()[:3] == (1, 2, RATE)
        assert len(file.readframes(10**6)) == 2 * len(wav)
    np.testing.assert_allclose(decode(data, RATE), wav, atol=1e-4)


def test_whole_wav_tells_its_length() -> None:
    with wave.open(io.BytesIO(encode(tone(1234), RATE, "wav"))) as file:
        assert file.getnframes() == 1234


def test_pcm_is_s16le_at_the_rate_asked_for() -> None:
    wav = tone(RATE)
    data = np.frombuffer(encode(wav, RATE, "pcm", out_rate=24_000), "<i2")
    assert len(data) == 24_000
    assert correlation(as_wav(data, 24_000, RATE), wav) > 0.9999


def test_streamed_opus_gives_bytes_before_the_end() -> None:
    encoder = Encoder("opus", RATE)
    pieces = [encoder.push(tone(RATE // 2)) for _ in range(4)]
    assert all(len(piece) > 200 for piece in pieces)
    assert pieces[0].startswith(b"OggS")


def test_encoder_clips_and_never_wraps() -> None:
    assert decode(encode(np.full(2000, 1.5, np.float32), RATE, "wav"), RATE).min() > 0.99


def test_nothing_pushed_nothing_written() -> None:
    encoder = Encoder("mp3", RATE)
    assert encoder.flush() == b""
    with pytest.raises(AudioError, match="flushed"):
        encoder.push(tone(10))


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_any_rate_any_channels(rate: int, channels: int) -> None:
    mono = tone(rate // 2, rate)
    parts = np.stack([mono * (1 + c) for c in range(channels)], axis=1) / channels  # differing loudness, mean 0.5 .. 0.56
    back = decode(wav_file(parts, rate), RATE)
    assert abs(len(back) - RATE // 2) <= 1
    expected = as_wav(parts.mean(axis=1), rate, RATE)
    np.testing.assert_allclose(back, expected, atol=2e-4)


def test_eight_planar_channels() -> None:
    """PyAV reads past the planes of such a frame; 7.1 Opus decodes to one."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as file:
        stream = file.add_stream("libopus", rate=48_000)
        stream.layout = "7.1"
        frame = av.AudioFrame.from_ndarray(np.repeat(tone(48_000, 48_000), 8)[None] / 2, format="flt", layout="7.1")
        frame.sample_rate, frame.pts = 48_000, 0
        file.mux([*stream.encode(frame), *stream.encode(None)])
    back = decode(buffer.getvalue(), 48_000)
    assert len(back) == 48_000
    np.testing.assert_allclose(back, tone(48_000, 48_000) / 2, atol=0.02)


@few
@given(st.floats(0.001, 3.0), st.sampled_from([8_000, 16_000, 24_000]))
def test_blocks_are_the_decoded_sound_cut(seconds: float, rate: int) -> None:
    data = encode(tone(30_001), RATE, "flac")
    parts = list(blocks(data, rate, seconds))
    assert {len(part) for part in parts[:-1]} <= {round(seconds * rate)}
    assert 0 < len(parts[-1]) <= round(seconds * rate)
    np.testing.assert_array_equal(np.concatenate(parts), decode(data, rate))


@few
@given(st.sampled_from([4_000, 8_000, 11_025, 44_100, 48_000]), st.lists(st.integers(0, 3000), min_size=1, max_size=8))
def test_resampler_does_not_depend_on_the_cuts(rate: int, sizes: list[int]) -> None:
    wav = tone(max(1, sum(sizes)), rate)
    resampler, parts, start = Resampler(rate, RATE), [], 0
    for size in [*sizes, len(wav)]:
        parts.append(resampler.push(wav[start : start + size]))
        start += size
    np.testing.assert_array_equal(np.concatenate([*parts, resampler.flush()]), as_wav(wav, rate, RATE))


class SilentWav:
    """8-bit silence at 4 kHz behind a pipe: the header, then bytes made as they are read."""

    def __init__(self, seconds: int) -> None:
        self.left = seconds * 4_000
        form = (16, 1, 1, 4_000, 4_000, 1, 8)
        self.head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 2**32 - 1, b"WAVE", b"fmt ", *form, b"data", 2**32 - 1)

    def read(self, size: int) -> bytes:
        data, self.head = self.head, b""
        size = min(size - len(data), self.left)
        self.left -= size
        return data + b"\x80" * size


@pytest.mark.parametrize("seconds", [300, pytest.param(3 * 3600, marks=pytest.mark.slow)])
def test_hours_in_flat_memory(seconds: int) -> None:
    tracemalloc.start()
    try:
        assert sum(len(block) for block in blocks(SilentWav(seconds), 4_000, 30.0)) == seconds * 4_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6, f"{peak / 1e6:.1f} MB"  # the whole is 5 or 173 MB
    with pytest.raises(LimitError, match="longer than 60 s"):
        decode(SilentWav(seconds), 4_000, max_seconds=60)


def test_limits() -> None:
    data = encode(tone(RATE), RATE, "flac")
    with pytest.raises(LimitError, match=r"longer than 0\.5 s"):
        decode(data, RATE, max_seconds=0.5)
    with pytest.raises(LimitError, match="exceeds 1000 bytes"):
        decode(data, RATE, max_seconds=None, max_bytes=1000)
    assert len(decode(data, RATE, max_seconds=1.0)) == RATE


@pytest.mark.parametrize("name", ["plain.wav", "ünï 你好 🎤.mp3", "a.flac", "b.OGG", "c.opus", "d.aac"])
def test_paths(tmp_path: Path, name: str) -> None:
    wav = tone(8_000)
    save(tmp_path / name, wav, RATE)
    assert os.listdir(tmp_path) == [name]  # no draft is left
    assert len(decode(str(tmp_path / name), RATE)) >= len(wav)
    assert len(decode((tmp_path / name).read_bytes(), RATE)) >= len(wav)
    with (tmp_path / name).open("rb") as file:
        file.seek(100)
        assert len(decode(file, RATE)) >= len(wav)  # read from its beginning
        assert not file.closed


def test_a_stream_that_cannot_seek() -> None:
    data = encode(tone(RATE), RATE, "mp3")
    code = "import sys; from gpa.audio import decode, save; save('-', decode(sys.stdin.buffer, 16000), 16000, 'wav')"
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    np.testing.assert_allclose(decode(done.stdout, RATE)[:RATE], decode(data, RATE), atol=1e-4)


def test_save_replaces_only_by_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    save(path, tone(100), RATE)
    before = path.read_bytes()

    def fail(self: Encoder) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Encoder, "flush", fail)
    with pytest.raises(AudioError, match="No space left"):
        save(path, tone(5000), RATE)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.wav"]


def test_save_keeps_links_and_devices(tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(tmp_path / "real.wav")
    save(tmp_path / "link.wav", tone(100), RATE)
    assert (tmp_path / "link.wav").is_symlink()
    assert len(decode(tmp_path / "real.wav", RATE)) == 100
    save(os.devnull, tone(100), RATE, "wav")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("target", ["missing/a.wav", ".", "a\0b.wav", "x" * 300 + ".wav"])
def test_unwritable_output(tmp_path: Path, target: str) -> None:
    with pytest.raises(AudioError, match="cannot be written"):
        save(f"{tmp_path}/{target}", tone(100), RATE, "wav")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk() -> None:
    with pytest.raises(AudioError, match="No space left"):
        save("/dev/full", tone(100), RATE, "wav")


def test_closed_output() -> None:
    file = io.BytesIO()
    file.close()
    with pytest.raises(AudioError, match="cannot be written"):
        save(file, tone(100), RATE)


MP3 = encode(tone(30_000), RATE, "mp3")
BAD = {
    "empty": (b"", "an empty file, 0 bytes"),
    "text": (b"This is no audio at all.\n" * 50, "found 1250 bytes, the first b'This is '"),
    "noise": (np.random.default_rng(0).bytes(50_000), "found 50000 bytes"),
    "playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n", "cannot read audio"),
    "no samples": (encode(tone(5), RATE, "wav")[:44], "no samples"),
    "beginning of an mp3": (MP3[:60], "cannot read audio"),
    "nan": (float_wav(np.array([0, np.nan, np.inf, 0.5])), "2 of 4 samples are NaN, infinite or beyond 1000"),
    "forged rate": (float_wav(np.zeros(4), 3), "3 Hz"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_files(name: str) -> None:
    data, message = BAD[name]
    with pytest.raises(AudioError) as caught:
        decode(data, RATE)
    assert message in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path, "a\0b"):
        with pytest.raises(AudioError, match="cannot be opened"):
            decode(path, RATE)


def test_no_file_at_all() -> None:
    for source in (3, None, io.StringIO("text")):
        with pytest.raises(AudioError, match="cannot read audio"):
            decode(source, RATE)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["mp3", "flac", "opus", "aac", "wav"])
def test_truncated_files_give_what_they_hold(format: str) -> None:
    wav = tone(60_000)
    data = encode(wav, RATE, format)
    whole, part = decode(data, RATE), decode(data[: len(data) // 2], RATE)
    assert 0.3 * len(whole) < len(part) < 0.7 * len(whole)
    assert correlation(whole, part) > 0.99


def test_silence_and_one_sample() -> None:
    assert not decode(encode(np.zeros(RATE, np.float32), RATE, "flac"), RATE).any()
    assert len(decode(encode(np.ones(1, np.float32), RATE, "wav"), RATE)) == 1
    with pytest.raises(AudioError, match="no samples"):
        decode(encode(np.ones(1, np.float32), 192_000, "wav"), 4_000)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["wav", "flac", "mp3", "opus", "aac"]), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=20))
def test_damaged_files_never_raise_anything_else(format: str, damage: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL[format])
    for place, value in damage:
        data[place % len(data)] = value
    try:
        wav = decode(bytes(data), RATE, max_seconds=60)
    except (AudioError, LimitError):
        return
    assert len(wav)
    assert np.isfinite(wav).all()


SMALL = {format: encode(tone(3_000), RATE, format) for format in FORMATS}


def test_arrays_of_every_legal_kind() -> None:
    wav = tone(1000)
    for array in (wav, wav.astype(np.float64), wav[:, None], wav[None], list(map(float, wav))):
        out = as_wav(array, RATE, RATE)
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out, wav)
    np.testing.assert_allclose(as_wav((wav * 32768).round().astype(np.int16), RATE, RATE), wav, atol=2e-5)
    assert len(as_wav(wav, RATE, 48_000)) == 3000


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 100)), r"shape \(2, 100\)"),
        (np.zeros((100, 2)), r"shape \(100, 2\)"),
        (np.float32(1.0), r"shape \(\)"),
        (np.zeros(10, np.int32), "int32"),
        (np.zeros(10, bool), "bool"),
        (np.zeros(0), "no samples"),
        (np.array([np.nan, 0, np.nan, np.inf]), "3 of 4"),
        (np.array([1e300, 0]), "1 of 2"),
        (np.array([20_000.0, -1, 3]), "1 of 3 .* beyond 1000"),  # int16 values in a float array
        (["a", "b"], "type"),
    ],
)
def test_illegal_arrays(array: object, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        as_wav(array, RATE, RATE)


@pytest.mark.parametrize("rate", [0, -1, 3_999, 10**6])
def test_illegal_rates(rate: int) -> None:
    with pytest.raises(AudioError, match=r"legal: 4000\.\.384000"):
        as_wav(tone(10), rate, RATE)
    with pytest.raises(AudioError):
        decode(SMALL["wav"], rate)


def test_encoder_names_what_is_legal() -> None:
    with pytest.raises(AudioError, match="legal: wav, pcm, flac, mp3, opus, aac"):
        Encoder("wma", RATE)
    with pytest.raises(AudioError, match="legal: 8000, 12000"):
        Encoder("opus", RATE, out_rate=44_100)
    with pytest.raises(AudioError, match="NaN"):
        Encoder("wav", RATE).push(np.array([np.nan], np.float32))
    with pytest.raises(AudioError, match=r"legal: \.wav"):
        save("a.txt", tone(10), RATE)
    with pytest.raises(AudioError, match="no samples"):
        encode(tone(0), RATE, "mp3")


def test_import_is_cheap() -> None:
    code = "import sys, gpa.audio; print([name for name in ('av', 'soxr', 'openvino', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("format", [name for name, known in FORMATS.items() if known.bit_rate])
def test_bit_rate_is_for_lossy_formats(format):
    wav = tone(3 * RATE)
    few_bits, many = (encode(wav, RATE, format, bit_rate=rate) for rate in (16_000, 48_000))
    assert 2 * len(few_bits) < len(many)
    assert encode(wav, RATE, format, bit_rate=FORMATS[format].bit_rate) == encode(wav, RATE, format)
    assert abs(len(decode(few_bits, RATE)) - len(wav)) <= 2048


@pytest.mark.parametrize(("format", "bit_rate"), [("wav", 32_000), ("pcm", 32_000), ("flac", 32_000), ("opus", 0), ("mp3", -1)])
def test_illegal_bit_rates(format, bit_rate):
    with pytest.raises(AudioError, match=r"bit/s \(legal: a positive number, for mp3, opus, aac\)"):
        Encoder(format, RATE, bit_rate=bit_rate)

"""Speech -> the same speech heard badly: rows that the model listens to (ASR) and never speaks (`gpa data disturb`).

One to three of six disturbances, in the order in which they happen to a voice: its speed, the room, noise, a telephone
line, the gain of a recorder, a lossy file. A row follows from (seed, its id) and, for babble, from the rows around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from gpa import audio
from gpa.audio import Wav
from gpa.data import manifest
from gpa.data.draws import generator
from gpa.data.manifest import PACK_RATE, Utterance
from gpa.data.noise import COLOURS, Crowd, coloured, unit
from gpa.data.pack import write_wavs

SNR = (5.0, 25.0)  # dB, speech to noise
REVERBERATION = (0.1, 0.5)  # seconds until the room is 60 dB down
SPEED = (0.9, 1.1)
BAND = (300.0, 3400.0)  # Hz, of a telephone
VOICES = 4  # of a babble behind a voice
BIT_RATES = {"mp3": 32_000, "opus": 12_000}  # bit/s
Noise: TypeAlias = Callable[[np.random.Generator, int], Wav]


def at_speed(wav: Wav, speed: float) -> Wav:
    """(T,) -> about (T / speed,); the pitch moves along."""
    return audio.as_wav(wav, round(PACK_RATE * speed), PACK_RATE)


def impulse_response(rng: np.random.Generator, seconds: float, direct: float) -> Wav:
    """A room: the direct sound, then noise from 2 ms on that falls by 60 dB in `seconds` and is `direct` dB weaker as a whole."""
    tail = coloured(rng, int(seconds * PACK_RATE)) * 10 ** (-3 * np.arange(int(seconds * PACK_RATE)) / (seconds * PACK_RATE))
    tail[: PACK_RATE // 500] = 0
    tail *= 10 ** (-direct / 20) / np.sqrt((tail**2).sum())
    tail[0] = 1
    return tail.astype(np.float32)


def in_room(wav: Wav, response: Wav) -> Wav:
    """(T,) in a room -> (T,): what rings on after the end is cut."""
    size = 1 << (len(wav) + len(response) - 1).bit_length()
    return np.fft.irfft(np.fft.rfft(wav, size) * np.fft.rfft(response, size), size)[: len(wav)].astype(np.float32)


def with_noise(wav: Wav, noise: Wav, decibel: float) -> Wav:
    """(T,) + noise (T,) at a ratio of powers of `decibel`, over the whole clip."""
    return wav + unit(noise) * np.float32(np.sqrt(np.mean(wav**2)) * 10 ** (-decibel / 20))


def by_telephone(wav: Wav) -> Wav:
    """(T,) through 8 kHz and 300 to 3400 Hz -> (T,); the edges are 100 Hz wide."""
    line = audio.as_wav(wav, PACK_RATE, PACK_RATE // 2)
    frequency = np.fft.rfftfreq(len(line), 2 / PACK_RATE)
    passed = np.clip((frequency - BAND[0]) / 100 + 1, 0, 1) * np.clip((BAND[1] - frequency) / 100 + 1, 0, 1)
    line = np.fft.irfft(np.fft.rfft(line) * passed, len(line)).astype(np.float32)
    return _fit(audio.as_wav(line, PACK_RATE // 2, PACK_RATE), len(wav))


def recorded(wav: Wav, decibel: float) -> Wav:
    """(T,) at another gain, cut off at full scale, and left with the 16 bits of a recorder."""
    loud: Wav = np.clip(wav * np.float32(10 ** (decibel / 20)), -1, 1)
    return (loud * 32767).round() / np.float32(32767)


def through_file(wav: Wav, format: str) -> Wav:
    """(T,) written as mp3 or opus with few bits and read again -> (T,)."""
    return _fit(audio.decode(audio.encode(wav, PACK_RATE, format, bit_rate=BIT_RATES[format]), PACK_RATE), len(wav))


def _fit(wav: Wav, count: int) -> Wav:
    return np.pad(wav[:count], (0, max(0, count - len(wav))))


def _within(wav: Wav) -> Wav:
    """The same with no peak above full scale."""
    return wav / np.float32(max(1.0, float(np.abs(wav).max())))


def _gain(rng: np.random.Generator) -> float:
    """dB: either so little that levelling brings out the last bits, or so much that peaks are cut."""
    return rng.uniform(-40, -28) if rng.random() < 0.3 else rng.uniform(4, 16)


_STEPS: tuple[Callable[[Wav, np.random.Generator, Noise], Wav], ...] = (
    lambda wav, rng, noise: at_speed(wav, rng.uniform(*SPEED)),
    lambda wav, rng, noise: in_room(wav, impulse_response(rng, rng.uniform(*REVERBERATION), rng.uniform(0, 12))),
    lambda wav, rng, noise: with_noise(wav, noise(rng, len(wav)), rng.uniform(*SNR)),
    lambda wav, rng, noise: by_telephone(wav),
    lambda wav, rng, noise: recorded(wav, _gain(rng)),
    lambda wav, rng, noise: through_file(wav, str(rng.choice(list(BIT_RATES)))),
)


def disturb(wav: Wav, rng: np.random.Generator, noise: Noise) -> Wav:
    """One to three disturbances of (T,) at 16 kHz -> (T',), T' within T / 1.1 and T / 0.9, of peak 1 at most.

    `noise`: draws what may be laid over it, (T,) for a T."""
    for step in sorted(rng.choice(len(_STEPS), int(rng.integers(1, 4)), replace=False)):
        wav = _within(_STEPS[step](wav, rng, noise))
    return wav


def write_disturbed(source: Path, out: Path, count: int | None = None, seed: int = 0) -> list[Utterance]:
    """Write a pack OUT.pcm, OUT.jsonl of the rows of a manifest (or of `count` of them, drawn), disturbed; texts stay.

    Rows that are empty, or listened to only, are left out. Raises GPAError, AudioError."""
    source, out = Path(source), Path(out)
    root = source if source.is_dir() else source.parent
    rows = [row for row in manifest.read(source) if row.text.strip() and not row.listen_only]
    crowd = Crowd(rows, root)
    if count is not None and count < len(rows):
        rows = [rows[i] for i in sorted(np.random.default_rng(seed).choice(len(rows), count, replace=False))]
    out.parent.mkdir(parents=True, exist_ok=True)
    return write_wavs(_disturbed(rows, crowd, seed), out)


def _disturbed(rows: list[Utterance], crowd: Crowd, seed: int) -> Iterator[tuple[Utterance, Wav]]:
    for row in rows:
        rng = generator(seed, row.id)
        wav = disturb(manifest.load_wav(row, crowd.root), rng, _behind(crowd, row.id))
        yield replace(row, id=f"{row.id}{manifest.COPY}{seed}", pair=None, listen_only=True), wav


def _behind(crowd: Crowd, id: str) -> Noise:
    """Noise of a colour, or the other rows' babble where there are enough of them."""
    kinds = [*COLOURS, "babble"] if len(crowd.rows) > VOICES else list(COLOURS)

    def noise(rng: np.random.Generator, count: int) -> Wav:
        kind = str(rng.choice(kinds))
        if kind == "babble":
            return crowd.babble(rng, count, crowd.draw(rng, VOICES, without=id))
        return coloured(rng, count, kind)

    return noise

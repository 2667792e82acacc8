"""Sounds in which nobody speaks, of kinds that `gpa.data.noise` (which models are trained on) does not make: (T,) float32 at 16 kHz."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gpa.data import noise
from gpa.data.noise import COLOURS, coloured, tone, unit

RATE = 16_000
Wav = np.ndarray
Maker = Callable[[np.random.Generator, int], Wav]


def sweeping(rng: np.random.Generator, count: int) -> Wav:
    """A siren: a pitch that rises and falls, with harmonics."""
    t = np.arange(count) / RATE
    pitch = rng.uniform(300, 900) * 2 ** (rng.uniform(0.2, 1) * np.sin(2 * np.pi * rng.uniform(0.1, 3) * t))
    turns = 2 * np.pi * np.cumsum(pitch) / RATE
    return sum(np.sin(k * turns) / k**1.5 for k in range(1, 7)).astype(np.float32)


def engine(rng: np.random.Generator, count: int) -> Wav:
    """A motor whose speed wanders: low harmonics and noise that follow each turn."""
    t = np.arange(count) / RATE
    pitch = rng.uniform(25, 110) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.05, 0.4) * t + rng.uniform(0, 6)))
    turns = 2 * np.pi * np.cumsum(pitch) / RATE
    body = sum(rng.uniform(0.3, 1) / k**0.7 * np.sin(k * turns + rng.uniform(0, 6)) for k in range(1, 25))
    return (body + coloured(rng, count, "pink") * (1 + np.sin(turns)) * 0.5).astype(np.float32)


def wind(rng: np.random.Generator, count: int) -> Wav:
    """Gusts: bands of noise that come and go by themselves."""
    frequency, wav = np.fft.rfftfreq(count, 1 / RATE), np.zeros(count)
    for centre in (120, 250, 500, 900):
        band = np.exp(-((np.log((frequency + 1) / centre) / 0.3) ** 2)) * np.fft.rfft(rng.standard_normal(count))
        knots = max(3, count // 8000)
        wav += unit(np.fft.irfft(band, count)) * np.interp(np.arange(count), np.linspace(0, count, knots), rng.random(knots) ** 2)
    return wav.astype(np.float32)


def rain(rng: np.random.Generator, count: int) -> Wav:
    """Hundreds of drops a second."""
    hits = (rng.random(count) < rng.uniform(0.005, 0.05)) * rng.exponential(1, count)
    return np.convolve(hits, np.exp(-np.arange(200) / 20) * rng.standard_normal(200), mode="same").astype(np.float32)


def ringing(rng: np.random.Generator, count: int) -> Wav:
    """A telephone: two tones, on and off."""
    t = np.arange(count) / RATE
    low, high, on, off = rng.uniform(300, 500), rng.uniform(450, 1000), rng.uniform(0.4, 2), rng.uniform(0.3, 2)
    trill = 1 if rng.random() < 0.5 else np.sin(2 * np.pi * 20 * t) > 0
    return ((np.sin(2 * np.pi * low * t) + np.sin(2 * np.pi * high * t)) * trill * (t % (on + off) < on)).astype(np.float32)


def birds(rng: np.random.Generator, count: int) -> Wav:
    """Chirps that slide between 2 and 6 kHz."""
    wav = np.zeros(count, np.float32)
    for start in rng.integers(count, size=max(3, count // 4000)):
        here = min(int(rng.uniform(0.03, 0.2) * RATE), count - int(start))
        pitch = np.linspace(*rng.uniform(2000, 6000, 2), here)
        wav[start : start + here] += np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * np.hanning(here) * rng.uniform(0.2, 1)
    return wav


def bowed(rng: np.random.Generator, count: int) -> Wav:
    """A melody as on a violin or a flute: held notes with vibrato, without a gap between them."""
    beat, t = int(RATE * rng.uniform(0.2, 0.8)), np.arange(count) / RATE
    notes = rng.choice([0, 2, 4, 5, 7, 9, 11, 12], count // beat + 1)
    pitch = np.repeat(rng.uniform(150, 500) * 2 ** (notes / 12), beat)[:count]
    pitch = pitch * (1 + 0.01 * np.sin(2 * np.pi * rng.uniform(4, 7) * t))
    turns, loud = 2 * np.pi * np.cumsum(pitch) / RATE, 0.3 + np.abs(np.sin(np.pi * t * RATE / beat))
    harmonics = rng.uniform(0.2, 1, 10) / np.arange(1, 11) ** rng.uniform(0.6, 1.6)
    voices = sum(a * np.sin(k * turns) for k, a in enumerate(harmonics, 1) if k * pitch.max() < RATE / 2)
    return (voices * loud).astype(np.float32)


def organ(rng: np.random.Generator, count: int) -> Wav:
    """Held chords with a slow tremolo."""
    root, wav = rng.uniform(60, 220), np.zeros(count, np.float32)
    length = int(RATE * rng.uniform(0.8, 2.5))
    for start in range(0, count, length):
        here, shift = min(length, count - start), int(rng.choice([0, 3, 5, 7]))
        for step in noise.CHORDS[int(rng.integers(len(noise.CHORDS)))]:
            wav[start : start + here] += tone(root * 2 ** ((step + shift) / 12), here, (1, 0.6, 0.4, 0.3, 0.2, 0.1), rng.uniform(0, 6))
    return (wav * (1 + 0.3 * np.sin(2 * np.pi * rng.uniform(3, 7) * np.arange(count) / RATE))).astype(np.float32)


def band(rng: np.random.Generator, count: int) -> Wav:
    """Drums under a struck melody and a bass."""
    beat, wav = int(RATE * 60 / rng.uniform(80, 140)), unit(noise.music(rng, count))
    for number, start in enumerate(range(0, count, beat // 2)):
        here = min(2000, count - start)
        fade = np.exp(-np.arange(here) / rng.uniform(100, 500))
        wav[start : start + here] += fade * (rng.standard_normal(here) if number % 2 else 2 * tone(rng.uniform(50, 90), here))
    bass = np.repeat(rng.choice([55.0, 65.4, 73.4, 82.4], count // beat + 1), beat)[:count]
    return (wav + 0.7 * np.sin(2 * np.pi * np.cumsum(bass) / RATE)).astype(np.float32)


def pulses(rng: np.random.Generator, count: int) -> Wav:
    """A buzzer or a modem: square waves of changing pitch, switched several times a second, as syllables are."""
    step = int(RATE * rng.uniform(0.05, 0.3))
    pitch = np.repeat(rng.uniform(80, 1500, count // step + 1) * (rng.random(count // step + 1) < 0.8), step)[:count]
    return np.sign(np.sin(2 * np.pi * np.cumsum(pitch) / RATE)).astype(np.float32) * (pitch > 0)


def applause(rng: np.random.Generator, count: int) -> Wav:
    """Many hands: short bursts of noise, thicker and thinner."""
    density = 0.004 * (1 + np.sin(2 * np.pi * rng.uniform(0.05, 0.3) * np.arange(count) / RATE))
    hits = (rng.random(count) < density) * rng.exponential(1, count)
    return np.convolve(hits, np.exp(-np.arange(160) / 40) * rng.standard_normal(160), mode="same").astype(np.float32)


STRANGE: dict[str, Maker] = {
    maker.__name__: maker for maker in (sweeping, engine, wind, rain, ringing, birds, bowed, organ, band, pulses, applause)
}


def sounds(each: int, seed: int = 11) -> Iterator[tuple[str, Wav]]:
    """`each` sounds of every kind, 2 to 12 s, at any loudness: those of `gpa.data.noise`, each colour of noise, and the kinds above."""
    ours = [kind for kind in noise.KINDS if kind not in ("babble", "coloured")]
    kinds = ["zeros", *ours, *COLOURS, *STRANGE]
    for number, kind in enumerate(kinds):
        for i in range(each):
            rng = np.random.default_rng([seed, number, i])
            count = int(rng.uniform(2, 12) * RATE)
            if kind == "zeros":
                yield kind, np.zeros(count, np.float32)
            elif kind in ours:
                yield kind, noise.sound(kind, rng, count)
            else:
                yield kind, noise.bedded(rng, coloured(rng, count, kind) if kind in COLOURS else STRANGE[kind](rng, count))

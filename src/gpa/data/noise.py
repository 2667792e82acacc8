"""Sound in which nothing is said: rows whose text is empty (`gpa data noise`), and what `gpa.data.disturb` lays over speech.

Every sound is (T,) float32 at 16 kHz and a function of the generator it is drawn from. The voices of a babble are rows of
a manifest: what they say is lost, their licence is not, so a row of babble names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gpa.audio import Wav
from gpa.data import manifest
from gpa.data.manifest import PACK_RATE, SOURCES, Utterance
from gpa.data.pack import write_wavs
from gpa.errors import GPAError

SOURCE = "synthetic noise"
KINDS = ("silence", "coloured", "hum", "beeps", "clicks", "music", "babble")
COLOURS = {"white": 0.0, "pink": 1.0, "brown": 2.0}  # power falls with frequency to this power
SECONDS = (1.0, 8.0)
VOICES = (8, 16)  # that overlap in a row of babble: fewer could be followed
CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 11), (0, 5, 7), (0, 3, 6, 9))  # semitones above a root
MELODY = (0, 2, 4, 7, 9, 12)  # semitones above a root: the pentatonic scale


class Crowd:
    """Rows of a manifest whose voices are laid over each other. `root`: the folder of the manifest."""

    def __init__(self, rows: Sequence[Utterance], root: Path) -> None:
        self.rows = [row for row in rows if row.text.strip()]
        self.root = Path(root)

    def draw(self, rng: np.random.Generator, voices: int, without: str = "") -> list[Utterance]:
        """`voices` rows, none of them `without` (an id). Raises GPAError when there are not enough."""
        if len(self.rows) <= voices:
            raise GPAError(f"a babble of {voices} voices needs more rows with a text than the {len(self.rows)} found in {self.root}")
        drawn = [self.rows[i] for i in rng.choice(len(self.rows), voices + 1, replace=False)]
        return [row for row in drawn if row.id != without][:voices]

    def babble(self, rng: np.random.Generator, count: int, members: Sequence[Utterance]) -> Wav:
        """`members` over each other, equally loud, each begun somewhere and repeated up to `count` samples; RMS 1."""
        total = np.zeros(count, np.float32)
        for row in members:
            wav = unit(manifest.load_wav(row, self.root))
            total += np.resize(np.roll(wav, int(rng.integers(len(wav)))), count)
        return unit(total)


def unit(wav: Wav) -> Wav:
    """Scale (T,) to RMS 1; digital silence stays what it is."""
    return wav / np.float32(max(float(np.sqrt(np.mean(wav**2))), 1e-9))


def coloured(rng: np.random.Generator, count: int, colour: str = "white") -> Wav:
    """Noise whose power falls as 1 / f^n above 20 Hz (n by `COLOURS`), RMS 1."""
    spectrum = np.fft.rfft(rng.standard_normal(count, np.float32))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / PACK_RATE), 20.0)
    return unit(np.fft.irfft(spectrum * frequency ** (-COLOURS[colour] / 2), count).astype(np.float32))


def any_colour(rng: np.random.Generator, count: int) -> Wav:
    """Noise of a colour that is drawn too."""
    return coloured(rng, count, str(rng.choice(list(COLOURS))))


def tone(frequency: float, count: int, harmonics: Sequence[float] = (1.0,), phase: float = 0.0) -> Wav:
    """`count` samples of a periodic sound; `harmonics`: amplitudes from the fundamental on, those above 8 kHz are left out."""
    turns = 2 * np.pi * frequency / PACK_RATE * np.arange(count) + phase
    heard = [a * np.sin(k * turns) for k, a in enumerate(harmonics, 1) if k * frequency < PACK_RATE / 2]
    sound: Wav = np.sum([np.zeros(count), *heard], 0).astype(np.float32)
    return sound


def hum(rng: np.random.Generator, count: int) -> Wav:
    """Mains hum: harmonics of 50 or 60 Hz."""
    harmonics = rng.random(12) / np.arange(1, 13) ** rng.uniform(0.3, 1.5)
    return tone(float(rng.choice([50.0, 60.0])), count, harmonics.tolist(), rng.uniform(0, 6))


def beeps(rng: np.random.Generator, count: int) -> Wav:
    """Pips of one or two pitches, as devices and telephones make them."""
    wav, pitches = np.zeros(count, np.float32), rng.uniform(300, 3000, int(rng.integers(1, 3)))
    length, gap = (int(rng.uniform(low, high) * PACK_RATE) for low, high in ((0.05, 0.5), (0.05, 1.0)))
    together = rng.random() < 0.3
    for number, start in enumerate(range(int(rng.integers(gap)), count, length + gap)):
        here = min(length, count - start)
        chosen = pitches if together else pitches[number % len(pitches) :][:1]
        wav[start : start + here] = sum(tone(float(pitch), here) for pitch in chosen) * _edges(here)
    return wav


def clicks(rng: np.random.Generator, count: int) -> Wav:
    """Knocks and ticks: short resonances that die away, a few a second."""
    wav = np.zeros(count, np.float32)
    for start in rng.integers(count, size=max(2, int(rng.uniform(1, 12) * count / PACK_RATE))):
        here = min(int(0.06 * PACK_RATE), count - int(start))
        decay = np.exp(-np.arange(here) / (PACK_RATE * rng.uniform(0.0005, 0.01))).astype(np.float32)
        wav[start : start + here] += rng.uniform(0.2, 1) * decay * tone(rng.uniform(200, 6000), here, phase=np.pi / 2)
    return wav


def music(rng: np.random.Generator, count: int) -> Wav:
    """Chords with a melody over them: harmonic tones that are struck and die away."""
    beat = int(PACK_RATE * 60 / rng.uniform(60, 160))
    root, bright = rng.uniform(80, 260), rng.uniform(0.8, 2.5)
    harmonics = (np.arange(1, 9) ** -bright * rng.uniform(0.5, 1, 8)).tolist()
    ring, wav = rng.uniform(0.15, 1.2), np.zeros(count, np.float32)
    for start in range(0, count, beat):
        notes = [int(rng.choice(MELODY)) + 12]
        if start // beat % 4 == 0:
            shift = int(rng.choice((0, 5, 7, 9)))
            notes += [shift + step for step in CHORDS[int(rng.integers(len(CHORDS)))]]
        here = min(count - start, 4 * beat)
        struck = np.exp(-np.arange(here) / (PACK_RATE * ring)).astype(np.float32) * _edges(here)
        wav[start : start + here] += sum(tone(root * 2 ** (note / 12), here, harmonics) for note in notes) * struck
    return wav


def _edges(count: int, seconds: float = 0.005) -> Wav:
    """An envelope (T,) that rises at the begin and falls at the end."""
    ramp = np.arange(1, count + 1) / (seconds * PACK_RATE)
    return np.minimum(1, np.minimum(ramp, ramp[::-1])).astype(np.float32)


def sound(kind: str, rng: np.random.Generator, count: int) -> Wav:
    """One sound of `KINDS` but babble, at a peak of -90 to -50 dB for silence, else of -45 to 0 dB."""
    makers = {"coloured": any_colour, "hum": hum, "beeps": beeps, "clicks": clicks, "music": music}
    if kind == "silence":
        return _loud(any_colour(rng, count), rng.uniform(-90, -50))
    return bedded(rng, makers[kind](rng, count))


def bedded(rng: np.random.Generator, wav: Wav) -> Wav:
    """A sound at some loudness, every other time with noise 10 to 40 dB below it."""
    wav = unit(wav)
    if rng.random() < 0.5:
        wav = wav + any_colour(rng, len(wav)) * np.float32(10 ** (rng.uniform(-40, -10) / 20))
    return _loud(wav, rng.uniform(-45, 0))


def _loud(wav: Wav, decibel: float) -> Wav:
    """Bring the peak to so many dB of full scale."""
    return wav * np.float32(10 ** (decibel / 20) / max(float(np.abs(wav).max()), 1e-9))


def write_noise(out: Path, count: int = 1000, seed: int = 0, crowd: Crowd | None = None) -> list[Utterance]:
    """Write a pack OUT.pcm, OUT.jsonl of `count` rows of 1 to 8 s in which nothing is said, all kinds alike often.

    Babble needs a `crowd`. The speaker of a row is `noise-KIND`. Raises GPAError."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    return write_wavs(_rows(out.name, count, seed, crowd), out)


def _rows(name: str, count: int, seed: int, crowd: Crowd | None) -> Iterator[tuple[Utterance, Wav]]:
    kinds = KINDS if crowd else KINDS[:-1]
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        kind, samples = kinds[i % len(kinds)], int(rng.uniform(*SECONDS) * PACK_RATE)
        license = SOURCES[SOURCE].license
        if kind == "babble" and crowd:
            members = crowd.draw(rng, int(rng.integers(VOICES[0], VOICES[1] + 1)))
            wav = bedded(rng, crowd.babble(rng, samples, members))
            license = " + ".join(sorted({license, *(row.license for row in members)}))
        else:
            wav = sound(kind, rng, samples)
        yield (
            Utterance(f"{name}_{i:05d}", "", f"noise-{kind}", name, SOURCE, license, text_source="synthesis", listen_only=True),
            wav,
        )

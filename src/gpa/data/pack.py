"""A manifest of audio files -> one pack: int16 samples at 16 kHz, every utterance levelled and padded alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpa import audio
from gpa.data import manifest
from gpa.data.manifest import PACK_RATE, Utterance

ALIGNMENT = 1280  # samples: one linguistic code; every utterance is padded to a multiple
LEVEL = 0.08  # RMS of a packed utterance


def level(wav: audio.Wav) -> audio.Wav:
    """Scale to RMS 0.08 (gain at most 20, peak at most 1) and pad with zeros to a multiple of 1280 samples."""
    gain = min(20.0, LEVEL / (float(np.sqrt(np.mean(wav**2))) + 1e-6))
    peak = float(np.abs(wav).max()) * gain
    scaled = wav * np.float32(gain / max(1.0, peak))
    return np.pad(scaled, (0, -len(wav) % ALIGNMENT))


def write_pack(
    utterances: Iterable[Utterance], root: Path, out: Path, shorter_than: float = 28.0, progress: Callable[[], None] | None = None
) -> list[Utterance]:
    """Decode `utterances` (paths relative to `root`) into OUT.pcm and OUT.jsonl; those of `shorter_than` seconds or more are left out.

    Returns the rows written. Raises AudioError."""
    return write_wavs(((row, manifest.load_wav(row, root)) for row in utterances), out, shorter_than, progress)


def write_wavs(
    sounds: Iterable[tuple[Utterance, audio.Wav]], out: Path, shorter_than: float = 28.0, progress: Callable[[], None] | None = None
) -> list[Utterance]:
    """Level and pad sounds (T,) at 16 kHz into OUT.pcm and OUT.jsonl, as `write_pack`; their rows get a place in the pack."""
    out = Path(out)
    partial = out.with_suffix(".pcm.tmp")
    rows: list[Utterance] = []
    offset = 0
    with partial.open("wb") as file:
        for utterance, wav in sounds:
            if progress:
                progress()
            if len(wav) >= shorter_than * PACK_RATE:
                continue
            samples = (level(wav) * 32767).round().astype("<i2")
            samples.tofile(file)
            rows.append(replace(utterance, audio=out.name + ".pcm", offset=offset, samples=len(samples), pair=None))
            offset += len(samples)
    os.replace(partial, out.with_suffix(".pcm"))
    manifest.write(out.with_suffix(".jsonl"), rows)
    return rows

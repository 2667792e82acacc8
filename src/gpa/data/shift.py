"""Recordings -> the same recordings and each in a second voice (`gpa data shift`): pairs that no corpus of people has.

Pitch and formants move together by one ratio a speaker, words and timing stay. So codes of the one voice and global codes of the
other have a wave to be trained on, as the teachers' parametric pairs have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpa.audio import Wav
from gpa.data import manifest
from gpa.data.disturb import at_speed
from gpa.data.draws import generator
from gpa.data.manifest import PACK_RATE, Utterance
from gpa.data.pack import write_wavs
from gpa.stretch import Stretcher

MARK = f"{manifest.COPY}shifted"  # behind the id of a row in its second voice
RATIO = (1.09, 1.22)  # how far a voice is moved, up or down: less is hardly another voice, more is nobody's


def shifted(wav: Wav, ratio: float) -> Wav:
    """(T,) at 16 kHz -> (T,): pitch and formants times `ratio`, the tempo as it was."""
    stretcher, moved = Stretcher(1 / ratio, PACK_RATE), at_speed(wav, ratio)
    slow = np.concatenate([stretcher.push(moved), stretcher.flush()])
    return np.pad(slow[: len(wav)], (0, max(0, len(wav) - len(slow))))


def ratio_of(speaker: str, seed: int) -> float:
    """The ratio of a speaker, up for some and down for others: always the same for a seed, so that the second voice is one voice."""
    rng = generator(seed, speaker)
    return float(math.exp(rng.choice((-1, 1)) * rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]))))


def write_shifted(source: Path, out: Path, seed: int = 0) -> list[Utterance]:
    """Write a pack OUT.pcm, OUT.jsonl: the rows of a manifest, then each in its speaker's second voice (SPEAKER@RATIO), paired.

    Rows that are listened to only are left out. Raises GPAError, AudioError."""
    source, out = Path(source), Path(out)
    rows = [row for row in manifest.read(source) if not row.listen_only]
    out.parent.mkdir(parents=True, exist_ok=True)
    written = write_wavs(_both(rows, source if source.is_dir() else source.parent, seed), out)
    there = {row.id for row in written}
    paired = [replace(row, pair=other) if (other := _other(row.id)) in there else row for row in written]
    manifest.write(out.with_suffix(".jsonl"), paired)
    return paired


def _other(id: str) -> str:
    return id.removesuffix(MARK) if id.endswith(MARK) else id + MARK


def _both(rows: Sequence[Utterance], root: Path, seed: int) -> Iterator[tuple[Utterance, Wav]]:
    for row in rows:
        yield row, manifest.load_wav(row, root)
    for row in rows:
        ratio = ratio_of(row.speaker, seed)
        voice = f"{row.speaker}@{ratio:.2f}"
        yield replace(row, id=_other(row.id), speaker=voice), shifted(manifest.load_wav(row, root), ratio)

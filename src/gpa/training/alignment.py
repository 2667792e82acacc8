"""When each letter of an utterance is said: the most probable CTC path through the reader that trained the codec.

Beside a shard NAME.npz stands NAME.times.npy: for every letter of every row (`letters` of its text, row after row) the
semantic code in which it is said, or UNKNOWN. Training alone reads it (guided attention).
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gpa.align import best_path
from gpa.data.shards import Codes, TokenisedUtterance, read_shard
from gpa.nets.quantize import FactorizedVQ
from gpa.training.codec import Reader
from gpa.training.codec_data import LETTERS

UNKNOWN = 65535
Times = NDArray[np.uint16]


def letters(text: str) -> str:
    """What of a text the reader spells: LETTERS, accents stripped, lower case."""
    return "".join(c for c in unicodedata.normalize("NFKD", text).lower() if c in LETTERS)


def times_path(shard: Path) -> Path:
    """Where the times of a shard stand."""
    return Path(shard).with_suffix(".times.npy")


class Aligner:
    """Semantic codes and text -> times of its letters."""

    def __init__(self, quantizer: FactorizedVQ, reader: Reader) -> None:
        self.quantizer, self.reader = quantizer.eval(), reader.eval()

    @torch.inference_mode()
    def times(self, codes: Codes, text: str) -> Times:
        """Codes (N,) and a text -> for each of its letters a code 0..N - 1, never falling; UNKNOWN throughout where the
        text does not fit into the codes."""
        spelled = np.array([LETTERS.index(c) + 1 for c in letters(text)], np.int64)
        vectors = self.quantizer.decode(torch.from_numpy(codes.astype(np.int64))[None])
        scores = self.reader(vectors).float().log_softmax(-1)[0].numpy()
        frames = ctc_path(scores, spelled)
        return np.full(len(spelled), UNKNOWN, np.uint16) if frames is None else (frames // 2).astype(np.uint16)

    def align_shard(self, shard: Path) -> int:
        """Write the times of a shard beside it, if they are not there; returns its rows."""
        rows = read_shard(shard)
        path = times_path(shard)
        if not path.exists():
            found = [self.times(row.semantic, row.text) for row in rows]
            partial = path.with_suffix(".tmp.npy")
            np.save(partial, np.concatenate([np.zeros(0, np.uint16), *found]))
            os.replace(partial, path)
        return len(rows)


def read_times(shard: Path, rows: Sequence[TokenisedUtterance]) -> list[Times | None]:
    """Times of the rows of a shard; None for rows that have none."""
    if not times_path(shard).exists():
        return [None] * len(rows)
    parts = np.split(np.load(times_path(shard)), np.cumsum([len(letters(row.text)) for row in rows])[:-1])
    return [part if len(part) and part[0] != UNKNOWN else None for part in parts]


def ctc_path(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Log-probabilities (T, 1 + letters; 0 is the blank) and labels (L,) -> the frame (L,) in the middle of each label's
    stretch on the most probable path (Graves et al. 2006); None where T is too short."""
    if not len(labels):
        return np.zeros(0, np.int64)
    states = np.zeros(2 * len(labels) + 1, np.int64)
    states[1::2] = labels
    costs = np.full((3, len(states)), -np.inf)  # of staying, of going on, and of leaving a blank out
    costs[:2] = 0
    costs[2, 3::2] = np.where(labels[1:] != labels[:-1], 0, -np.inf)  # equal neighbours need the blank between them
    path = best_path(scores[:, states].astype(np.float64), costs)
    if path[-1] < len(states) - 2:
        return None
    spans = [np.flatnonzero(path == 2 * i + 1) for i in range(len(labels))]
    return np.array([(span[0] + span[-1]) // 2 for span in spans])

"""Batches for codec training: whole utterances of like length, a crop of each to be rendered, and a reference clip.

A batch is a pure function of (seed, step). The rendered voice is the paired one more often than not, so that codes of
voice A and globals of voice B learn to give the very wave of voice B; the reference is another utterance of that voice.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpa.data import manifest
from gpa.data.manifest import Utterance
from gpa.errors import GPAError

HOP = 320  # samples per feature frame
LETTERS = " abcdefghijklmnopqrstuvwxyz'"  # what the CTC reader spells; 0 is its blank


_B = TypeVar("_B", bound="_Batch")


class _Batch:
    """A dataclass of tensors and lists of tensors."""

    def to(self: _B, device: torch.device) -> _B:
        """The same on a device."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {name: [x.to(device) for x in value] if isinstance(value, list) else value.to(device) for name, value in held.items()}
        return type(self)(**moved)


@dataclass(frozen=True)
class UtteranceBatch(_Batch):
    """B whole utterances with their words."""

    features: Tensor  # (B, T, channels)
    lengths: Tensor  # (B,) feature frames
    spelling: list[Tensor]  # B x (letters,)


@dataclass(frozen=True)
class CodecBatch(_Batch):
    """B utterances of at most T feature frames, with crops of C frames."""

    features: Tensor  # (B, T, channels)
    lengths: Tensor  # (B,) feature frames
    spelling: list[Tensor]  # B x (letters,); empty where the utterance was cut
    start: Tensor  # (B,) first frame of the crop
    wav: Tensor  # (B, C * 320) of the rendered voice
    f0: Tensor  # (B, 2 C) Hz, interpolated through unvoiced frames
    voiced: Tensor  # (B, 2 C) 0 or 1
    target_features: Tensor  # (B, C, channels) of the rendered voice
    reference: Tensor  # (B, R) reference clip
    speaker: Tensor  # (B,) class, or -100


def _spell(text: str) -> list[int]:
    return [LETTERS.index(c) + 1 for c in text.lower() if c in LETTERS]


def _stack(features: list[NDArray[np.float32]]) -> Tensor:
    """Rows (T_i, C) -> (B, max T, C), zeros at the end."""
    longest = max(map(len, features))
    return torch.from_numpy(np.stack([np.pad(row, ((0, longest - len(row)), (0, 0))) for row in features]))


class CodecData:
    """Packs with features beside them (see gpa.training.features)."""

    def __init__(self, folder: Path, max_frames: int = 450, crop: int = 80, reference_seconds: float = 4.0) -> None:
        self.max_frames, self.crop, self.reference_samples = max_frames, crop, int(reference_seconds * 16_000)
        packs = sorted(p for p in Path(folder).glob("*.jsonl") if p.with_suffix(".f0.npy").exists())
        if not packs:
            raise GPAError(f"{folder} holds no pack with features (NAME.jsonl, NAME.pcm, NAME.features.npy, NAME.f0.npy)")
        self.rows: list[Utterance] = []
        self.pack_of: list[int] = []
        self.samples, self.features, self.f0 = [], [], []
        for i, pack in enumerate(packs):
            rows = manifest.read(pack)
            self.rows += rows
            self.pack_of += [i] * len(rows)
            self.samples.append(np.memmap(pack.with_suffix(".pcm"), np.int16, "r"))
            self.features.append(np.load(pack.with_suffix(".features.npy"), mmap_mode="r"))
            self.f0.append(np.load(pack.with_suffix(".f0.npy")))
        self._index()

    def _index(self) -> None:
        position = {row.id: i for i, row in enumerate(self.rows)}
        self.pair = [position.get(row.pair or "", -1) for row in self.rows]
        self.by_speaker: dict[str, list[int]] = {}
        for i, row in enumerate(self.rows):
            self.by_speaker.setdefault(row.speaker, []).append(i)
        frequent = sorted(name for name, members in self.by_speaker.items() if len(members) >= 8)
        self.classes = {name: i for i, name in enumerate(frequent)}

    def weights(self, shares: dict[str, float]) -> NDArray[np.float64]:
        """Probability of each row: `shares` by source ('human' for all other), within a source by the root of a
        speaker's count, so that a thousand clips of one voice do not drown a thousand voices."""
        groups = np.array([row.source if row.source in shares else "human" for row in self.rows])
        speaker = np.array([len(self.by_speaker[row.speaker]) ** -0.5 for row in self.rows])
        total = np.zeros(len(self.rows))
        for group, share in shares.items():
            member = groups == group
            if member.any():
                total += share * member * speaker / (speaker * member).sum()
        shares_of_rows: NDArray[np.float64] = total / total.sum()
        return shares_of_rows

    def _draw(self, rng: np.random.Generator, size: int, weights: NDArray[np.float64]) -> list[int]:
        """`size` rows of like length."""
        pool = sorted(rng.choice(len(self.rows), 4 * size, p=weights), key=lambda i: self.rows[i].samples or 0)
        first = int(rng.integers(3 * size + 1))
        return [int(i) for i in pool[first : first + size]]

    def utterances(self, seed: int, step: int, size: int, weights: NDArray[np.float64]) -> UtteranceBatch:
        """The batch of a step for what reads whole utterances; those too long are left out."""
        rng = np.random.default_rng([seed, step])
        chosen = [i for i in self._draw(rng, size, weights) if (self.rows[i].samples or 0) // HOP <= self.max_frames]
        chosen = chosen or [min(range(len(self.rows)), key=lambda i: self.rows[i].samples or 0)]
        lengths = [(self.rows[i].samples or 0) // HOP for i in chosen]
        features = _stack([self._features(i, 0, n) for i, n in zip(chosen, lengths, strict=True)])
        return UtteranceBatch(features, torch.tensor(lengths), [torch.tensor(_spell(self.rows[i].text)) for i in chosen])

    def batch(self, seed: int, step: int, size: int, weights: NDArray[np.float64], paired: float = 0.6) -> CodecBatch:
        """The batch of a step for codec training."""
        rng = np.random.default_rng([seed, step])
        items = [self._item(i, rng, paired) for i in self._draw(rng, size, weights)]
        rows = {
            name: torch.stack([torch.as_tensor(item[name]) for item in items])
            for name in (f.name for f in fields(CodecBatch))
            if name not in ("features", "spelling")
        }
        spelling = [torch.tensor(item["spelling"]) for item in items]
        return CodecBatch(features=_stack([item["features"] for item in items]), spelling=spelling, **rows)

    def _item(self, i: int, rng: np.random.Generator, paired: float) -> dict[str, Any]:
        row = self.rows[i]
        frames = (row.samples or 0) // HOP
        begin = 0
        spelling = _spell(row.text)
        if frames > self.max_frames:
            begin = int(rng.integers(frames - self.max_frames + 1)) // 4 * 4
            frames, spelling = self.max_frames, []
        j = self.pair[i] if self.pair[i] >= 0 and rng.random() < paired else i
        start = int(rng.integers(max(0, frames - self.crop) + 1)) // 4 * 4
        f0, voiced = self._pitch(j, begin + start)
        return {
            "features": self._features(i, begin, frames),
            "lengths": np.int64(frames),
            "spelling": np.array(spelling, np.int64),
            "start": np.int64(start),
            "wav": self._wav(j, begin + start, self.crop),
            "f0": f0,
            "voiced": voiced,
            "target_features": self._features(j, begin + start, self.crop),
            "reference": self._reference(j, rng),
            "speaker": np.int64(self.classes.get(self.rows[j].speaker, -100)),
        }

    def _rows(self, i: int, first: int, frames: int) -> tuple[int, int, int]:
        """Pack, first feature row, and the frames the utterance has there."""
        row = self.rows[i]
        there = min(frames, (row.samples or 0) // HOP - first)
        return self.pack_of[i], (row.offset or 0) // HOP + first, max(0, there)

    def _features(self, i: int, first: int, frames: int) -> NDArray[np.float32]:
        pack, at, there = self._rows(i, first, frames)
        return np.pad(self.features[pack][at : at + there].astype(np.float32), ((0, frames - there), (0, 0)))

    def _wav(self, i: int, first: int, frames: int) -> NDArray[np.float32]:
        pack, at, there = self._rows(i, first, frames)
        wav = self.samples[pack][at * HOP : (at + there) * HOP].astype(np.float32) / 32768
        return np.pad(wav, (0, (frames - there) * HOP))

    def _pitch(self, i: int, first: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pack, at, there = self._rows(i, first, self.crop)
        f0 = np.pad(self.f0[pack][2 * at : 2 * (at + there)].astype(np.float32), (0, 2 * (self.crop - there)))
        known = np.flatnonzero(f0 > 40)
        voiced = (f0 > 40).astype(np.float32)
        if len(known) == 0:
            return np.full_like(f0, 150.0), voiced
        return np.exp(np.interp(np.arange(len(f0)), known, np.log(f0[known]))).astype(np.float32), voiced

    def two_crops(self, speaker: str, seconds: float, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of two utterances of a speaker, or of the only one."""
        members = self.by_speaker[speaker]
        i, k = rng.choice(members, 2, replace=len(members) < 2)
        frames = int(seconds * 16_000) // HOP
        return self._clip(int(i), frames, rng), self._clip(int(k), frames, rng)

    def _reference(self, i: int, rng: np.random.Generator) -> NDArray[np.float32]:
        members = self.by_speaker[self.rows[i].speaker]
        others = [k for k in members if k != i] or members
        return self._clip(others[int(rng.integers(len(others)))], self.reference_samples // HOP, rng)

    def _clip(self, i: int, wanted: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Frames from anywhere in an utterance; a short one is tiled, as at inference."""
        frames = (self.rows[i].samples or 0) // HOP
        first = int(rng.integers(max(0, frames - wanted) + 1))
        return np.resize(self._wav(i, first, min(wanted, frames)), wanted * HOP)

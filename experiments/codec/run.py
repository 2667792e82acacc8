"""How well the codec keeps the pitch, and how it uses its codes.

    python experiments/codec/run.py CHECKPOINT [--clips NAME=MANIFEST]... [--shards FOLDER]

--clips: 100 clips of a manifest (or of a folder of packs), evenly spread, are rendered of their own codes; the pitch of the rows that the
decoder gives, with what the voice keeps besides, stands against that of the recording (pyworld's DIO), where both are voiced.
--shards: all rows of tokenised shards are counted. Needs gpa[data,train].
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import gpa
from gpa.data import manifest
from gpa.data.shards import read_shard
from gpa.tokenizers.fit import with_fit
from gpa.training.features import pitch

COUNT = 100


def wavs(path: Path) -> Iterator[np.ndarray]:
    """COUNT clips of a manifest, evenly spread."""
    rows = manifest.read(path)
    for i in range(COUNT):
        yield manifest.load_wav(rows[i * len(rows) // COUNT], path if path.is_dir() else path.parent, 16_000)


def errors(model: gpa.GPA, wav: np.ndarray) -> list[float]:
    """Mean distance of the logarithms of a clip's pitch and of that which it is rendered with: by its codes alone, by its voice."""
    codec = model.bicodec
    codes, voice = model.semantic_codes(wav), codec.voice(wav)
    plain = codec.rows(np.array(codes)[None], voice[None], (0, 0))
    true = pitch(wav).astype(np.float32)
    count = min(len(true), len(plain.f0))
    both = (true[:count] > 0) & (plain.voiced[:count] > 0)
    fitted = with_fit(plain, codec.fit(wav, codes, voice), codec.sample_rate)
    return [float(np.abs(np.log(rows.f0[:count][both] / true[:count][both])).mean()) for rows in (plain, fitted)]


def usage(codes: np.ndarray, size: int) -> str:
    """Of codes (N,): how many are used, their entropy, the share of the commonest."""
    share = np.bincount(codes, minlength=size) / len(codes)
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    return f"{(share > 0).sum()} of {size} used, entropy {entropy:.2f} nats of {np.log(size):.2f}, the commonest {100 * share.max():.2f} %"


def main() -> None:
    """Write a line for each set of clips and each kind of codes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--clips", action="append", default=[])
    parser.add_argument("--shards", type=Path)
    asked = parser.parse_args()
    model = gpa.load(asked.checkpoint)
    for name, _, path in (clips.partition("=") for clips in asked.clips):
        plain, fitted = np.mean([errors(model, wav) for wav in wavs(Path(path))], axis=0)
        sys.stdout.write(f"f0 error, {name}: {plain:.4f} of the codes alone, {fitted:.4f} with what the voice keeps besides\n")
    if asked.shards:
        rows = [row for path in sorted(asked.shards.glob("*.npz")) for row in read_shard(path)]
        sys.stdout.write(f"semantic: {usage(np.concatenate([row.semantic for row in rows]), model.bicodec.codebook_size)}\n")
        voices = np.stack([row.voice for row in rows])
        sys.stdout.write(f"voices: {len(np.unique(voices, axis=0))} distinct of {len(voices)} rows\n")
        for place, codes in enumerate(voices.T):
            sys.stdout.write(f"global {place}: {usage(codes, model.bicodec.voice_codebook_size)}\n")


if __name__ == "__main__":
    main()

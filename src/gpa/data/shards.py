"""Shards: tokenised utterances, one .npz a pack. Codes only, never ids: a shard outlives any vocabulary.

Arrays: `semantic`, `glm` (uint16, all utterances end to end) with `semantic_ends`, `glm_ends` (where each ends);
`voice` (utterances, token_num) uint16 global codes; `speaker` (index into `speakers`); `pair` (row of the same
utterance in another voice, -1: none); `listen_only` (bool; absent from old shards: none is); `texts`, `speakers`, `sources` (UTF-8,
one a line).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpa.errors import GPAError

Codes = NDArray[np.uint16]


@dataclass(frozen=True)
class TokenisedUtterance:
    """One row: what was said, by whom, in codes."""

    text: str
    speaker: str
    source: str
    semantic: Codes  # (N,) semantic codes
    glm: Codes  # (M,) linguistic codes
    voice: Codes  # (token_num,) global codes of this very utterance
    pair: int = -1  # row in the same shard
    listen_only: bool = False  # may be heard (ASR) and never spoken; see gpa.data.manifest


def write_shard(path: Path, rows: Sequence[TokenisedUtterance]) -> None:
    """Write rows; the file appears under its name only when complete."""
    speakers = sorted({row.speaker for row in rows})
    sources = sorted({row.source for row in rows})
    partial = Path(path).with_suffix(".tmp.npz")
    np.savez_compressed(
        partial,
        semantic=np.concatenate([row.semantic for row in rows]).astype(np.uint16),
        semantic_ends=np.cumsum([len(row.semantic) for row in rows]),
        glm=np.concatenate([row.glm for row in rows]).astype(np.uint16),
        glm_ends=np.cumsum([len(row.glm) for row in rows]),
        voice=np.stack([row.voice for row in rows]).astype(np.uint16),
        pair=np.array([row.pair for row in rows], np.int32),
        listen_only=np.array([row.listen_only for row in rows], np.bool_),
        speaker=np.array([speakers.index(row.speaker) for row in rows], np.uint16),
        source=np.array([sources.index(row.source) for row in rows], np.uint16),
        texts=_lines([row.text for row in rows]),
        speakers=_lines(speakers),
        sources=_lines(sources),
    )
    os.replace(partial, path)


def read_shard(path: Path) -> list[TokenisedUtterance]:
    """Rows of one shard. Raises GPAError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise GPAError(f"{path} is no shard: {error}") from error
    texts, speakers, sources = (arrays[name].tobytes().decode().split("\n") for name in ("texts", "speakers", "sources"))
    semantic = np.split(arrays["semantic"], arrays["semantic_ends"][:-1])
    glm = np.split(arrays["glm"], arrays["glm_ends"][:-1])
    who = [speakers[i] for i in arrays["speaker"]]
    whence = [sources[i] for i in arrays["source"]]
    listen_only = arrays.get("listen_only", np.zeros(len(texts), np.bool_)).tolist()
    columns = zip(texts, who, whence, semantic, glm, arrays["voice"], arrays["pair"].tolist(), listen_only, strict=True)
    return [TokenisedUtterance(*column) for column in columns]


def _lines(texts: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer("\n".join(text.replace("\n", " ") for text in texts).encode(), np.uint8)

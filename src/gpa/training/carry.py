"""Carries a language model over to tokenizers that were trained on: the same sound has other codes now.

Both sets of shards hold the same utterances, so every new code is heard at the same frames as some old ones: its embedding
starts as their mean, weighted by how often they meet. All that is no code (text, attention, MLPs) stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpa.data.shards import Codes, TokenisedUtterance, read_shard
from gpa.errors import GPAError
from gpa.vocab import CodeRange, Vocab

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
Pair = tuple[TokenisedUtterance, TokenisedUtterance]


def carry_over(state: dict[str, Tensor], vocab: Vocab, old: Sequence[Path], new: Sequence[Path]) -> dict[str, Tensor]:
    """Weights of a language model that knew the codes of shards `old` -> weights that start from the codes of `new`.

    Shards are matched by name and hold the same utterances in the same order; codes never met keep their embedding.
    Raises GPAError."""
    pairs = list(_pairs(old, new))
    carried = dict(state)
    for name in EMBEDDINGS:
        if name in state:
            table = state[name].clone()
            for codes, met in _meetings(vocab, pairs):
                table[codes.ids.start : codes.ids.stop] = _mixed(state[name][codes.ids.start : codes.ids.stop], met)
            carried[name] = table
    return carried


def _pairs(old: Sequence[Path], new: Sequence[Path]) -> Iterator[Pair]:
    known = {path.name: path for path in old}
    shared = [path for path in new if path.name in known]
    if not shared:
        raise GPAError(f"no shard of {[p.name for p in new]} is among the old ones {sorted(known)}")
    for path in shared:
        before, after = read_shard(known[path.name]), read_shard(path)
        if [(row.text, row.speaker) for row in before] != [(row.text, row.speaker) for row in after]:
            raise GPAError(f"{path} and {known[path.name]} hold different utterances")
        yield from zip(before, after, strict=True)


def _meetings(vocab: Vocab, pairs: Sequence[Pair]) -> Iterator[tuple[CodeRange, NDArray[np.float32]]]:
    """Each range of codes with how often new code n (row) stands where old code o (column) stood."""
    kinds: tuple[tuple[CodeRange, Iterable[tuple[Codes, Codes]]], ...] = (
        (vocab.bicodec_semantic, ((a.semantic, b.semantic) for a, b in pairs)),
        (vocab.glm, ((a.glm, b.glm) for a, b in pairs)),
        (vocab.bicodec_global, ((a.voice, b.voice) for a, b in pairs)),
    )
    for codes, streams in kinds:
        met = np.zeros((codes.size, codes.size), np.float32)
        for before, after in streams:
            if len(before) != len(after):
                raise GPAError(f"an utterance has {len(before)} old and {len(after)} new codes: the frame rate has changed")
            np.add.at(met, (after, before), 1)
        yield codes, met


def _mixed(table: Tensor, met: NDArray[np.float32]) -> Tensor:
    count = torch.from_numpy(met.sum(1, keepdims=True))
    mean = torch.from_numpy(met) @ table.float() / count.clamp(min=1)
    return torch.where(count > 0, mean, table.float()).to(table.dtype)

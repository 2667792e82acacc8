"""Packs -> shards: every utterance through both tokenizers, many at a time, with the nets that were just trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpa.data import manifest
from gpa.data.manifest import Utterance
from gpa.data.shards import TokenisedUtterance, write_shard
from gpa.nets.bicodec import BiCodec
from gpa.nets.mel import WhisperMel
from gpa.nets.whisper import WhisperVQ
from gpa.training.features import BATCH, HOP, encode_batch, fast_bf16, pack_wav

REFERENCE_SECONDS = 6
Triple = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]


class PackTokenizer:
    """Two trained tokenizers, whole utterances in, rows of codes out."""

    def __init__(self, codec: BiCodec, glm: WhisperVQ) -> None:
        self.codec, self.glm = codec.eval(), glm.eval()
        self.layers: list[int] = codec.config["feature_layers"]
        self.mel = WhisperMel(glm.config.num_mel_bins)

    @torch.inference_mode()
    def encode(self, wavs: Sequence[NDArray[np.float32]], features: Sequence[Tensor]) -> list[Triple]:
        """B waves (T,) of ONE length, a multiple of 1280, and their features (T / 320, C) -> for each its semantic
        (T / 640,), linguistic (T / 1280,) and global codes. The last of the concatenated layers is the linguistic
        tokenizer's input. Waves of several lengths would meet each other's padding."""
        clips = torch.from_numpy(np.stack([np.resize(wav, REFERENCE_SECONDS * 16_000) for wav in wavs]))
        batch = torch.stack(list(features))
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16()):
            semantic = self.codec.tokenize(batch)
            linguistic = self.glm.quantize(self.glm.pooled(batch[..., -self.glm.config.d_model :]))
            voice = self.codec.tokenize_voice(clips)
        kinds = [codes.numpy().astype(np.uint16) for codes in (semantic, linguistic, voice)]
        return list(zip(*kinds, strict=True))

    def features(self, wavs: list[NDArray[np.float32]]) -> list[Tensor]:
        """What `encode` reads of waves (T,), T a multiple of 320: [(T / 320, C)]."""
        encoded = encode_batch(self.glm, self.mel, wavs)
        return [torch.cat([states[k - 1].float() for k in self.layers], -1) for _, states in encoded]

    def tokenise_pack(self, pack: Path, shard: Path) -> int:
        """Write the shard of one pack (NAME.jsonl); returns its utterances. A shard already there is left alone."""
        rows = manifest.read(pack)
        if shard.exists():
            return len(rows)
        samples = np.memmap(pack.with_suffix(".pcm"), np.int16, "r")
        prepared = pack.with_suffix(".features.npy")
        features = np.load(prepared, mmap_mode="r") if prepared.exists() else None
        codes: dict[int, Triple] = {}
        for chunk in _of_one_length(rows):
            wavs = [pack_wav(samples, rows[k]) for k in chunk]
            if features is None:
                inputs = self.features(wavs)
            else:
                starts = [(rows[k].offset or 0) // HOP for k in chunk]
                inputs = [torch.from_numpy(features[s : s + len(w) // HOP].astype(np.float32)) for s, w in zip(starts, wavs, strict=True)]
            codes.update(zip(chunk, self.encode(wavs, inputs), strict=True))
        position = {row.id: i for i, row in enumerate(rows)}
        utterances = [
            TokenisedUtterance(row.text, row.speaker, row.source, *codes[i], position.get(row.pair or "", -1), row.listen_only)
            for i, row in enumerate(rows)
        ]
        write_shard(shard, utterances)
        return len(rows)


def _of_one_length(rows: Sequence[Utterance]) -> Iterator[list[int]]:
    """Indices of at most BATCH rows of the same length."""
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(row.samples or 0, []).append(i)
    for members in by_length.values():
        yield from (members[k : k + BATCH] for k in range(0, len(members), BATCH))

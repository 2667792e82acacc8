"""Packs -> shards: every utterance through both tokenizers, many at a time, with the nets that were just trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gpa.data import manifest
from gpa.data.shards import TokenisedUtterance, write_shard
from gpa.nets.bicodec import BiCodec
from gpa.nets.mel import WhisperMel
from gpa.nets.whisper import WhisperVQ
from gpa.training.features import BATCH, encode_batch, pack_wav

REFERENCE_SECONDS = 6


class PackTokenizer:
    """Two trained tokenizers, whole utterances in, rows of codes out."""

    def __init__(self, codec: BiCodec, glm: WhisperVQ) -> None:
        self.codec, self.glm = codec.eval(), glm.eval()
        self.layers: list[int] = codec.config["feature_layers"]
        self.mel = WhisperMel(glm.config.num_mel_bins)

    @torch.inference_mode()
    def encode(self, wavs: list[NDArray[np.float32]]) -> list[tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]]:
        """Waves (T,), T a multiple of 1280 -> semantic (T / 640,), linguistic (T / 1280,) and global codes of each."""
        out = []
        for wav, (last, states) in zip(wavs, encode_batch(self.glm, self.mel, wavs), strict=True):
            features = torch.cat([states[k - 1].float() for k in self.layers], -1)[None]
            semantic = self.codec.tokenize(features)[0]
            linguistic = self.glm.quantize(self.glm.pooled(last.float()[None]))[0]
            clip = np.resize(wav, REFERENCE_SECONDS * 16_000)
            voice = self.codec.tokenize_voice(torch.from_numpy(clip)[None])[0]
            out.append(tuple(codes.numpy().astype(np.uint16) for codes in (semantic, linguistic, voice)))
        return out  # type: ignore[return-value]

    def tokenise_pack(self, pack: Path, shard: Path) -> int:
        """Write the shard of one pack (NAME.jsonl); returns its utterances. A shard already there is left alone."""
        rows = manifest.read(pack)
        if shard.exists():
            return len(rows)
        samples = np.memmap(pack.with_suffix(".pcm"), np.int16, "r")
        order = sorted(range(len(rows)), key=lambda i: rows[i].samples or 0)
        codes: dict[int, tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]] = {}
        for i in range(0, len(order), BATCH):
            chunk = order[i : i + BATCH]
            codes.update(zip(chunk, self.encode([pack_wav(samples, rows[k]) for k in chunk]), strict=True))
        position = {row.id: i for i, row in enumerate(rows)}
        utterances = [
            TokenisedUtterance(row.text, row.speaker, row.source, *codes[i], position.get(row.pair or "", -1)) for i, row in enumerate(rows)
        ]
        write_shard(shard, utterances)
        return len(rows)

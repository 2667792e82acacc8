"""GLM-4-Voice's tokenizer: speech -> linguistic codes at 12.5 Hz. Arrays in, arrays out; the maths is a Net."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpa.audio import Wav
from gpa.errors import CheckpointError
from gpa.nets.net import Net, load_net
from gpa.tokenizers import volume

SAMPLE_RATE = 16_000
HOP = 320  # samples per encoder frame (20 ms)

Codes = NDArray[np.int64]


class GLMTokenizer:
    """The folder `glm-4-voice-tokenizer` of a checkpoint, with its model.onnx."""

    def __init__(self, folder: Path, threads: int | None = None, device: str = "CPU", cache_dir: Path | None = None) -> None:
        """Raises CheckpointError."""
        folder = Path(folder)
        config = _read(folder / "config.json")
        self.sample_rate = SAMPLE_RATE
        self.samples_per_code = HOP * int(config.get("pooling_kernel_size", 4))
        self.frame_rate = SAMPLE_RATE / self.samples_per_code
        room = HOP * (int(config.get("max_source_positions", 1500)) - int(config.get("tail_frames", 0)))
        self.codebook_size = int(config.get("quantize_vocab_size", 16_384))
        self.longest = room // self.samples_per_code * self.samples_per_code  # samples encoded at once
        self._level = volume.rule(config, "none")
        self._net: Net = load_net(folder / "model.onnx", threads, device, cache_dir, seldom=True)

    def encode(self, wav: Wav) -> Codes:
        """wav (T,) at 16 kHz -> codes (ceil(T / 1280),). Longer clips are encoded in independent pieces of about 30 s."""
        return np.concatenate([np.zeros(0, np.int64), *(out["codes"][0] for out in self._pieces(wav))])

    def encode_with_features(self, wav: Wav) -> tuple[Codes, NDArray[np.float32] | None]:
        """wav (T,) -> codes (N,) and the encoder's states (4 N, C) that a BiCodec of `features: whisper` reads.

        None in their place where the net gives none, as a published one: its BiCodec hears the wav itself."""
        pieces = list(self._pieces(wav))
        codes = np.concatenate([np.zeros(0, np.int64), *(out["codes"][0] for out in pieces)])
        if any("features" not in out for out in pieces):
            return codes, None
        return codes, np.concatenate([out["features"][0] for out in pieces]) if pieces else np.zeros((0, 0), np.float32)

    def _pieces(self, wav: Wav) -> Iterator[dict[str, NDArray[Any]]]:
        wav = self._level(np.asarray(wav, np.float32))
        for start in range(0, len(wav), self.longest):
            yield self._net(wav=wav[None, start : start + self.longest])


def _read(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return config

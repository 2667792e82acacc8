"""Packs -> what tokenizer training reads beside them: speech features at 50 Hz and fundamental frequency at 100 Hz.

NAME.features.npy (frames, C) float16: the feature encoder's input (two layers of a small Whisper, concatenated)
NAME.f0.npy       (2 * frames,) float16: Hz, 0 where unvoiced (pyworld DIO + StoneMask)
Frame i of an utterance at sample offset o stands at row o / 320 + i.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpa.data import manifest
from gpa.data.manifest import Utterance
from gpa.errors import MissingExtra
from gpa.nets.mel import WhisperMel
from gpa.nets.whisper import WhisperVQ

HOP = 320  # samples of 16 kHz audio per feature frame
TAIL = 8  # frames of silence after a clip: the encoder was trained on clips padded with silence
BATCH = 12  # utterances encoded together, of like length


def encode_batch(net: WhisperVQ, mel: WhisperMel, wavs: list[NDArray[np.float32]]) -> list[tuple[Tensor, list[Tensor]]]:
    """Clips (T,), T a multiple of 320 -> for each the states of all layers, [(T / 320, C)]."""
    lengths = [len(wav) // HOP for wav in wavs]
    batch = torch.zeros(len(wavs), (max(lengths) + TAIL) * HOP)
    for row, wav in zip(batch, wavs, strict=True):
        row[: len(wav)] = torch.from_numpy(wav)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16()):
        states = net.hidden_states(mel(batch), torch.tensor(lengths) + TAIL)
    return [(states[-1][i, :n], [s[i, :n] for s in states]) for i, n in enumerate(lengths)]


def fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pitch(wav: NDArray[np.float32], sample_rate: int = 16_000) -> NDArray[np.float16]:
    """Wave (T,) -> f0 in Hz (T // 160,) at 100 Hz, 0 where unvoiced."""
    pyworld = _pyworld()
    x = wav.astype(np.float64)
    f0, times = pyworld.dio(x, sample_rate, f0_floor=60.0, f0_ceil=500.0, frame_period=10.0, speed=4)
    f0 = pyworld.stonemask(x, f0, times, sample_rate)
    frames = len(wav) // 160
    return np.pad(f0, (0, max(0, frames - len(f0))))[:frames].astype(np.float16)


def _pyworld() -> Any:
    # pyworld asks pkg_resources, gone from recent setuptools, only for its own version
    stub = types.SimpleNamespace(get_distribution=lambda name: types.SimpleNamespace(version="0"))
    sys.modules.setdefault("pkg_resources", stub)  # type: ignore[arg-type]
    try:
        import pyworld
    except ImportError as error:
        raise MissingExtra("pyworld", "data") from error
    return pyworld


def prepare_pack(pack: Path, net: WhisperVQ, layers: tuple[int, ...], with_pitch: bool = True) -> None:
    """Write the features (and f0) of `pack` (NAME.jsonl) beside it; done packs are left alone.

    `layers`: which encoder layers are concatenated, counted from 1."""
    features_path, f0_path = pack.with_suffix(".features.npy"), pack.with_suffix(".f0.npy")
    if f0_path.exists() and features_path.exists():
        return
    rows = manifest.read(pack)
    samples = np.memmap(pack.with_suffix(".pcm"), np.int16, "r")
    frames, width = len(samples) // HOP, net.config.d_model * len(layers)
    scratch = features_path.with_suffix(".tmp")
    features = np.lib.format.open_memmap(scratch, "w+", np.float16, (frames, width))
    f0 = np.zeros(2 * frames, np.float16)
    mel = WhisperMel(net.config.num_mel_bins)
    order = sorted(rows, key=lambda u: u.samples or 0)
    for i in range(0, len(order), BATCH):
        chunk = order[i : i + BATCH]
        wavs = [pack_wav(samples, u) for u in chunk]
        for u, wav, (_, states) in zip(chunk, wavs, encode_batch(net, mel, wavs), strict=True):
            start = (u.offset or 0) // HOP
            stop = start + len(wav) // HOP
            features[start:stop] = torch.cat([states[k - 1].float() for k in layers], -1).numpy()
            if with_pitch:
                f0[2 * start : 2 * stop] = pitch(wav)
    features.flush()
    os.replace(scratch, features_path)
    np.save(f0_path, f0)


def pack_wav(samples: NDArray[np.int16], u: Utterance) -> NDArray[np.float32]:
    """Samples of one utterance of a memory-mapped pack, float32 (T,)."""
    start = u.offset or 0
    return samples[start : start + (u.samples or 0)].astype(np.float32) / np.float32(32768)

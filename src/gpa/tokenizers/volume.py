"""How loud a clip is made before a tokenizer hears it. A checkpoint's config names the rule its nets were trained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpa.audio import Wav
from gpa.errors import CheckpointError

LEVEL = 0.08  # RMS that `rms` brings a clip to


def rms(wav: Wav) -> Wav:
    """Scale (T,) to RMS 0.08, by 20 at most, with no peak above 1: the rule of gpa.data.pack."""
    if not len(wav):
        return wav
    gain = min(20.0, LEVEL / (float(np.sqrt(np.mean(wav**2))) + 1e-6))
    peak = float(np.abs(wav).max()) * gain
    return wav * np.float32(gain / max(1.0, peak))


def quantile(wav: Wav) -> Wav:
    """Bring the mean of a clip's loud samples to 0.2: the published rule for reference clips.

    Loud: the 90 %..99 % quantile slice of the magnitudes above 0.01, taken BEFORE a clip with a peak below 0.1 is scaled
    to that peak. Source: SparkAudio/Spark-TTS, audio_volume_normalize."""
    if not len(wav):
        return wav
    audio = wav.astype(np.float64)
    magnitude = np.sort(np.abs(audio))
    if magnitude[-1] < 0.1:
        audio = audio / max(magnitude[-1], 1e-3) * 0.1
    loud = magnitude[magnitude > 0.01]
    if len(loud) > 10:
        volume = float(np.mean(loud[int(0.9 * len(loud)) : int(0.99 * len(loud))]))
        audio = audio * min(max(0.2 / volume, 0.1), 10.0)
        audio = audio / max(1.0, float(np.abs(audio).max()))
    return audio.astype(np.float32)


def peak(wav: Wav) -> Wav:
    """Bring the peak of (T,) to 0.9: what the reference does with clips that are not files."""
    loudest = float(np.abs(wav).max(initial=0))
    return wav * np.float32(0.9 / loudest) if loudest else wav


def unchanged(wav: Wav) -> Wav:
    """The clip as it is."""
    return wav


RULES: dict[str, Callable[[Wav], Wav]] = {"none": unchanged, "rms": rms, "quantile": quantile, "peak": peak}


def rule(config: dict[str, Any], default: str) -> Callable[[Wav], Wav]:
    """The rule that `config["volume"]` names. Raises CheckpointError."""
    name = config.get("volume", default)
    if name not in RULES:
        raise CheckpointError(f"volume: {name} is unknown (legal: {', '.join(RULES)})")
    return RULES[name]

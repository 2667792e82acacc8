"""Any container in, any container out: the only room that opens audio.

A path, bytes or a binary file, 4 to 384 kHz, any channels -> float32 mono (T,) at the rate asked for, and back. `decode`
drains `blocks`, `encode` and `save` drain an `Encoder`: the result never depends on how the sound was cut.
"""

from __future__ import annotations

from gpa.audio.reading import MAX_BYTES, MAX_SECONDS, blocks, decode
from gpa.audio.samples import LOUDEST, RATES, Resampler, Source, Target, Wav, as_wav
from gpa.audio.writing import FORMATS, Encoder, Format, encode, save

__all__ = [
    "FORMATS",
    "LOUDEST",
    "MAX_BYTES",
    "MAX_SECONDS",
    "RATES",
    "Encoder",
    "Format",
    "Resampler",
    "Source",
    "Target",
    "Wav",
    "as_wav",
    "blocks",
    "decode",
    "encode",
    "save",
]

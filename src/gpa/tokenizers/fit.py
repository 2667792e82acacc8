"""What a voice's global codes leave out, found from its clip: how high it is, and its tone at that pitch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpa.audio import Wav
from gpa.tokenizers import pitch, tone
from gpa.tokenizers.excitation import Rows, SourceFilterSynthesis


class Fit(NamedTuple):
    """As a `Voice` keeps it."""

    tone: tuple[int, ...] = ()  # half decibels (gpa.tokenizers.tone)
    pitch: int = 0  # cents


NOTHING = Fit()


def fit(rows: Rows, clip: Wav, synthesis: Callable[[], SourceFilterSynthesis], bands: int) -> Fit:
    """The rows of a clip's own codes and the clip (T,), levelled -> what is to be rendered besides, the tone in `bands` bands.

    `synthesis` gives what turns the rows of one utterance into samples."""
    made = synthesis()
    cents = pitch.fit(rows, clip, made.hop_length, made.sample_rate)
    return Fit(tuple(tone.fit(with_fit(rows, Fit(pitch=cents), made.sample_rate), clip, synthesis, bands)), cents)


def with_fit(rows: Rows, fit: Fit, sample_rate: int) -> Rows:
    """Rows as they are rendered. Raises CheckpointError."""
    higher = rows._replace(f0=rows.f0 * np.float32(pitch.factor(fit.pitch))) if fit.pitch else rows
    return tone.with_tone(higher, fit.tone, sample_rate)

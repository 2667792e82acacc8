"""How much higher or lower a speaker is than what is rendered of their codes.

A few global codes hold how high a voice is roughly: people are rendered at 5 % above or below their own pitch. A clip of the voice
tells by how much: near the period at which each voiced frame would be rendered its true one is looked for, and the median of the
differences is kept with the voice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpa.audio import Wav
from gpa.tokenizers.excitation import Rows

MOST = 400  # cents, either way: what is further off is another period, or no speech
OCTAVE = 1200  # cents
PERIODIC = 0.6  # correlation of a period with the next, from which its length is believed
FEW = 20  # frames below which a clip tells nothing
QUIET = 1e-3  # of the power of a loud frame
PERIODS = 2  # that are compared with those after them

Array = NDArray[np.float64]


def fit(rows: Rows, clip: Wav, hop_length: int, sample_rate: int) -> int:
    """The rows of a clip's own codes and the clip (T,) -> cents by which it is higher than these, 0 where that cannot be told."""
    count = min(len(rows.f0), len(clip) // hop_length)
    longest = int(sample_rate / rows.f0[:count].min(initial=sample_rate) * 2 ** (MOST / OCTAVE)) + 2 if count else 0
    padded = np.pad(np.asarray(clip, np.float64), (PERIODS + 1) * longest)
    found, powers = np.zeros(count), np.zeros(count)
    for frame in np.flatnonzero(rows.voiced[:count] > 0).tolist():
        middle = (PERIODS + 1) * longest + frame * hop_length
        found[frame], powers[frame] = _cents(padded, middle, sample_rate / float(rows.f0[frame]))
    heard = powers > QUIET * powers.max(initial=0.0)
    return round(float(np.clip(np.median(found[heard]), -MOST, MOST))) if heard.sum() >= FEW else 0


def factor(cents: int) -> float:
    """What a pitch is multiplied by to be so much higher."""
    return float(2 ** (cents / OCTAVE))


def _cents(wav: Array, middle: int, period: float) -> tuple[float, float]:
    """How much higher than with `period` (samples) the sound about a sample is, and its power; no power where it has no period."""
    reach = 2 ** (MOST / OCTAVE)
    shortest, longest, length = int(period / reach), int(np.ceil(period * reach)), round(PERIODS * period)
    start = middle - (length + longest) // 2
    window = wav[start : start + length + longest]
    later = np.lib.stride_tricks.sliding_window_view(window, length)[shortest:]
    power = float(window[:length] @ window[:length])
    alike = later @ window[:length] / np.sqrt(power * (later * later).sum(1) + 1e-12)
    best = int(alike.argmax())
    if not 0 < best < len(alike) - 1 or alike[best] < PERIODIC:
        return 0.0, 0.0
    before, at, after = alike[best - 1 : best + 2]
    bend = before - 2 * at + after
    between = (before - after) / (2 * bend) if bend else 0.0
    return OCTAVE * float(np.log2(period / (shortest + best + between))), power

"""Consent: a random phrase, and whether a recording says it in the voice that is to be copied. Pure functions and one small store.

The phrase is heard by the model's own recogniser; voices are compared by their global codes, digit by digit.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from gpa.evaluation.metrics import cer
from gpa.voice import Voice

WORDS = 8  # of a phrase
LIFE = 600.0  # seconds that a phrase may be used, once
MOST = 1000  # phrases at a time; the oldest goes first
WRONG = 48.0  # per cent of the characters that may be heard otherwise; of another phrase 54 and more in 99 % (experiments/consent)
ALIKE = 0.75  # of `likeness`: 5 % of pairs of clips of one human fall below, and 81 % of pairs of two (nano, 25 speakers, 4 clips each)
LEVELS = 4  # of one digit of a global code: codes are mixed numbers of a finite scalar quantizer (SparkTTS, 2025)

_WORDS = (
    "river window garden morning paper silver mountain seven orange coffee bridge winter doctor music yellow table ocean market "
    "summer letter kitchen forest number simple travel island happy evening better purple village corner dinner animal butter "
    "twenty listen station shadow pocket rabbit castle finger hammer ladder magnet needle pepper ribbon sister thunder "
    "uncle velvet water basket candle dragon engine feather golden harbor jacket"
)


@dataclass(frozen=True)
class Phrase:
    """What is to be said, by whom it was asked for, and until when (of `time.monotonic`)."""

    id: str
    text: str
    owner: str
    until: float


class Phrases:
    """Those that were given out and not yet used."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Phrase] = OrderedDict()

    def new(self, owner: str) -> Phrase:
        """A fresh one."""
        found = Phrase(f"phr_{secrets.token_hex(12)}", phrase(secrets.SystemRandom()), owner, time.monotonic() + LIFE)
        self._open[found.id] = found
        while len(self._open) > MOST:
            self._open.popitem(last=False)
        return found

    def take(self, id: str, owner: str) -> Phrase | None:
        """The phrase, once; None: never given to this owner, used, or too old."""
        phrase = self._open.get(id)
        if phrase is None or phrase.owner != owner:
            return None
        del self._open[id]
        return phrase if phrase.until >= time.monotonic() else None


def phrase(draw: Random) -> str:
    """To be read aloud: "I agree. River window garden morning, paper silver mountain seven." A sentence would be understood a
    little better, but sentences share words, so that more of the wrong ones would pass (experiments/consent)."""
    words = draw.sample(_WORDS.split(), WORDS)
    return f"I agree. {' '.join(words[:4]).capitalize()}, {' '.join(words[4:])}."


def misheard(phrase: str, heard: str) -> float:
    """Per cent of the phrase's characters that a transcript has otherwise."""
    return cer([phrase], [heard]).value


def likeness(one: Voice, other: Voice) -> float:
    """Cosine of the two voices' digits, each counted from its middle: 1 is the same voice, strangers are about 0.5."""
    first, second = _digits(one), _digits(other)
    if len(first) != len(second):
        return 0.0
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def _digits(voice: Voice) -> NDArray[np.float64]:
    count = max(1, round(np.log(voice.codebook_size) / np.log(LEVELS)))
    places = LEVELS ** np.arange(count)
    digits = (np.array(voice.codes)[:, None] // places) % LEVELS
    centred: NDArray[np.float64] = digits.ravel() - (LEVELS - 1) / 2
    return centred

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

LIFE = 600.0  # seconds that a phrase may be used, once
MOST = 1000  # phrases at a time; the oldest goes first
WRONG = 40.0  # per cent of the characters that may be heard otherwise: another phrase of these words differs in about 75
ALIKE = 0.75  # of `likeness`: 5 % of pairs of clips of one human fall below, and 81 % of pairs of two (nano, 25 speakers, 4 clips each)
LEVELS = 4  # of one digit of a global code: codes are mixed numbers of a finite scalar quantizer (SparkTTS, 2025)

_SLOTS = (  # of a sentence that nobody has said before: ordinary words, in an order that is easy to read aloud; 31 bits
    "old young tall quiet happy clever little famous friendly hungry lucky tired brave careful gentle polite",
    "teacher doctor farmer sailor painter dancer singer soldier driver baker lawyer poet student neighbor captain hunter",
    "carried painted counted followed borrowed collected delivered discovered described forgot repaired remembered",
    "two three four five six seven eight nine ten eleven twelve twenty",
    "letters candles baskets ladders pictures bottles flowers rabbits horses lemons blankets mirrors tickets hammers",
    "behind under near across beside above",
    "yellow purple golden silver orange wooden broken empty frozen narrow distant ancient",
    "bridge garden kitchen station market river castle mountain village window library harbor island forest",
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
    """To be read aloud in one breath: "I agree that the old teacher carried seven letters across the narrow bridge." """
    adjective, who, did, count, what, where, colour, place = (draw.choice(slot.split()) for slot in _SLOTS)
    return f"I agree that the {adjective} {who} {did} {count} {what} {where} the {colour} {place}."


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

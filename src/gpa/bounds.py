"""What bounds a generation: how many ids a task may take at most, and when it is going round in circles.

The limits are twice what is expected, so a generation that runs away ends within a sentence, not after minutes; and
speech has a least length, so that no sentence is skipped.
"""

from __future__ import annotations

import math
import re

import numpy as np

SLACK = 2.0  # times the expected length: the most
LEAST = 0.4  # times the expected length: no speech is faster (of 14,000 teacher utterances the fastest takes 0.53)
# Seconds that a text takes to say: least squares over the teachers' utterances and human readings of nano's training data.
_BEGIN, _LETTER, _WORD, _SPELLED, _SIGN = 0.3, 1 / 15, 0.04, 0.6, 1 / 4
_WORDS = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d")
FASTEST_SPEECH = 15.0  # characters per second that a recogniser is expected to write


def speech_seconds(text: str) -> float:
    """How long a text takes to say, about; a letter that stands alone is read by its name."""
    signs = sum("\u3040" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7a3" for char in text)
    words: list[str] = _WORDS.findall(text)
    spelled = sum(len(word) == 1 and word.lower() not in "ai" and word.isascii() for word in words)
    return _BEGIN + _LETTER * (sum(map(len, words)) - signs) + _WORD * len(words) + _SPELLED * spelled + _SIGN * signs


def tts_limit(text: str, frame_rate: float) -> int:
    """Most semantic codes for a text, at `frame_rate` codes a second."""
    return math.ceil(SLACK * speech_seconds(text) * frame_rate)


def tts_floor(text: str, frame_rate: float) -> int:
    """Fewest semantic codes for a text: at least one, so that nothing is answered with silence."""
    return max(1, math.floor(LEAST * speech_seconds(text) * frame_rate))


def asr_limit(seconds: float) -> int:
    """Most text ids for a sound; an id is one character or more."""
    return math.ceil(SLACK * FASTEST_SPEECH * seconds) + 8


def vc_limit(codes: int) -> int:
    """Most semantic codes for a source of so many."""
    return math.ceil(1.2 * codes) + 4


def vc_floor(codes: int) -> int:
    """Fewest semantic codes for a source of so many."""
    return codes // 2


class Loop:
    """Hears ids one by one and tells when their end repeats a pattern of at most `longest` ids over and over.

    A loop is `repeats` copies of the pattern, which together span at least `shortest` ids.
    """

    def __init__(self, longest: int = 64, repeats: int = 4, shortest: int = 24) -> None:
        self._past = np.full(longest, -1, np.int64)  # the latest first
        self._same = np.zeros(longest, np.int64)  # for each period: how many ids in a row equal the one a period before
        periods = np.arange(1, longest + 1)
        self._needed = np.maximum((repeats - 1) * periods, shortest - periods)

    def push(self, id: int) -> int:
        """The number of ids at the end that are mere repetition, 0 while there is no loop."""
        self._same = np.where(self._past == id, self._same + 1, 0)
        self._past = np.concatenate([[id], self._past[:-1]])
        found = np.flatnonzero(self._same >= self._needed)
        return int(self._same[found[0]]) if len(found) else 0

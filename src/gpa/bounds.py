"""What bounds a generation: how many ids a task may take at most, and when it is going round in circles.

The limits are twice what is expected, so a generation that runs away ends within a sentence, not after minutes.
"""

from __future__ import annotations

import math

import numpy as np

SLACK = 2.0  # times the expected length
CHARS_PER_SECOND = 12.0  # of alphabetic scripts; a slow reader
SIGNS_PER_SECOND = 4.0  # of Chinese, Japanese and Korean
FASTEST_SPEECH = 15.0  # characters per second that a recogniser is expected to write


def speech_seconds(text: str) -> float:
    """How long a text takes to say, about."""
    signs = sum("\u3040" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7a3" for char in text)
    return 0.5 + (len(text) - signs) / CHARS_PER_SECOND + signs / SIGNS_PER_SECOND


def tts_limit(text: str, frame_rate: float) -> int:
    """Most semantic codes for a text, at `frame_rate` codes a second."""
    return math.ceil(SLACK * speech_seconds(text) * frame_rate)


def asr_limit(seconds: float) -> int:
    """Most text ids for a sound; an id is one character or more."""
    return math.ceil(SLACK * FASTEST_SPEECH * seconds) + 8


def vc_limit(codes: int) -> int:
    """Most semantic codes for a source of so many."""
    return math.ceil(1.2 * codes) + 4


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

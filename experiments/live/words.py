"""What windows cost in words: python experiments/live/words.py CACHE. Codec alone, so that no language model hides it.

Held-out sentences of two teachers -> codes of the whole clip, or of windows as a live conversion works them out -> another voice -> the
judge (Whisper-base, kept in CACHE).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import gpa
from gpa.data.teachers import Teachers, speaker
from gpa.evaluation.judge import Judge
from gpa.evaluation.metrics import wer


def windowed(model: gpa.GPA, wav: np.ndarray, window: float, ahead: float) -> list[int]:
    """Codes of (T,), worked out window by window with 3 s of context."""
    hop = round(model.sample_rate / model.bicodec.frame_rate)
    size, behind, context = (round(seconds * model.sample_rate) for seconds in (window, ahead, 3.04))
    codes: list[int] = []
    for start in range(0, len(wav), size):
        first = max(0, start - context)
        a = (start - first) // hop
        codes += model.encode(wav[first : start + size + behind])[1][a : a + size // hop]
    return codes


def main(cache: Path, count: int) -> None:
    """One line a way."""
    lines = (Path(__file__).parents[2] / "recipes" / "nano" / "heldout_text.txt").read_text().splitlines()
    texts = [line for line in lines if line and line[0] != "#"][:count]
    teachers, rng, judge = Teachers(), np.random.default_rng(0), Judge(cache)
    wavs = [teachers.speak(text, speaker(("heart@1.0", "joe@1.0")[i % 2]), rng) for i, text in enumerate(texts)]
    with gpa.load() as model:
        voice = model.voice("max").codes
        ways = {"source": wavs, "whole": [model.bicodec.decode(model.encode(wav)[1], voice) for wav in wavs]}
        for window, ahead in ((0.16, 0.16), (0.32, 0.0), (0.32, 0.16), (0.96, 0.16), (0.32, 0.48)):
            made = [model.bicodec.decode(windowed(model, wav, window, ahead), voice) for wav in wavs]
            ways[f"windows of {window} s, {ahead} s ahead"] = made
    for name, sound in ways.items():
        heard = judge.hear_all(sound, texts)
        sys.stdout.write(f"{name}: WER {wer([row.reference for row in heard], [row.hypothesis for row in heard])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20)

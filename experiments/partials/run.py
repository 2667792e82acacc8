"""Partial results of live recognition on human clips: python experiments/partials/run.py SPEECH.jsonl [COUNT [CHECKPOINT]]

When the first one comes (sound heard since speech began, and processor time of one thread), how many replace what was shown
before them, and whether the last result is the one that the whole file gives.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import gpa
from gpa import segment
from gpa.data import manifest

STEP = 320  # samples a chunk: 20 ms


@dataclass
class Live:
    """One clip."""

    heard: float  # seconds of speech before the first partial; infinite where none came
    work: float  # CPU seconds since the first chunk
    partials: int
    revised: int
    same: bool  # as offline


def listen(model: gpa.GPA, wav: np.ndarray) -> Live:
    """One clip, as a microphone would give it, a second of near silence before and after it."""
    quiet = 1e-4 * np.random.default_rng(0).standard_normal(model.sample_rate).astype(np.float32)
    wav, taken = np.concatenate([quiet, wav, quiet]), 0

    def microphone() -> Iterator[np.ndarray]:
        nonlocal taken
        for start in range(0, len(wav), STEP):
            taken += STEP
            yield wav[start : start + STEP]

    begin = segment.speech_spans(wav)[0].start + segment.Detection().padding
    first, work, partials, revised, finals = np.inf, 0.0, 0, 0, []
    begun = time.process_time()
    for found in model.stream_asr(microphone(), partials=True):
        if found.partial and not partials:
            first, work = taken / model.sample_rate - begin, time.process_time() - begun
        partials += found.partial
        revised += found.revised
        finals += [] if found.partial else [found.text]
    return Live(first, work, partials, revised, " ".join(finals) == model.asr(wav).text)


def main(speech: Path, count: int, checkpoint: str) -> None:
    """The sums over `count` clips, evenly spread."""
    rows = manifest.read(speech)
    rows = [rows[i * len(rows) // count] for i in range(count)]
    with gpa.load(checkpoint) as model:
        wavs = [manifest.load_wav(row, speech.parent) for row in rows]
        listen(model, wavs[0])
        lives = [listen(model, wav) for wav in wavs]
    came = [live for live in lives if live.partials]
    heard, work = ([getattr(live, name) for live in came] for name in ("heard", "work"))
    heard_line = f"after {np.median(heard):.2f} s of speech (90 % {np.quantile(heard, 0.9):.2f}, most {max(heard):.2f})"
    work_line = f"{np.median(work):.2f} s of work (90 % {np.quantile(work, 0.9):.2f})"
    sys.stdout.write(f"{len(lives)} clips, {len(came)} with partials; the first {heard_line} and {work_line}\n")
    shown, revised, same = (sum(getattr(live, name) for live in lives) for name in ("partials", "revised", "same"))
    sys.stdout.write(f"{shown} partials; {revised} of these and of the finals revised; the last text is the file's for {same}\n")


if __name__ == "__main__":
    given = [*sys.argv[1:], *("30", "nano")[len(sys.argv) - 2 :]]
    main(Path(given[0]), int(given[1]), given[2])

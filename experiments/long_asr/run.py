"""An hour of sound through `stream_asr`: memory on the way, and the time it takes.

    python experiments/long_asr/run.py SPEECH.jsonl OUT.wav [MINUTES [CHECKPOINT]]

OUT.wav is made of the clips of a manifest, in turn, each with 1 to 6 s of quiet noise behind it; what it says is in no order that a
recogniser could remember.
"""

from __future__ import annotations

import sys
import time
import wave
from pathlib import Path

import numpy as np

import gpa
from gpa.data import manifest
from gpa.engines.pages import large_apart, one_heap

RATE = 16_000
STEP = 300.0  # seconds of sound between two lines


def megabytes() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def write(speech: Path, out: Path, minutes: float) -> float:
    """Make the file; seconds of speech in it."""
    rows, draw, at, said = manifest.read(speech), np.random.default_rng(0), 0, 0
    with wave.open(str(out), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        number = 0
        while at < minutes * 60 * RATE:
            clip = manifest.load_wav(rows[number % len(rows)], speech.parent)
            quiet = draw.standard_normal(int(draw.uniform(1, 6) * RATE)).astype(np.float32) * np.float32(1e-3)
            wav = np.concatenate([clip, quiet])
            file.writeframes((wav * 32767).clip(-32768, 32767).astype("<i2").tobytes())
            at, said, number = at + len(wav), said + len(clip), number + 1
    return said / RATE


def main(speech: Path, out: Path, minutes: float, checkpoint: str) -> None:
    """A line every five minutes of sound."""
    one_heap()  # as the command `gpa asr` does
    large_apart()
    said = write(speech, out, minutes)
    with gpa.load(checkpoint) as model:
        sys.stdout.write(f"{minutes:g} minutes, clips of {said / 60:.1f}; loaded: {megabytes():.0f} MB\n")
        begun, clock, due, segments, letters, most = time.process_time(), time.monotonic(), STEP, 0, 0, 0.0
        for segment in model.stream_asr(out, words=True):
            segments, letters, most = segments + 1, letters + len(segment.text), max(most, megabytes())
            if segment.end >= due:
                line = f"{segment.end / 60:.0f} minutes: {segments} segments, {letters} letters, {megabytes():.0f} MB"
                sys.stdout.write(f"{line}, {time.process_time() - begun:.0f} CPU s\n")
                sys.stdout.flush()
                due += STEP
        took = f"{time.process_time() - begun:.0f} CPU s, {time.monotonic() - clock:.0f} s by the clock"
        sys.stdout.write(f"end: {segments} segments, {letters} letters, {megabytes():.0f} MB, at most {most:.0f} MB; {took}\n")


if __name__ == "__main__":
    given = [*sys.argv[1:], *("60", "nano")[len(sys.argv) - 3 :]]
    main(Path(given[0]), Path(given[1]), float(given[2]), given[3])

"""What is heard where nobody speaks, and whether speech is still heard.

    python experiments/no_speech/run.py HUMAN.jsonl [EACH [CLIPS [CHECKPOINT]]]

EACH sounds of every kind of sounds.py, and CLIPS clips of a manifest of speech; through `GPA.asr`. An empty transcript is right for
the one and wrong for the other. Then crowds of the clips. Also what `gpa.sounds.Ear` adds: spans that the detector finds, and those that
are let through.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sounds import sounds

import gpa
from gpa import segment
from gpa.data import manifest, noise
from gpa.sounds import SPAN, Ear

RATE = 16_000


def main(human: Path, each: int, count: int, checkpoint: str) -> None:
    """A line for every wrong answer, then the sums."""
    made, found, let, invented = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    with gpa.load(checkpoint) as model:
        for kind, wav in sounds(each):
            ear, text = Ear(model.sample_rate), model.asr(wav).text
            spans = list(segment.segments(wav, SPAN))
            made[kind] += 1
            found[kind] += bool(spans)
            let[kind] += any(ear.hears(span) for span in spans)
            invented[kind] += bool(text)
            if text:
                sys.stdout.write(f"{kind}, {len(wav) / 16_000:.1f} s: {text!r}\n")
        sums = [sum(counts.values()) for counts in (made, found, let, invented)]
        sys.stdout.write("{} sounds; speech found by the detector in {}, let through of {}; not empty: {}\n".format(*sums))
        for kind in made:
            sys.stdout.write(f"  {kind}: {made[kind]}, found {found[kind]}, let through {let[kind]}, not empty {invented[kind]}\n")
        sys.stdout.flush()
        sys.stdout.write(speech(model, human, count))
    sys.stdout.write(crowds(human, count))


def speech(model: gpa.GPA, human: Path, count: int) -> str:
    """How many of `count` clips, evenly spread over a manifest, are heard as nothing; without the model also 40 dB lower."""
    rows = manifest.read(human)
    rows = [rows[i * len(rows) // count] for i in range(count)]
    lost, quiet, spans, unsure = [], 0, 0, 0
    for row in rows:
        wav = manifest.load_wav(row, human.parent)
        ear, low = Ear(model.sample_rate), Ear(model.sample_rate)
        heard = [ear.hears(span) for span in segment.segments(wav, SPAN)]
        spans, unsure = spans + len(heard), unsure + heard.count(False)
        quiet += not any(low.hears(span) for span in segment.segments(wav * 0.01, SPAN))
        if not model.asr(wav).text:
            lost.append(f"{row.id} {row.text!r}")
    return f"{len(rows)} clips of speech: {len(lost)} heard as nothing {lost}; {unsure} of {spans} spans dropped; {quiet} lost at -40 dB\n"


def crowds(human: Path, count: int) -> str:
    """`count` crowds of 4 to 7 and of 8 to 16 people, and as many clips of one person before such a crowd; without the model."""
    rows, rng, lines = [row for row in manifest.read(human) if (row.samples or 0) > 2 * RATE], np.random.default_rng(178), []
    babble = noise.Crowd(rows, human.parent)
    for least, most in ((4, 7), (8, 16)):
        wavs = []
        for _ in range(count):
            members = babble.draw(rng, int(rng.integers(least, most + 1)))
            wavs.append(np.float32(0.06) * babble.babble(rng, int(rng.uniform(2, 9) * RATE), members))
        lines.append(f"{count} crowds of {least} to {most}: {let_through(wavs)}")
    for decibel in (0, 3, 5, 10):
        wavs = []
        for i in range(count):
            row = rows[i * len(rows) // count]
            wav = noise.unit(manifest.load_wav(row, human.parent))
            behind = babble.babble(rng, len(wav), babble.draw(rng, 8, row.id))
            wavs.append(np.float32(0.06) * (wav + behind * np.float32(10 ** (-decibel / 20))))
        lines.append(f"{count} people {decibel} dB louder than a crowd of 8: {let_through(wavs)}")
    return "\n".join(lines) + "\n"


def let_through(wavs: Sequence[np.ndarray]) -> str:
    """How many of them somebody is heard in."""
    found, heard = 0, 0
    for wav in wavs:
        ear, spans = Ear(RATE), list(segment.segments(wav, SPAN))
        found, heard = found + bool(spans), heard + any(ear.hears(span) for span in spans)
    return f"the detector finds speech in {found}, {heard} are let through"


if __name__ == "__main__":
    given = [*sys.argv[1:], *("10", "100", "nano")[len(sys.argv) - 2 :]]
    main(Path(given[0]), int(given[1]), int(given[2]), given[3])

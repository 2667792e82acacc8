"""What reading every sentence again costs and gains: python experiments/self_check/run.py CACHE [COUNT]

CACHE keeps the judge (Whisper-base). Processor time of one thread; sentences of recipes/nano/heldout_text.txt.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import gpa
from gpa.evaluation.judge import Judge
from gpa.evaluation.metrics import cer, wer


def main(cache: Path, count: int) -> None:
    """Speak the sentences with and without the check; one line each."""
    lines = (Path(__file__).parents[2] / "recipes" / "nano" / "heldout_text.txt").read_text().splitlines()
    texts = [line for line in lines if line and line[0] != "#"][:count]
    judge = Judge(cache)
    with gpa.load() as model:
        model.tts(texts[0], check=True)
        for check in (False, True):
            begun = time.process_time()
            spoken = [model.tts(text, check=check) for text in texts]
            took = time.process_time() - begun
            heard = judge.hear_all([speech.wav for speech in spoken], texts)
            said, understood = [row.reference for row in heard], [row.hypothesis for row in heard]
            seconds = sum(speech.duration for speech in spoken)
            line = f"check {check}: {seconds:.1f} s of speech in {took:.1f} CPU s ({took / seconds:.3f} a second)"
            line += f"; judge WER {wer(said, understood)}, CER {cer(said, understood)}"
            if check:
                own = np.mean([speech.cer for speech in spoken if speech.cer is not None])
                line += f"; own CER {100 * own:.1f} %, {sum(speech.retried for speech in spoken)} drawn anew"
            sys.stdout.write(line + f"; cut {sum(speech.truncated or speech.looped for speech in spoken)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 24)

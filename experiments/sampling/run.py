"""How speech is best drawn: word errors that a judge hears with one setting of the sampling changed at a time.

    python experiments/sampling/run.py CACHE TEXT [COUNT [CHECKPOINT]]

CACHE keeps the judge (Whisper-base). The first COUNT sentences of TEXT in each of VOICES; choose by sentences that nothing else is measured
on. The first line is the checkpoint's own setting.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gpa
from gpa.evaluation import judge, metrics

VOICES = ("amy", "ron")
STREAMS = 8
GRID = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.15},
    {"temperature": 0.45},
    {"temperature": 0.6},
    {"top_k": 8},
    {"top_k": 50},
    {"top_p": 0.8},
    {"top_p": 1.0},
    {"repetition_penalty": 1.03},
)


def main() -> None:
    """Write a line for each setting."""
    cache, text = Path(sys.argv[1]), Path(sys.argv[2])
    count, name = int(sys.argv[3]) if len(sys.argv) > 3 else 40, sys.argv[4] if len(sys.argv) > 4 else "nano"
    sentences = text.read_text(encoding="utf-8").splitlines()[:count]
    model, listener = gpa.load(name, watermark=False), judge.Judge(cache)
    asked = [(sentence, voice) for voice in VOICES for sentence in sentences]
    for changes in GRID:
        sampling, began = replace(model.sampling("tts", None, 0), **changes), time.process_time()
        with ThreadPoolExecutor(STREAMS) as pool:
            spoken = list(pool.map(lambda one, s=sampling: model.tts(one[0], one[1], sampling=s), asked))
        took = time.process_time() - began
        heard = listener.hear_all([speech.wav for speech in spoken], [sentence for sentence, _ in asked])
        rate = metrics.wer(*zip(*heard, strict=True))
        forced = sum(speech.truncated or speech.looped for speech in spoken)
        sys.stdout.write(f"{changes or 'own'}: WER {rate}, ended by force {forced} of {len(asked)}, {took:.0f} s of processor time\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

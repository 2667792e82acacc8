"""Milliseconds until the engine gives a first id: its voice kept, fed anew, or fed with the rest as it was before voices were kept.

    python experiments/voice_kept/run.py FOLDER [CODES [TIMES [BESIDE]]]

FOLDER is a checkpoint with an OpenVINO export (the embedded one: src/gpa/nano), whose voices have CODES; BESIDE others are at it
meanwhile. The three ways are taken in turns; medians and the least of TIMES.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from gpa import prompt
from gpa.engines.base import Sampling
from gpa.engines.openvino import OpenVINOEngine
from gpa.prompt import Prompt
from gpa.vocab import Vocab

TEXT = "The morning train was late again and nobody on the platform seemed to mind, but a woman read her letter twice today."


def first(engine: OpenVINOEngine, asked: Prompt) -> float:
    """Milliseconds; two more ids are drawn behind it."""
    begun = time.perf_counter()
    ids = engine.generate(asked, Sampling(0.2, top_k=50, max_new_ids=3, min_new_ids=3))
    next(ids)
    took = (time.perf_counter() - begun) * 1e3
    list(ids)
    return took


def measure(engine: OpenVINOEngine, asked: Prompt, times: int, beside: int) -> dict[str, list[float]]:
    """Milliseconds of each way."""
    whole = Prompt(asked.context, (), asked.stop, asked.allowed, asked.source)
    took: dict[str, list[float]] = {"whole": [], "kept": [], "fed": []}
    for turn in range(-1, times):  # the first is not counted
        others = [engine.generate(asked, Sampling(1.0, seed=seed, max_new_ids=60, min_new_ids=60)) for seed in range(beside)]
        for other in others:
            next(other)
        for way, found in took.items():
            while way == "fed" and engine._blocks._kept:
                engine._blocks._forget()
            one = first(engine, whole if way == "whole" else asked)
            found += [one] if turn >= 0 else []
        for other in others:
            other.close()  # type: ignore[attr-defined]
    return took


def main(folder: Path, codes: int, times: int, beside: int) -> None:
    """A line for a short text and one for a long one."""
    vocab, engine = Vocab.load(folder), OpenVINOEngine(folder)
    for text in (TEXT[:11], TEXT):
        asked = prompt.tts(vocab, range(codes), text)
        took = measure(engine, asked, times, beside)
        said = ", ".join(f"{way} {np.median(found):.1f} (least {min(found):.1f})" for way, found in took.items())
        sys.stdout.write(f"{len(asked.context)} ids of which {asked.prefix} of the voice, {beside} beside: {said}\n")
    engine.close()


if __name__ == "__main__":
    given = [*sys.argv[1:], *("8", "40", "0")[len(sys.argv) - 2 :]]
    main(Path(given[0]), *map(int, given[1:4]))

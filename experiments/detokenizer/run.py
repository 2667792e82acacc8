"""What a second of sound costs the detokenizer, by the length of the utterance: python experiments/detokenizer/run.py [ROUNDS [CHECKPOINT]]

Processor time of codes -> samples (net, excitation, filters), one utterance pushed code by code; lengths in turns, medians over the rounds.
Also of the seconds 10 to 20 and 50 to 60 alone.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import gpa

LENGTHS = (1, 10, 20, 60)  # seconds
LATER = ((10, 20), (50, 60))


def spent(model: gpa.GPA, codes: list[int]) -> list[float]:
    """CPU seconds that were spent until each second of the sound was given out."""
    rate, stream, given, at = model.bicodec.sample_rate, model.bicodec.stream(model.voice().codes), 0, [0.0]
    begun = time.process_time()
    for code in codes:
        given += len(stream.push([code]))
        at += [time.process_time() - begun] * (given // rate - len(at) + 1)
    stream.flush()
    at[-1:] = [time.process_time() - begun] * (len(codes) * model.bicodec.samples_per_code // rate - len(at) + 2)
    return at


def main(rounds: int, checkpoint: str) -> None:
    """A line for each length and for each part."""
    with gpa.load(checkpoint) as model:
        codes = np.random.default_rng(0).integers(0, model.bicodec.codebook_size, round(max(LENGTHS) * model.bicodec.frame_rate)).tolist()
        runs: dict[int, list[list[float]]] = {length: [] for length in LENGTHS}
        for _ in range(rounds + 1):
            for length in LENGTHS:
                runs[length].append(spent(model, codes[: round(length * model.bicodec.frame_rate)]))
        cost = {length: float(np.median([at[-1] / length for at in ats[1:]])) for length, ats in runs.items()}  # the first prepares
        for length, seconds in cost.items():
            sys.stdout.write(f"{length} s: {1e3 * seconds:.1f} ms of processor time a second ({seconds / cost[10]:.2f} of that at 10 s)\n")
        for first, end in LATER:
            part = np.median([(at[end] - at[first]) / (end - first) for at in runs[max(LENGTHS)][1:]])
            sys.stdout.write(f"from {first} to {end} s: {1e3 * part:.1f} ms\n")


if __name__ == "__main__":
    given = [*sys.argv[1:], *("5", "nano")[len(sys.argv) - 1 :]]
    main(int(given[0]), given[1])

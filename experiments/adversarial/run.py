"""The adversarial texts of the tests through a real model, many at a time.

    python experiments/adversarial/run.py [COUNT [STREAMS [CHECKPOINT]]]

What became of them, how long speech got in terms of what was expected, and the process's memory on the way.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import gpa

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from adversarial import Said, push, shortened, texts


def megabytes() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main(count: int, streams: int, checkpoint: str) -> None:
    """One line every 200 texts, then the sums."""
    said: list[Said] = []
    with gpa.load(checkpoint) as model:
        model.tts("A sentence that loads all nets.")
        sys.stdout.write(f"loaded: {megabytes():.0f} MB\n")
        begun = time.process_time()
        for one in push(model, shortened(texts())[:count], streams):
            said.append(one)
            if one.failed or one.runaway or one.empty:
                sys.stdout.write(f"BAD {one}\n".encode("ascii", "backslashreplace").decode())
            if len(said) % 200 == 0:
                sys.stdout.write(f"{len(said)} texts, {time.process_time() - begun:.0f} CPU s: {megabytes():.0f} MB\n")
                sys.stdout.flush()
        took = time.process_time() - begun
        sys.stdout.write(report(said) + f"; {took:.0f} CPU s; {megabytes():.0f} MB at the end\n")


def report(said: list[Said]) -> str:
    """The sums, in two lines."""
    spoken = [one for one in said if one.seconds]
    ratio = np.array([one.seconds / one.expected for one in spoken])
    low, half, high, most = np.quantile(ratio, (0.01, 0.5, 0.99, 1))
    names = ("runaway", "empty", "failed", "refused", "truncated", "looped")
    counts = {name: sum(bool(getattr(one, name)) for one in said) for name in names}
    return (
        f"{len(said)} texts, {sum(one.sentences for one in said)} sentences, {sum(one.seconds for one in said):.0f} s of speech: {counts}\n"
        f"length over what was expected: median {half:.2f}, 1 % {low:.2f}, 99 % {high:.2f}, most {most:.2f}"
    )


if __name__ == "__main__":
    given = sys.argv[1:] + ["2400", "16", "nano"][len(sys.argv) - 1 :]
    main(int(given[0]), int(given[1]), given[2])

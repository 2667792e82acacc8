"""Ways to choose among takes, on what takes.py wrote: python experiments/self_check/choose.py OUT.jsonl [OUT.jsonl ...]

All ways see the same takes, so the differences between them are paired; intervals are bootstraps over sentences.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from takes import Take

from gpa.evaluation import metrics

Rank = Callable[[Take], float]  # the least is spoken


def forced(take: Take) -> float:
    """Large for a take that had to be ended by force."""
    return 10.0 * (take.looped or take.truncated or not take.codes)


RANKS: dict[str, Rank] = {
    "own CER": lambda take: forced(take) + take.cer,
    "own confidence": lambda take: forced(take) - take.confidence,
    "CER - confidence / 2": lambda take: forced(take) + take.cer - take.confidence / 2,
    "CER - confidence / 2 - logprob / 8": lambda take: forced(take) + take.cer - take.confidence / 2 - take.logprob / 8,
}


def choose(takes: Sequence[Take], good: float, most: int, rank: Rank) -> tuple[Take, int]:
    """The take that is spoken and how many were made: no more once one is good."""
    made: list[Take] = []
    for take in takes[:most]:
        made.append(take)
        if take.cer <= good and not forced(take):
            break
    return min(made, key=rank), len(made)


def rate(spoken: Sequence[Take], plain: Sequence[Take]) -> str:
    """WER of the judge, and by how much it is less than that of the first takes, each with its interval."""
    words = np.array([take.words for take in spoken], float)
    less = np.array([b.errors - a.errors for a, b in zip(spoken, plain, strict=True)], float)
    wer = metrics._bootstrap(100 * np.array([take.errors for take in spoken], float), words, 0)
    return f"WER {wer}, less by {metrics._bootstrap(100 * less, words, 0)}"


def tell(line: str) -> None:
    """To the reader."""
    sys.stdout.write(line + "\n")


def main(files: Sequence[Path]) -> None:
    """One line a way."""
    rows = [Take(**json.loads(line)) for file in files for line in file.read_text().splitlines()]
    by: dict[tuple[int, str], list[Take]] = {}
    for row in rows:
        by.setdefault((row.sentence, row.text), []).append(row)
    most = min(len(takes) for takes in by.values())
    groups = [sorted(takes, key=lambda take: take.take) for takes in by.values()]
    plain = [takes[0] for takes in groups]
    own, heard = [100 * take.cer for take in rows], [100 * take.errors / max(1, take.words) for take in rows]
    tell(f"{len(groups)} sentences, {most} takes; own CER and the judge's errors correlate at {np.corrcoef(own, heard)[0, 1]:.2f}")
    tell(f"first takes: {rate(plain, plain)}; forced {sum(bool(forced(take)) for take in plain)}")
    for name, rank in RANKS.items():
        for good in (0.0, 0.05, 0.1, 0.2, 0.3):
            for tries in range(2, most + 1):
                chosen = [choose(takes, good, tries, rank) for takes in groups]
                made = sum(count for _, count in chosen)
                again = np.mean([count > 1 for _, count in chosen])
                cost = f"{made / len(groups):.2f} takes, {again:.0%} again"
                tell(f"{name}, good {good:g}, {tries} tries: {rate([take for take, _ in chosen], plain)}; {cost}")
    best = [min(takes, key=lambda take: take.errors) for takes in groups]
    tell(f"as the judge would choose: {rate(best, plain)}")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])

"""Held-out nats of saved training states of one language model, of their running averages, and of means of several.

    python experiments/averaging/run.py RECIPE.yaml HELD state_1.pt state_2.pt ... [--batches 3]

HELD: folder of shards in the codes that the states were trained on. The tokenizer is read from the folder of the first
state. Every candidate sees the same batches, so differences count that are far smaller than the spread over batches.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from gpa.nets.lm import LM
from gpa.training.jobs import LMJob, read_job
from gpa.training.lm import Scorer
from gpa.training.lm_data import LMBatch, LMData, Rows
from gpa.vocab import Vocab

TASKS = ("tts", "asr", "vc")
State = dict[str, Tensor]


def read(path: Path) -> tuple[int, State, State]:
    """A training state -> its step, its weights, their running average."""
    state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    return state["step"], state["model"], state["average"]


def mean(states: list[State]) -> State:
    """Equal parts of several."""
    return {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}


def candidates(paths: list[Path]) -> Iterator[tuple[str, State]]:
    """(name, weights): each state as trained and averaged, and the means of the last two, three ... of them."""
    found = [read(path) for path in paths]
    for step, weights, average in found:
        yield f"{step}: weights", weights
        yield f"{step}: running average", average
    for k in range(2, len(found) + 1):
        steps = "+".join(str(step) for step, _, _ in found[-k:])
        yield f"{steps}: mean of weights", mean([weights for _, weights, _ in found[-k:]])
        yield f"{steps}: mean of averages", mean([average for _, _, average in found[-k:]])


@torch.inference_mode()
def nats(scorer: Scorer, batches: dict[str, list[LMBatch]]) -> dict[str, float]:
    """Mean nats an id, by task."""
    with torch.autocast("cpu", torch.bfloat16):
        return {task: sum(float(scorer(batch, guide=False)[0]) for batch in drawn) / len(drawn) for task, drawn in batches.items()}


def say(line: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("held", type=Path)
    parser.add_argument("states", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, default=3, help="of 6000 ids, a task")
    given = parser.parse_args()
    job = read_job(given.recipe, LMJob)
    vocab = Vocab.load(given.states[0].parent)
    data = LMData(Rows(sorted(given.held.glob("*.npz"))), vocab, job.recipe.mix.plain, 6000)
    batches = {task: [data.batch(1, draw, task) for draw in range(given.batches)] for task in TASKS}
    lm = LM(job.shape.config(vocab.size)).eval()
    started = time.process_time()
    say("| weights | " + " | ".join(TASKS) + " |\n|---|" + "---|" * len(TASKS))
    for name, state in candidates(given.states):
        lm.load_state_dict(state)
        say(f"| {name} | " + " | ".join(f"{value:.3f}" for value in nats(Scorer(lm, vocab), batches).values()) + " |")
    say(f"\n{time.process_time() - started:.0f} CPU-s")


if __name__ == "__main__":
    main()

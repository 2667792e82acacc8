"""How far an export lies from its torch twin, and of tokenizers how large it is and how fast it runs here: one line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gpa.engines.base import Context, Engine, Sampling
from gpa.engines.card import ids_of
from gpa.engines.heads import merge
from gpa.nets.export import FIXED, Job, in_torch
from gpa.nets.folders import read_lm
from gpa.nets.lm import LM
from gpa.nets.net import Array, load_net, size

LONGER = 4  # times the example that was traced: lengths are free
IDS = 32  # of a continuation


def compared(job: Job, path: Path) -> str:
    """Run the export at `path` and the net in torch on the same inputs -> what differs, size, speed."""
    fed = {name: _longer(name, value.numpy()) for name, value in job.example.items()}
    net = load_net(path)
    made, legal = net(**fed), in_torch(job)(**fed)
    started = time.perf_counter()
    net(**fed)
    took = time.perf_counter() - started
    differs = ", ".join(_difference(name, made[name], legal[name]) for name in job.outputs)
    return f"{size(path) / 1e6:.1f} MB, {differs}, {job.seconds * LONGER / took:.1f} s of sound a second"


def compared_lm(folder: Path, engine: Engine, prompts: Sequence[Context]) -> str:
    """Let an export continue prompts greedily, and the weights of FOLDER, in torch, read what it wrote -> where they differ."""
    net = read_lm(folder)
    pairs = [_read(net, engine, prompt) for prompt in prompts]
    same, differs = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return f"{same.sum()} of {len(same)} greedy ids are torch's, log-probabilities within {np.sqrt(np.square(differs).mean()):.1e} (rms)"


def _read(net: LM, engine: Engine, prompt: Context) -> tuple[Array, Array]:
    """Of each id of a continuation: whether torch would have chosen it too, and the difference of its log-probability."""
    tokens = list(engine.generate(prompt, Sampling(max_new_ids=IDS, min_new_ids=IDS)))
    legal = ids_of(merge([*prompt.allowed, *prompt.stop]))
    fed = torch.tensor([[*prompt.context, *(token.id for token in tokens[:-1])]])
    with torch.inference_mode():
        scores = net.head(net(fed)[0, len(prompt.context) - 1 :], torch.from_numpy(legal)).log_softmax(-1).numpy()
    chosen = np.searchsorted(legal, [token.id for token in tokens])
    logprobs = scores[np.arange(len(tokens)), chosen]
    scores[:, np.isin(legal, list(prompt.stop))] = -np.inf  # not yet
    return scores.argmax(1) == chosen, logprobs - np.array([token.logprob for token in tokens])


def _longer(name: str, value: Array) -> Array:
    return value if name in FIXED else np.concatenate([value] * LONGER, 1)


def _difference(name: str, made: Array, legal: Array) -> str:
    if made.dtype.kind == "i":
        return f"{(made == legal).mean():.1%} of {name} equal"
    return f"{name} within {np.abs(made - legal).max():.1e} of {np.abs(legal).max():.2g}"

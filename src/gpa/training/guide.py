"""Guided attention: one head of a few layers is pulled to what of the source is being said, so that a language model finds
out early that it should read (after Tachibana et al. 2018; theirs is the diagonal, ours the utterance's own alignment).

A loss in training only: the model stays a plain Qwen3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpa.prompt import Prompt
from gpa.training.alignment import Times
from gpa.training.codec_data import LETTERS
from gpa.vocab import Vocab

GUIDED_LAYERS = (2, 3, 4, 5)
WIDTHS = {"vc": 0.7, "tts": 1.2, "asr": 1.5}  # positions of the source that an aligned target may miss
LOOSE = 0.1  # of the source: the same where no alignment is known and the diagonal stands in


@dataclass(frozen=True)
class Course:
    """Where in the source of a prompt each of its target ids is read."""

    places: NDArray[np.float32]  # (target,) positions in the source
    width: float


def course(vocab: Vocab, task: str, prompt: Prompt, codes: int, times: Times | None) -> Course:
    """The course of a training prompt. `codes`: semantic codes of its utterance; `times`: in which of them each letter is
    said. Conversion keeps time; without times the diagonal is all that is known."""
    source, target = len(prompt.source), len(prompt.target)
    if task == "vc" and source == target - 1:
        return Course(np.minimum(np.arange(target), source - 1).astype(np.float32), WIDTHS[task])
    if times is not None and task == "tts":
        said = _of_characters(vocab, [prompt.context[i] for i in prompt.source], times)
        if said is not None:
            places = np.searchsorted(said, np.arange(target) + 1, side="right") - 1
            return Course(places.clip(0).astype(np.float32), WIDTHS[task])
    if times is not None and task == "asr":
        ends = 2  # of the text and of the answer
        said = _of_characters(vocab, prompt.target[:-ends], times)
        if said is not None:
            text_places = np.append(said, [codes - 1] * ends) * (source / codes)
            return Course(text_places.astype(np.float32), WIDTHS[task])
    return Course((np.arange(target) * source / target).astype(np.float32), max(2.0, LOOSE * source))


def _of_characters(vocab: Vocab, ids: Sequence[int], times: Times) -> NDArray[np.int64] | None:
    """When each character is said (what is no letter: with the letter before it); None for a vocabulary of longer tokens."""
    letter = np.array([(vocab.tokenizer.id_to_token(id) or "?") in LETTERS for id in ids], bool)
    if not len(times) or letter.sum() != len(times):
        return None
    each: NDArray[np.int64] = times.astype(np.int64)[np.maximum(np.cumsum(letter) - 1, 0)]
    return each


def guided_attention(watched: Sequence[Tensor], prompts: Sequence[Prompt], courses: Sequence[Course]) -> Tensor:
    """Mean negative logarithm of the attention that falls about the right place of the source.

    `watched`: scores (B, T, T) before the causal mask."""
    T, device = watched[0].shape[1], watched[0].device
    queries = torch.zeros(len(prompts), T, dtype=torch.bool)
    centre = torch.zeros(len(prompts), T)
    for row, (p, c) in enumerate(zip(prompts, courses, strict=True)):
        first = len(p.context) - 1
        queries[row, first : first + len(p.target)] = True
        centre[row, first : first + len(p.target)] = torch.from_numpy(c.places) + p.source.start
    spans = torch.tensor([(p.source.start, p.source.stop) for p in prompts])
    width = torch.tensor([c.width for c in courses])[:, None, None]
    at = torch.arange(T)
    inside = (at >= spans[:, :1]) & (at < spans[:, 1:])
    near = torch.exp(-(at - centre[..., None]).square() / (2 * width**2)) * inside[:, None]
    near, queries = near.to(device), queries.to(device)
    future = torch.ones(T, T, dtype=torch.bool, device=device).triu(1)
    masses = [(scores.float().masked_fill(future, -1e9).softmax(-1) * near).sum(-1)[queries] for scores in watched]
    return -torch.stack(masses).clamp(min=1e-4).log().mean()

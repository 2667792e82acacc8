"""Engine: token ids in, token ids out. An engine sees no text, no audio and no vocabulary.

Prompts carry what may come out: `allowed` ranges of ids and the `stop` ids. Every engine honours both,
so an audio prompt can only yield audio codes or its stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Token(NamedTuple):
    """One generated id and its natural-log probability among the legal ids (before temperature)."""

    id: int
    logprob: float


@dataclass(frozen=True)
class Sampling:
    """How ids are drawn. `temperature` 0 is greedy. `repetition_penalty` counts prompt and output ids, each
    distinct id once: score / p if score > 0 else score * p (transformers' rule). More than one of `beams`: so many continuations are
    followed side by side, and the ids of the likeliest come when all is known. `prior_weight` times the scores of the prompt's prior,
    where it has one, are added to the model's. (Both: openvino, transformers; other engines follow one, without its prior.)"""

    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    max_new_ids: int = 512
    min_new_ids: int = 0  # no stop before so many
    beams: int = 1
    prior_weight: float = 0.0

    def __post_init__(self) -> None:
        legal = {
            "temperature": self.temperature >= 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "repetition_penalty": self.repetition_penalty > 0,
            "seed": self.seed >= 0,
            "max_new_ids": self.max_new_ids > 0,
            "min_new_ids": 0 <= self.min_new_ids <= self.max_new_ids,
            "beams": self.beams == 1 or (self.beams > 1 and self.temperature == 0),
            "prior_weight": self.prior_weight >= 0,
        }
        wrong = [f"{name}={getattr(self, name)}" for name, ok in legal.items() if not ok]
        if wrong:
            raise ValueError(
                f"illegal sampling: {', '.join(wrong)}; legal: temperature >= 0, top_k >= 0, 0 < top_p <= 1, "
                "repetition_penalty > 0, seed >= 0, max_new_ids > 0, 0 <= min_new_ids <= max_new_ids, beams >= 1 (1 if temperature > 0), "
                "prior_weight >= 0"
            )


class Prior(Protocol):
    """What is likely to come, for reasons that the model does not know, after the ids that one continuation has so far."""

    def scores(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Natural-log scores of `ids` (N,) to come next; 0 changes nothing."""

    def after(self, id: int) -> Prior:
        """The same, one id further."""


class Context(Protocol):
    """What an engine needs of a prompt (`gpa.prompt.Prompt` is one)."""

    @property
    def context(self) -> Sequence[int]:
        """Ids to feed before the first new one."""

    @property
    def prefix(self) -> int:
        """So many ids at the beginning are those of other prompts too: an engine may keep what it made of them."""

    @property
    def allowed(self) -> Sequence[range]:
        """Ranges of ids that may be generated."""

    @property
    def stop(self) -> Sequence[int]:
        """Ids that end the generation; they are not yielded."""

    @property
    def prior(self) -> Prior | None:
        """Heeded where `Sampling.prior_weight` is not 0."""


class Engine(Protocol):
    """A backend that continues prompts. Thread-safe: several generations may run at once."""

    def generate(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        """Yield the continuation id by id until a stop id (not yielded) or `sampling.max_new_ids`.

        Closing the iterator frees the slot at once. Same seed, same ids, alone or in a batch.
        Raises EngineError."""

    def close(self) -> None:
        """Free the model."""

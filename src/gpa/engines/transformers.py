"""The yardstick: Hugging Face transformers in torch, one sequence at a time, the sampling rules written out.

Slow, and close to the reference implementation: the other engines are tested against it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpa.engines.base import Context, Sampling, Token
from gpa.errors import CheckpointError, EngineError, MissingExtra

if TYPE_CHECKING:
    import torch


class TransformersEngine:
    """Continues prompts with Qwen3ForCausalLM. Thread-safe: each generation has its own cache and generator."""

    def __init__(self, folder: Path, device: str = "cpu", dtype: str = "float32") -> None:
        """Load the transformers checkpoint `folder`. Raises CheckpointError, MissingExtra."""
        try:
            import torch
            from transformers import DynamicCache, Qwen3ForCausalLM
        except ImportError as error:
            raise MissingExtra("transformers", "torch") from error
        self._torch, self._cache = torch, DynamicCache
        try:
            model: Any = Qwen3ForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{folder} is no checkpoint that transformers can load: {error}") from error
        self._model = model.to(device).eval()
        # renamed in transformers 5.24; the old name still works there, with a warning
        self._cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    def generate(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        """See `Engine.generate`."""
        if self._model is None:
            raise EngineError("this engine is closed")
        size = self._model.config.vocab_size
        context = list(prompt.context)
        if not context or min(context) < 0 or max(context) >= size:
            raise EngineError(f"a context needs ids from 0 to {size - 1}; found {len(context)} ids, {context[:8]} ...")
        return self._stream(prompt, sampling)

    def close(self) -> None:
        """Free the model; running generations end with an EngineError."""
        self._model = None

    def _stream(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        torch = self._torch
        legal = torch.tensor(sorted({*prompt.stop, *(id for r in prompt.allowed for id in r)}))
        generator = torch.Generator().manual_seed(sampling.seed)
        cache = self._cache()
        seen, fed = list(prompt.context), list(prompt.context)
        ends = torch.isin(legal, torch.tensor(sorted(prompt.stop), dtype=torch.long))
        for count in range(sampling.max_new_ids):
            scores = self._scores(fed, cache)[legal]
            logprobs = scores.log_softmax(-1)
            if count < sampling.min_new_ids:
                scores = scores.masked_fill(ends, -torch.inf)
            place = self._pick(_penalised(scores, torch.isin(legal, torch.tensor(seen)), sampling), sampling, generator)
            id = int(legal[place])
            if id in prompt.stop:
                return
            yield Token(id, float(logprobs[place]))
            seen, fed = [*seen, id], [id]

    def _scores(self, ids: list[int], cache: Any) -> torch.Tensor:
        """Logits (vocab,) in float32 after feeding `ids`."""
        if self._model is None:
            raise EngineError("this engine is closed")
        with self._torch.inference_mode():
            fed = self._torch.tensor([ids], device=self._model.device)
            out: torch.Tensor = self._model(fed, **{self._cache_name: cache}, use_cache=True, logits_to_keep=1).logits[0, -1].float().cpu()
            return out

    def _pick(self, scores: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
        """Place of the drawn score: temperature, then top_k, then the smallest head of mass top_p."""
        torch = self._torch
        if sampling.temperature == 0:
            return int(scores.argmax())
        ordered, places = torch.sort(scores / sampling.temperature, descending=True, stable=True)
        if sampling.top_k:
            ordered, places = ordered[: sampling.top_k], places[: sampling.top_k]
        shares = ordered.softmax(-1)
        before = shares.cumsum(-1) - shares
        shares = torch.where(before < sampling.top_p, shares, 0.0)
        return int(places[torch.multinomial(shares, 1, generator=generator)])


def _penalised(scores: torch.Tensor, seen: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Transformers' repetition penalty on the scores marked as `seen`."""
    penalty = sampling.repetition_penalty
    return scores.where(~seen, (scores / penalty).where(scores > 0, scores * penalty))

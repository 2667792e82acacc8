"""The yardstick: Hugging Face transformers in torch, one sequence at a time, the sampling rules written out.

Slow, and close to the reference implementation: the other engines are tested against it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpa.engines.base import Context, Sampling, Token
from gpa.engines.card import check_ids, ids_of
from gpa.engines.heads import merge
from gpa.engines.search import Search
from gpa.errors import CheckpointError, EngineError, MissingExtra

if TYPE_CHECKING:
    import torch


DTYPES = ("auto", "float32", "bfloat16", "float16")


class TransformersEngine:
    """Continues prompts with Qwen3ForCausalLM. Thread-safe: each generation has its own cache and generator."""

    def __init__(self, folder: Path, device: str = "cpu", dtype: str = "auto") -> None:
        """Load the transformers checkpoint `folder`.

        device: any of torch. dtype: float32, bfloat16 or float16; auto is float32 on CPU and bfloat16 elsewhere. Ids are drawn
        on CPU from float32 scores, so a seed means the same on every device. Raises CheckpointError, EngineError, MissingExtra."""
        try:
            import torch
            from transformers import DynamicCache, Qwen3ForCausalLM
        except ImportError as error:
            raise MissingExtra("transformers", "torch") from error
        self._torch, self._cache = torch, DynamicCache
        if dtype not in DTYPES:
            raise EngineError(f"unknown dtype {dtype!r} (legal: {', '.join(DTYPES)})")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise EngineError(f"device {device!r}: torch {torch.__version__} finds no CUDA device (legal here: cpu)")
        if dtype == "auto":
            dtype = "float32" if device == "cpu" else "bfloat16"
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
        check_ids(prompt.context, self._model.config.vocab_size)
        return self._searched(prompt, sampling) if sampling.beams > 1 else self._stream(prompt, sampling)

    def close(self) -> None:
        """Free the model; running generations end with an EngineError."""
        self._model = None

    def _stream(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        torch = self._torch
        ranges = merge([*prompt.allowed, *prompt.stop])
        legal = torch.from_numpy(ids_of(ranges))
        generator = torch.Generator().manual_seed(sampling.seed)
        cache = self._cache()
        seen, fed = list(prompt.context), list(prompt.context)
        ends = torch.isin(legal, torch.tensor(sorted(prompt.stop), dtype=torch.long))
        prior = prompt.prior if sampling.prior_weight else None
        for count in range(sampling.max_new_ids):
            scores = self._scores([fed], cache, ranges)[0]
            logprobs = scores.log_softmax(-1)
            if count < sampling.min_new_ids:
                scores = scores.masked_fill(ends, -torch.inf)
            scores = _penalised(scores, torch.isin(legal, torch.tensor(seen)), sampling)
            if prior is not None:
                scores = scores + sampling.prior_weight * torch.from_numpy(prior.scores(legal.numpy())).float()
            place = self._pick(scores, sampling, generator)
            id = int(legal[place])
            prior = prior and prior.after(id)
            if id in prompt.stop:
                return
            yield Token(id, float(logprobs[place]))
            seen, fed = [*seen, id], [id]

    def _searched(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        ranges = merge([*prompt.allowed, *prompt.stop])
        search = Search(prompt, sampling, ranges)
        cache: Any = self._cache()
        fed = [list(prompt.context)]
        while parents := search.step(list(self._scores(fed, cache, ranges).numpy())):
            cache.reorder_cache(self._torch.tensor(parents))
            fed = [[id] for id in search.last]
        yield from search.best

    def _scores(self, ids: Sequence[Sequence[int]], cache: Any, legal: Sequence[range]) -> torch.Tensor:
        """Logits of the legal ids (B, legal) in float32 after feeding `ids` (B, T); no other row of the head is multiplied."""
        model = self._model
        if model is None:
            raise EngineError("this engine is closed")
        with self._torch.inference_mode():
            fed = self._torch.tensor(ids, device=model.device)
            hidden = model.model(fed, **{self._cache_name: cache}, use_cache=True).last_hidden_state[:, -1]
            rows = model.lm_head.weight
            return self._torch.cat([hidden @ rows[r.start : r.stop].T for r in legal], -1).float().cpu()

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

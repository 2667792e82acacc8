"""vLLM on a GPU: continuous batching shared by all callers.

Scheduling, the paged cache and sampling are vLLM's; who steps it, and when, is gpa.engines.batch. vLLM's tokenizer is never loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

from gpa.engines.base import Context, Sampling, Token
from gpa.engines.batch import Batch, Request
from gpa.engines.card import check_ids, ids_of
from gpa.engines.heads import merge
from gpa.errors import CheckpointError, EngineError, LimitError, MissingExtra


class VLLMEngine:
    """Continues prompts with Qwen3 in vLLM, in this process. Thread-safe; requests join a running batch at any step.

    Two things are vLLM's own: a `Token.logprob` counts all ids of the vocabulary, not the legal ones alone (a trained model
    gives the others next to nothing), and rounding depends on the batch, so that the same seed gives the same ids in float32
    but not always in bfloat16."""

    def __init__(
        self, folder: Path, dtype: str = "bfloat16", memory: float = 0.5, longest: int = 4096, slots: int = 64, eager: bool = False
    ) -> None:
        """Load the transformers checkpoint `folder`.

        memory: share of the GPU to take, the tokenizers need the rest. longest: ids of a prompt with its continuation.
        slots: generations in one batch; more wait. eager: start at once, without compiling. Raises CheckpointError, MissingExtra."""
        os.environ["VLLM_NO_USAGE_STATS"] = "1"  # it would report to a web service
        try:
            from vllm import SamplingParams
            from vllm.engine.arg_utils import EngineArgs
            from vllm.sampling_params import RequestOutputKind
            from vllm.v1.engine.llm_engine import LLMEngine
            from vllm.v1.executor.abstract import Executor
        except ImportError as error:
            raise MissingExtra("vllm", "vllm") from error
        self._params, self._delta = SamplingParams, RequestOutputKind.DELTA
        try:
            config = EngineArgs(
                model=str(folder),
                skip_tokenizer_init=True,
                dtype=dtype,
                max_model_len=longest,
                max_num_seqs=slots,
                gpu_memory_utilization=memory,
                enable_prefix_caching=False,  # a prompt's rest rounds otherwise than the whole
                generation_config="vllm",  # not the folder's: sampling is the caller's business
                enforce_eager=eager,
                disable_log_stats=True,
            ).create_engine_config()
            self._engine: Any = LLMEngine(config, Executor.get_class(config), log_stats=False, multiprocess_mode=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{folder} cannot be loaded by vLLM: {error}") from error
        self._size, self._longest = config.model_config.get_vocab_size(), longest
        self._batch = Batch(self._add, self._drop, self._step)
        self._numbers = count()

    def generate(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        """See `Engine.generate`. Raises EngineError at once for ids beyond the vocabulary, LimitError for too many."""
        check_ids(prompt.context, self._size)
        if len(prompt.context) + sampling.max_new_ids > self._longest:
            raise LimitError(f"{len(prompt.context)} ids and {sampling.max_new_ids} new ones exceed {self._longest}: shorten the prompt")
        return self._batch.read(Request((prompt, sampling)), frozenset(prompt.stop))

    def close(self) -> None:
        """Free the model; running generations end with an EngineError."""
        self._batch.close(self._free)

    def _free(self) -> None:
        self._engine.engine_core.shutdown()
        self._engine = None

    def _asked(self, prompt: Context, sampling: Sampling) -> Any:
        wanted = {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "repetition_penalty": sampling.repetition_penalty,
            "seed": sampling.seed if sampling.temperature > 0 else None,
            "max_tokens": sampling.max_new_ids,
            "min_tokens": sampling.min_new_ids,
            "stop_token_ids": list(prompt.stop),
            "ignore_eos": True,  # the published config names another id than the one that ends a generation
            "allowed_token_ids": _legal(tuple(prompt.allowed), tuple(prompt.stop)),
            "logprobs": 0,  # of the id that came
            "detokenize": False,
            "output_kind": self._delta,
        }
        return self._params(**wanted)

    def _add(self, request: Request) -> None:
        prompt, sampling = request.asked
        request.handle = str(next(self._numbers))
        try:
            self._engine.add_request(request.handle, {"prompt_token_ids": list(prompt.context)}, self._asked(prompt, sampling))
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"vLLM refuses {sampling}: {error}") from error

    def _drop(self, request: Request) -> None:
        self._engine.abort_request([request.handle])

    def _step(self, live: list[Request]) -> None:
        try:
            outputs = self._engine.step() if self._engine.has_unfinished_requests() else ()
        except RuntimeError as error:
            raise EngineError(f"vLLM failed: {error}") from error
        named = {request.handle: request for request in live}
        for output in outputs:
            request = named.get(output.request_id)
            if request is not None:
                new = output.outputs[0]
                for id, ranks in zip(new.token_ids, new.logprobs or (), strict=True):
                    request.tokens.put(Token(id, ranks[id].logprob))
                if output.finished:
                    request.end()


@lru_cache(maxsize=64)
def _legal(allowed: tuple[range, ...], stop: tuple[int, ...]) -> list[int]:
    return [int(id) for id in ids_of(merge([*allowed, *stop]))]

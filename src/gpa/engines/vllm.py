"""vLLM on a GPU: continuous batching shared by all callers.

Scheduling, the paged cache and sampling are vLLM's. What is ours is as in the OpenVINO engine: each generation has its own
queue, and whichever caller needs an id next runs one step for everybody. vLLM's tokenizer is never loaded.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

from gpa.engines.base import Context, Sampling, Token
from gpa.engines.card import check_ids, ids_of
from gpa.engines.heads import merge
from gpa.errors import CheckpointError, EngineError, LimitError, MissingExtra

CLOSED = "this engine is closed"


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
        self._lock = Lock()  # holds the engine and `_live`
        self._live: dict[str, _Request] = {}
        self._left: deque[str] = deque()  # closed by their reader, still in the engine
        self._numbers = count()

    def generate(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        """See `Engine.generate`. Raises EngineError at once for ids beyond the vocabulary, LimitError for too many."""
        check_ids(prompt.context, self._size)
        if len(prompt.context) + sampling.max_new_ids > self._longest:
            raise LimitError(f"{len(prompt.context)} ids and {sampling.max_new_ids} new ones exceed {self._longest}: shorten the prompt")
        return self._stream(prompt, sampling)

    def close(self) -> None:
        """Free the model; running generations end with an EngineError."""
        with self._lock:
            if self._engine is not None:
                self._engine.abort_request(list(self._live))
                for request in self._live.values():
                    request.finished, request.error = True, CLOSED
                self._live.clear()
                self._engine.engine_core.shutdown()
                self._engine = None

    def _stream(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        name, request = self._submit(prompt, sampling)
        stop = frozenset(prompt.stop)
        try:
            while (token := self._next(request)) is not None and token.id not in stop:
                yield token
        finally:
            if not request.finished:
                self._left.append(name)
            self._release()

    def _submit(self, prompt: Context, sampling: Sampling) -> tuple[str, _Request]:
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
        with self._lock:
            name, request = str(next(self._numbers)), _Request()
            try:
                self._open().add_request(name, {"prompt_token_ids": list(prompt.context)}, self._params(**wanted))
            except (ValueError, RuntimeError) as error:
                raise EngineError(f"vLLM refuses {sampling}: {error}") from error
            self._live[name] = request
        return name, request

    def _open(self) -> Any:
        if self._engine is None:
            raise EngineError(CLOSED)
        return self._engine

    def _next(self, request: _Request) -> Token | None:
        """The next id of a request, or None after its last; steps the engine while there is none."""
        while not request.tokens and not request.finished:
            with self._lock:
                if not request.tokens and not request.finished:  # else another caller's step brought it
                    self._step()
        if request.tokens:
            return request.tokens.popleft()
        if request.error:
            raise EngineError(request.error)
        return None

    def _step(self) -> None:
        """One step of the whole batch. The caller holds the lock."""
        engine = self._open()
        self._abort(engine)
        try:
            outputs = engine.step() if engine.has_unfinished_requests() else ()
        except RuntimeError as error:
            for request in self._live.values():
                request.finished, request.error = True, f"vLLM failed: {error}"
            raise EngineError(f"vLLM failed: {error}") from error
        for output in outputs:
            live = self._live.get(output.request_id)
            if live is not None:
                new = output.outputs[0]
                live.tokens += (Token(id, ranks[id].logprob) for id, ranks in zip(new.token_ids, new.logprobs or (), strict=True))
                if output.finished:
                    live.finished = True
                    del self._live[output.request_id]

    def _abort(self, engine: Any) -> None:
        while self._left:
            name = self._left.popleft()
            engine.abort_request([name])
            self._live.pop(name, None)

    def _release(self) -> None:
        """Free the slots of closed generations now, unless another caller is at it (who will, before its next step).

        Never waits: this also runs when the garbage collector closes a generation, perhaps inside a step."""
        while self._left and self._lock.acquire(blocking=False):
            try:
                if self._engine is None:
                    self._left.clear()
                else:
                    self._abort(self._engine)
            finally:
                self._lock.release()


class _Request:
    """What vLLM has brought for one generation."""

    def __init__(self) -> None:
        self.tokens: deque[Token] = deque()
        self.finished = False
        self.error = ""


@lru_cache(maxsize=64)
def _legal(allowed: tuple[range, ...], stop: tuple[int, ...]) -> list[int]:
    return [int(id) for id in ids_of(merge([*allowed, *stop]))]

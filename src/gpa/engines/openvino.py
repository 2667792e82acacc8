"""The default engine on CPU: openvino-genai's ContinuousBatchingPipeline over an IR written by `export_openvino`.

Batching, the cache and sampling are the pipeline's. What is ours: each generation has its own queue, and
whichever caller needs an id next runs one step for everybody. No thread of our own: nothing runs when nobody reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from gpa.engines.base import Context, Sampling, Token
from gpa.engines.card import Card
from gpa.engines.threads import threads_for
from gpa.errors import CheckpointError, EngineError

XML = "openvino_model.xml"  # the name that openvino-genai looks for
BLOCK = 32  # ids in one block of OpenVINO's paged cache on CPU
PREFILL = 1024  # ids fed in one step; a prompt cut in two rounds otherwise than the whole, so few should be cut


class OpenVINOEngine:
    """Continues prompts on CPU. Thread-safe; requests join a running batch at any step."""

    def __init__(self, folder: Path, threads: int | None = None, cache_gb: float = 1.0) -> None:
        """Load `folder/openvino_model.xml`.

        threads: 1 for small models, half the cores for big ones. cache_gb: bound of the key/value cache; memory is
        taken only as it fills. Raises CheckpointError."""
        try:
            import openvino
            import openvino_genai
        except ImportError as error:
            raise EngineError(
                "openvino-genai is not installed: pip install openvino-genai; where it has no wheel, choose another engine"
            ) from error
        self._tensor, self._config = openvino.Tensor, openvino_genai.GenerationConfig
        self._status = openvino_genai.GenerationStatus
        model = Path(folder) / XML
        self._card = card = Card.load(model, model.with_suffix(".json"), f"gpa convert {folder}")
        exact = card.precision == "f32"
        blocks = int(cache_gb * 1e9 / (card.cached_numbers_per_id * BLOCK * (4 if exact else 2)))
        self._capacity = blocks * BLOCK
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = max(blocks, 1)
        scheduler.max_num_batched_tokens = PREFILL
        scheduler.enable_prefix_caching = False  # a prompt's rest rounds otherwise than the whole, and the cache fills for good
        properties = _properties(Path(folder), threads, exact)
        try:
            self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
        except RuntimeError as error:
            raise CheckpointError(f"{Path(folder) / XML} cannot be loaded: {error}") from error
        self._lock = Lock()  # holds the pipeline and `_live`
        self._live: list[_Request] = []
        self._left: deque[_Request] = deque()  # closed by their reader, still in the pipeline
        self._numbers = count()

    def generate(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        """See `Engine.generate`. Raises EngineError at once for a prompt this model was not exported for, LimitError
        for one longer than the cache."""
        self._card.check(prompt, sampling, self._capacity)
        return self._stream(prompt, sampling)

    def close(self) -> None:
        """Free the model; running generations end with an EngineError."""
        with self._lock:
            if self._pipeline is not None:
                self._left += [request for request in self._live if not request.finished]
                self._step()  # a pipeline must not be freed with requests in it
                self._pipeline = None

    def _stream(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        request = self._submit(prompt, sampling)
        stop = frozenset(prompt.stop)
        try:
            while (token := self._next(request)) is not None and token.id not in stop:
                yield token
        finally:
            if not request.finished:
                self._left.append(request)
            self._release()

    def _submit(self, prompt: Context, sampling: Sampling) -> _Request:
        config = self._config()
        config.max_new_tokens, config.min_new_tokens = sampling.max_new_ids, sampling.min_new_ids
        config.logprobs = 1
        config.repetition_penalty = sampling.repetition_penalty
        config.stop_token_ids = set(prompt.stop) or {0}
        config.eos_token_id = min(config.stop_token_ids)  # must be one of them; without it the pipeline insists on the tokenizer's
        config.ignore_eos = not prompt.stop
        if sampling.temperature > 0:
            config.do_sample = True
            config.temperature, config.top_p, config.rng_seed = sampling.temperature, sampling.top_p, sampling.seed
            config.top_k = sampling.top_k or self._card.vocab_size
        ids = self._tensor(np.array([prompt.context], np.int64))
        with self._lock:
            try:
                request = _Request(self._open().add_request(next(self._numbers), ids, config))
            except RuntimeError as error:
                raise EngineError(f"OpenVINO refuses {sampling}: {error}") from error
            self._live.append(request)
        return request

    def _open(self) -> Any:
        if self._pipeline is None:
            raise EngineError("this engine is closed")
        return self._pipeline

    def _next(self, request: _Request) -> Token | None:
        """The next id of a request, or None after its last; steps the pipeline while there is none."""
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
        pipeline = self._open()
        while self._left:
            left = self._left.popleft()
            left.handle.cancel()
            left.finished, left.error = True, "this engine is closed"  # whoever still reads it learns why
        self._live = [request for request in self._live if not request.finished]
        try:
            if pipeline.has_non_finished_requests():
                pipeline.step()
        except RuntimeError as error:
            for request in self._live:
                request.handle.cancel()
                request.finished, request.error = True, f"OpenVINO failed: {error}"
        for request in self._live:
            self._read(request)

    def _read(self, request: _Request) -> None:
        while not request.finished and request.handle.can_read():
            for output in request.handle.read().values():
                request.tokens += map(Token, output.generated_ids, output.generated_log_probs)
        status = request.handle.get_status()
        if status != self._status.RUNNING:
            request.finished = True
            if status == self._status.IGNORED:
                request.error = f"the cache of {self._capacity} ids is full: raise cache_gb or ask for less at once"

    def _release(self) -> None:
        """Free the slots of closed generations now, unless another caller is at it (who will, before its next step).

        Never waits: this also runs when the garbage collector closes a generation, perhaps inside a step."""
        while self._left and self._lock.acquire(blocking=False):
            try:
                if self._pipeline is None:
                    self._left.clear()
                else:
                    self._step()
            finally:
                self._lock.release()


class _Request:
    """One generation: its handle in the pipeline and what was read from it."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.tokens: deque[Token] = deque()
        self.finished = False
        self.error = ""


def _properties(folder: Path, threads: int | None, exact: bool) -> dict[str, Any]:
    """How OpenVINO shall compute: the same on every CPU and, as far as it can be had, in every batch."""
    threads = threads or threads_for((folder / XML).with_suffix(".bin"))
    properties: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 where the CPU has it
        "KV_CACHE_PRECISION": "f32" if exact else "f16",  # with the default u8 an id depends on its batch
    }
    if threads > 1:
        # several threads sum in an order that depends on the batch; int8 activations blow that up to other ids
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    return properties

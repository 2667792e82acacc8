"""llama.cpp through xllamacpp, over a GGUF written by `export_gguf`: where OpenVINO has no wheel, and where memory is tight.

Batching, the cache and sampling are llama.cpp's, in a thread of its own; ids are read from its log-probabilities, never from
text. What is ours: a thread and a queue for each generation, and as many at once as the cache holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from secrets import token_hex
from threading import Condition, Thread
from typing import Any

from gpa.engines.base import Context, Sampling, Token
from gpa.engines.card import Card
from gpa.engines.threads import threads_for
from gpa.errors import CheckpointError, EngineError, MissingExtra

GGUF = "model.gguf"
CLOSED = "this engine is closed"
LONGEST = 1 << 15  # ids in the cache at most: llama.cpp takes the memory when it loads


class LlamaEngine:
    """Continues prompts on CPU. Thread-safe; requests join a running batch at any step.

    Same seed, same ids holds for a request alone. In a batch llama.cpp rounds otherwise, and where two ids are all but equally
    probable the other one may come."""

    def __init__(self, folder: Path, threads: int | None = None, cache_gb: float = 0.5, slots: int = 16) -> None:
        """Load `folder/model.gguf`.

        threads: 1 for small models, half the cores for big ones. cache_gb: size of the key/value cache. slots: generations
        at once; more wait. Raises CheckpointError, MissingExtra."""
        try:
            import xllamacpp
        except ImportError as error:
            raise MissingExtra("xllamacpp", "llama") from error
        path = Path(folder) / GGUF
        self._card = Card.load(path, path.with_suffix(".gguf.json"), f"gpa convert {folder} --engine llama")
        exact = self._card.precision == "f32"
        bytes_per_id = self._card.cached_numbers_per_id * (4 if exact else 2)
        self._capacity = max(1, min(int(cache_gb * 1e9 / bytes_per_id) // 256, LONGEST // 256)) * 256  # llama.cpp rounds so
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.kv_unified = self._capacity, slots, True
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or threads_for(path)
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32 if exact else xllamacpp.ggml_type.GGML_TYPE_F16
        if exact:  # its flash attention computes in float16
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_ram_mib = params.n_gpu_layers = 0
        params.verbosity, params.warmup = -1, False
        params.api_keys = [token_hex(32)]  # it also listens on a port of this machine: nobody knows the key
        try:
            self._server: Any = xllamacpp.Server(params)
        except RuntimeError as error:
            raise CheckpointError(f"{path} cannot be loaded: {error}") from error
        self._room = Condition()  # holds what follows
        self._free = self._capacity
        self._live: dict[_Request, Thread] = {}

    def generate(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        """See `Engine.generate`. Raises EngineError at once for a prompt this model was not exported for, LimitError
        for one longer than the cache."""
        self._card.check(prompt, sampling, self._capacity)
        return self._stream(prompt, sampling)

    def close(self) -> None:
        """Free the model; running generations end with an EngineError."""
        with self._room:
            running = list(self._live.items())
            for request, _ in running:
                request.error, request.left = CLOSED, True
            self._room.notify_all()
        for _, thread in running:
            thread.join()
        self._server = None

    def _stream(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        request = _Request(prompt, sampling)
        stop = frozenset(prompt.stop)
        with self._room:
            if self._server is None:
                raise EngineError(CLOSED)
            self._live[request] = Thread(target=self._run, args=(request, self._server), daemon=True)
            self._live[request].start()
        try:
            while (token := request.tokens.get()) is not None and token.id not in stop:
                yield token
            if request.error:
                raise EngineError(request.error)
        finally:
            request.left = True  # llama.cpp asks after each id whether to go on

    def _run(self, request: _Request, server: Any) -> None:
        """The thread of one generation: wait for room, then let llama.cpp call back with each id."""
        try:
            with self._room:
                self._room.wait_for(lambda: request.left or self._free >= request.size)
                self._free -= request.size
            for body in request.bodies():
                request.read(server.handle_completions(body, request.read) or {})
        except RuntimeError as error:
            request.error = f"llama.cpp failed: {error}"
        finally:
            with self._room:
                self._free += request.size
                del self._live[request]
                self._room.notify_all()
            request.tokens.put(None)


class _Request:
    """One generation: what llama.cpp is asked for, and what it answered."""

    def __init__(self, prompt: Context, sampling: Sampling) -> None:
        self.tokens: SimpleQueue[Token | None] = SimpleQueue()  # None: no more
        self.left = False  # nobody reads on
        self.error = ""
        self.size = len(prompt.context) + sampling.max_new_ids
        self._prompt, self._sampling = prompt, sampling
        self._ids = list(prompt.context)  # fed and generated

    def bodies(self) -> Iterator[dict[str, Any]]:
        """What to ask for, one after the other: llama.cpp bars a stop for a whole request or not at all."""
        least, most = self._sampling.min_new_ids, self._sampling.max_new_ids
        if least and not self.left:
            yield self._body(least, 0, [[id, False] for id in self._prompt.stop])
        if most > least and not self.left and not self.error:
            yield self._body(most - least, 1 if least else 0, [])

    def _body(self, count: int, stage: int, barred: list[Any]) -> dict[str, Any]:
        sampling = self._sampling
        greedy = sampling.temperature == 0
        return {
            "prompt": list(self._ids),
            "max_tokens": count,
            "stream": True,
            "logprobs": 1,  # of the id that came, among the legal ones: all others are as good as impossible
            "logit_bias": barred,
            "cache_prompt": stage > 0,  # else not: a prompt's rest rounds otherwise than the whole
            "samplers": ["penalties", "top_k"] if greedy else ["penalties", "top_k", "temperature", "top_p"],
            "repeat_penalty": sampling.repetition_penalty,
            "repeat_last_n": self.size,
            "temperature": sampling.temperature or 1.0,
            "top_k": 1 if greedy else sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": 0.0,
            "seed": (sampling.seed + stage) % (1 << 32),
        }

    def read(self, answer: dict[str, Any]) -> bool:
        """Take the ids of a part of the answer; True: stop."""
        if "error" in answer or "message" in answer:
            self.error = self.error or f"llama.cpp refuses: {answer.get('error', answer)}"
        for choice in answer.get("choices", ()):
            for entry in (choice.get("logprobs") or {}).get("content", ()):
                self._ids.append(entry["id"])
                self.tokens.put(Token(entry["id"], entry["logprob"]))
        return self.left

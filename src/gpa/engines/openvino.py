"""The default engine on CPU: OpenVINO over an IR written by `export_openvino`, with paged attention and continuous batching.

The net and its cache are gpa.engines.paged, drawing is gpa.engines.draw, who steps and when is gpa.engines.batch. Here:
which rows a step feeds. The beginning that a prompt shares with others (`Context.prefix`, a voice) is always fed in a step of its
own, so that it may as well be copied from an earlier one: its keys and values are the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpa.engines.base import Context, Sampling, Token
from gpa.engines.batch import Batch, Request
from gpa.engines.blocks import Blocks
from gpa.engines.card import Card
from gpa.engines.draw import Draw, draw
from gpa.engines.paged import BLOCK, Paged, Row
from gpa.engines.threads import threads_for
from gpa.errors import CheckpointError, EngineError

XML = "openvino_model.xml"
PREFILL = 1024  # ids fed in one step; a prompt cut in two rounds otherwise than the whole, so few should be cut


class OpenVINOEngine:
    """Continues prompts on CPU. Thread-safe; requests join a running batch at any step."""

    def __init__(self, folder: Path, threads: int | None = None, cache_gb: float = 1.0) -> None:
        """Load `folder/openvino_model.xml`.

        threads: 1 for small models, half the cores and at least two for big ones. cache_gb: bound of the key/value cache; memory is
        taken only as it fills. Raises CheckpointError."""
        model = Path(folder) / XML
        self._card = card = Card.load(model, model.with_suffix(".json"), f"gpa convert {folder}")
        exact = card.precision == "f32"
        blocks = max(1, int(cache_gb * 1e9 / (card.cached_numbers_per_id * BLOCK * (4 if exact else 2))))
        self._capacity = blocks * BLOCK
        try:
            self._net: Any = Paged(model, blocks, _properties(Path(folder), threads, exact))
        except RuntimeError as error:
            raise CheckpointError(f"{model} cannot be loaded: {error}") from error
        self._blocks = Blocks(blocks)
        self._batch = Batch(self._add, self._drop, self._step)

    def generate(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        """See `Engine.generate`. Raises EngineError at once for a prompt this model was not exported for, LimitError
        for one longer than the cache."""
        head = self._card.check(prompt, sampling, self._capacity)
        return self._batch.read(Request((prompt, sampling, head)), frozenset(prompt.stop))

    def close(self) -> None:
        """Free the model; running generations end with an EngineError."""
        self._batch.close(self._forget)

    def _forget(self) -> None:
        self._net = None

    def _add(self, request: Request) -> None:
        prompt, sampling, head = request.asked
        chance = Draw(prompt, sampling, self._card.heads[head].legal)
        request.handle = _Sequence(prompt, head, chance, _blocks(len(prompt.context) + sampling.max_new_ids))

    def _drop(self, request: Request) -> None:
        self._blocks.give(request.handle.blocks)
        request.handle.blocks = []

    def _step(self, live: list[Request]) -> None:
        """One step of all that have their blocks; whoever has none yet gets them, first come first served."""
        rows: list[Row] = []
        fed: list[Request] = []
        room = PREFILL
        for request in live:
            placed = request.handle.blocks or (room and self._placed(request.handle))
            piece = request.handle.piece
            prompt = len(piece) if request.handle.past == 0 or len(piece) > 1 else 0
            if prompt > room or not placed:
                room = 0  # and those behind wait with it
                continue
            room -= prompt
            fed.append(request)
            rows.append(request.handle.row(piece))
        if not rows:
            return
        try:
            scores = self._net.step(rows)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {error}") from error
        asked = [(request, score) for request, score in zip(fed, scores, strict=True) if score is not None]
        tokens = draw([request.handle.draw for request, _ in asked], [score for _, score in asked])
        for request, row in zip(fed, rows, strict=True):
            request.handle.fed(len(row.ids))
            self._keep(request.handle)
        for (request, _), token in zip(asked, tokens, strict=True):
            self._hand_out(request, token)

    def _placed(self, sequence: _Sequence) -> bool:
        """Whether a sequence gets its blocks: all that it may need, so that none has to be driven out again.

        Its beginning is copied there if it is kept."""
        sequence.blocks = self._blocks.take(sequence.needs)
        if sequence.blocks and (kept := self._blocks.kept(sequence.beginning)):
            self._net.copy(kept, sequence.blocks)
            sequence.fed(len(sequence.beginning))
        return bool(sequence.blocks)

    def _keep(self, sequence: _Sequence) -> None:
        """Keep its beginning for those that have the same, when just that was fed."""
        if sequence.past == len(sequence.beginning):
            self._net.copy(sequence.blocks, self._blocks.keep(sequence.beginning, _blocks(sequence.past)))

    def _hand_out(self, request: Request, token: Token) -> None:
        """The id that was drawn is fed next, unless it was the last."""
        sequence: _Sequence = request.handle
        sequence.pending = [token.id]
        stopped = token.id in request.asked[0].stop
        if not stopped:
            request.tokens.put(token)
        if stopped or sequence.draw.full:
            self._drop(request)
            request.end()


class _Sequence:
    """A request in the engine: what waits to be fed, what was, and where that lies in the cache."""

    def __init__(self, prompt: Context, head: int, draw: Draw, needs: int) -> None:
        self.pending, self.head, self.draw, self.needs = list(prompt.context), head, draw, needs
        self.beginning = tuple(prompt.context[: min(prompt.prefix, len(prompt.context) - 1)])  # something must be left to ask after
        self.past = 0
        self.blocks: list[int] = []

    @property
    def piece(self) -> list[int]:
        """What is fed next: of the beginning, or of what comes behind it."""
        left = len(self.beginning) - self.past
        return self.pending[: min(left, PREFILL) if left > 0 else PREFILL]

    def fed(self, count: int) -> None:
        """So many of those that waited are in the cache."""
        self.past, self.pending = self.past + count, self.pending[count:]

    def row(self, piece: list[int]) -> Row:
        """Feed `piece`, the beginning of what waits; scores are asked for once nothing is left."""
        return Row(piece, self.past, self.blocks, self.head if len(piece) == len(self.pending) else None)


def _blocks(ids: int) -> int:
    """How many blocks so many ids fill."""
    return -(-ids // BLOCK)


def _properties(folder: Path, threads: int | None, exact: bool) -> dict[str, Any]:
    """How OpenVINO shall compute: the same on every CPU and in every batch."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads or threads_for((folder / XML).with_suffix(".bin"), least=2),
        "ENABLE_CPU_PINNING": False,  # every net of one thread would be pinned to the same processor
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 where the CPU has it
        "CPU_RUNTIME_CACHE_CAPACITY": 128,  # the default keeps what it prepared for 5,000: every new length of a prompt stays
        "KV_CACHE_PRECISION": "f32" if exact else "f16",  # with the default u8 an id depends on its batch
    }

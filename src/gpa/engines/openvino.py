"""The default engine on CPU: OpenVINO over an IR written by `export_openvino`, with paged attention and continuous batching.

The net and its cache are gpa.engines.paged, drawing is gpa.engines.draw, following several continuations is gpa.engines.search, who
steps and when is gpa.engines.batch. Here: which rows a step feeds. The beginning that a prompt shares with others (`Context.prefix`, a
voice) is always fed in a step of its own, so that it may as well be copied from an earlier one: its keys and values are the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpa.engines.base import Context, Sampling, Token
from gpa.engines.batch import Batch, Request
from gpa.engines.blocks import Blocks
from gpa.engines.card import Card
from gpa.engines.draw import Draw, draw
from gpa.engines.paged import BLOCK, Paged, Row, Scores
from gpa.engines.search import Search
from gpa.engines.threads import threads_for
from gpa.errors import CheckpointError, EngineError, LimitError

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
        needs = _Sequence.blocks_for(prompt, sampling) * BLOCK
        if needs > self._capacity:
            raise LimitError(f"{sampling.beams} beams need a cache of {needs} ids and it has {self._capacity}: raise cache_gb")
        return self._batch.read(Request((prompt, sampling, head)), frozenset(prompt.stop))

    def close(self) -> None:
        """Free the model; running generations end with an EngineError."""
        self._batch.close(self._forget)

    def _forget(self) -> None:
        self._net = None

    def _add(self, request: Request) -> None:
        prompt, sampling, head = request.asked
        request.handle = (_Drawn if sampling.beams == 1 else _Beams)(prompt, sampling, head, self._card.heads[head].legal)

    def _drop(self, request: Request) -> None:
        self._blocks.give(request.handle.blocks)
        request.handle.blocks = []

    def _step(self, live: list[Request]) -> None:
        """One step of all that have their blocks; whoever has none yet gets them, first come first served."""
        rows: list[Row] = []
        fed: list[tuple[Request, slice]] = []
        room = PREFILL
        for request in live:
            own = request.handle.rows() if request.handle.blocks or (room and self._placed(request.handle)) else []
            prompt = own[0].ids if own and (request.handle.past == 0 or len(own[0].ids) > 1) else ()
            if not own or len(prompt) > room:
                room = 0  # and those behind wait with it
                continue
            room -= len(prompt)
            fed.append((request, slice(len(rows), len(rows) + len(own))))
            rows += own
        if not rows:
            return
        try:
            scores = self._net.step(rows)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {error}") from error
        for request, own in fed:
            request.handle.fed(len(rows[own.start].ids))
            self._keep(request.handle)
        self._go_on([(request, scores[own]) for request, own in fed if scores[own.start] is not None])

    def _go_on(self, asked: list[tuple[Request, list[Scores]]]) -> None:
        """What follows upon the scores of each."""
        plain = [(request, own[0]) for request, own in asked if not isinstance(request.handle, _Beams)]
        for (request, _), token in zip(plain, draw([one.handle.draw for one, _ in plain], [own for _, own in plain]), strict=True):
            self._hand_out(request, token)
        for request, own in asked:
            if isinstance(request.handle, _Beams):
                self._search(request, own)

    def _search(self, request: Request, scores: list[Scores]) -> None:
        """The next ids of all beams; at the end the best of them is handed out."""
        beams: _Beams = request.handle
        for blocks, to in beams.follow(scores):
            self._net.copy(blocks, to)
        if not beams.places:
            for token in beams.search.best:
                request.tokens.put(token)
            self._drop(request)
            request.end()

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
        sequence: _Drawn = request.handle
        sequence.pending = [token.id]
        stopped = token.id in request.asked[0].stop
        if not stopped:
            request.tokens.put(token)
        if stopped or sequence.draw.full:
            self._drop(request)
            request.end()


class _Sequence:
    """A request in the engine: what waits to be fed, what was, and where that lies in the cache."""

    def __init__(self, prompt: Context, sampling: Sampling, head: int) -> None:
        self.pending, self.head, self.needs = list(prompt.context), head, self.blocks_for(prompt, sampling)
        self.beginning = tuple(prompt.context[: min(prompt.prefix, len(prompt.context) - 1)])  # something must be left to ask after
        self.past = 0
        self.blocks: list[int] = []

    @staticmethod
    def blocks_for(prompt: Context, sampling: Sampling) -> int:
        """How many blocks a request may need: beams share those that its prompt fills."""
        whole = _blocks(len(prompt.context) + sampling.max_new_ids)
        return whole + (sampling.beams - 1) * (whole - len(prompt.context) // BLOCK)

    def fed(self, count: int) -> None:
        """So many of those that waited are in the cache."""
        self.past, self.pending = self.past + count, self.pending[count:]

    def rows(self) -> list[Row]:
        """Feed the beginning, or what comes behind it; scores are asked for once nothing is left."""
        left = len(self.beginning) - self.past
        piece = self.pending[: min(left, PREFILL) if left > 0 else PREFILL]
        return [Row(piece, self.past, self.blocks, self.head if len(piece) == len(self.pending) else None)]


class _Drawn(_Sequence):
    """A request that follows the one continuation that is drawn."""

    def __init__(self, prompt: Context, sampling: Sampling, head: int, legal: tuple[range, ...]) -> None:
        super().__init__(prompt, sampling, head)
        self.draw = Draw(prompt, sampling, legal)


class _Beams(_Sequence):
    """A request that follows several continuations: each has blocks of its own behind those that the prompt fills."""

    def __init__(self, prompt: Context, sampling: Sampling, head: int, legal: tuple[range, ...]) -> None:
        super().__init__(prompt, sampling, head)
        self.search, self._beams = Search(prompt, sampling, legal), sampling.beams
        self._shared = len(prompt.context) // BLOCK
        self._own = (self.needs - self._shared) // self._beams
        self.places = [0]  # where each continuation lies

    def rows(self) -> list[Row]:
        """One of the prompt, then one of each continuation."""
        if self.pending:
            return super().rows()
        return [Row([id], self.past, self._table(place), self.head) for id, place in zip(self.search.last, self.places, strict=True)]

    def follow(self, scores: Sequence[Scores]) -> list[tuple[list[int], list[int]]]:
        """Scores of the continuations -> those that are kept now, and which blocks have to be copied for them, to where."""
        copies, places = [], list[int]()
        parents = [self.places[parent] for parent in self.search.step(scores)]
        free = [place for place in range(self._beams) if place not in parents]
        for place in parents:
            if place in places:  # the first that goes on from there stays
                source, place = place, free.pop()
                used = slice(self._shared, _blocks(self.past))
                copies.append((self._table(source)[used], self._table(place)[used]))
            places.append(place)
        self.places = places
        return copies

    def _table(self, place: int) -> list[int]:
        start = self._shared + place * self._own
        return self.blocks[: self._shared] + self.blocks[start : start + self._own]


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

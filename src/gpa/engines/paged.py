"""Paged: an exported language model with its cache. Rows of new ids in, scores of the ids that may follow out.

OpenVINO attends over blocks of a cache that sequences share (paged attention), so rows of any length and past go through
the net together. Who is fed when, and what is drawn from the scores, is others' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpa.engines.pages import sparing

if TYPE_CHECKING:
    from openvino import Model, Output

BLOCK = 32  # ids in one block of OpenVINO's cache on CPU

Scores = NDArray[np.float32]


class Row(NamedTuple):
    """What one sequence is fed in a step."""

    ids: Sequence[int]
    past: int  # ids that were fed before
    blocks: Sequence[int]  # where its keys and values lie: enough for past and new ids
    head: int | None  # which head speaks after the last of them; None: nobody asks


class Paged:
    """The compiled net and its cache. Not thread-safe."""

    def __init__(self, xml: Path, blocks: int, properties: Mapping[str, Any]) -> None:
        """Load an export of `export_openvino`. Memory of the `blocks` is taken as they fill. Raises RuntimeError."""
        import openvino
        from openvino._offline_transformations import paged_attention_transformation

        self._file, self._fresh = xml.with_suffix(".bin"), True
        core = openvino.Core()
        with sparing(self._file):
            model = core.read_model(str(xml))
            _end_at_heads(model)
            paged_attention_transformation(model)
            compiled = core.compile_model(model, "CPU", dict(properties))
        self._threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        self._request: Any = compiled.create_infer_request()
        self._types: dict[str, Any] = {}
        self._caches: list[Any] = []  # keys or values of a layer, (blocks, ...)
        for port in compiled.inputs:
            name, kind = port.get_any_name(), port.get_element_type()
            if "_cache." in name:
                shape = [blocks, *(size.get_length() for size in list(port.get_partial_shape())[1:])]
                cache = openvino.Tensor(kind, openvino.Shape(shape))
                self._request.set_tensor(name, cache)
                self._caches.append(cache.data)
            else:
                self._types[name] = kind.to_dtype()

    def step(self, rows: Sequence[Row]) -> list[Scores | None]:
        """Feed all rows at once -> of each the scores (legal ids of its head,) after its last id, valid until the next step.

        Raises RuntimeError."""
        fed = {name: np.asarray(value, self._types[name]) for name, value in self._inputs(rows).items() if name in self._types}
        with sparing(self._file) if self._fresh else nullcontext():  # the first step repacks what it multiplies by
            out = self._request.infer(fed, share_inputs=True, share_outputs=True)
        self._fresh = False
        of_head = [iter(scores) for scores in out.values()]  # each in the order of the rows
        return [None if row.head is None else next(of_head[row.head]) for row in rows]

    def copy(self, blocks: Sequence[int], to: Sequence[int]) -> None:
        """What lies in `blocks` lies in `to` as well, as many as the shorter has."""
        for source, target in zip(blocks, to, strict=False):
            for cache in self._caches:
                cache[target] = cache[source]

    def _inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What OpenVINO calls them.

        Fewer sequences than threads make it attend in another way, with other roundings: sequences of no ids fill them up,
        so that nobody's scores depend on how many others there are."""
        idle = [0] * (self._threads - len(rows))
        lengths = [len(row.ids) for row in rows]
        pages = [-(-(row.past + len(row.ids)) // BLOCK) for row in rows]
        return {
            "input_ids": np.concatenate([row.ids for row in rows]),
            "position_ids": np.concatenate([np.arange(row.past, row.past + len(row.ids)) for row in rows]),
            "sampled_tokens_indices": [end - 1 for end, row in zip(np.cumsum(lengths), rows, strict=True) if row.head is not None],
            "max_context_len": max(row.past + len(row.ids) for row in rows),
            "past_lens": [row.past for row in rows] + idle,
            "subsequence_begins": np.cumsum([0, *lengths, *idle]),
            "block_indices_begins": np.cumsum([0, *pages, *idle]),
            "block_indices": np.concatenate([row.blocks[:count] for row, count in zip(rows, pages, strict=True)]),
        }


def _end_at_heads(model: Model) -> None:
    """Let the graph end where each head has its scores, before they are spread over the vocabulary.

    Scores of 180 thousand ids, most of them barred, would take as long to draw from as the net takes to run."""
    (whole,) = model.get_results()
    model.add_outputs(_heads(whole.input_value(0)))
    model.remove_result(whole)


def _heads(spread: Output) -> list[Output]:
    """The products of the heads, in the order in which `export_openvino` scatters their rows into its result."""
    into, found = spread.get_node().input_value(0).get_node(), []
    while into.get_type_name() == "ScatterUpdate":
        parts = [value.get_node() for value in into.input_value(2).get_node().input_values()]
        pieces = next(part for part in parts if part.get_type_name() == "VariadicSplit")
        found.append(pieces.input_value(0))
        into = into.input_value(0).get_node()
    return found[::-1]

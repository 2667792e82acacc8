"""Language model -> OpenVINO IR: a transformers Qwen3 folder becomes `openvino_model.xml` and `.bin`, with numpy alone.

The graph is a stateful decoder as optimum writes it, whose attention the engine turns into paged attention. Two things are
ours:
- heads (see engines/heads.py). The id just fed chooses the head, and each multiplies by the rows of its own ids alone;
  all other logits are -inf, at full width: a repetition penalty over prompt ids finds its row.
- `sampled_tokens_indices`. The rows that an id will be drawn for; no other row meets a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpa.engines.base import Context
from gpa.engines.card import Card, ids_of
from gpa.engines.heads import Head, heads_of
from gpa.engines.openvino import XML
from gpa.errors import CheckpointError
from gpa.nets.lm_config import LMConfig
from gpa.nets.weights import Weights

if TYPE_CHECKING:
    from openvino import Model, Node

Precision = Literal["f32", "f16", "int8", "int4"]
WEIGHTS_OF = "weights of "  # begins the name of the node of a matrix or a norm; names and rows follow
GROUP = 128  # numbers that share one scale in int4, where rows can be cut so; 64 took 15 % longer


def export_openvino(folder: Path, out: Path, precision: Precision = "int8", heads: Sequence[Context] = ()) -> Path:
    """Write `out/openvino_model.xml`, `.bin` and `.json` from the Qwen3 checkpoint `folder`; returns the xml's path.

    `heads`: one prompt of each task that will be asked for (its context's last id, `allowed` and `stop` count);
    none: every id may follow every id. int8 weights are symmetric, one scale a row; int4 likewise, one scale
    a GROUP, while the embedding and the heads stay int8. Raises CheckpointError."""
    import openvino

    shape = LMConfig.load(folder)
    weights = Weights(Path(folder) / "model.safetensors")
    asked = heads_for(folder, shape, heads)
    model = _Builder(shape, weights, precision, asked).model()
    path = Path(out) / XML
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, str(path), compress_to_fp16=False)
    Card(shape.vocab_size, precision, shape.cached_numbers_per_id, asked).save(path.with_suffix(".json"))
    return path


def heads_for(folder: Path, shape: LMConfig, prompts: Sequence[Context]) -> tuple[Head, ...]:
    """The heads that these prompts need; none: every id may follow every id. Raises CheckpointError for ids beyond the vocabulary."""
    everything = (range(shape.vocab_size),)
    heads = heads_of(prompts) or (Head(everything, everything),)
    beyond = [r for head in heads for r in (*head.after, *head.legal) if r.stop > shape.vocab_size]
    if beyond:
        raise CheckpointError(f"{folder} has {shape.vocab_size} ids; the prompts ask for {beyond[0]}")
    return heads


class _Builder:
    """Builds the graph. Shapes in comments: B sequences, S new ids, T ids with the past, H heads, D head_dim."""

    def __init__(self, shape: LMConfig, weights: Weights, precision: Precision, heads: Sequence[Head]) -> None:
        from openvino import opset13

        self.ops: Any = opset13
        self.shape, self.weights, self.precision, self.heads = shape, weights, precision, heads

    def model(self) -> Model:
        """The whole decoder: ids -> logits (rows to sample, 1, vocab_size)."""
        import openvino

        ops, shape = self.ops, self.shape
        ids = self._input("input_ids", [-1, -1])
        attended = self._input("attention_mask", [-1, -1])
        positions = self._input("position_ids", [-1, -1])
        self.beams = self._input("beam_idx", [-1], np.int32)
        rows = self._input("sampled_tokens_indices", [-1])
        self.batch = ops.gather(ops.shape_of(ids), [0], 0)
        self.assigns: list[Node] = []
        self.rope = self._rope(positions)
        self.mask = self._mask(ids, attended)
        x = ops.gather(self._table("model.embed_tokens.weight"), ids, 0)
        for layer in range(shape.num_hidden_layers):
            x = self._layer(x, f"model.layers.{layer}")
        x = self._norm(ops.gather(x, rows, 0), "model.norm")
        logits = self._head(x, ops.gather(ids, rows, 0))
        logits.output(0).get_tensor().set_names({"logits"})
        return openvino.Model([ops.result(logits)], self.assigns, [ids, attended, positions, self.beams, rows], "gpa_lm")

    def _input(self, name: str, shape: list[int], dtype: type = np.int64) -> Node:
        node: Node = self.ops.parameter(shape, dtype)
        node.set_friendly_name(name)
        node.output(0).get_tensor().set_names({name})
        return node

    def _layer(self, x: Node, name: str) -> Node:
        attention = self._attention(self._norm(x, f"{name}.input_layernorm"), f"{name}.self_attn")
        x = self.ops.add(x, attention)
        y = self._norm(x, f"{name}.post_attention_layernorm")
        gate, up = self._several(y, f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj")
        return self.ops.add(x, self._linear(self.ops.multiply(self.ops.swish(gate), up), f"{name}.mlp.down_proj"))

    def _attention(self, x: Node, name: str) -> Node:
        """(B, S, hidden) -> same; keys and values of the past live in the model's state."""
        ops, shape = self.ops, self.shape
        q, k, v = self._several(x, f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj")
        q = self._split(q, shape.num_attention_heads)
        k = self._split(k, shape.num_key_value_heads)
        v = self._split(v, shape.num_key_value_heads)
        # (B, S, H, D) -> (B, H, S, D)
        q = self._rotate(ops.transpose(self._norm(q, f"{name}.q_norm"), [0, 2, 1, 3]))
        k = self._rotate(ops.transpose(self._norm(k, f"{name}.k_norm"), [0, 2, 1, 3]))
        k = self._repeat(self._remember(k, f"{name}.key"))
        v = self._repeat(self._remember(ops.transpose(v, [0, 2, 1, 3]), f"{name}.value"))
        y = ops.scaled_dot_product_attention(q, k, v, self.mask)
        y = ops.reshape(ops.transpose(y, [0, 2, 1, 3]), [0, 0, shape.num_attention_heads * shape.head_dim], True)
        return self._linear(y, f"{name}.o_proj")

    def _split(self, x: Node, heads: int) -> Node:
        return self.ops.reshape(x, [0, 0, heads, self.shape.head_dim], True)

    def _remember(self, new: Node, name: str) -> Node:
        """Past and new keys or values, (B, H, T, D); the state follows `beam_idx`."""
        import openvino
        from openvino import op

        ops, shape = self.ops, self.shape
        info = op.util.VariableInfo()
        info.data_shape = openvino.PartialShape([-1, shape.num_key_value_heads, -1, shape.head_dim])
        info.data_type = openvino.Type.f32
        info.variable_id = name
        variable = op.util.Variable(info)
        empty = ops.concat([self.batch, [shape.num_key_value_heads], [0], [shape.head_dim]], 0)
        past = op.read_value(ops.broadcast(np.float32(0), empty), variable)
        both = ops.concat([ops.gather(past, self.beams, 0), new], 2)
        self.assigns.append(op.assign(both, variable))
        return both

    def _repeat(self, x: Node) -> Node:
        """Each key/value head serves `times` query heads: (B, H, T, D) -> (B, H * times, T, D)."""
        ops, shape = self.ops, self.shape
        times = shape.num_attention_heads // shape.num_key_value_heads
        if times == 1:
            return x
        x = ops.broadcast(ops.unsqueeze(x, 2), [1, 1, times, 1, 1], broadcast_spec="BIDIRECTIONAL")
        return ops.reshape(x, [0, shape.num_attention_heads, -1, shape.head_dim], True)

    def _rope(self, positions: Node) -> tuple[Node, Node]:
        """Cosine and sine of each position's angles, (B, 1, S, D)."""
        ops, half = self.ops, self.shape.head_dim // 2
        speed = self.shape.rope_theta ** -(np.arange(half) / half)
        angle = ops.multiply(ops.unsqueeze(ops.convert(positions, "f32"), 2), speed.astype(np.float32).reshape(1, 1, half))
        angle = ops.unsqueeze(ops.concat([angle, angle], 2), 1)
        return ops.cos(angle), ops.sin(angle)

    def _rotate(self, x: Node) -> Node:
        """Rotary position embedding of x (B, H, S, D), halves paired as in transformers."""
        ops, half = self.ops, self.shape.head_dim // 2
        a, b = ops.variadic_split(x, 3, [half, half]).outputs()
        turned = ops.concat([ops.multiply(b, np.float32(-1)), a], -1)  # -1, not 3: so written, OpenVINO makes all of it one operation
        return ops.add(ops.multiply(x, self.rope[0]), ops.multiply(turned, self.rope[1]))

    def _mask(self, ids: Node, attended: Node) -> Node:
        """True where a query may look, (B, 1, S, T). Paged attention has its own: this one serves a plain run."""
        ops = self.ops
        new, total = (ops.squeeze(ops.gather(ops.shape_of(x), [1], 0), 0) for x in (ids, attended))
        keys = ops.range(0, total, 1, "i64")
        queries = ops.unsqueeze(ops.add(ops.range(0, new, 1, "i64"), ops.subtract(total, new)), 1)
        causal = ops.less_equal(ops.unsqueeze(keys, 0), queries)
        real = ops.unsqueeze(ops.not_equal(attended, np.int64(0)), [1, 2])
        return ops.logical_and(real, causal)

    def _norm(self, x: Node, name: str) -> Node:
        """x / rms(x) * weight, in the form that OpenVINO fuses to one RMS operation."""
        ops = self.ops
        mean = ops.reduce_mean(ops.power(x, np.float32(2)), [-1], keep_dims=True)
        root = ops.sqrt(ops.add(mean, np.float32(self.shape.rms_norm_eps)))
        normed = ops.multiply(x, ops.divide(np.float32(1), root))
        weight = ops.constant(self.weights[f"{name}.weight"].astype(np.float32))
        return ops.multiply(normed, self._named(weight, f"{name}.weight"))

    def _linear(self, x: Node, *names: str) -> Node:
        names = tuple(f"{name}.weight" for name in names)
        value = np.concatenate([self.weights[name] for name in names])
        weight = self._packed(value) if self.precision == "int4" else self._stored(value)
        return self.ops.matmul(x, self._named(weight, *names), False, True)

    def _named(self, weight: Node, *names: str) -> Node:
        """The node of these weights, one below the other, with a name that tells (see `rows_of`)."""
        weight.set_friendly_name(WEIGHTS_OF + " ".join(f"{name}:{len(self.weights[name])}" for name in names))
        return weight

    def _several(self, x: Node, *names: str) -> list[Node]:
        """Products of one x with several matrices, made as one: fewer and longer ones read memory faster."""
        rows = [len(self.weights[f"{name}.weight"]) for name in names]
        pieces: list[Node] = self.ops.variadic_split(self._linear(x, *names), 2, rows).outputs()
        return pieces

    def _packed(self, value: NDArray[Any]) -> Node:
        """A matrix as float32, stored in int4."""
        import openvino

        value = value.astype(np.float32)
        codes, scale = quantize_groups(value)
        groups = self.ops.convert(self.ops.constant(codes, dtype=openvino.Type.i4), "f32")
        return self.ops.reshape(self.ops.multiply(groups, scale), list(value.shape), False)

    def _table(self, name: str, rows: NDArray[np.int64] | None = None) -> Node:
        """The (chosen rows of the) matrix `name` as float32."""
        return self._named(self._stored(self.weights[name]), name) if rows is None else self._stored(self.weights[name][rows])

    def _stored(self, value: NDArray[Any]) -> Node:
        """A matrix as float32, stored in the precision of the export."""
        if self.precision == "f32":
            return self.ops.constant(value.astype(np.float32))
        if self.precision == "f16":
            node = self.ops.convert(self.ops.constant(value.astype(np.float16)), "f32")
            node.get_rt_info()["decompression_0"] = ""
            return node
        codes, scale = quantize_rows(value.astype(np.float32))
        return self.ops.multiply(self.ops.convert(self.ops.constant(codes), "f32"), scale)

    def _head(self, x: Node, fed: Node) -> Node:
        """Hidden rows (N, S, hidden) and the ids fed at them (N, S) -> logits (N, S, vocab_size); S is 1 when paged.

        Each head multiplies only the rows of its own batch mates, so a task never pays for another's ids."""
        ops, size = self.ops, self.shape.vocab_size
        flat = ops.reshape(x, [-1, self.shape.hidden_size], False)
        speaker = np.full(size, len(self.heads), np.int32)  # ids that belong to no head: nothing may follow
        for i, head in enumerate(self.heads):
            speaker[ids_of(head.after)] = i
        speakers = ops.gather(speaker, ops.reshape(fed, [-1], False), 0)
        logits = self._nothing(ops.shape_of(speakers), size)
        for i, head in enumerate(self.heads):
            mine = ops.squeeze(ops.non_zero(ops.equal(speakers, np.int32(i)), "i64"), 0)
            logits = ops.scatter_update(logits, mine, self._spread(ops.gather(flat, mine, 0), head), 0)
        return ops.reshape(logits, ops.concat([ops.shape_of(fed), [size]], 0), False)

    def _spread(self, x: Node, head: Head) -> Node:
        """Hidden rows (N, hidden) -> logits (N, vocab_size): -inf but for the ids that `head` may generate."""
        ops = self.ops
        name = "lm_head.weight" if "lm_head.weight" in self.weights else "model.embed_tokens.weight"
        logits = ops.matmul(x, self._table(name, ids_of(head.legal)), False, True)
        rows = ops.gather(ops.shape_of(x), [0], 0)
        pieces = ops.variadic_split(logits, 1, [len(r) for r in head.legal]).outputs()
        parts, end = [], 0
        for r, piece in zip(head.legal, pieces, strict=True):
            parts += [self._nothing(rows, r.start - end), piece] if r.start > end else [piece]
            end = r.stop
        if end < self.shape.vocab_size:
            parts.append(self._nothing(rows, self.shape.vocab_size - end))
        return ops.concat(parts, 1)

    def _nothing(self, rows: Node, width: int) -> Node:
        """(rows, width) of -inf."""
        return self.ops.broadcast(np.float32(-np.inf), self.ops.concat([rows, [width]], 0))


def rows_of(node: str) -> dict[str, int]:
    """Name of a node of weights -> how many rows of it each weight is, from the top down."""
    pairs = (said.rsplit(":", 1) for said in node.removeprefix(WEIGHTS_OF).split(" "))
    return {name: int(rows) for name, rows in pairs}


def quantize_rows(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(rows, columns) -> int8 codes and one scale a row (rows, 1), with codes * scale close to the matrix."""
    scale = np.maximum(np.abs(matrix).max(1, keepdims=True), 1e-12) / 127
    return np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8), scale.astype(np.float32)


def quantize_groups(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(rows, columns) -> int4 codes (rows, groups, columns / groups) and one scale a group (rows, groups, 1)."""
    rows, columns = matrix.shape
    size = next(size for size in (GROUP, 64, 32, 16, 8, 4, 2, 1) if columns % size == 0)
    groups = matrix.reshape(rows, columns // size, size)
    # the number of largest size becomes -8, the one code that has no opposite
    largest = np.take_along_axis(groups, np.abs(groups).argmax(2, keepdims=True), 2)
    scale = np.where(largest == 0, np.float32(1), largest / np.float32(-8))
    return np.clip(np.rint(groups / scale), -8, 7).astype(np.int8), scale.astype(np.float32)

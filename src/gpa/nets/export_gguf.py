"""Language model -> GGUF: a transformers Qwen3 folder becomes `model.gguf`, which llama.cpp runs.

Ids go in and ids come out: a token's text is its number, and no text is ever read. llama.cpp knows no heads (see
engines/heads.py) and multiplies by every row of the vocabulary, so here the heads are weights: the net gets BLOCK more
dimensions, one of them for each head. The embedding of an id carries a small flag in the dimension of the head that
speaks after it; no layer reads or writes these dimensions; the last norm enlarges the flag, and the rows of the
ids that this head may not generate multiply it by a large negative number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpa.engines.base import Context
from gpa.engines.card import Card, ids_of
from gpa.engines.heads import Head
from gpa.engines.llama import GGUF
from gpa.errors import CheckpointError, MissingExtra
from gpa.nets.export_lm import Precision, heads_for
from gpa.nets.lm_config import LMConfig
from gpa.nets.weights import Weights

Floats = NDArray[np.float32]

BLOCK = 32  # numbers that share one scale in q8_0 and q4_0: the flags get a block of their own, so they round nothing else
FLAG = 0.01  # of the embedding's root mean square: adds 1e-4 / hidden_size to the mean square that the norms divide by
LOUD = 10.0  # what the last norm makes of a flag where the hidden vector's root mean square is 1
BARRED = -30_000.0  # float16 holds it
_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_KINDS = {"f32": "F32", "f16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
_WRITES = ("self_attn.o_proj", "mlp.down_proj")  # into the hidden vector; the other matrices read it


def export_gguf(folder: Path, out: Path, stored: Precision = "int8", heads: Sequence[Context] = ()) -> Path:
    """Write `out/model.gguf` and its card from the Qwen3 checkpoint `folder`; returns the gguf's path.

    `heads`: as for `export_openvino`. `stored`: of the matrices (int8 is q8_0, int4 is q4_0); norms are float32.
    Raises CheckpointError, MissingExtra."""
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("gguf", "llama") from error
    shape = LMConfig.load(folder)
    asked = heads_for(folder, shape, heads)
    if len(asked) > BLOCK:
        raise CheckpointError(f"{folder}: the prompts need {len(asked)} heads (legal: up to {BLOCK})")
    tensors = _Tensors(shape, Weights(Path(folder) / "model.safetensors"), asked)
    path = Path(out) / GGUF
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "qwen3")
    _describe(writer, gguf, shape, tensors)
    kind = gguf.GGMLQuantizationType[_KINDS[stored]]
    for name, value in tensors:
        wanted = kind if value.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(value, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    Card(shape.vocab_size, stored, shape.cached_numbers_per_id, asked).save(path.with_suffix(".gguf.json"))
    return path


def _describe(writer: Any, gguf: Any, shape: LMConfig, tensors: _Tensors) -> None:
    """Numbers of the net, and a vocabulary whose texts are numbers."""
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_context_length(1 << 17)  # rotary positions know no bound; the engine has one of its own
    writer.add_embedding_length(tensors.width)
    writer.add_feed_forward_length(tensors.feed_forward)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps / tensors.widened)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([str(id) for id in range(tensors.rows)])
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * tensors.rows)
    writer.add_token_merges(["0 1"])  # llama.cpp insists on one
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(shape.vocab_size)  # an id of no meaning that every head bars: what ends a generation is the prompt's business
    writer.add_add_bos_token(False)


class _Tensors:
    """The tensors under llama.cpp's names, widened by the flags."""

    def __init__(self, shape: LMConfig, weights: Weights, heads: Sequence[Head]) -> None:
        self.shape, self.weights, self.heads = shape, weights, heads
        self.width = shape.hidden_size + BLOCK
        self.rows = shape.vocab_size + 1
        self.widened = self.width / shape.hidden_size  # a mean over `width` numbers is smaller by this factor
        self.feed_forward = int(weights["model.layers.0.mlp.up_proj.weight"].shape[0])

    def __iter__(self) -> Iterator[tuple[str, Floats]]:
        embedding = self.weights["model.embed_tokens.weight"].astype(np.float32)
        flag = FLAG * float(np.sqrt(np.mean(np.square(embedding))))
        yield "token_embd.weight", self._embedding(embedding, flag)
        for layer in range(self.shape.num_hidden_layers):
            for theirs, ours in _NAMES.items():
                yield f"blk.{layer}.{ours}.weight", self._widened(theirs, self.weights[f"model.layers.{layer}.{theirs}.weight"])
        norm = self._widened("norm", self.weights["model.norm.weight"])
        norm[self.shape.hidden_size :] = LOUD / flag / sqrt(self.widened)
        yield "output_norm.weight", norm
        head = self.weights["lm_head.weight"].astype(np.float32) if "lm_head.weight" in self.weights else embedding
        yield "output.weight", self._output(head)

    def _widened(self, name: str, value: NDArray[Any]) -> Floats:
        wide = np.asarray(value, np.float32)
        if name.endswith(("q_norm", "k_norm")):
            return wide
        if wide.ndim == 1:
            return np.pad(wide / sqrt(self.widened), (0, BLOCK))
        return np.pad(wide, ((0, BLOCK), (0, 0)) if name in _WRITES else ((0, 0), (0, BLOCK)))

    def _embedding(self, value: Floats, flag: float) -> Floats:
        wide = np.pad(value, ((0, 1), (0, BLOCK)))
        for place, head in enumerate(self.heads, self.shape.hidden_size):
            wide[ids_of(head.after), place] = flag
        return wide

    def _output(self, value: Floats) -> Floats:
        wide = np.pad(value, ((0, 1), (0, BLOCK)))
        for place, head in enumerate(self.heads, self.shape.hidden_size):
            barred = np.ones(self.rows, np.bool_)
            barred[ids_of(head.legal)] = False
            wide[barred, place] = BARRED
        return wide

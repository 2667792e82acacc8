"""A tiny random Qwen3 checkpoint written with numpy alone, for the tests of engines and of their export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gpa import prompt as prompts
from gpa.prompt import Prompt
from gpa.vocab import Vocab, write_character_tokenizer

HIDDEN, LAYERS, HEADS, KV_HEADS, DIM, FFN = 64, 2, 4, 2, 32, 96  # vLLM has no attention for smaller heads than 32


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> None:
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<f4"}[dtype]
    blobs, table, start = [], {}, 0
    for name, value in tensors.items():
        blob = value.astype(kind)
        data = (blob.view("<u4") >> 16).astype("<u2").tobytes() if dtype == "BF16" else blob.tobytes()
        table[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [start, start + len(data)]}
        blobs.append(data)
        start += len(data)
    head = json.dumps({"__metadata__": {"format": "pt"}, **table}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(blobs))


def write_checkpoint(folder: Path, tied: bool = True, seed: int = 0) -> Vocab:
    """A Qwen3 checkpoint with random weights, sharp enough that greedy ids have a margin."""
    vocab = write_character_tokenizer(folder, glm=32, bicodec_global=16, bicodec_semantic=64)
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (vocab.size, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        shapes |= {name + f"self_attn.{x}_proj.weight": (n * DIM, HIDDEN) for x, n in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))}
        shapes |= {name + "self_attn.o_proj.weight": (HIDDEN, HEADS * DIM), name + "mlp.down_proj.weight": (HIDDEN, FFN)}
        shapes |= {name + f"mlp.{x}_proj.weight": (FFN, HIDDEN) for x in ("gate", "up")}
        shapes |= {name + f"self_attn.{x}_norm.weight": (DIM,) for x in "qk"}
        shapes |= {name + f"{x}_layernorm.weight": (HIDDEN,) for x in ("input", "post_attention")}
    if not tied:
        shapes["lm_head.weight"] = (vocab.size, HIDDEN)
    scale = {1: lambda s: 1 + rng.normal(0, 0.1, s), 2: lambda s: rng.normal(0, 1.5 * s[-1] ** -0.5, s)}
    write_safetensors(folder / "model.safetensors", {name: scale[len(shape)](shape) for name, shape in shapes.items()})
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": vocab.size, "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM,
        "intermediate_size": FFN, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "attention_bias": False,
        "tie_word_embeddings": tied, "max_position_embeddings": 2048,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return vocab


def tasks(vocab: Vocab) -> list[Prompt]:
    return [prompts.asr(vocab, [], []), prompts.tts(vocab, [], ""), prompts.vc(vocab, [], [])]

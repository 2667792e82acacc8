"""The numbers of a Qwen3 config.json: what the net, its exports and new checkpoints are made by. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpa.errors import CheckpointError


@dataclass(frozen=True)
class LMShape:
    """Size of a model whose vocabulary is not known yet: what a recipe says of one (names as there)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int

    def config(self, vocab_size: int) -> LMConfig:
        """The numbers of such a model over a vocabulary."""
        return LMConfig(**vars(self), vocab_size=vocab_size)


@dataclass(frozen=True)
class LMConfig(LMShape):
    """The numbers that the net needs."""

    vocab_size: int
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True

    @classmethod
    def load(cls, folder: Path) -> LMConfig:
        """Read `folder/config.json`, checked to describe a net of ours. Raises CheckpointError."""
        path = Path(folder) / "config.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}  # transformers >= 5 nests rope_theta
        raw = {"rope_theta": rope.get("rope_theta"), "tie_word_embeddings": cls.tie_word_embeddings, **raw}
        found = {"model_type": raw.get("model_type"), "attention_bias": raw.get("attention_bias", False)}
        found |= {"hidden_act": raw.get("hidden_act", "silu"), "rope_type": rope.get("rope_type", "default")}
        legal = {"model_type": "qwen3", "attention_bias": False, "hidden_act": "silu", "rope_type": "default"}
        wrong = [f"{key}={found[key]} (legal: {legal[key]})" for key in legal if found[key] != legal[key]]
        wrong += [f"{name} is missing" for name in cls.__dataclass_fields__ if raw.get(name) is None]
        if wrong:
            raise CheckpointError(f"{path}: {', '.join(wrong)}")
        return cls(**{name: raw[name] for name in cls.__dataclass_fields__})

    @property
    def cached_numbers_per_id(self) -> int:
        """How many keys and values one id leaves in the cache."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    def to_json(self, stop_id: int, pad_id: int, max_positions: int = 8192) -> dict[str, Any]:
        """The full config.json of transformers' Qwen3."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_position_embeddings": max_positions,
            "eos_token_id": stop_id,
            "pad_token_id": pad_id,
            "torch_dtype": "float16",
            "use_cache": True,
            "use_sliding_window": False,
            "sliding_window": None,
        }

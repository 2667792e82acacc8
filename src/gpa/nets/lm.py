"""The language model: Qwen3 (grouped-query attention, q/k RMSNorm, RoPE, SwiGLU) in torch, for training.

State-dict keys and config are transformers' Qwen3ForCausalLM, so a folder written here loads there unchanged.
Inference runs elsewhere (gpa.engines); this net only scores whole sequences.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.nets.lm_config import LMConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Causal grouped-query attention with RoPE and normalised queries and keys."""

    def __init__(self, c: LMConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, c.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, c.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, c.rms_norm_eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, watch: bool) -> tuple[Tensor, Tensor | None]:
        """(B, T, hidden) -> same, and with `watch` head 0's scores (B, T, T) before the causal mask."""
        B, T, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(B, T, self.heads, self.head_dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(B, T, self.kv_heads, self.head_dim)).transpose(1, 2)
        v = self.v_proj(x).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = _rotate(q, rope), _rotate(k, rope)
        if self.kv_heads != self.heads:
            k, v = (z.repeat_interleave(self.heads // self.kv_heads, 1) for z in (k, v))
        if x.is_cuda and not watch:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.o_proj(y.transpose(1, 2).reshape(B, T, -1)), None
        # written out: on CPU the fused kernel's backward is 5x slower than these products at speech lengths
        scores = q @ k.transpose(2, 3) * self.head_dim**-0.5
        y = (scores + mask.to(scores.dtype)).softmax(-1) @ v
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1)), scores[:, 0] if watch else None


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, c: LMConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, hidden) -> same."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Pre-norm attention and MLP, each with a residual."""

    def __init__(self, c: LMConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, watch: bool) -> tuple[Tensor, Tensor | None]:
        """(B, T, hidden) -> same, and with `watch` the attention's scores."""
        y, scores = self.self_attn(self.input_layernorm(x), rope, mask, watch)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), scores


class Body(nn.Module):
    """Embedding, layers and the last norm (transformers' `model.*` keys)."""

    def __init__(self, c: LMConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList([Layer(c) for _ in range(c.num_hidden_layers)])
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)


class LM(nn.Module):
    """Ids -> hidden states; `head` turns chosen positions into logits of chosen rows."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        depth = (2 * self.config.num_hidden_layers) ** -0.5
        for name, p in self.named_parameters():
            if p.ndim == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 if "embed" in name else p.shape[1] ** -0.5 * (depth if residual else 1.0))

    def forward(self, ids: Tensor, watched: list[Tensor] | None = None, watch: tuple[int, ...] = ()) -> Tensor:
        """ids (B, T) -> hidden states (B, T, hidden). Rows start at position 0; padding belongs on the right.

        `watched` collects the attention scores of head 0 of the layers in `watch` (guided attention)."""
        T = ids.shape[1]
        rope = self._rope(T, ids.device)
        mask = torch.full((T, T), float("-inf"), device=ids.device).triu(1)
        x = self.model.embed_tokens(ids)
        for i, layer in enumerate(self.model.layers):
            x, scores = layer(x, rope, mask, i in watch)
            if watched is not None and scores is not None:
                watched.append(scores)
        out: Tensor = self.model.norm(x)
        return out

    def head(self, hidden: Tensor, rows: Tensor | slice) -> Tensor:
        """(N, hidden) -> logits (N, rows) of the chosen vocabulary rows."""
        weight = self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight
        return F.linear(hidden, weight[rows].to(hidden.dtype))

    def _rope(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        half = torch.arange(0, self.config.head_dim, 2, device=device).float() / self.config.head_dim
        angle = torch.arange(length, device=device).float()[:, None] * self.config.rope_theta**-half
        angle = torch.cat([angle, angle], -1)
        return angle.cos(), angle.sin()


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding of x (B, heads, T, head_dim), halves paired as in transformers."""
    cos, sin = rope[0].to(x.dtype), rope[1].to(x.dtype)
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin

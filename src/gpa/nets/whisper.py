"""Whisper's encoder, and the GLM-4-Voice tokenizer built on it (WhisperVQ): log-mel -> linguistic codes at 12.5 Hz.

Keys and configuration follow the published `glm-4-voice-tokenizer`. Named options are ours, for a small tokenizer that
starts from a small Whisper: `encoder_layer_norm` (keep Whisper's last norm, at the pooling position), `pooling_type: conv`
(a strided convolution), `quantize_adapter_*` (ConvNeXt blocks and a low-dimensional codebook) and `tail_frames`.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.errors import CheckpointError
from gpa.nets.quantize import FactorizedVQ
from gpa.nets.vocos import ConvNeXtBlock


@dataclass(frozen=True)
class WhisperVQConfig:
    """The entries of the published config.json that shape the net (names as there), and our options."""

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    num_mel_bins: int
    max_source_positions: int = 1500
    encoder_causal_convolution: bool = True
    encoder_causal_attention: bool = False
    quantize_causal_block_size: int | None = None  # frames of 20 ms; None: every frame sees every other
    pooling_kernel_size: int = 4
    pooling_position: int = 16
    pooling_type: str = "avg"  # avg | max | conv
    quantize_position: int = 16
    quantize_vocab_size: int = 16_384
    encoder_layer_norm: bool = False
    quantize_adapter_dim: int = 0
    quantize_adapter_layers: int = 0
    quantize_codebook_dim: int = 0
    tail_frames: int = 0  # frames of silence after a clip that the encoder was trained with; none: padding is masked

    @classmethod
    def of(cls, raw: dict[str, Any]) -> WhisperVQConfig:
        """From a published config.json; entries of the never-used decoder are passed over. Raises CheckpointError."""
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in raw]
        config = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
        legal = {"pooling_position": raw.get("quantize_position", 16), "quantize_causal_encoder": False}
        wrong = [f"{name}={raw[name]} (legal: {value})" for name, value in legal.items() if raw.get(name, value) != value]
        if not config.get("pooling_kernel_size", 4):
            wrong.append("pooling_kernel_size=null (legal: a number)")
        if missing or wrong:
            raise CheckpointError(f"the tokenizer's config lacks {missing}, and holds {', '.join(wrong) or 'nothing illegal'}")
        return cls(**config)


class WhisperAttention(nn.Module):
    """Multi-head self-attention; the key projection has no bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, dim), mask (B, 1, T, T) added to the scores -> (B, T, dim)."""
        B, T, D = x.shape
        q, k, v = (p(x).view(B, T, self.heads, D // self.heads).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out_proj(y.transpose(1, 2).reshape(B, T, D))
        return out


class WhisperLayer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, c: WhisperVQConfig) -> None:
        super().__init__()
        self.self_attn = WhisperAttention(c.d_model, c.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(c.d_model)
        self.fc1 = nn.Linear(c.d_model, c.encoder_ffn_dim)
        self.fc2 = nn.Linear(c.encoder_ffn_dim, c.d_model)
        self.final_layer_norm = nn.LayerNorm(c.d_model)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, dim) -> same."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), mask)
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return out


class WhisperVQ(nn.Module):
    """Log-mel -> hidden states of every layer -> pooled states -> codes."""

    def __init__(self, config: WhisperVQConfig) -> None:
        super().__init__()
        c = self.config = config
        self.conv1 = nn.Conv1d(c.num_mel_bins, c.d_model, 3)
        self.conv2 = nn.Conv1d(c.d_model, c.d_model, 3, stride=2)
        self.embed_positions = nn.Embedding(c.max_source_positions, c.d_model)
        self.layers = nn.ModuleList([WhisperLayer(c) for _ in range(c.quantize_position)])
        if c.encoder_layer_norm:
            self.layer_norm = nn.LayerNorm(c.d_model)
        width = c.quantize_adapter_dim or c.d_model
        if c.pooling_type == "conv":
            self.pool = nn.Conv1d(c.d_model, width, c.pooling_kernel_size, stride=c.pooling_kernel_size)
        self.adapter = nn.ModuleList([ConvNeXtBlock(width, 3 * width) for _ in range(c.quantize_adapter_layers)])
        if c.quantize_codebook_dim:
            self.adapter_norm = nn.LayerNorm(width, eps=1e-6)
            self.quantizer = FactorizedVQ(width, c.quantize_vocab_size, c.quantize_codebook_dim)
        else:
            self.codebook = nn.Embedding(c.quantize_vocab_size, width)
            # added after quantisation in the reference: part of the file, without effect on the codes
            self.embed_positions2 = nn.Embedding(c.max_source_positions // c.pooling_kernel_size, width)

    def hidden_states(self, mel: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """mel (B, n_mels, 2 T), lengths (B,) in frames of 20 ms -> states (B, T, d_model) after each layer."""
        x = F.gelu(self._convolve(self.conv1, mel))
        x = F.gelu(self._convolve(self.conv2, x)).transpose(1, 2)
        T = x.shape[1]
        x = x + self.embed_positions.weight[:T]
        mask = self._mask(T, lengths, x)
        states = []
        for layer in self.layers:
            x = layer(x, mask)
            states.append(x)
        if self.config.encoder_layer_norm:
            states[-1] = self.layer_norm(states[-1])
        return states

    def pooled(self, states: Tensor) -> Tensor:
        """Last states (B, T, d_model) -> vectors before quantisation (B, ceil(T / pooling), width)."""
        k = self.config.pooling_kernel_size
        x = F.pad(states, (0, 0, 0, -states.shape[1] % k)).transpose(1, 2)
        if self.config.pooling_type == "conv":
            x = self.pool(x)
        else:
            x = F.max_pool1d(x, k) if self.config.pooling_type == "max" else F.avg_pool1d(x, k)
        x = x.transpose(1, 2)
        for block in self.adapter:
            x = block(x)
        return self.adapter_norm(x) if self.config.quantize_codebook_dim else x

    def quantize(self, pooled: Tensor) -> Tensor:
        """Vectors (B, N, width) -> codes (B, N)."""
        if self.config.quantize_codebook_dim:
            return self.quantizer.encode(pooled)
        book = self.codebook.weight  # plain squared Euclidean distance
        # with a bias of zeros it is exported as Gemm, which reads the book as it lies; of a turned one OpenVINO keeps a copy
        products: Tensor = F.linear(2 * pooled.flatten(0, 1), book, torch.zeros(len(book), device=book.device)).unflatten(
            0, pooled.shape[:2]
        )
        distance: Tensor = pooled.pow(2).sum(-1, keepdim=True) - products + book.pow(2).sum(-1)
        return distance.argmin(-1)

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """mel (B, n_mels, 2 T) -> codes (B, ceil(T / pooling))."""
        return self.quantize(self.pooled(self.hidden_states(mel, lengths)[-1]))

    def _convolve(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        out: Tensor = conv(F.pad(x, (2, 0) if self.config.encoder_causal_convolution else (1, 1)))
        return out

    def _mask(self, T: int, lengths: Tensor | None, like: Tensor) -> Tensor | None:
        """Block-causal and padding mask (B or 1, 1, T, T), added to the scores; None when all see all."""
        block = 1 if self.config.encoder_causal_attention else self.config.quantize_causal_block_size
        frames = torch.arange(T, device=like.device)
        seen: Tensor | None = None
        if block is not None:
            seen = (frames[None] // block <= frames[:, None] // block)[None, None]
        if lengths is not None and not self.config.encoder_causal_attention:
            valid = (frames[None] < lengths[:, None])[:, None, None]
            seen = valid if seen is None else seen & valid
        if seen is None:
            return None
        lowest = torch.finfo(like.dtype).min
        return torch.zeros_like(seen, dtype=like.dtype).masked_fill(~seen, lowest)

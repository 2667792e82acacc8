"""wav2vec2-large-xlsr-53 (Conneau et al. 2020): wave -> the hidden states that BiCodec's semantic encoder reads, at 50 Hz.

Keys and configuration follow the published file, which is of the pre-training model: prefix `wav2vec2.`, weight norm split
in `weight_g` and `weight_v`. Only the layers that are read are built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.errors import CheckpointError

STATES = (11, 14, 16)  # numbers of layers after which states are read; BiCodec takes their mean

# Parts of the published file that no feature depends on: what pre-training needs, and the norm after the last layer.
UNUSED = ("quantizer.", "project_hid.", "project_q.", "wav2vec2.encoder.layer_norm.", "wav2vec2.masked_spec_embed")


@dataclass(frozen=True)
class Wav2Vec2Config:
    """The entries of the published config.json that shape the net (names as there)."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    conv_dim: tuple[int, ...]
    conv_kernel: tuple[int, ...]
    conv_stride: tuple[int, ...]
    num_conv_pos_embeddings: int
    num_conv_pos_embedding_groups: int
    layer_norm_eps: float

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Wav2Vec2Config:
        """From a published config.json. Raises CheckpointError."""
        legal = {"model_type": "wav2vec2", "do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
        legal |= {"hidden_act": "gelu", "feat_extract_activation": "gelu"}
        wrong = [f"{name}={raw.get(name)!r} (legal: {value!r})" for name, value in legal.items() if raw.get(name) != value]
        wrong += [f"{f.name} is missing" for f in fields(cls) if f.name not in raw]
        if not wrong and raw["num_hidden_layers"] < STATES[-1]:
            wrong = [f"num_hidden_layers={raw['num_hidden_layers']} (legal: {STATES[-1]} or more)"]
        if wrong:
            raise CheckpointError(f"the wav2vec2 config has {', '.join(wrong)}")
        values: dict[str, Any] = {f.name: tuple(raw[f.name]) if isinstance(raw[f.name], list) else raw[f.name] for f in fields(cls)}
        return cls(**values)

    @property
    def shortest(self) -> int:
        """Samples that give one frame; each further frame takes the product of the strides."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples


class ConvLayer(nn.Module):
    """Convolution, LayerNorm over channels, GELU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride)
        self.layer_norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T')."""
        return F.gelu(self.layer_norm(self.conv(x).transpose(1, 2))).transpose(1, 2)


class FeatureExtractor(nn.Module):
    """Seven convolutions: (B, T) -> (B, frames, conv_dim[-1])."""

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__()
        sizes = zip((1, *c.conv_dim), c.conv_dim, c.conv_kernel, c.conv_stride, strict=False)
        self.conv_layers = nn.ModuleList([ConvLayer(*size) for size in sizes])

    def forward(self, wav: Tensor) -> Tensor:
        """(B, T) -> (B, frames, C)."""
        x = wav[:, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x.transpose(1, 2)


class FeatureProjection(nn.Module):
    """LayerNorm and Linear."""

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(c.conv_dim[-1], eps=c.layer_norm_eps)
        self.projection = nn.Linear(c.conv_dim[-1], c.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, hidden_size)."""
        out: Tensor = self.projection(self.layer_norm(x))
        return out


class PositionConv(nn.Conv1d):
    """Grouped convolution whose weight is weight_g * weight_v / |weight_v|, the norm over each TAP (dim 2)."""

    def __init__(self, c: Wav2Vec2Config) -> None:
        kernel = c.num_conv_pos_embeddings
        super().__init__(c.hidden_size, c.hidden_size, kernel, padding=kernel // 2, groups=c.num_conv_pos_embedding_groups)
        weight = self.weight.detach()
        del self._parameters["weight"]
        self.weight_g = nn.Parameter(weight.norm(dim=(0, 1), keepdim=True))
        self.weight_v = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> same: an even kernel gives one frame too many, the last."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))
        y: Tensor = self._conv_forward(x, weight, self.bias)
        return y[..., : y.shape[-1] - 1] if self.kernel_size[0] % 2 == 0 else y


class Positions(nn.Module):
    """Relative positions by convolution."""

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__()
        self.conv = PositionConv(c)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, hidden_size) -> same."""
        return F.gelu(self.conv(x.transpose(1, 2))).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over the whole clip, unmasked: clips go one at a time."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> same."""
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        # a mask that bars nothing: without one, OpenVINO 2026.4 computes noise after a clip of one frame
        open_mask = torch.zeros_like(x[:, None, :1, :1])
        out: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v, open_mask).transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Two Linears with an exact GELU between."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(dim, inner)
        self.output_dense = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> same."""
        out: Tensor = self.output_dense(F.gelu(self.intermediate_dense(x)))
        return out


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, c: Wav2Vec2Config) -> None:
        super().__init__()
        self.attention = Attention(c.hidden_size, c.num_attention_heads)
        self.layer_norm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.feed_forward = FeedForward(c.hidden_size, c.intermediate_size)
        self.final_layer_norm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, hidden_size) -> same."""
        x = x + self.attention(self.layer_norm(x))
        out: Tensor = x + self.feed_forward(self.final_layer_norm(x))
        return out


class Encoder(nn.Module):
    """Positions and the first `layers` layers."""

    def __init__(self, c: Wav2Vec2Config, layers: int) -> None:
        super().__init__()
        self.pos_conv_embed = Positions(c)
        self.layers = nn.ModuleList([Layer(c) for _ in range(layers)])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, T, hidden_size) -> the states before the first and after each layer."""
        states = [x + self.pos_conv_embed(x)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states


class Body(nn.Module):
    """What the published file calls `wav2vec2`."""

    def __init__(self, c: Wav2Vec2Config, layers: int) -> None:
        super().__init__()
        self.feature_extractor = FeatureExtractor(c)
        self.feature_projection = FeatureProjection(c)
        self.encoder = Encoder(c, layers)


class Wav2Vec2(nn.Module):
    """Wave -> the mean of the states after `states` layers."""

    def __init__(self, config: Wav2Vec2Config, states: Sequence[int] = STATES) -> None:
        super().__init__()
        self.config, self.states = config, tuple(states)
        self.wav2vec2 = Body(config, max(states))

    def hidden_states(self, normed: Tensor) -> list[Tensor]:
        """A normed wave (B, T) -> states (B, frames, hidden_size): [0] enters the first layer, [k] leaves the k-th."""
        body = self.wav2vec2
        states: list[Tensor] = body.encoder(body.feature_projection(body.feature_extractor(normed)))
        return states

    def mix(self, normed: Tensor) -> Tensor:
        """A normed wave (B, T) -> features (B, frames, hidden_size)."""
        states = self.hidden_states(normed)
        total = states[self.states[0]]
        for k in self.states[1:]:
            total = total + states[k]
        return total / len(self.states)

    def forward(self, wav: Tensor) -> Tensor:
        """Waves (B, T) at 16 kHz, all of their full length -> features (B, (T - 400) // 320 + 1, hidden_size)."""
        return self.mix(normed(wav))


def normed(wav: Tensor) -> Tensor:
    """(B, T) -> zero mean and unit variance per row. Source: transformers' Wav2Vec2FeatureExtractor."""
    centred = wav - wav.mean(1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-7)


def published_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Any layout in which this model is saved -> the published one (of later transformers: weight norm as a parametrization)."""
    new = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    out = {}
    for name, value in state.items():
        for later, earlier in new.items():
            name = name.replace(later, earlier)
        out[name if name.startswith(("wav2vec2.", *UNUSED[:3])) else f"wav2vec2.{name}"] = value
    return out

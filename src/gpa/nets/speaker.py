"""BiCodec's speaker encoder: mel of a reference clip -> ECAPA-TDNN -> perceiver -> FSQ -> global codes and d-vector."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.nets.quantize import FSQ


class ConvReluNorm(nn.Module):
    """Convolution, ReLU, BatchNorm: in this order."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=padding)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T) -> (B, outputs, T)."""
        out: Tensor = self.bn(F.relu(self.conv(x)))
        return out


class Res2Conv(nn.Module):
    """Channels in 8 chunks: the first is convolved, each next is added to the result before, the last passes."""

    def __init__(self, channels: int, kernel: int, dilation: int, scale: int = 8) -> None:
        super().__init__()
        self.width = channels // scale
        convs = [nn.Conv1d(self.width, self.width, kernel, padding=dilation, dilation=dilation) for _ in range(scale - 1)]
        self.convs = nn.ModuleList(convs)
        self.bns = nn.ModuleList([nn.BatchNorm1d(self.width) for _ in convs])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> same."""
        chunks = x.split(self.width, 1)
        y = chunks[0]
        out = []
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            y = y if i == 0 else y + chunks[i]
            y = bn(F.relu(conv(y)))
            out.append(y)
        return torch.cat([*out, chunks[-1]], 1)


class SqueezeExcite(nn.Module):
    """Channel gates from the mean over time."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, bottleneck)
        self.linear2 = nn.Linear(bottleneck, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> same."""
        gate = torch.sigmoid(self.linear2(F.relu(self.linear1(x.mean(2)))))
        return x * gate[..., None]


class SERes2Block(nn.Module):
    """1x1, Res2, 1x1, gates, residual."""

    def __init__(self, channels: int, kernel: int, dilation: int, bottleneck: int) -> None:
        super().__init__()
        self.se_res2block = nn.Sequential(
            ConvReluNorm(channels, channels),
            Res2Conv(channels, kernel, dilation),
            ConvReluNorm(channels, channels),
            SqueezeExcite(channels, bottleneck),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> same."""
        out: Tensor = x + self.se_res2block(x)
        return out


class AttentiveStatistics(nn.Module):
    """Mean and deviation over time, weighted by attention that sees the clip's own statistics."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.linear1 = nn.Conv1d(3 * channels, bottleneck, 1)
        self.linear2 = nn.Conv1d(bottleneck, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, 2 C)."""
        mean = x.mean(2, keepdim=True).expand_as(x)
        deviation = (x.var(2, keepdim=True) + 1e-7).sqrt().expand_as(x)
        weight = self.linear2(torch.tanh(self.linear1(torch.cat([x, mean, deviation], 1)))).softmax(2)
        average = (weight * x).sum(2)
        spread = ((weight * x.square()).sum(2) - average.square()).clamp(min=1e-7).sqrt()
        return torch.cat([average, spread], 1)


class ECAPA(nn.Module):
    """ECAPA-TDNN (Desplanques et al. 2020): mel (B, T, n_mels) -> x-vector and the frame map before pooling.

    The published net has 512 channels, a map of 1536 and bottlenecks of 128."""

    def __init__(self, n_mels: int, out_dim: int, channels: int = 512, bottleneck: int = 128) -> None:
        super().__init__()
        self.layer1 = ConvReluNorm(n_mels, channels, 5, padding=2)
        self.layer2 = SERes2Block(channels, 3, 2, bottleneck)
        self.layer3 = SERes2Block(channels, 3, 3, bottleneck)
        self.layer4 = SERes2Block(channels, 3, 4, bottleneck)
        self.conv = nn.Conv1d(3 * channels, 3 * channels, 1)
        self.pool = AttentiveStatistics(3 * channels, bottleneck)
        self.bn = nn.BatchNorm1d(6 * channels)
        self.linear = nn.Linear(6 * channels, out_dim)

    def features(self, mel: Tensor) -> Tensor:
        """mel (B, T, n_mels) -> frame map (B, 3 * channels, T)."""
        a = self.layer2(self.layer1(mel.transpose(1, 2)))
        b = self.layer3(a)
        return F.relu(self.conv(torch.cat([a, b, self.layer4(b)], 1)))

    def x_vector(self, features: Tensor) -> Tensor:
        """Frame map -> (B, out_dim)."""
        out: Tensor = self.linear(self.bn(self.pool(features)))
        return out


class PerceiverAttention(nn.Module):
    """Latents attend to latents and context together."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, N, dim), context (B, T, dim) -> (B, N, dim)."""
        both = torch.cat([x, context], 1)
        k, v = self.to_kv(both).chunk(2, -1)
        q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in (self.to_q(x), k, v))
        out: Tensor = self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class GEGLU(nn.Module):
    """First half times GELU of the second."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., 2 d) -> (..., d)."""
        value, gate = x.chunk(2, -1)
        return F.gelu(gate) * value


class ScaledRMSNorm(nn.Module):
    """x / max(|x|, 1e-12) * sqrt(dim) * gamma."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> same."""
        out: Tensor = F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * self.gamma
        return out


class Perceiver(nn.Module):
    """Resampler: frames (B, T, context_dim) -> a fixed number of latents (B, token_num, dim)."""

    def __init__(self, dim: int, context_dim: int, token_num: int, depth: int = 2, heads: int = 8, head_dim: int = 64) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(token_num, dim) * 0.02)
        self.proj_context = nn.Linear(context_dim, dim)
        inner = int(dim * 4 * 2 / 3)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(dim, heads, head_dim),
                    nn.Sequential(nn.Linear(dim, 2 * inner), GEGLU(), nn.Linear(inner, dim)),
                ]
            )
            for _ in range(depth)
        )
        self.norm = ScaledRMSNorm(dim)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, context_dim) -> (B, token_num, dim)."""
        context = self.proj_context(frames)
        x = self.latents.expand(len(frames), -1, -1)
        for layer in self.layers:
            attention, feed_forward = cast(nn.ModuleList, layer)
            x = attention(x, context) + x
            x = feed_forward(x) + x
        out: Tensor = self.norm(x)
        return out


class SpeakerEncoder(nn.Module):
    """Mel (B, T, n_mels) -> global codes (B, token_num) and d-vector (B, out_dim)."""

    def __init__(
        self,
        input_dim: int,
        out_dim: int,
        latent_dim: int,
        token_num: int,
        fsq_levels: list[int],
        channels: int = 512,
        bottleneck: int = 128,
        heads: int = 8,
    ) -> None:
        super().__init__()
        self.speaker_encoder = ECAPA(input_dim, out_dim, channels, bottleneck)
        self.perceiver_sampler = Perceiver(latent_dim, 3 * channels, token_num, heads=heads)
        self.quantizer = FSQ(latent_dim, fsq_levels)
        self.project = nn.Linear(latent_dim * token_num, out_dim)

    def digits(self, features: Tensor) -> Tensor:
        """ECAPA's frame map (B, C, T) -> quantised digits (B, token_num, len(levels)), straight-through."""
        return self.quantizer.digits(self.quantizer.bound(self.perceiver_sampler(features.transpose(1, 2))))

    def encode(self, mel: Tensor) -> Tensor:
        """mel (B, T, n_mels) -> codes (B, token_num)."""
        return self.quantizer.codes(self.digits(self.speaker_encoder.features(mel)))

    def d_vector(self, digits: Tensor) -> Tensor:
        """Digits (B, token_num, len(levels)) -> (B, out_dim); the map is flattened channel-major."""
        out: Tensor = self.project(self.quantizer.project_out(digits).transpose(1, 2).flatten(1))
        return out

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, token_num) -> d-vector (B, out_dim)."""
        return self.d_vector(self.quantizer.digits_of(codes))

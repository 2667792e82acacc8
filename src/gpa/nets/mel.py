"""Mel spectrograms of the two published tokenizers, in torch: log-mel for GLM (Whisper's), magnitude mel for BiCodec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gpa.audio.mel import mel_filters


def power_spectra(wav: Tensor, n_fft: int, hop_length: int, window: Tensor) -> Tensor:
    """Wave (B, T) -> (B, n_fft // 2 + 1, T // hop_length + 1); frames stand around their middle, the ends are reflected."""
    spec = torch.stft(wav, n_fft, hop_length, len(window), window, return_complex=True)
    return torch.view_as_real(spec).square().sum(-1)


class WhisperMel(nn.Module):
    """Wave (B, T), T a multiple of 160 -> log-mel (B, n_mels, T / 160), as Whisper's feature extractor.

    STFT 400/160 with reflection, last frame dropped, power, slaney mel, log10, floor at the clip's maximum - 8."""

    window: Tensor
    filters: Tensor

    def __init__(self, n_mels: int, sample_rate: int = 16_000, n_fft: int = 400, hop_length: int = 160) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        filters = torch.from_numpy(mel_filters(sample_rate, n_fft, n_mels, 0.0, sample_rate / 2))
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        """(B, T) -> (B, n_mels, T / 160)."""
        return self.log_mel(power_spectra(wav, self.n_fft, self.hop_length, self.window)[..., :-1])

    def log_mel(self, power: Tensor) -> Tensor:
        """Power spectra (B, n_fft // 2 + 1, frames) -> (B, n_mels, frames)."""
        log = (self.filters @ power).clamp(min=1e-10).log10()
        log = torch.maximum(log, log.amax((1, 2), keepdim=True) - 8)
        return (log + 4) / 4


class BiCodecMel(nn.Module):
    """Wave (B, T) -> magnitude mel (B, num_mels, T // hop_length + 1) of the reference clip (power 1, no logarithm).

    `log` (ours, for small speaker encoders) takes (ln(max(mel, 1e-5)) + 5) / 3, near zero mean and unit variance:
    raw log-mel saturates the FSQ of a small encoder into one voice for everybody."""

    window: Tensor
    filters: Tensor

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.win_length = params["n_fft"], params["hop_length"], params["win_length"]
        self.log = bool(params.get("log", False))
        rate = params["sample_rate"]
        filters = mel_filters(rate, self.n_fft, params["num_mels"], params["mel_fmin"], params["mel_fmax"] or rate / 2)
        self.register_buffer("window", torch.hann_window(self.win_length), persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        """(B, T) -> (B, num_mels, frames)."""
        return self.compressed(power_spectra(wav, self.n_fft, self.hop_length, self.window).sqrt())

    def differentiable(self, wav: Tensor) -> Tensor:
        """The same with a gradient everywhere: a bin of a rendered frame may come to nothing at all, whose magnitude has none."""
        power = power_spectra(wav, self.n_fft, self.hop_length, self.window)
        return self.compressed((power + 1e-12).sqrt())

    def compressed(self, magnitude: Tensor) -> Tensor:
        """Magnitude spectra (B, n_fft // 2 + 1, frames) -> (B, num_mels, frames)."""
        mel: Tensor = self.filters @ magnitude
        return (mel.clamp(min=1e-5).log() + 5) / 3 if self.log else mel

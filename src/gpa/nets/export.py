"""The tokenizer nets -> ONNX, beside their weights. Initialisers keep the torch state-dict names.

glm-4-voice-tokenizer/model.onnx  wav (1, T) -> codes (1, ceil(T / 1280)) and, where BiCodec reads them, features (1, frames, C)
BiCodec/wav2vec2-large-xlsr-53/model.onnx  wav (1, T), T >= 400 -> features (1, (T - 400) // 320 + 1, C)
BiCodec/encoder.onnx              features (1, T, C) -> codes (1, N)
BiCodec/speaker.onnx              wav (1, T) -> voice (1, token_num)
BiCodec/decoder.onnx              codes (1, N), voice (1, token_num), skip (2,) -> wav (1, T), or the Rows of a source-filter head
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.nets.bicodec import BiCodec
from gpa.nets.compress import Precision, compress
from gpa.nets.mel import BiCodecMel, WhisperMel
from gpa.nets.net import Net, TorchNet
from gpa.nets.source_filter import Rows, SourceFilter
from gpa.nets.wav2vec2 import Wav2Vec2
from gpa.nets.whisper import WhisperVQ

OPSET = 17
HOP = 320  # samples per encoder frame
CODE = 1280  # samples per linguistic code


@dataclass(frozen=True)
class Job:
    """A net to export: its graph, the file's name, an example of its inputs, the outputs' names, and the example's duration."""

    graph: nn.Module
    file: str
    example: dict[str, Tensor]
    outputs: tuple[str, ...]
    seconds: float

    def write(self, folder: Path, precision: Precision = "f32") -> Path:
        """Trace the graph to FOLDER/file."""
        return _write(self.graph, Path(folder) / self.file, self.example, list(self.outputs), precision)


def glm_job(net: WhisperVQ, feature_layers: Sequence[int] = ()) -> Job:
    """model.onnx of the linguistic tokenizer; `feature_layers` (counted from 1) are concatenated as the output `features`."""
    outputs = ("codes", "features") if feature_layers else ("codes",)
    return Job(GLMGraph(net, feature_layers), "model.onnx", {"wav": _noise(16_000)}, outputs, 1.0)


def wav2vec2_job(net: Wav2Vec2) -> Job:
    """model.onnx of BiCodec's features."""
    return Job(Wav2Vec2Graph(net), "model.onnx", {"wav": _noise(16_000)}, ("features",), 1.0)


def bicodec_jobs(codec: BiCodec) -> list[Job]:
    """encoder.onnx, speaker.onnx and decoder.onnx."""
    c = codec.config["audio_tokenizer"]
    width, frames, count = c["encoder"]["input_channels"], 24, 8
    codes = torch.arange(count)[None] * 31 % c["quantizer"]["codebook_size"]
    voice = torch.arange(c["speaker_encoder"]["token_num"])[None] * 7 % math.prod(c["speaker_encoder"]["fsq_levels"])
    decoded = {"codes": codes, "voice": voice, "skip": torch.tensor([1, 2])}
    rows = Rows._fields if isinstance(codec.decoder, SourceFilter) else ("wav",)
    spoken = count * codec.config["latent_hop_length"] / codec.config["sample_rate"]
    features = 10 * _noise(frames * width).view(1, frames, width)
    return [
        Job(EncoderGraph(codec), "encoder.onnx", {"features": features}, ("codes",), frames / 50),
        Job(SpeakerGraph(codec), "speaker.onnx", {"wav": _noise(16_000)}, ("voice",), 1.0),
        Job(DecoderGraph(codec), "decoder.onnx", decoded, rows, spoken),
    ]


def _noise(samples: int) -> Tensor:
    return 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))


def export_glm(net: WhisperVQ, folder: Path, feature_layers: Sequence[int] = (), precision: Precision = "f32") -> Path:
    """Write FOLDER/model.onnx."""
    return glm_job(net, feature_layers).write(folder, precision)


def export_bicodec(codec: BiCodec, folder: Path, precision: Precision = "f32") -> list[Path]:
    """Write FOLDER/encoder.onnx, speaker.onnx and decoder.onnx."""
    return [job.write(folder, precision) for job in bicodec_jobs(codec)]


def in_torch(job: Job, device: str = "cpu") -> Net:
    """The net that the job's file would be, run by torch."""
    return TorchNet(_Named(job.graph, job.outputs), device)


class _Named(nn.Module):
    """A graph whose outputs carry names."""

    def __init__(self, graph: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.graph, self.outputs = graph, tuple(outputs)

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.outputs, self.graph(**arrays), strict=True))


class Wav2Vec2Graph(nn.Module):
    """Wave of any length -> features; the wave is normed as a whole."""

    def __init__(self, net: Wav2Vec2) -> None:
        super().__init__()
        self.net = net

    def forward(self, wav: Tensor) -> tuple[Tensor, ...]:
        """wav (1, T) -> features (1, frames, C)."""
        return (self.net(wav),)


class GLMGraph(nn.Module):
    """Wave of any length -> codes and features, framed as in training (see WhisperVQConfig.tail_frames)."""

    def __init__(self, net: WhisperVQ, feature_layers: Sequence[int]) -> None:
        super().__init__()
        self.net, self.feature_layers, self.tail = net, tuple(feature_layers), net.config.tail_frames
        self.mel = WhisperMel(net.config.num_mel_bins)
        self.fourier = Fourier(self.mel.n_fft, self.mel.window, self.mel.hop_length)

    def forward(self, wav: Tensor) -> tuple[Tensor, ...]:
        """wav (1, T) -> codes (1, ceil(T / 1280)), features (1, 4 * ceil(T / 1280), C)."""
        samples = wav.shape[1]
        codes = (samples + CODE - 1) // CODE
        padded = F.pad(wav, (0, CODE + self.tail * HOP))[:, : codes * CODE + self.tail * HOP]
        states = self.net.hidden_states(self._log_mel(padded), None if self.tail else self._lengths(wav))
        frames = codes * (CODE // HOP)
        out = self.net.quantize(self.net.pooled(states[-1][:, :frames]))
        if not self.feature_layers:
            return (out,)
        return out, torch.cat([states[k - 1][:, :frames] for k in self.feature_layers], -1)

    def _lengths(self, wav: Tensor) -> Tensor:
        """Frames whose first sample exists: padding is masked where no tail was trained."""
        return torch.ones_like(wav[:1, ::HOP]).sum(1)

    def _log_mel(self, wav: Tensor) -> Tensor:
        m = self.mel
        power = self.fourier(F.pad(wav[:, None], (m.n_fft // 2, m.n_fft // 2), mode="reflect"))
        return m.log_mel(power[..., :-1])


class EncoderGraph(nn.Module):
    """Features -> semantic codes."""

    def __init__(self, codec: BiCodec) -> None:
        super().__init__()
        self.encoder, self.quantizer = codec.encoder, codec.quantizer

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """(1, T, C) -> (1, N)."""
        return (self.quantizer.encode(self.encoder(features)),)


class SpeakerGraph(nn.Module):
    """Reference clip -> global codes."""

    def __init__(self, codec: BiCodec) -> None:
        super().__init__()
        self.mel: BiCodecMel = codec.mel_transformer
        self.fourier = Fourier(self.mel.n_fft, self.mel.window, self.mel.hop_length)
        self.speaker_encoder = codec.speaker_encoder

    def forward(self, wav: Tensor) -> tuple[Tensor, ...]:
        """(1, T) -> (1, token_num)."""
        m = self.mel
        around = (m.n_fft - m.win_length) // 2  # the window stands in the middle of n_fft samples
        padded = F.pad(wav[:, None], (m.n_fft // 2, m.n_fft // 2), mode="reflect")
        power = self.fourier(padded[..., around : padded.shape[2] - around])
        return (self.speaker_encoder.encode(m.compressed(power.sqrt()).transpose(1, 2)),)


class DecoderGraph(nn.Module):
    """Codes and voice -> wave, or the rows of a source-filter head.

    `skip` frames at the front and at the back are not given to the wave head, which costs most and sees least far."""

    def __init__(self, codec: BiCodec) -> None:
        super().__init__()
        self.quantizer, self.prenet, self.decoder = codec.quantizer, codec.prenet, codec.decoder
        self.speaker_encoder = codec.speaker_encoder
        self.frames = codec.frames

    def forward(self, codes: Tensor, voice: Tensor, skip: Tensor) -> tuple[Tensor, ...]:
        """(1, N), (1, token_num), (2,) -> wav (1, T), or Rows."""
        d_vector = self.speaker_encoder.decode(voice)
        frames = self.frames(self.quantizer.decode(codes), d_vector)
        frames = frames[:, skip[0] : frames.shape[1] - skip[1]]
        if isinstance(self.decoder, SourceFilter):
            return tuple(self.decoder(frames, d_vector))
        return (self.decoder(frames.transpose(1, 2))[:, 0],)


class Fourier(nn.Module):
    """Power spectra as a convolution, for OpenVINO's STFT takes a hundred times as long.

    The kernel is computed in the graph and folded when that is compiled, so it takes no room in the file."""

    window: Tensor
    bins: Tensor
    steps: Tensor

    def __init__(self, n_fft: int, window: Tensor, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        # persistent: of other buffers the exporter would evaluate what follows from them
        self.register_buffer("window", window)
        self.register_buffer("bins", torch.arange(n_fft // 2 + 1))
        self.register_buffer("steps", torch.arange(len(window)))

    def forward(self, padded: Tensor) -> Tensor:
        """(B, 1, T) -> (B, n_fft // 2 + 1, frames)."""
        turns = (self.bins[:, None] * self.steps[None]) % self.n_fft  # whole numbers, so that the angle is exact
        angle = turns.to(torch.float32) * (2 * torch.pi / self.n_fft)
        kernel = torch.cat([angle.cos() * self.window, angle.sin() * self.window])[:, None]
        real, imaginary = F.conv1d(padded, kernel, stride=self.hop_length).square().chunk(2, 1)
        return real + imaginary


def _write(graph: nn.Module, path: Path, example: dict[str, Tensor], outputs: list[str], precision: Precision) -> Path:
    """Trace `graph`; every axis 1 but that of `voice` is free."""
    free = {name: {1: f"{name}_length"} for name in [*example, *outputs] if name not in ("voice", "skip")}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    options: dict[str, Any] = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that shapes are traced is meant, that the exporter is the older one is known
        torch.onnx.export(
            graph.eval(),
            tuple(example.values()),
            str(draft),
            input_names=list(example),
            output_names=outputs,
            opset_version=OPSET,
            dynamic_axes=free,
            dynamo=False,
            **options,
        )
    draft.write_bytes(compress(draft.read_bytes(), precision, strip="net."))
    os.replace(draft, path)
    return path

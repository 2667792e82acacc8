"""The tokenizer nets -> ONNX, beside their weights. Initialisers keep the torch state-dict names, but for kernels of wave generators.

glm-4-voice-tokenizer/model.onnx  wav (1, T) -> codes (1, ceil(T / 1280)) and, where BiCodec reads them, features (1, frames, C)
BiCodec/wav2vec2-large-xlsr-53/model.onnx  wav (1, T), T >= 400 -> features (1, (T - 400) // 320 + 1, C)
BiCodec/encoder.onnx              features (1, T, C) -> codes (1, N)
BiCodec/speaker.onnx              wav (1, T) -> voice (1, token_num)
BiCodec/decoder.onnx              codes (1, N), voice (1, token_num), skip (2,) -> the Rows of a source-filter head

Of a codec with a wave generator, in its place, piece by piece of a stream (see gpa.nets.past):
BiCodec/prenet.onnx               codes (1, N), voice (1, token_num), ends (2,), past (1, S) -> frames (1, T, C), kept (1, S)
BiCodec/decoder.onnx              frames (1, T, C), ends (2,), past (1, S) -> wav (1, T), kept (1, S)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpa.errors import CheckpointError
from gpa.nets.bicodec import BiCodec
from gpa.nets.compress import Computed, Precision, write_compressed
from gpa.nets.mel import BiCodecMel, WhisperMel
from gpa.nets.net import Net, TorchNet
from gpa.nets.past import Past
from gpa.nets.source_filter import Rows, SourceFilter
from gpa.nets.wav2vec2 import Wav2Vec2
from gpa.nets.weight_norm import multiplied_out
from gpa.nets.whisper import WhisperVQ

OPSET = 17
HOP = 320  # samples per encoder frame
CODE = 1280  # samples per linguistic code
FIXED = ("voice", "skip", "ends")  # inputs of one shape


@dataclass(frozen=True)
class Job:
    """A net to export: its graph, the file's name, an example of its inputs, the outputs' names, and the example's duration.

    `heard`: what it makes is heard and not chosen from, so that it may be computed in less than float32."""

    graph: nn.Module
    file: str
    example: dict[str, Tensor]
    outputs: tuple[str, ...]
    seconds: float
    heard: bool = False

    def write(self, folder: Path, precision: Precision = "f32", computed: Computed = "f32") -> Path:
        """Trace the graph to FOLDER/file. `computed`: what it shall be run in."""
        return _write(self.graph, Path(folder) / self.file, self.example, list(self.outputs), precision, computed)


def glm_job(net: WhisperVQ, feature_layers: Sequence[int] = ()) -> Job:
    """model.onnx of the linguistic tokenizer; `feature_layers` (counted from 1) are concatenated as the output `features`."""
    outputs = ("codes", "features") if feature_layers else ("codes",)
    return Job(GLMGraph(net, feature_layers), "model.onnx", {"wav": _noise(16_000)}, outputs, 1.0)


def wav2vec2_job(net: Wav2Vec2) -> Job:
    """model.onnx of BiCodec's features."""
    return Job(Wav2Vec2Graph(net), "model.onnx", {"wav": _noise(16_000)}, ("features",), 1.0)


def bicodec_jobs(codec: BiCodec) -> list[Job]:
    """encoder.onnx, speaker.onnx and decoder.onnx; with a wave generator prenet.onnx before it."""
    c = codec.config["audio_tokenizer"]
    width, frames, count = c["encoder"]["input_channels"], 24, 8
    codes = torch.arange(count)[None] * 31 % c["quantizer"]["codebook_size"]
    voice = torch.arange(c["speaker_encoder"]["token_num"])[None] * 7 % math.prod(c["speaker_encoder"]["fsq_levels"])
    features = 10 * _noise(frames * width).view(1, frames, width)
    jobs = [
        Job(EncoderGraph(codec), "encoder.onnx", {"features": features}, ("codes",), frames / 50),
        Job(SpeakerGraph(codec), "speaker.onnx", {"wav": _noise(16_000)}, ("voice",), 1.0),
    ]
    spoken = count * codec.config["latent_hop_length"] / codec.config["sample_rate"]
    said = {"codes": codes, "voice": voice}
    if isinstance(codec.decoder, SourceFilter):
        return [*jobs, Job(RowsGraph(codec), "decoder.onnx", said | {"skip": torch.tensor([1, 2])}, Rows._fields, spoken)]
    alone = {"ends": torch.tensor([1, 1]), "past": torch.zeros(1, 0)}
    inner = c["decoder"]["input_channel"]
    heard = {"frames": _noise(count * inner).view(1, count, inner)} | alone
    jobs.append(Job(PrenetGraph(codec), "prenet.onnx", said | alone, ("frames", "kept"), spoken, heard=True))
    return [*jobs, Job(WaveGraph(codec), "decoder.onnx", heard, ("wav", "kept"), spoken, heard=True)]


def _noise(samples: int) -> Tensor:
    return 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))


def export_glm(net: WhisperVQ, folder: Path, feature_layers: Sequence[int] = (), precision: Precision = "f32") -> Path:
    """Write FOLDER/model.onnx."""
    return glm_job(net, feature_layers).write(folder, precision)


def export_bicodec(codec: BiCodec, folder: Path, precision: Precision = "f32") -> list[Path]:
    """Write FOLDER/encoder.onnx, speaker.onnx, decoder.onnx and, with a wave generator, prenet.onnx."""
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


class RowsGraph(nn.Module):
    """Codes and voice -> the rows of a source-filter head.

    `skip` frames at the front and at the back are not given to the head, which sees least far."""

    def __init__(self, codec: BiCodec) -> None:
        super().__init__()
        self.quantizer, self.prenet, self.decoder = codec.quantizer, codec.prenet, codec.decoder
        self.speaker_encoder = codec.speaker_encoder
        self.frames = codec.frames

    def forward(self, codes: Tensor, voice: Tensor, skip: Tensor) -> tuple[Tensor, ...]:
        """(1, N), (1, token_num), (2,) -> Rows."""
        d_vector = self.speaker_encoder.decode(voice)
        frames = self.frames(self.quantizer.decode(codes), d_vector)
        return tuple(self.decoder(frames[:, skip[0] : frames.shape[1] - skip[1]], d_vector))


class PrenetGraph(nn.Module):
    """A piece of a stream of codes, and its voice -> the frames that are settled, and what the next piece needs (see `Past`)."""

    def __init__(self, codec: BiCodec) -> None:
        super().__init__()
        self.quantizer, self.prenet, self.speaker_encoder = codec.quantizer, codec.prenet, codec.speaker_encoder
        self.frames = codec.frames
        ratios = codec.config["audio_tokenizer"]["prenet"].get("sample_ratios", [1, 1])
        if any(ratio != 1 for ratio in ratios):
            raise CheckpointError(f"prenet.sample_ratios of a codec with a wave generator: found {ratios} (legal: 1 everywhere)")

    def forward(self, codes: Tensor, voice: Tensor, ends: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        """(1, N), (1, token_num), (2,), (1, S) -> frames (1, T, C), kept (1, S)."""
        heard = Past(ends, past)
        return self.frames(self.quantizer.decode(codes), self.speaker_encoder.decode(voice), heard), heard.kept()


class WaveGraph(nn.Module):
    """A piece of a stream of frames -> the samples that are settled, and what the next piece needs."""

    def __init__(self, codec: BiCodec) -> None:
        super().__init__()
        self.decoder = multiplied_out(codec.decoder)

    def forward(self, frames: Tensor, ends: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        """(1, T, C), (2,), (1, S) -> wav (1, T'), kept (1, S)."""
        heard = Past(ends, past)
        return self.decoder(frames.transpose(1, 2), heard)[:, 0], heard.kept()


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


def _write(graph: nn.Module, path: Path, example: dict[str, Tensor], outputs: list[str], precision: Precision, computed: Computed) -> Path:
    """Trace `graph`; every axis 1 but of those FIXED is free."""
    free = {name: {1: f"{name}_length"} for name in [*example, *outputs] if name not in FIXED}
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
    return write_compressed(draft, path, precision, "net.", computed)

"""BiCodec (Spark-TTS): speech features -> semantic codes; reference clip -> global codes; both -> speech.

The configuration is the published BiCodec/config.yaml; nano uses the same classes with small numbers and the options
`features: whisper`, `decoder.kind: source_filter`, `lookahead`. Keys equal the published state dict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from gpa.nets.mel import BiCodecMel
from gpa.nets.past import WHOLE, Whole
from gpa.nets.quantize import FactorizedVQ
from gpa.nets.source_filter import Rows, SourceFilter
from gpa.nets.speaker import SpeakerEncoder
from gpa.nets.vocos import SamplingBlock, VocosBackbone
from gpa.nets.wave_generator import WaveGenerator


class FeatureEncoder(nn.Module):
    """Features (B, T, input_channels) -> latents (B, T / prod(sample_ratios), out_channels)."""

    def __init__(
        self,
        input_channels: int,
        vocos_dim: int,
        vocos_intermediate_dim: int,
        vocos_num_layers: int,
        out_channels: int,
        sample_ratios: list[int],
        input_norm: bool = False,
    ) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(input_channels, eps=1e-6) if input_norm else nn.Identity()
        self.encoder = VocosBackbone(input_channels, vocos_dim, vocos_intermediate_dim, vocos_num_layers)
        self.downsample = nn.ModuleList(
            nn.Sequential(SamplingBlock(vocos_dim, downsample=ratio), VocosBackbone(vocos_dim, vocos_dim, vocos_intermediate_dim, 2))
            for ratio in sample_ratios
        )
        self.project = nn.Linear(vocos_dim, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, input_channels) -> (B, T / prod(sample_ratios), out_channels)."""
        x = self.encoder(self.input_norm(x))
        for stage in self.downsample:
            x = stage(x)
        out: Tensor = self.project(x)
        return out


class FeatureDecoder(nn.Module):
    """Latents (B, N, input_channels) -> frames (B, N * prod(sample_ratios), out_channels), conditioned or not."""

    def __init__(
        self,
        input_channels: int,
        vocos_dim: int,
        vocos_intermediate_dim: int,
        vocos_num_layers: int,
        out_channels: int,
        condition_dim: int = 0,
        sample_ratios: tuple[int, ...] | list[int] = (1, 1),
        use_tanh_at_final: bool = False,
        lookahead: int | None = None,
    ) -> None:
        super().__init__()
        self.linear_pre = nn.Linear(input_channels, vocos_dim)
        near = None if lookahead is None else 0  # with a bounded look-ahead the resampling stages are causal
        self.downsample = nn.ModuleList(  # named so in the published file; it raises the rate
            nn.Sequential(
                SamplingBlock(vocos_dim, upsample=ratio),
                VocosBackbone(vocos_dim, vocos_dim, vocos_intermediate_dim, 2, lookahead=near),
            )
            for ratio in sample_ratios
        )
        self.vocos_backbone = VocosBackbone(vocos_dim, vocos_dim, vocos_intermediate_dim, vocos_num_layers, condition_dim, lookahead)
        self.linear = nn.Linear(vocos_dim, out_channels)
        self.use_tanh_at_final = use_tanh_at_final

    def forward(self, x: Tensor, condition: Tensor | None = None, past: Whole = WHOLE) -> Tensor:
        """(B, N, input_channels) and condition (B, condition_dim) -> (B, N * prod(sample_ratios), out_channels).

        A `past` knows no resampling (of a published checkpoint the ratios are 1)."""
        x = self.linear_pre(x)
        stages: list[Any] = list(self.downsample)
        for resampling, backbone in stages:
            x = backbone(resampling(x), past=past)
        y: Tensor = self.linear(self.vocos_backbone(x, condition, past))
        return y.tanh() if self.use_tanh_at_final else y


class BiCodec(nn.Module):
    """The whole codec. `config` is the parsed config.yaml."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        c = config["audio_tokenizer"]
        self.mel_transformer = BiCodecMel(c["mel_params"])
        self.encoder = FeatureEncoder(**c["encoder"])
        q = c["quantizer"]
        self.quantizer = FactorizedVQ(q["input_dim"], q["codebook_size"], q["codebook_dim"], q["commitment"])
        speaker = {k: v for k, v in c["speaker_encoder"].items() if k != "fsq_num_quantizers"}
        self.speaker_encoder = SpeakerEncoder(**speaker)
        self.prenet = FeatureDecoder(**c["prenet"])
        self.postnet = FeatureDecoder(**c["postnet"])
        decoder = dict(c["decoder"])
        self.decoder: SourceFilter | WaveGenerator
        if decoder.pop("kind", "wave_generator") == "source_filter":
            self.decoder = SourceFilter(condition_dim=c["speaker_encoder"]["out_dim"], **decoder)
        else:
            self.decoder = WaveGenerator(**decoder)

    @classmethod
    def load_config(cls, folder: Path) -> dict[str, Any]:
        """Read `folder/config.yaml`."""
        config: dict[str, Any] = yaml.safe_load((Path(folder) / "config.yaml").read_text())
        return config

    def tokenize(self, features: Tensor) -> Tensor:
        """Features (B, T, C) -> semantic codes (B, N)."""
        return self.quantizer.encode(self.encoder(features))

    def tokenize_voice(self, wav: Tensor) -> Tensor:
        """Reference clip (B, T) at 16 kHz -> global codes (B, token_num)."""
        return self.speaker_encoder.encode(self.mel_transformer(wav).transpose(1, 2))

    def frames(self, latents: Tensor, d_vector: Tensor, past: Whole = WHOLE) -> Tensor:
        """Quantised latents (B, N, C) and d-vector (B, D) -> frames (B, T, D) the wave head reads."""
        out: Tensor = self.prenet(latents, d_vector, past) + d_vector[:, None]
        return out

    def detokenize(self, codes: Tensor, voice: Tensor) -> Tensor | Rows:
        """Semantic codes (B, N), global codes (B, token_num) -> wave (B, 1, T), or Rows of a source-filter head."""
        d_vector = self.speaker_encoder.decode(voice)
        x = self.frames(self.quantizer.decode(codes), d_vector)
        if isinstance(self.decoder, SourceFilter):
            rows: Rows = self.decoder(x, d_vector)
            return rows
        wav: Tensor = self.decoder(x.transpose(1, 2))
        return wav

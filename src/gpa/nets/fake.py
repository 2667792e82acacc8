"""A checkpoint with random weights, complete with exports: what tests and speed measurements run on.

It speaks noise, in the layout and at the sizes of a real one. Two flavours: `nano` (features of the GLM encoder,
source-filter head, 25 codes a second) and `published` (features from elsewhere, wave generator, 50 codes a second).
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from gpa.nets.bicodec import BiCodec
from gpa.nets.compress import Precision
from gpa.nets.export import export_bicodec, export_glm
from gpa.nets.folders import write_bicodec, write_glm, write_lm
from gpa.nets.lm import LM
from gpa.nets.lm_config import LMConfig
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig
from gpa.vocab import PAD, STOP, Vocab, write_character_tokenizer

Flavour = Literal["nano", "published"]

LM_TINY = LMConfig(
    vocab_size=0,  # follows from the codebooks
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)


def tiny_glm(flavour: Flavour) -> dict[str, Any]:
    """A config.json of the linguistic tokenizer: the published schema with small numbers."""
    shape = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "max_source_positions": 1500}
    place = {"pooling_kernel_size": 4, "pooling_position": 2, "quantize_position": 2, "quantize_vocab_size": 64}
    common = {"architectures": ["WhisperVQEncoder"], "model_type": "whisper", "encoder_causal_attention": False, **shape, **place}
    if flavour == "published":
        return {**common, "num_mel_bins": 128, "encoder_causal_convolution": True, "quantize_causal_block_size": 200, "pooling_type": "avg"}
    adapter = {"quantize_adapter_dim": 32, "quantize_adapter_layers": 1, "quantize_codebook_dim": 8, "encoder_layer_norm": True}
    ours = {"encoder_causal_convolution": False, "quantize_causal_block_size": None, "pooling_type": "conv", "tail_frames": 8}
    return {**common, "num_mel_bins": 80, **ours, **adapter, "volume": "rms"}


def tiny_bicodec(flavour: Flavour) -> dict[str, Any]:
    """A config.yaml of BiCodec: the published schema with small numbers."""
    config: dict[str, Any] = yaml.safe_load(_NANO if flavour == "nano" else _PUBLISHED)
    return config


_NANO = """
sample_rate: 16000
latent_hop_length: 640
ref_segment_duration: 6
volume_normalize: true
volume: rms
features: whisper
feature_layers: [1, 2]
tone_bands: 6
voiced_noise: -3
audio_tokenizer:
  mel_params: {sample_rate: 16000, n_fft: 1024, win_length: 640, hop_length: 320, mel_fmin: 10, mel_fmax: null, num_mels: 80, log: true}
  encoder:
    {input_channels: 64, vocos_dim: 24, vocos_intermediate_dim: 48, vocos_num_layers: 2, out_channels: 40, sample_ratios: [2],
     input_norm: true}
  quantizer: {input_dim: 40, codebook_size: 128, codebook_dim: 8, commitment: 0.25, use_l2_normlize: true}
  speaker_encoder: {input_dim: 80, out_dim: 32, latent_dim: 16, token_num: 4, fsq_levels: [4, 4, 4], channels: 32, bottleneck: 16, heads: 2}
  prenet:
    {input_channels: 40, vocos_dim: 24, vocos_intermediate_dim: 48, vocos_num_layers: 3, out_channels: 32, condition_dim: 32,
     sample_ratios: [2], lookahead: 3}
  postnet: {input_channels: 32, vocos_dim: 24, vocos_intermediate_dim: 48, vocos_num_layers: 1, out_channels: 64, sample_ratios: []}
  decoder: {kind: source_filter, input_channel: 32, channels: 32, layers: 2, n_fft: 640, hop_length: 160, lookahead: 4, smoothing: 0.5}
"""

_PUBLISHED = """
sample_rate: 16000
latent_hop_length: 320
ref_segment_duration: 6
volume_normalize: true
audio_tokenizer:
  mel_params: {sample_rate: 16000, n_fft: 1024, win_length: 640, hop_length: 320, mel_fmin: 10, mel_fmax: null, num_mels: 128}
  encoder: {input_channels: 48, vocos_dim: 24, vocos_intermediate_dim: 48, vocos_num_layers: 2, out_channels: 40, sample_ratios: [1, 1]}
  quantizer: {input_dim: 40, codebook_size: 128, codebook_dim: 8, commitment: 0.25, use_l2_normlize: true}
  speaker_encoder:
    {input_dim: 128, out_dim: 36, latent_dim: 16, token_num: 32, fsq_levels: [4, 4, 4, 4], channels: 32, bottleneck: 16, heads: 2}
  prenet:
    {input_channels: 40, vocos_dim: 24, vocos_intermediate_dim: 48, vocos_num_layers: 3, out_channels: 36, condition_dim: 36,
     sample_ratios: [1, 1]}
  postnet: {input_channels: 36, vocos_dim: 24, vocos_intermediate_dim: 48, vocos_num_layers: 1, out_channels: 48}
  decoder: {input_channel: 36, channels: 32, rates: [8, 5, 4, 2], kernel_sizes: [16, 11, 8, 4]}
"""


def write_random_checkpoint(
    folder: Path,
    lm: LMConfig = LM_TINY,
    glm: dict[str, Any] | None = None,
    bicodec: dict[str, Any] | None = None,
    seed: int = 0,
    precision: Precision = "f32",
) -> Vocab:
    """Write a whole checkpoint folder but for the language model's export; configs of None are tiny nano ones.

    Returns its vocabulary, which knows single characters. `precision` of the exported tokenizer nets."""
    folder = Path(folder)
    glm, bicodec = glm or tiny_glm("nano"), bicodec or tiny_bicodec("nano")
    torch.manual_seed(seed)
    c = bicodec["audio_tokenizer"]
    voices = math.prod(c["speaker_encoder"]["fsq_levels"])
    vocab = write_character_tokenizer(folder, glm["quantize_vocab_size"], voices, c["quantizer"]["codebook_size"])
    _write_lm(folder, replace(lm, vocab_size=vocab.size), vocab)
    linguist = WhisperVQ(WhisperVQConfig.of(glm)).eval()
    write_glm(glm, linguist.state_dict(), folder / "glm-4-voice-tokenizer")
    export_glm(linguist, folder / "glm-4-voice-tokenizer", bicodec.get("feature_layers", ()), precision)
    codec = BiCodec(bicodec).eval()
    write_bicodec(bicodec, codec.state_dict(), folder / "BiCodec")
    export_bicodec(codec, folder / "BiCodec", precision)
    return vocab


def _write_lm(folder: Path, config: LMConfig, vocab: Vocab) -> None:
    state = {name: tensor.half() for name, tensor in LM(config).state_dict().items()}
    write_lm(config, state, folder, vocab.special(STOP), vocab.special(PAD))

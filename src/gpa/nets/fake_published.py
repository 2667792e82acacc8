"""A folder in the published layout with random weights, tiny or at the published sizes: what loading and conversion are tested on.

It holds what the published one holds, and no more: weights, configurations, tokenizer files, no exports. wav2vec2's weights are
a pickle of tensors, as published, with the parts of pre-training that nothing reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from gpa.nets.bicodec import BiCodec
from gpa.nets.fake import LM_TINY, tiny_bicodec, tiny_glm
from gpa.nets.folders import PICKLE, WAV2VEC2, WEIGHTS, shapes, unfilled, write_bicodec, write_glm
from gpa.nets.lm import LM
from gpa.nets.lm_config import LMConfig
from gpa.nets.wav2vec2 import STATES, Wav2Vec2, Wav2Vec2Config
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig
from gpa.vocab import PAD, PUBLISHED_TEXT, Vocab, write_published_tokenizer

Size = Literal["tiny", "full"]

_WAV2VEC2: dict[str, Any] = {
    "architectures": ["Wav2Vec2ForPreTraining"],
    "model_type": "wav2vec2",
    "conv_bias": True,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "do_stable_layer_norm": True,
    "feat_extract_activation": "gelu",
    "feat_extract_norm": "layer",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "num_conv_pos_embedding_groups": 16,
    "num_conv_pos_embeddings": 128,
}
_SIZES: dict[Size, dict[str, int]] = {
    "tiny": {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 17},
    "full": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24},
}
_FULL_BICODEC = """
sample_rate: 16000
highpass_cutoff_freq: 40
latent_hop_length: 320
ref_segment_duration: 6
volume_normalize: true
audio_tokenizer:
  mel_params: {sample_rate: 16000, n_fft: 1024, win_length: 640, hop_length: 320, mel_fmin: 10, mel_fmax: null, num_mels: 128}
  encoder:
    {input_channels: 1024, vocos_dim: 384, vocos_intermediate_dim: 2048, vocos_num_layers: 12, out_channels: 1024, sample_ratios: [1, 1]}
  decoder: {input_channel: 1024, channels: 1536, rates: [8, 5, 4, 2], kernel_sizes: [16, 11, 8, 4]}
  quantizer:
    {input_dim: 1024, codebook_size: 8192, codebook_dim: 8, commitment: 0.25, codebook_loss_weight: 2.0, use_l2_normlize: true,
     threshold_ema_dead_code: 0.2}
  speaker_encoder:
    {input_dim: 128, out_dim: 1024, latent_dim: 128, token_num: 32, fsq_levels: [4, 4, 4, 4, 4, 4], fsq_num_quantizers: 1}
  prenet:
    {input_channels: 1024, vocos_dim: 384, vocos_intermediate_dim: 2048, vocos_num_layers: 12, out_channels: 1024, condition_dim: 1024,
     sample_ratios: [1, 1], use_tanh_at_final: false}
  postnet:
    {input_channels: 1024, vocos_dim: 384, vocos_intermediate_dim: 2048, vocos_num_layers: 6, out_channels: 1024, use_tanh_at_final: false}
"""
_FULL_GLM = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "quantize_causal_encoder": False,
}
_FULL_GLM |= {"pooling_position": 16, "quantize_position": 16, "quantize_vocab_size": 16_384}
_FULL_LM = LMConfig(
    vocab_size=0,  # follows from the tokenizer
    hidden_size=512,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    rope_theta=1_000_000.0,
)


def write_published_checkpoint(folder: Path, size: Size = "tiny", seed: int = 0) -> Vocab:
    """Write the folder; `full` takes 4 GB. Returns its vocabulary."""
    folder = Path(folder)
    draw = _Noise(seed)
    glm = tiny_glm("published") | (_FULL_GLM if size == "full" else {})
    codec: dict[str, Any] = yaml.safe_load(_FULL_BICODEC) if size == "full" else tiny_bicodec("published")
    c = codec["audio_tokenizer"]
    voices = len(c["speaker_encoder"]["fsq_levels"])
    text = PUBLISHED_TEXT if size == "full" else 300
    vocab = write_published_tokenizer(folder, text, glm["quantize_vocab_size"], 4**voices, c["quantizer"]["codebook_size"])
    _write_lm(folder, _FULL_LM if size == "full" else LM_TINY, vocab, draw)
    with unfilled():
        linguist, acoustic = WhisperVQ(WhisperVQConfig.of(glm)), BiCodec(codec)
    book = (glm["quantize_vocab_size"], glm["d_model"])
    write_glm(glm, draw.state(shapes(linguist) | {"ema_count": book[:1], "ema_weight": book}), folder / "glm-4-voice-tokenizer")
    buffers = {"quantizer.cluster_size": (c["quantizer"]["codebook_size"],)}
    write_bicodec(codec, draw.state(shapes(acoustic) | buffers), folder / "BiCodec")
    _write_wav2vec2(folder / "BiCodec", size, draw)
    return vocab


def _write_lm(folder: Path, config: LMConfig, vocab: Vocab, draw: _Noise) -> None:
    """bfloat16; as published, eos_token_id is the padding, not the stop."""
    config = LMConfig(**{**vars(config), "vocab_size": vocab.size})
    raw = config.to_json(vocab.special(PAD), vocab.special(PAD), 32_768)
    del raw["torch_dtype"]
    raw |= {"dtype": "bfloat16", "auto_map": {"AutoModelForCausalLM": "modeling_qwen3.Qwen3ForCausalLM"}}
    (folder / "config.json").write_text(json.dumps(raw, indent=1) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"_from_model_config": True, "eos_token_id": raw["eos_token_id"]}) + "\n")
    with torch.device("meta"):
        wanted = shapes(LM(config))
    save_file(draw.state(wanted, torch.bfloat16), str(folder / WEIGHTS), {"format": "pt"})


def _write_wav2vec2(codec: Path, size: Size, draw: _Noise) -> None:
    numbers = _SIZES[size]
    raw = {**_WAV2VEC2, **numbers, "conv_dim": [512 if size == "full" else 16] * 7}
    normal = {"do_normalize": True, "feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16_000}
    folder = codec / WAV2VEC2
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw, indent=1) + "\n")
    for place in (codec, folder):
        (place / "preprocessor_config.json").write_text(json.dumps(normal, indent=1) + "\n")
    (codec / "config.json").write_text(json.dumps(raw, indent=1) + "\n")
    with unfilled():
        net = Wav2Vec2(Wav2Vec2Config.of(raw), (*STATES, numbers["num_hidden_layers"]))
    width = numbers["hidden_size"]
    more: dict[str, Sequence[int]] = {f"wav2vec2.encoder.layer_norm.{end}": (width,) for end in ("weight", "bias")}
    more |= {"wav2vec2.masked_spec_embed": (width,), "quantizer.codevectors": (1, 16, 8), "project_q.bias": (16,)}
    torch.save(draw.state(shapes(net) | more), folder / PICKLE)


class _Noise:
    """Random weights, cheaply: one block drawn once, read again and again from where the last tensor ended."""

    def __init__(self, seed: int, length: int = 1_000_003) -> None:
        self._block = torch.randn(length, generator=torch.Generator().manual_seed(seed))
        self._at = 0

    def state(self, wanted: Mapping[str, Sequence[int]], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Name -> tensor: matrices and kernels at the scale that keeps variance, norms and the like at rest."""
        return {name: self._tensor(name, tuple(shape)).to(dtype) for name, shape in wanted.items() if not name.endswith("tracked")}

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        rest = len(shape) < 2 or name.endswith(("weight_g", "alpha"))
        if rest:
            if name.endswith("weight_g"):  # below 1, or the wave generator saturates
                return torch.full(shape, 0.5)
            return torch.full(shape, float(name.endswith(("weight", "alpha", "gamma", "running_var"))))
        count = torch.Size(shape).numel()
        times = -(-(self._at + count) // len(self._block))
        drawn = self._block.repeat(times)[self._at : self._at + count].reshape(shape)
        self._at = (self._at + count) % len(self._block)
        scaled: Tensor = drawn * torch.Size(shape[1:]).numel() ** -0.5
        return scaled

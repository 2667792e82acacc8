"""Our nets against the reference's numbers (tests/golden/README.md): codes equal, floats within the reference's own noise."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch import Tensor

from gpa.audio import as_wav
from gpa.audio.mel import mel_filters
from gpa.nets.bicodec import BiCodec
from gpa.nets.export import export_bicodec, export_glm, wav2vec2_job
from gpa.nets.folders import WAV2VEC2, read_bicodec, read_glm, read_wav2vec2
from gpa.nets.mel import BiCodecMel, WhisperMel
from gpa.nets.net import load_net
from gpa.nets.wav2vec2 import Wav2Vec2, normed
from gpa.nets.whisper import WhisperVQ
from gpa.tokenizers import volume
from gpa.tokenizers.bicodec import BiCodec as Codec
from gpa.tokenizers.glm import GLMTokenizer

GOLDEN = Path(__file__).parent / "golden"
RULES = json.loads((GOLDEN / "reference_clip/rules.json").read_text())
GLM_LENGTHS = ("len1", "len1279", "len1280", "len1281", "len14000", "len48000", "len70001", "len96000")


@cache
def io(name: str) -> dict[str, Tensor]:
    return load_file(str(GOLDEN / f"{name}.safetensors"))


@cache
def codec() -> BiCodec:
    return read_bicodec(GOLDEN / "bicodec_tiny")


@cache
def glm() -> WhisperVQ:
    return read_glm(GOLDEN / "glm_tiny")


@cache
def wav2vec2() -> Wav2Vec2:
    return read_wav2vec2(GOLDEN / "wav2vec2_tiny")


def close(ours: Tensor | np.ndarray, theirs: Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(torch.as_tensor(ours), theirs, atol=atol, rtol=1e-5)


def clip(case: str) -> Tensor:
    b = io("bicodec_tiny/io")
    return b[f"{case}/ref_wav"] if f"{case}/ref_wav" in b else b[f"{case}/ref_wav_int16"][None].float() / 32768


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden tokenizers as ONNX, in the layout of a checkpoint."""
    folder = tmp_path_factory.mktemp("golden")
    for part, config in (("bicodec_tiny", "config.yaml"), ("glm_tiny", "config.json")):
        (folder / part).mkdir()
        (folder / part / config).write_text((GOLDEN / part / config).read_text())
    export_bicodec(codec(), folder / "bicodec_tiny")
    export_glm(glm(), folder / "glm_tiny")
    wav2vec2_job(wav2vec2()).write(folder / "bicodec_tiny" / WAV2VEC2)
    return folder


@torch.inference_mode()
def test_mels() -> None:
    m = io("mel/io")
    wav = m["wav_int16"].float()[None] / 32768
    close(WhisperMel(128)(F.pad(wav, (0, -wav.shape[1] % 1280)))[0], m["whisper_log_mel"])
    close(WhisperMel(128)(F.pad(wav[:, :47001], (0, -47001 % 1280)))[0], m["whisper_log_mel_len47001"])
    close(torch.from_numpy(mel_filters(16_000, 400, 128, 0, 8000)).T, m["whisper_mel_filters"])
    close(codec().mel_transformer(wav)[0], m["bicodec_mel"])
    close(codec().mel_transformer.filters.T, io("bicodec_tiny/io")["mel/filterbank"])
    assert isinstance(codec().mel_transformer, BiCodecMel)


@pytest.mark.parametrize("case", ["a", "b", "c"])
@torch.inference_mode()
def test_bicodec_encodes_and_decodes(case: str) -> None:
    g = {name.split("/")[1]: value for name, value in io("bicodec_tiny/io").items() if name.startswith(f"{case}/")}
    net, speaker = codec(), codec().speaker_encoder
    z = net.encoder(g["feat"])
    close(z.mT, g["z"])
    close(net.quantizer.latents(z).mT, g["z_e"])
    assert torch.equal(net.tokenize(g["feat"]), g["semantic_codes"])
    close(net.quantizer.decode(g["semantic_codes"]).mT, g["z_q"])
    mel = net.mel_transformer(clip(case))
    close(mel, g["mel"])
    features = speaker.speaker_encoder.features(mel.mT)
    close(speaker.speaker_encoder.x_vector(features), g["x_vector"])
    close(speaker.quantizer.bound(speaker.perceiver_sampler(features.mT)), g["fsq_bounded"])
    voice = net.tokenize_voice(clip(case))
    assert torch.equal(voice, g["global_codes"][:, 0].long())
    d_vector = speaker.decode(voice)
    close(d_vector, g["d_vector_from_codes"])
    hidden = net.prenet(g["z_q"].mT, d_vector)
    close(hidden.mT, g["prenet_out"])
    close(net.postnet(hidden).mT, g["postnet_out"])
    close(net.detokenize(g["semantic_codes"], voice), g["wav"], 1e-5)


@pytest.mark.parametrize("case", ["dec1", "dec2", "dec3", "dec160", "dec5b2"])
@torch.inference_mode()
def test_bicodec_decodes_any_length(case: str) -> None:
    g = io("bicodec_tiny/io")
    close(codec().detokenize(g[f"{case}/semantic_codes"], g[f"{case}/global_codes"][:, 0]), g[f"{case}/wav"], 1e-5)


@torch.inference_mode()
def test_layer_norm_epsilon() -> None:
    g, net = io("bicodec_tiny/io"), codec()
    close(net.encoder(g["eps/feat"]).mT, g["eps/z"])
    close(net.prenet(g["eps/prenet_in"].mT, g["eps/d_vector"]).mT, g["eps/prenet_out"])
    close(net.postnet(g["eps/postnet_in"].mT).mT, g["eps/postnet_out"])
    close(net.prenet.vocos_backbone.norm(g["eps/ada_in"], g["eps/d_vector"]), g["eps/ada_out"])


def test_exported_bicodec(exported: Path) -> None:
    g = io("bicodec_tiny/io")
    tokenizer = Codec(exported / "bicodec_tiny", threads=1)
    for case in "ac":
        assert np.array_equal(tokenizer.encode(g[f"{case}/feat"][0].numpy()), g[f"{case}/semantic_codes"][0])
        codes = load_net(exported / "bicodec_tiny" / "speaker.onnx", 1)(wav=clip(case).numpy())["voice"]
        assert np.array_equal(codes, g[f"{case}/global_codes"][:, 0])
    for case in ("a", "c", "dec1", "dec2", "dec3", "dec160"):
        wav = tokenizer.decode(g[f"{case}/semantic_codes"][0].tolist(), g[f"{case}/global_codes"][0, 0].tolist())
        close(wav, g[f"{case}/wav"][0, 0], 1e-5)


def unconverted(folder: Path) -> Path:
    """The golden codec in the published layout, no exports: torch runs it."""
    shutil.copytree(GOLDEN / "bicodec_tiny", folder, ignore=shutil.ignore_patterns("io.*", "e2e.*"))
    shutil.copytree(GOLDEN / "wav2vec2_tiny", folder / WAV2VEC2, ignore=shutil.ignore_patterns("io.*"))
    return folder


@pytest.mark.parametrize("make", ["exported", "in_torch"])
def test_a_wave_through_the_whole_codec(make: str, exported: Path, tmp_path: Path) -> None:
    g = io("bicodec_tiny/e2e")
    tokenizer = Codec(exported / "bicodec_tiny" if make == "exported" else unconverted(tmp_path / "codec"), threads=1)
    for seconds in (0.5, 1.3, 2.5, 6.5):
        start, stop = g[f"clip{seconds}s/slice"].tolist()
        wav = g["source_int16"][start:stop].numpy().astype(np.float32) / 32768
        codes, voice = tokenizer.encode(wav), tokenizer.voice(wav)
        assert np.array_equal(codes, g[f"clip{seconds}s/semantic_codes"][0])
        assert np.array_equal(voice, g[f"clip{seconds}s/global_codes"][0, 0])
        if seconds < 6:
            close(tokenizer.decode(codes.tolist(), voice.tolist()), g[f"clip{seconds}s/wav"][0], 1e-5)


@torch.inference_mode()
def test_wav2vec2() -> None:
    g, net = io("wav2vec2_tiny/io"), wav2vec2()
    case = {name.split("/")[1]: value for name, value in g.items() if name.startswith("len16000/")}
    wav = normed(case["wav"][None])
    close(wav, case["input_values"])
    body = net.wav2vec2
    close(body.feature_extractor(wav), case["conv_features"])
    close(body.feature_projection(case["conv_features"]), case["projected"])
    close(body.encoder.pos_conv_embed(case["projected"]), case["pos_conv"])
    states = net.hidden_states(wav)
    assert len(states) == 17  # layers 17 .. 24 of the published net are never computed
    for k in (0, 1, 11, 14, 16):
        close(states[k], case[f"hidden{k}"])
    for samples in (400, 8123, 16_000, 20_837):
        close(net(g[f"len{samples}/wav"][None]), g[f"len{samples}/mix"])
    close(net.mix(g["batch_gpa/input_values"]), g["batch_gpa/mix"])  # what padding does to a batch: docs/compatibility.md


def test_exported_wav2vec2(exported: Path) -> None:
    g, net = io("wav2vec2_tiny/io"), load_net(exported / "bicodec_tiny" / WAV2VEC2 / "model.onnx", 1)
    for samples in (400, 8123, 16_000, 20_837):
        close(net(wav=g[f"len{samples}/wav"][None].numpy())["features"], g[f"len{samples}/mix"])


@pytest.mark.parametrize("case", ["loud_clip", "normal", "peaky", "quiet", "silence", "very_quiet"])
def test_published_volume(case: str) -> None:
    g = io("reference_clip/io")
    wav = g[f"volume/{case}/in_int16"].numpy().astype(np.float32) / 32768
    close(volume.quantile(wav), g[f"volume/{case}/out"], 1e-6)


def test_the_volume_of_clips_that_are_no_files() -> None:
    g = io("reference_clip/io")
    close(volume.peak(g["volume/normal/in_int16"].numpy().astype(np.float32) / 32768), g["volume/normal/out_tensor_rule"], 1e-6)
    close(volume.peak(g["volume/stereo/in"].numpy().mean(0)), g["volume/stereo/out_tensor_rule"], 1e-6)


def test_resampling() -> None:
    g = io("reference_clip/io")
    wav = g["resample24k/in_int16"].numpy().astype(np.float32) / 32768
    close(as_wav(wav, 24_000, 16_000), g["resample24k/out"], 1e-6)


@pytest.mark.parametrize(("name", "rule"), [(n, r) for n, r in RULES.items() if isinstance(r, dict)])
def test_reference_lengths(name: str, rule: dict[str, float], tmp_path: Path) -> None:
    config = yaml.safe_load((GOLDEN / "bicodec_tiny/config.yaml").read_text())
    changes = {"ref_segment_duration": rule.get("ref_segment_duration", 6), "volume_normalize": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, **changes}))
    wav = np.arange(rule.get("samples_in", 7), dtype=np.float32)
    heard = Codec(tmp_path).reference(wav)
    assert np.array_equal(heard, wav[np.arange(rule["samples_out"]) % len(wav)]), name


def test_reference_clips_are_cut_and_repeated(exported: Path) -> None:
    g = io("reference_clip/io")
    tokenizer = Codec(exported / "bicodec_tiny")
    short = tokenizer.reference(g["clip/short/in_int16"].numpy().astype(np.float32) / 32768)
    assert len(short) == 96_000
    close(short[:20_800], g["clip/short/wav"], 1e-6)
    close(short[:21_000], g["clip/short/ref_first_21000"][0], 1e-6)
    whole = io("bicodec_tiny/io")["c/ref_wav_int16"].numpy()
    louder = np.clip(2 * whole[:20_000].astype(np.int32), -32768, 32767).astype(np.int16)
    long = tokenizer.reference(np.concatenate([whole, louder]).astype(np.float32) / 32768)
    assert len(long) == 96_000
    close(long[:2000], g["clip/long/ref_0_2000"][0], 1e-6)
    close(long[94_000:], g["clip/long/ref_94000_96000"][0], 1e-6)


def wave(case: str) -> Tensor:
    g = io("glm_tiny/io")
    start, stop = g[f"{case}/slice"].tolist()
    return g["wav_int16"][None, start:stop].float() / 32768


@pytest.mark.parametrize("case", GLM_LENGTHS)
@torch.inference_mode()
def test_glm(case: str) -> None:
    g, wav = io("glm_tiny/io"), wave(case)
    mel = WhisperMel(128)(F.pad(wav, (0, -wav.shape[1] % 1280)))
    if f"{case}/input_features" in g:
        close(mel, g[f"{case}/input_features"])
    pooled = glm().pooled(glm().hidden_states(mel, g[f"{case}/attention_mask"][:, ::2].sum(1))[-1])
    close(pooled, g[f"{case}/before_vq"])
    assert torch.equal(glm().quantize(pooled), g[f"{case}/token_ids"])


@torch.inference_mode()
def test_glm_batch_is_masked() -> None:
    g = io("glm_tiny/io")
    lengths = g["batch/attention_mask"][:, ::2].sum(1)
    pooled = glm().pooled(glm().hidden_states(g["batch/input_features"], lengths)[-1])
    close(pooled, g["batch/before_vq"])
    assert torch.equal(glm()(g["batch/input_features"], lengths), g["batch/token_ids"])


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("no_block", {"quantize_causal_block_size": None}),
        ("block20", {"quantize_causal_block_size": 20}),
        ("causal_attention", {"encoder_causal_attention": True}),
        ("noncausal_conv", {"encoder_causal_convolution": False}),
        ("pool_max", {"pooling_type": "max"}),
    ],
)
@torch.inference_mode()
def test_glm_options(case: str, changes: dict[str, object], tmp_path: Path) -> None:
    g = io("glm_tiny/io_variants")
    config = json.loads((GOLDEN / "glm_tiny/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    shutil.copyfile(GOLDEN / "glm_tiny/model.safetensors", tmp_path / "model.safetensors")
    net = read_glm(tmp_path)
    pooled = net.pooled(net.hidden_states(g["input_features"], g["attention_mask"][:, ::2].sum(1))[-1])
    close(pooled, g[f"{case}/before_vq"])
    assert torch.equal(net.quantize(pooled), g[f"{case}/token_ids"])


def test_exported_glm(exported: Path) -> None:
    g = io("glm_tiny/io")
    tokenizer = GLMTokenizer(exported / "glm_tiny", threads=1)
    for case in GLM_LENGTHS:
        assert np.array_equal(tokenizer.encode(wave(case)[0].numpy()), g[f"{case}/kept_tokens"]), case
    long = np.tile(g["wav_int16"][:48_000].numpy().astype(np.float32) / 32768, 11)[:499_900]
    assert np.array_equal(tokenizer.encode(long), g["long/kept_tokens_split30s"])

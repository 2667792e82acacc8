"""Exported tokenizer nets equal their torch twins; what the folders and the compression must keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from gpa.errors import CheckpointError
from gpa.nets.bicodec import BiCodec
from gpa.nets.compress import KERNEL, compress, quantize
from gpa.nets.export import export_bicodec, export_glm
from gpa.nets.fake import tiny_bicodec, tiny_glm
from gpa.nets.folders import read_bicodec, read_glm, write_bicodec, write_glm
from gpa.nets.mel import WhisperMel
from gpa.nets.net import data_file, load_net, size
from gpa.nets.source_filter import Rows, SourceFilter, smoothed
from gpa.nets.vocos import SamplingBlock, VocosBackbone
from gpa.nets.weight_norm import multiplied_out
from gpa.nets.whisper import WhisperVQConfig
from gpa.training.features import TAIL

FLAVOURS = ("nano", "published")


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param}_checkpoint")


def speech(samples: int, seed: int = 0) -> np.ndarray:
    """Something with pitch, pauses and noise."""
    t = np.arange(samples) / 16_000
    voice = sum(np.sin(2 * np.pi * 130 * k * t) / k for k in range(1, 20)) * (np.sin(2 * np.pi * 1.5 * t) > -0.2)
    return (0.05 * voice + 1e-3 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def close(ours: np.ndarray, theirs: torch.Tensor, atol: float = 1e-4) -> None:
    np.testing.assert_allclose(ours, theirs.numpy(), atol=atol, rtol=1e-4)


def test_smoothing_cancels_what_alternates_between_rows_and_keeps_what_stays() -> None:
    steady, alternating = torch.randn(2, 1, 5), torch.randn(2, 1, 5) * torch.tensor([1.0, -1.0] * 4)[:, None]
    rows = steady + alternating
    torch.testing.assert_close(smoothed(rows, 0.5)[:, 1:], steady.expand(-1, 7, -1))
    assert torch.equal(smoothed(rows, 0.5)[:, 0], rows[:, 0])
    assert torch.equal(smoothed(rows[:, :1], 0.5), rows[:, :1])
    assert torch.equal(smoothed(rows, 0.0), rows)
    with pytest.raises(CheckpointError, match=r"smoothing is 1\.5 \(legal: from 0"):
        SourceFilter(8, 8, 8, 1, smoothing=1.5)


@pytest.mark.parametrize("checkpoint", FLAVOURS, indirect=True)
@pytest.mark.parametrize("samples", [1280, 20_001])
@torch.inference_mode()
def test_exported_glm_equals_torch(checkpoint: Path, samples: int) -> None:
    folder = checkpoint / "glm-4-voice-tokenizer"
    net, wav = read_glm(folder), speech(samples)
    padded = torch.from_numpy(np.pad(wav, (0, -samples % 1280 + net.config.tail_frames * 320)))[None]
    lengths = torch.tensor([padded.shape[1] // 320 if net.config.tail_frames else -(-samples // 320)])
    codes = -(-samples // 1280)
    states = [x[:, : 4 * codes] for x in net.hidden_states(WhisperMel(net.config.num_mel_bins)(padded), lengths)]
    out = load_net(folder / "model.onnx", 1)(wav=wav[None])
    assert np.array_equal(out["codes"], net.quantize(net.pooled(states[-1])))
    assert out["codes"].shape == (1, codes)
    assert ("features" in out) == (net.config.tail_frames > 0)
    if "features" in out:
        close(out["features"], torch.cat(states, -1))


@pytest.mark.parametrize("checkpoint", FLAVOURS, indirect=True)
@torch.inference_mode()
def test_exported_bicodec_equals_torch(checkpoint: Path) -> None:
    codec = read_bicodec(checkpoint / "BiCodec")
    nets = {name: load_net(checkpoint / "BiCodec" / f"{name}.onnx", 1) for name in nets_of(checkpoint)}
    draw = np.random.default_rng(1)
    for frames in (2, 62):
        features = draw.standard_normal((1, frames, codec.encoder.encoder.embed.in_channels), np.float32)
        assert np.array_equal(nets["encoder"](features=features)["codes"], codec.tokenize(torch.from_numpy(features)))
    clip = speech(32_000)[None]
    voice = nets["speaker"](wav=clip)["voice"]
    assert np.array_equal(voice, codec.tokenize_voice(torch.from_numpy(clip)))
    for count in (1, 37):
        codes = draw.integers(0, 128, (1, count))
        theirs = codec.detokenize(torch.from_numpy(codes), torch.from_numpy(voice))
        if isinstance(theirs, Rows):
            ours = nets["decoder"](codes=codes, voice=voice, skip=np.zeros(2))
            close(ours["f0"], theirs.f0, 0.01)  # Hz
            for name in ("voiced", "harmonic", "phase", "noise"):
                close(ours[name], getattr(theirs, name))
        else:
            whole = {"ends": np.ones(2), "past": np.zeros((1, 0))}
            frames = nets["prenet"](codes=codes, voice=voice, **whole)["frames"]
            close(nets["decoder"](frames=frames, **whole)["wav"], theirs[:, 0])


def nets_of(checkpoint: Path) -> list[str]:
    """The exports of a BiCodec."""
    return sorted(path.stem for path in (checkpoint / "BiCodec").glob("*.onnx"))


@pytest.mark.parametrize("checkpoint", FLAVOURS, indirect=True)
def test_initialisers_keep_the_state_dict_names(checkpoint: Path) -> None:
    """A checkpoint that ships only ONNX can still be fine-tuned; kernels of a wave generator are multiplied out."""
    for part, file, net in (
        ("glm-4-voice-tokenizer", "model", read_glm(checkpoint / "glm-4-voice-tokenizer")),
        *(("BiCodec", file, read_bicodec(checkpoint / "BiCodec")) for file in nets_of(checkpoint)),
    ):
        state = net.state_dict()
        model = onnx.load(str(checkpoint / part / f"{file}.onnx"))
        held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        ours = {name: value for name, value in held.items() if not name.startswith("fourier.") and not name.endswith(KERNEL)}
        assert ours.keys() <= state.keys()
        assert len(ours) > 15
        for name, value in ours.items():
            assert np.array_equal(value, state[name]), name


@pytest.mark.parametrize(("precision", "smaller", "error"), [("f16", 0.6, 1e-3), ("int8", 0.45, 2e-2)])
@torch.inference_mode()
def test_compressed_weights(precision: Any, smaller: float, error: float, tmp_path: Path) -> None:
    config = tiny_bicodec("nano")
    config["audio_tokenizer"]["encoder"].update(vocos_dim=96, vocos_intermediate_dim=384)  # so that weights fill the file
    torch.manual_seed(0)
    codec = BiCodec(config).eval()
    features = np.random.default_rng(0).standard_normal((1, 40, 64), np.float32)
    rows, sizes, codes = {}, {}, {}
    for kind in ("f32", precision):
        export_bicodec(codec, tmp_path / kind, kind)
        sizes[kind] = (tmp_path / kind / "encoder.onnx").stat().st_size
        codes[kind] = load_net(tmp_path / kind / "encoder.onnx", 1)(features=features)["codes"]
        rows[kind] = load_net(tmp_path / kind / "decoder.onnx", 1)(codes=np.arange(30)[None], voice=np.arange(4)[None], skip=np.zeros(2))
        load_net(tmp_path / kind / "speaker.onnx", 1)(wav=speech(8000)[None])
    assert sizes[precision] < smaller * sizes["f32"]
    assert np.mean(codes[precision] == codes["f32"]) > 0.8  # random nets sit near their borders
    steady = (rows["f32"]["voiced"] > 0) == (rows[precision]["voiced"] > 0)
    assert steady.mean() > 0.9
    for name in ("harmonic", "noise", "voiced"):
        assert np.sqrt(np.mean((rows[precision][name] - rows["f32"][name]) ** 2)) < error


def test_int8_rows() -> None:
    matrix = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32) * np.arange(8)[:, None].astype(np.float32)
    for axis in (0, 1):
        codes, scale = quantize(matrix, axis)
        back = codes * (scale[:, None] if axis == 0 else scale)
        assert codes.dtype == np.int8
        assert scale.shape == (matrix.shape[axis],)
        assert (np.abs(back - matrix) <= np.expand_dims(scale, 1 - axis) / 2 + 1e-6).all()


def test_products_of_constants_stay_whole() -> None:
    """OpenVINO 2026.4 cannot fold a product of constants from int8, and need not."""
    helper, arrays = onnx.helper, onnx.numpy_helper
    weight = np.ones((64, 64), np.float32)
    held = [arrays.from_array(weight, name) for name in ("latents", "fixed", "free")]
    nodes = [helper.make_node("MatMul", ["latents", "fixed"], ["q"]), helper.make_node("MatMul", ["x", "free"], ["y"])]
    nodes.append(helper.make_node("Add", ["q", "y"], ["out"]))
    ports = [helper.make_tensor_value_info(name, 1, [64, 64]) for name in ("x", "out")]
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], held), opset_imports=[helper.make_opsetid("", 17)])
    compress(model, "int8")
    kept = {t.name: t.data_type for t in model.graph.initializer}
    assert kept["free"] == onnx.TensorProto.INT8
    assert kept["fixed"] == kept["latents"] == onnx.TensorProto.FLOAT16


def test_weights_of_a_large_net_stand_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And are mapped; the net is the same, and a smaller one written in its place leaves none behind."""
    torch.manual_seed(0)
    codec = BiCodec(tiny_bicodec("nano")).eval()
    features = np.random.default_rng(0).standard_normal((1, 40, 64), np.float32)
    small, large = tmp_path / "small" / "encoder.onnx", tmp_path / "large" / "encoder.onnx"
    export_bicodec(codec, small.parent)
    monkeypatch.setattr("gpa.nets.compress.LARGE", 0)
    export_bicodec(codec, large.parent)
    assert data_file(large).stat().st_size > 0.5 * size(large)
    assert large.stat().st_size < small.stat().st_size / 2
    assert not data_file(small).exists()
    net = load_net(large, 1)
    for _ in range(2):  # the pages are given back after the first
        assert np.array_equal(net(features=features)["codes"], load_net(small, 1)(features=features)["codes"])
    if Path("/proc/self/maps").is_file():
        assert str(data_file(large)) in Path("/proc/self/maps").read_text()
    monkeypatch.undo()
    export_bicodec(codec, large.parent)
    assert not data_file(large).exists()


def test_a_net_that_is_seldom_called_gives_its_memory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every call, and computes the same ever after."""
    monkeypatch.setattr("gpa.nets.compress.LARGE", 0)
    torch.manual_seed(0)
    export_bicodec(BiCodec(tiny_bicodec("nano")).eval(), tmp_path)
    path, rng = tmp_path / "encoder.onnx", np.random.default_rng(0)
    seldom, other = load_net(path, 1, seldom=True), load_net(path, 1)
    for length in (40, 40, 24, 64):
        features = rng.standard_normal((1, length, 64), np.float32)
        assert np.array_equal(seldom(features=features)["codes"], other(features=features)["codes"])


def test_kernels_of_a_wave_generator_are_multiplied_out_once(tmp_path: Path) -> None:
    """In the export alone; there they are float32, whatever else is stored in less."""
    torch.manual_seed(0)
    codec = BiCodec(tiny_bicodec("published")).eval()
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    frames = torch.randn(1, codec.config["audio_tokenizer"]["decoder"]["input_channel"], 9)
    plain = multiplied_out(codec.decoder)
    assert torch.equal(plain(frames), codec.decoder(frames))
    assert not [name for name in plain.state_dict() if name.endswith(("weight_g", "weight_v"))]
    export_bicodec(codec, tmp_path, "int8")
    stored = {tensor.name: tensor for tensor in onnx.load(str(tmp_path / "decoder.onnx")).graph.initializer}
    kernels = {name: tensor for name, tensor in stored.items() if name.endswith(".kernel")}
    assert kernels.keys() == {name for name in (f"decoder.{key}" for key in plain.state_dict()) if name.endswith(".kernel")}
    assert {tensor.data_type for tensor in kernels.values()} == {onnx.TensorProto.FLOAT}
    assert codec.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())


def test_published_codes_of_any_length_stay_as_they_are(tmp_path: Path) -> None:
    state = BiCodec(tiny_bicodec("nano")).state_dict()
    name = "quantizer.codebook.weight"
    write_bicodec(tiny_bicodec("nano"), state, tmp_path)
    assert torch.equal(read_bicodec(tmp_path).state_dict()[name], state[name])


def test_half_precision_folders(nano_checkpoint: Path, tmp_path: Path) -> None:
    net = read_glm(nano_checkpoint / "glm-4-voice-tokenizer")
    write_glm(tiny_glm("nano"), {name: value.half() for name, value in net.state_dict().items()}, tmp_path)
    again = read_glm(tmp_path)
    assert all(value.dtype == torch.float32 for value in again.state_dict().values())
    torch.testing.assert_close(again.state_dict()["conv1.weight"], net.state_dict()["conv1.weight"], atol=1e-3, rtol=1e-3)


def test_folders_that_do_not_fit(nano_checkpoint: Path, tmp_path: Path) -> None:
    write_glm(tiny_glm("nano"), {}, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        read_glm(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        read_glm(tmp_path / "nowhere")
    state = read_glm(nano_checkpoint / "glm-4-voice-tokenizer").state_dict()
    write_glm({**tiny_glm("nano"), "d_model": 64}, state, tmp_path)
    with pytest.raises(CheckpointError, match="does not fit the config"):
        read_glm(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"quantize_causal_encoder": True}, {"pooling_position": 1}, {"pooling_kernel_size": None}],
)
def test_glm_options_that_are_not_built(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        WhisperVQConfig.of({**tiny_glm("published"), **changes})


def test_glm_config_without_a_size() -> None:
    raw = tiny_glm("published")
    del raw["d_model"]
    with pytest.raises(CheckpointError, match="d_model"):
        WhisperVQConfig.of(raw)


def test_the_exported_tail_is_that_of_training() -> None:
    assert tiny_glm("nano")["tail_frames"] == TAIL


@pytest.mark.parametrize(("layers", "lookahead"), [(2, None), (3, 0), (3, 4), (1, 5)])
def test_backbones_see_what_they_say(layers: int, lookahead: int | None) -> None:
    torch.manual_seed(0)
    net = VocosBackbone(4, 8, 16, layers, lookahead=lookahead).double().eval()
    left, right = net.context
    assert left + right == 6 * (layers + 1)
    assert right == (3 * (layers + 1) if lookahead is None else lookahead)
    x = torch.randn(1, 80, 4, dtype=torch.double, requires_grad=True)
    (net(x)[0, 40] * torch.arange(8)).sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(1).nonzero()[:, 0]
    assert (int(seen.min()), int(seen.max())) == (40 - left, 40 + right)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_sampling_block_lengths(factor: int) -> None:
    x = torch.randn(1, 12, 6)
    assert SamplingBlock(6, upsample=factor)(x).shape == (1, 12 * factor, 6)
    assert SamplingBlock(6, downsample=factor)(x).shape == (1, 12 // factor, 6)
    assert torch.equal(SamplingBlock(6)(x), 3 * x)


def test_sampling_block_repeats_frames() -> None:
    block = SamplingBlock(2, upsample=2)
    for p in block.parameters():
        nn.init.zeros_(p)
    x = torch.randn(1, 5, 2)
    torch.testing.assert_close(block(x), 3 * x.repeat_interleave(2, 1))


def test_glm_without_features_has_one_output(tmp_path: Path) -> None:
    from gpa.nets.whisper import WhisperVQ

    net = WhisperVQ(WhisperVQConfig.of(tiny_glm("nano"))).eval()
    path = export_glm(net, tmp_path)
    assert list(load_net(path, 1)(wav=speech(1280)[None])) == ["codes"]

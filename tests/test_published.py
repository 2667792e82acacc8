"""A folder in the published layout, tiny and random: it runs as it is, it converts, it refuses every damage in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpa
from gpa import audio, prompt
from gpa.errors import CheckpointError, GPAError

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from gpa.convert import convert  # noqa: E402
from gpa.nets.fake_published import write_published_checkpoint  # noqa: E402
from gpa.nets.net import OpenVINONet, _core  # noqa: E402
from gpa.tokenizers import volume  # noqa: E402

CLIP = Path(__file__).parent / "data" / "speech.opus"
W2V = "BiCodec/wav2vec2-large-xlsr-53"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "GPA"
    write_published_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def converted(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "GPA"
    for written in convert(published, out, "f32", "f32"):
        assert not written.note or "100.0%" in written.note or "within" in written.note
    assert written.note.startswith("64 of 64 greedy ids are torch's")  # the language model comes last
    return out


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return audio.decode(CLIP, 16_000)[:24_000]


def test_it_speaks_hears_and_converts(published: Path, converted: Path, clip: np.ndarray) -> None:
    """Exports with the default engine, and the folder as it is in torch: the same codes, and greedy ids too."""
    assert not list(converted.rglob("*.safetensors"))
    assert not list(converted.rglob("*.bin")) or [path.name for path in converted.rglob("*.bin")] == ["openvino_model.bin"]
    assert not list(published.rglob("*.onnx"))
    results: list[list[Any]] = []
    greedy = gpa.Sampling()
    for folder, engine in ((converted, "openvino"), (published, "transformers")):
        if engine == "transformers":
            pytest.importorskip("transformers")
        with gpa.load(folder, engine) as model:
            voice = model.voice(clip)
            spoken = model.tts("Hello <|im_end|> there.", voice, sampling=greedy).wav
            swapped = model.vc(clip, voice, sampling=greedy).wav
            results.append([voice.codes, model.encode(clip), spoken, model.asr(clip).text, swapped])
    for ours, theirs in zip(*results, strict=True):
        if isinstance(ours, np.ndarray):
            assert len(ours) > 320
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        else:
            assert ours == theirs


def test_speech_may_be_decoded_in_bfloat16(published: Path, converted: Path, clip: np.ndarray, tmp_path: Path) -> None:
    """What is heard is rounded, what is chosen is not; a processor without bfloat16 decodes in float32."""
    rounded = tmp_path / "GPA"
    for _ in convert(published, rounded, "f32", "f32", decoder="bf16"):
        pass
    with gpa.load(converted) as exact, gpa.load(rounded) as fast:
        assert fast.encode(clip) == exact.encode(clip)
        voice, codes = fast.voice(clip).codes, exact.encode(clip)[1]
        assert voice == exact.voice(clip).codes
        known = isinstance(fast.bicodec.decoder, OpenVINONet) and fast.bicodec.decoder.computed
        assert known == ("bf16" if "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32")
        waves = [model.bicodec.decode(codes, voice) for model in (exact, fast)]
        assert ((waves[0] - waves[1]) ** 2).mean() < 1e-3 * (waves[0] ** 2).mean()  # 30 dB
        assert np.array_equal(*waves) == (known == "f32")
        stream = fast.bicodec.stream(voice)
        pieces = [stream.push([code]) for code in codes]
        streamed = np.concatenate([*pieces, stream.flush()])
        assert ((streamed - waves[1]) ** 2).mean() < 1e-3 * (waves[1] ** 2).mean()


def test_a_source_and_a_filter_stay_in_float32(tmp_path: Path) -> None:
    from gpa.nets.fake import write_random_checkpoint

    write_random_checkpoint(tmp_path / "tiny")
    with pytest.raises(CheckpointError, match=r"source and a filter.*\(legal: decoder f32\)"):
        list(convert(tmp_path / "tiny", tmp_path / "out", decoder="bf16"))
    assert not (tmp_path / "out").exists()


def test_a_pickle_becomes_safetensors_once(published: Path, tmp_path: Path) -> None:
    from gpa.nets.folders import convert_pickle, read_wav2vec2

    shutil.copytree(published / W2V, tmp_path / "net")
    before = read_wav2vec2(tmp_path / "net").state_dict()
    assert convert_pickle(tmp_path / "net") == tmp_path / "net" / "model.safetensors"
    (tmp_path / "net" / "pytorch_model.bin").unlink()
    assert convert_pickle(tmp_path / "net") is None
    after = read_wav2vec2(tmp_path / "net").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    later = {name.replace("weight_g", "parametrizations.weight.original0"): value for name, value in after.items()}
    later = {
        name.replace("weight_v", "parametrizations.weight.original1").removeprefix("wav2vec2."): value for name, value in later.items()
    }
    shutil.rmtree(tmp_path / "net")
    shutil.copytree(published / W2V, tmp_path / "net")
    torch.save(later, tmp_path / "net" / "pytorch_model.bin")  # as later releases of transformers name them
    assert torch.equal(
        read_wav2vec2(tmp_path / "net").state_dict()["wav2vec2.encoder.pos_conv_embed.conv.weight_g"],
        before["wav2vec2.encoder.pos_conv_embed.conv.weight_g"],
    )


class Code:
    """What a pickle may do when it is opened."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('the pickle ran')",)


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def weights(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        state = load_file(str(folder / name / "model.safetensors"))
        change(state)
        save_file(state, str(folder / name / "model.safetensors"))

    return damage


def pickled(content: object) -> Callable[[Path], object]:
    return lambda folder: torch.save(content, folder / W2V / "pytorch_model.bin")


def edited(name: str, **changes: object) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **changes}))


def replaced(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


GLM, CODEC = "glm-4-voice-tokenizer", "BiCodec"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"GPA/model\.safetensors is missing"),
        (lambda folder: (folder / W2V / "config.json").unlink(), r"xlsr-53/config\.json is missing"),
        (lambda folder: (folder / W2V / "pytorch_model.bin").unlink(), r"xlsr-53/model\.safetensors is missing"),
        (cut("model.safetensors"), r"GPA/model\.safetensors is cut short"),
        (cut(f"{GLM}/model.safetensors"), r"tokenizer/model\.safetensors is cut short"),
        (cut(f"{CODEC}/model.safetensors"), r"BiCodec/model\.safetensors is cut short"),
        (cut(f"{W2V}/pytorch_model.bin"), r"pytorch_model\.bin is damaged"),
        (weights("", lambda s: s.pop("model.norm.weight")), r"lacks model\.norm\.weight \(legal: all \d+ tensors"),
        (weights(GLM, lambda s: s.pop("conv1.bias")), r"lacks conv1\.bias"),
        (weights(CODEC, lambda s: s.update(more=torch.zeros(1))), "holds more, unknown to such a net"),
        (weights("", lambda s: s.update(more=torch.zeros(1), most=torch.zeros(1))), "holds mo.. and 1 more, unknown"),
        (weights(GLM, lambda s: s.update({"conv1.bias": torch.zeros(3)})), r"found conv1\.bias of shape \(3,\) \(legal: \(32,\)\)"),
        (weights("", lambda s: s.update({"model.norm.weight": torch.zeros(3)})), r"found model\.norm\.weight of shape \(3,\)"),
        (edited("config.json", vocab_size=400), r"config\.json: vocab_size is 400 \(legal: \d+ or more"),
        (edited("config.json", model_type="llama"), r"config\.json: found .*llama"),
        (edited(f"{GLM}/config.json", quantize_vocab_size=63), r"config\.json has 63 glm codes \(legal: 64"),
        (replaced(f"{CODEC}/config.yaml", "codebook_size: 128", "codebook_size: 64"), "has 64 bicodec_semantic codes .legal: 128"),
        (replaced(f"{CODEC}/config.yaml", "fsq_levels: [4, ", "fsq_levels: [2, "), "has 128 bicodec_global codes .legal: 256"),
        (replaced(f"{CODEC}/config.yaml", "audio_tokenizer", "tokenizer"), r"config\.yaml describes no net that can be built"),
        (edited(f"{GLM}/config.json", pooling_kernel_size=None), r"glm-4-voice-tokenizer/config\.json: .*pooling_kernel_size"),
        (edited(f"{W2V}/config.json", feat_extract_norm="group"), r"xlsr-53/config\.json: .*feat_extract_norm='group' \(legal: 'layer'\)"),
        (edited(f"{W2V}/config.json", num_hidden_layers=12), r"num_hidden_layers=12 \(legal: 16 or more\)"),
        (pickled({"weight": Code()}), "holds more than tensors and stays closed"),
        (pickled([torch.zeros(1)]), r"holds a list \(legal: a state dict"),
        (pickled({"wav2vec2.masked_spec_embed": torch.zeros(1)}), r"pytorch_model\.bin lacks wav2vec2\."),
        (replaced("tokenizer.json", "<|bicodec_global_9|>", "<|nine|>"), "bicodec_global tokens are not one consecutive range"),
        (replaced("tokenizer.json", "<|end_glm_token|>", "<|end|>"), r"tokenizer\.json: the tokenizer lacks <\|end_glm_token\|>"),
    ],
)
def test_damage_is_named(published: Path, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = tmp_path / "GPA"
    shutil.copytree(published, folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        list(_all_read(folder))


def _all_read(folder: Path) -> Any:
    """Everything that convert reads of a folder, nothing that it writes."""
    from gpa import hub
    from gpa.convert import _jobs
    from gpa.nets.folders import check_lm

    checkpoint = hub.resolve(folder)
    hub.checked_vocab(checkpoint)
    check_lm(folder)
    yield from _jobs(checkpoint)


def test_as_the_reference(converted: Path, clip: np.ndarray, tmp_path: Path) -> None:
    """What docs/compatibility.md says, one by one."""
    left = (0.3 * clip).astype(np.float32)
    _write_stereo(tmp_path / "clip.wav", left, np.zeros_like(left))
    with gpa.load(converted) as ours, gpa.load(converted, compat="reference") as theirs:
        file = str(tmp_path / "clip.wav")
        pcm = np.rint(left * 32768) / np.float32(32768)
        codec = theirs.bicodec
        assert theirs.voice(file).codes == tuple(codec.voice(pcm))  # first channel, the published volume rule
        assert ours.voice(file).codes == tuple(codec.voice(pcm / 2))  # the mean
        assert theirs.voice(clip).codes == tuple(codec.voice(clip, "peak"))  # no file: peak at 0.9
        assert ours.voice(clip).codes == tuple(codec.voice(clip))
        long = np.tile(clip, 21)  # 31.5 s
        glm, semantic = theirs.encode(long)
        assert (len(glm), len(semantic)) == (375, (len(long) - 400) // 320 + 1)
        assert len(list(theirs.stream_asr(clip))) == 1
        spoken = theirs.tts("Number 5. Again", theirs.voice(clip))
        assert abs(float(spoken.wav.mean())) < 1e-6
        assert len(spoken.wav) <= 512 * 320
    assert np.abs(volume.peak(left)).max() == pytest.approx(0.9)
    with pytest.raises(GPAError, match=r"compat is 'yes' \(legal: None, 'reference'\)"):
        gpa.load(converted, compat="yes")


def _write_stereo(path: Path, left: np.ndarray, right: np.ndarray) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.rint(np.stack([left, right], 1) * 32768).astype("<i2").tobytes())


def test_the_commands_take_compat(converted: Path, clip: np.ndarray, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from gpa.cli import app

    (tmp_path / "clip.wav").write_bytes(audio.encode(clip, 16_000, "wav"))
    words = [str(tmp_path / "clip.wav"), "--checkpoint", str(converted), "--json", "--compat"]
    heard = CliRunner().invoke(app, ["asr", *words, "reference"])
    assert heard.exit_code == 0, heard.output
    assert len(json.loads(heard.stdout)["segments"]) == 1
    refused = CliRunner().invoke(app, ["asr", *words, "yes"])
    assert refused.exit_code == 1
    assert "compat is 'yes'" in refused.output


def test_speech_goes_on_from_a_transcribed_clip(converted: Path, clip: np.ndarray, tmp_path: Path) -> None:
    with gpa.load(converted) as model:
        voice = model.voice(clip, "Looking through.")
        assert voice.semantic == tuple(model.encode(clip)[1])
        voice.save(tmp_path / "voice.json")
        assert gpa.Voice.load(tmp_path / "voice.json") == voice
        asked: list[Any] = []
        generate = model.engine.generate
        model.engine.generate = lambda prompt, sampling: asked.append(prompt) or generate(prompt, sampling)  # type: ignore[method-assign,func-returns-value]
        assert len(model.tts("Hello there.", voice).wav)
        legal = prompt.tts(model.vocab, voice.codes, "Hello there.", None, "Looking through.", voice.semantic)
        assert asked[0].context == legal.context

"""Weights out of exports: what comes back is what was exported, and exporting it again stores the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tasks
from gpa.errors import CheckpointError
from gpa.nets.export import export_bicodec, export_glm
from gpa.nets.export_lm import export_openvino
from gpa.nets.fake import tiny_bicodec, tiny_glm, write_random_checkpoint
from gpa.nets.folders import read_bicodec, read_glm, write_bicodec, write_glm
from gpa.nets.weights import Weights
from gpa.training.jobs import averaged
from gpa.training.restore import lm_weights, onnx_weights, restore
from gpa.vocab import Vocab

NETS = ("", "BiCodec", "glm-4-voice-tokenizer")
X_VECTOR = "speaker_encoder.speaker_encoder."
ANEW = ("postnet.", "mel_transformer.", *(X_VECTOR + part for part in ("pool.", "bn.", "linear.")), "quantizer.out_project.")


def exported(folder: Path, precision: str) -> Path:
    """A checkpoint of exports alone; its weights lie in `folder` / weights."""
    weights, exports = folder / "weights", folder / "exports"
    vocab = write_random_checkpoint(weights)
    _train(weights, precision)
    shutil.copytree(weights, exports)
    export_openvino(weights, exports, precision, tasks(vocab))
    for path in exports.rglob("model.safetensors"):
        path.unlink()
    return exports


def _train(folder: Path, precision: str) -> None:
    """No two tensors of trained nets are equal; of untrained ones the exporter keeps one where several are."""
    rng = torch.Generator().manual_seed(1)
    codec, glm = read_bicodec(folder / "BiCodec"), read_glm(folder / "glm-4-voice-tokenizer")
    for net in (codec, glm):
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.add_(0.05 * torch.rand(value.shape, generator=rng))
    write_bicodec(codec.config, codec.state_dict(), folder / "BiCodec")
    write_glm(tiny_glm("nano"), glm.state_dict(), folder / "glm-4-voice-tokenizer")
    export_bicodec(codec, folder / "BiCodec", precision)
    export_glm(glm, folder / "glm-4-voice-tokenizer", tiny_bicodec("nano")["feature_layers"], precision)


def started_anew(name: str, net: str) -> bool:
    return name.endswith("num_batches_tracked") or (name.startswith(ANEW[:-1]) if net == "BiCodec" else name.startswith(ANEW[-1:]))


@pytest.mark.parametrize(("precision", "rtol"), [("f32", 0), ("f16", 1e-3), ("int8", 0.5 / 127)])
def test_weights_come_back(tmp_path: Path, precision: str, rtol: float) -> None:
    exports = exported(tmp_path, precision)
    anew = restore(exports, tmp_path / "restored")
    assert anew
    assert all(name.startswith("postnet.") for name in anew)
    compared = 0
    for net in NETS:
        written, found = (Weights(tmp_path / side / net / "model.safetensors") for side in ("weights", "restored"))
        assert set(found) == set(written)
        for name in found:
            if not started_anew(name, net):
                largest = np.abs(written[name]).max(initial=0)
                np.testing.assert_allclose(found[name], written[name], rtol=0, atol=rtol * largest + 1e-7, err_msg=name)
                compared += 1
    assert compared > 100
    Vocab.load(tmp_path / "restored")


def test_exported_again_it_stores_the_same(tmp_path: Path) -> None:
    exports = exported(tmp_path, "int8")
    restore(exports, tmp_path / "restored")
    export_openvino(tmp_path / "restored", tmp_path / "again", "int8", tasks(Vocab.load(exports)))
    first, second = lm_weights(exports / "openvino_model.xml"), lm_weights(tmp_path / "again" / "openvino_model.xml")
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-6, err_msg=name)


def test_training_starts_from_a_checkpoint(tmp_path: Path) -> None:
    restore(exported(tmp_path, "f32"), tmp_path / "restored")
    lm = averaged(tmp_path / "restored")
    assert lm["model.norm.weight"].shape == (32,)
    assert any(name.startswith("encoder.") for name in averaged(tmp_path / "restored" / "BiCodec", "codec."))


def test_what_holds_too_little_is_refused(tmp_path: Path) -> None:
    exports = exported(tmp_path, "f32")
    export_openvino(tmp_path / "weights", exports, "int4", tasks(Vocab.load(exports)))
    with pytest.raises(CheckpointError, match="int4"):
        restore(exports, tmp_path / "restored")
    (exports / "openvino_model.xml").unlink()
    with pytest.raises(CheckpointError, match=r"openvino_model\.xml is missing"):
        lm_weights(exports / "openvino_model.xml")
    (exports / "BiCodec" / "encoder.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"encoder\.onnx"):
        onnx_weights(exports / "BiCodec" / "encoder.onnx")

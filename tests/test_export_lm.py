"""The exported language model: transformers' logits, heads that bar, weights and configs that are checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_suite import HIDDEN, tasks, write_checkpoint, write_safetensors
from gpa import prompt as prompts
from gpa.convert import convert_lm
from gpa.engines.base import Sampling
from gpa.engines.choose import open_engine
from gpa.engines.heads import Head, heads_of, merge
from gpa.errors import CheckpointError
from gpa.nets.export_gguf import export_gguf
from gpa.nets.export_lm import export_openvino, quantize_groups, quantize_rows
from gpa.nets.lm_config import LMConfig
from gpa.nets.weights import Weights
from gpa.prompt import Prompt


def plain_logits(path: Path, ids: np.ndarray, pieces: Sequence[int]) -> np.ndarray:
    """Run the exported graph as it stands, without the pipeline: (B, S) ids -> (B, S, vocab), fed in pieces."""
    import openvino as ov

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "KV_CACHE_PRECISION": "f32"}
    request = ov.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    out, start, batch = [], 0, len(ids)
    for end in np.cumsum(pieces):
        fed = {"input_ids": ids[:, start:end], "attention_mask": np.ones((batch, end), np.int64)}
        fed |= {"position_ids": np.tile(np.arange(start, end), (batch, 1)), "beam_idx": np.arange(batch, dtype=np.int32)}
        out.append(request.infer({**fed, "sampled_tokens_indices": np.arange(batch)})["logits"])
        start = end
    return np.concatenate(out, 1)


@pytest.mark.parametrize(
    ("tied", "precision", "atol"), [(True, "f32", 1e-4), (False, "f32", 1e-4), (True, "f16", 0.05), (True, "int8", 0.6)]
)
def test_exported_logits_are_transformers(tmp_path: Path, tied: bool, precision: str, atol: float) -> None:
    torch = pytest.importorskip("torch")
    qwen = pytest.importorskip("transformers").Qwen3ForCausalLM
    vocab = write_checkpoint(tmp_path, tied)
    fed = np.random.default_rng(1).integers(0, vocab.size, (3, 50))
    with torch.inference_mode():
        expected = qwen.from_pretrained(tmp_path, dtype=torch.float32)(torch.tensor(fed)).logits.numpy()
    found = plain_logits(export_openvino(tmp_path, tmp_path / precision, precision), fed, (30, 1, 19))
    assert expected.std() > 1
    np.testing.assert_allclose(found, expected, atol=atol)


def test_heads_bar_all_other_ids(tmp_path: Path) -> None:
    vocab = write_checkpoint(tmp_path)
    asr, tts, _ = tasks(vocab)
    path = export_openvino(tmp_path, tmp_path, "f32", tasks(vocab))
    letter, code = asr.allowed[0].start, tts.allowed[0].start
    fed = np.array([[asr.context[-1], letter, tts.context[-1], code]])
    finite = np.isfinite(plain_logits(path, fed, (4,)))[0]
    for row, prompt in zip(finite, (asr, asr, tts, tts), strict=True):
        assert set(np.flatnonzero(row)) == {*prompt.stop, *(id for r in prompt.allowed for id in r)}


def test_tasks_that_end_alike_need_the_same_ids(tmp_path: Path) -> None:
    asr, tts, vc = tasks(write_checkpoint(tmp_path))
    assert len(heads_of([asr, tts, vc])) == 2
    with pytest.raises(ValueError, match="end alike"):
        heads_of([asr, Prompt(asr.context, (), tts.stop, tts.allowed, range(0))])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9))), st.lists(st.integers(0, 60)))
def test_merged_ranges_hold_the_same_ids(spans: list[tuple[int, int]], singles: list[int]) -> None:
    ranges = [range(a, a + n) for a, n in spans]
    merged = merge([*ranges, *singles])
    assert [id for r in merged for id in r] == sorted({*singles, *(id for r in ranges for id in r)})
    assert all(a.stop < b.start for a, b in pairwise(merged))
    assert Head.from_json(json.loads(json.dumps(Head(merged, merged[:1]).to_json()))) == Head(merged, merged[:1])


@given(st.integers(1, 5), st.integers(1, 9), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_int8_rows_are_within_half_a_step(rows: int, columns: int, size: float, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(0, size, (rows, columns)).astype(np.float32)
    codes, scale = quantize_rows(matrix)
    assert np.all(np.abs(codes * scale - matrix) <= 0.501 * scale)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 130), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_int4_groups_are_within_a_step(rows: int, columns: int, size: float, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(0, size, (rows, columns)).astype(np.float32)
    codes, scale = quantize_groups(matrix)
    assert codes.min() >= -8
    assert codes.max() <= 7
    error = np.abs(codes * scale - matrix.reshape(codes.shape))
    assert np.all(error <= np.where(codes == 7, 1.001, 0.501) * np.abs(scale))


@pytest.mark.parametrize("engine", ["openvino", "llama"])
def test_fewer_bits_cost_more_but_not_much(tmp_path: Path, engine: str) -> None:
    if engine == "llama":
        pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'gpa[llama]'")
        pytest.importorskip("gguf", reason="gguf is not installed: pip install 'gpa[llama]'")
    vocab = write_checkpoint(tmp_path)
    tts = prompts.tts(vocab, range(8), "hello")
    found: dict[str, dict[int, float]] = {}
    for stored in ("f32", "f16", "int8", "int4"):
        convert_lm(tmp_path, tmp_path / stored, engine, stored)  # type: ignore[arg-type]
        opened = open_engine(tmp_path / stored, engine)
        drawn = [next(opened.generate(tts, Sampling(temperature=2.0, min_new_ids=1, seed=seed))) for seed in range(40)]
        found[stored] = {token.id: token.logprob for token in drawn}
        opened.close()
    error = {stored: max(abs(found["f32"][id] - found[stored][id]) for id in found["f32"].keys() & found[stored]) for stored in found}
    assert error["f16"] < 0.02 < error["int4"] < 3
    assert error["int8"] < 0.3


def test_a_gguf_holds_the_heads_as_weights(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    vocab = write_checkpoint(tmp_path)
    asr, tts, _ = tasks(vocab)
    path = convert_lm(tmp_path, tmp_path, "llama", "f32")
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    embedding, output = tensors["token_embd.weight"], tensors["output.weight"]
    for prompt in (asr, tts):
        flag = embedding[prompt.context[-1], HIDDEN:]
        assert np.count_nonzero(flag) == 1
        barred = output[:, HIDDEN:][:, flag > 0][:, 0] < 0
        assert set(np.flatnonzero(~barred)) == {*prompt.stop, *(id for r in prompt.allowed for id in r)}
    np.testing.assert_array_equal(output[: vocab.size, :HIDDEN], embedding[: vocab.size, :HIDDEN])


def test_more_heads_than_a_block_holds_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    vocab = write_checkpoint(tmp_path)
    many = [Prompt((i,), (), (), (range(i, i + 1),), range(0)) for i in range(33)]
    with pytest.raises(CheckpointError, match="33 heads"):
        export_gguf(tmp_path, tmp_path, "f32", many)
    assert vocab.size > 33


def test_rows_of_zeros_quantise_to_zeros() -> None:
    codes, scale = quantize_rows(np.zeros((2, 3), np.float32))
    assert not codes.any()
    assert np.isfinite(scale).all()


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "rtol"), [("F32", 0), ("F16", 1e-3), ("BF16", 1e-2)])
def test_weights_are_read_in_every_float(tmp_path: Path, dtype: str, rtol: float) -> None:
    value = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    write_safetensors(tmp_path / "w.safetensors", {"a": value, "b": value[0] + 1}, dtype)
    weights = Weights(tmp_path / "w.safetensors")
    assert sorted(weights) == ["a", "b"]
    assert "c" not in weights
    np.testing.assert_allclose(weights["a"], value, rtol=rtol)
    np.testing.assert_allclose(weights["b"], value[0] + 1, rtol=rtol)
    with pytest.raises(CheckpointError, match="lacks the tensor c"):
        weights["c"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-4], "cut short"),
        (lambda b: b[:20], "not a safetensors"),
        (lambda b: b"", "not a safetensors"),
        (lambda b: b"PK" * 40, "not a"),
    ],
)
def test_damaged_weights_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(path, {"a": np.ones((2, 2))})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        Weights(path)
    with pytest.raises(CheckpointError, match="is missing"):
        Weights(tmp_path / "none.safetensors")


@pytest.mark.parametrize(("change", "message"), [({"model_type": "llama"}, "legal: qwen3"), ({"head_dim": None}, "head_dim is missing")])
def test_a_config_of_another_net_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        LMConfig.load(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        LMConfig.load(tmp_path)


def test_heads_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    vocab = write_checkpoint(tmp_path)
    asr = tasks(vocab)[0]
    with pytest.raises(CheckpointError, match=f"has {vocab.size} ids"):
        export_openvino(tmp_path, tmp_path, "f32", [Prompt(asr.context, (), (vocab.size,), asr.allowed, range(0))])


def test_rope_theta_is_found_where_new_transformers_put_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    old = LMConfig.load(tmp_path)
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
    path.write_text(json.dumps(config))
    assert LMConfig.load(tmp_path) == old

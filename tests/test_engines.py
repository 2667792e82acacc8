"""Engines: one suite for all backends on one tiny random checkpoint, and what the OpenVINO export must hold."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpa import prompt as prompts
from gpa.engines.base import Engine, Sampling, Token
from gpa.engines.heads import Head, heads_of, merge
from gpa.engines.openvino import OpenVINOEngine
from gpa.errors import CheckpointError, EngineError, LimitError
from gpa.nets.export_lm import LMShape, export_openvino, quantize_rows
from gpa.nets.weights import Weights
from gpa.prompt import Prompt
from gpa.vocab import Vocab, write_character_tokenizer

HIDDEN, LAYERS, HEADS, KV_HEADS, DIM, FFN = 64, 2, 4, 2, 16, 96


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> None:
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<f4"}[dtype]
    blobs, table, start = [], {}, 0
    for name, value in tensors.items():
        blob = value.astype(kind)
        data = (blob.view("<u4") >> 16).astype("<u2").tobytes() if dtype == "BF16" else blob.tobytes()
        table[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [start, start + len(data)]}
        blobs.append(data)
        start += len(data)
    head = json.dumps({"__metadata__": {"format": "pt"}, **table}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(blobs))


def write_checkpoint(folder: Path, tied: bool = True, seed: int = 0) -> Vocab:
    """A Qwen3 checkpoint with random weights, sharp enough that greedy ids have a margin."""
    vocab = write_character_tokenizer(folder, glm=32, bicodec_global=16, bicodec_semantic=64)
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (vocab.size, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        shapes |= {name + f"self_attn.{x}_proj.weight": (n * DIM, HIDDEN) for x, n in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))}
        shapes |= {name + "self_attn.o_proj.weight": (HIDDEN, HEADS * DIM), name + "mlp.down_proj.weight": (HIDDEN, FFN)}
        shapes |= {name + f"mlp.{x}_proj.weight": (FFN, HIDDEN) for x in ("gate", "up")}
        shapes |= {name + f"self_attn.{x}_norm.weight": (DIM,) for x in "qk"}
        shapes |= {name + f"{x}_layernorm.weight": (HIDDEN,) for x in ("input", "post_attention")}
    if not tied:
        shapes["lm_head.weight"] = (vocab.size, HIDDEN)
    scale = {1: lambda s: 1 + rng.normal(0, 0.1, s), 2: lambda s: rng.normal(0, 1.5 * s[-1] ** -0.5, s)}
    write_safetensors(folder / "model.safetensors", {name: scale[len(shape)](shape) for name, shape in shapes.items()})
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": vocab.size, "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM,
        "intermediate_size": FFN, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "attention_bias": False,
        "tie_word_embeddings": tied, "max_position_embeddings": 2048,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return vocab


def tasks(vocab: Vocab) -> list[Prompt]:
    return [prompts.asr(vocab, [], []), prompts.tts(vocab, [], ""), prompts.vc(vocab, [], [])]


class Checkpoint(NamedTuple):
    folder: Path
    vocab: Vocab


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("checkpoint")
    vocab = write_checkpoint(folder)
    export_openvino(folder, folder, "f32", tasks(vocab))
    return Checkpoint(folder, vocab)


@pytest.fixture(scope="module")
def openvino(checkpoint: Checkpoint) -> Engine:
    return OpenVINOEngine(checkpoint.folder, cache_gb=0.01)


@pytest.fixture(scope="module")
def transformers(checkpoint: Checkpoint) -> Engine:
    pytest.importorskip("transformers")
    from gpa.engines.transformers import TransformersEngine

    return TransformersEngine(checkpoint.folder)


@pytest.fixture(params=["openvino", "transformers"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(request.param)


@pytest.fixture
def asr(checkpoint: Checkpoint) -> Prompt:
    return prompts.asr(checkpoint.vocab, range(20), range(0, 60, 3))


@pytest.fixture
def tts(checkpoint: Checkpoint) -> Prompt:
    return prompts.tts(checkpoint.vocab, range(8), "hello there, my friend")


def ids(tokens: Sequence[Token]) -> list[int]:
    return [token.id for token in tokens]


def run(engine: Engine, prompt: Prompt, **sampling: float) -> list[Token]:
    return list(engine.generate(prompt, Sampling(**{"max_new_ids": 40, **sampling})))  # type: ignore[arg-type]


# --- every engine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1.0, 1.2, 5.0])
@pytest.mark.parametrize("task", ["asr", "tts"])
def test_greedy_ids_and_logprobs_agree(
    openvino: Engine, transformers: Engine, request: pytest.FixtureRequest, task: str, penalty: float
) -> None:
    prompt = request.getfixturevalue(task)
    mine, theirs = (run(engine, prompt, repetition_penalty=penalty) for engine in (openvino, transformers))
    assert ids(mine) == ids(theirs)
    assert len(mine) > 3
    np.testing.assert_allclose([t.logprob for t in mine], [t.logprob for t in theirs], atol=1e-4)


def test_only_legal_ids_come_out(engine: Engine, asr: Prompt, tts: Prompt) -> None:
    for prompt in (asr, tts):
        found = {id for seed in range(5) for id in ids(run(engine, prompt, temperature=3.0, seed=seed))}
        assert len(found) > 10
        assert all(any(id in r for r in prompt.allowed) for id in found)


def test_a_stop_ends_and_is_not_yielded(engine: Engine, asr: Prompt) -> None:
    lengths = [len(run(engine, asr, temperature=5.0, seed=seed, max_new_ids=200)) for seed in range(4)]
    assert min(lengths) < 200  # at this temperature each step stops with a chance of about 2 in 37


def test_max_new_ids_is_exact(engine: Engine, tts: Prompt) -> None:
    assert [len(run(engine, tts, max_new_ids=n)) for n in (1, 2, 7)] == [1, 2, 7]


def test_the_penalty_bars_repetition(engine: Engine, tts: Prompt) -> None:
    plain, penalised = (run(engine, tts, repetition_penalty=p) for p in (1.0, 100.0))
    assert len(set(ids(penalised))) > len(set(ids(plain)))


def test_seeds_repeat_and_differ(engine: Engine, tts: Prompt) -> None:
    first, again, other = (ids(run(engine, tts, temperature=1.0, seed=seed)) for seed in (3, 3, 4))
    assert first == again != other


def test_filters_narrow_to_greedy(engine: Engine, tts: Prompt) -> None:
    greedy = ids(run(engine, tts, repetition_penalty=1.3))
    assert ids(run(engine, tts, repetition_penalty=1.3, temperature=2.0, top_k=1)) == greedy
    assert ids(run(engine, tts, repetition_penalty=1.3, temperature=2.0, top_p=1e-6)) == greedy


def test_draws_follow_the_filtered_distribution(engine: Engine, tts: Prompt) -> None:
    seen = [run(engine, tts, temperature=1.5, top_k=6, top_p=0.8, max_new_ids=1, seed=seed)[0] for seed in range(200)]
    logprobs = dict(seen)
    kept = {id: np.exp(lp / 1.5) for id, lp in logprobs.items()}
    total = sum(kept.values())
    assert 1 < len(kept) < 6
    for id, weight in kept.items():
        assert abs(ids(seen).count(id) / len(seen) - weight / total) < 0.12  # 3.5 standard deviations at most


def test_logprobs_ignore_temperature_and_penalty(engine: Engine, tts: Prompt) -> None:
    plain = run(engine, tts, max_new_ids=1)[0]
    bent = run(engine, tts, max_new_ids=1, temperature=0.3, top_k=1, repetition_penalty=1.0)[0]
    assert plain.logprob == pytest.approx(bent.logprob, abs=1e-5)
    assert plain.logprob < 0


def test_alone_or_among_others_the_same_ids(engine: Engine, asr: Prompt, tts: Prompt) -> None:
    plan = [(prompt, {"temperature": 1.0, "seed": seed, "repetition_penalty": 1.1}) for seed in range(4) for prompt in (asr, tts)]
    alone = [ids(run(engine, prompt, **sampling)) for prompt, sampling in plan]
    together: dict[int, list[int]] = {}

    def one(i: int) -> None:
        together[i] = ids(run(engine, plan[i][0], **plan[i][1]))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(plan))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [together[i] for i in range(len(plan))] == alone


def test_one_joins_while_another_is_read(engine: Engine, asr: Prompt, tts: Prompt) -> None:
    expected = ids(run(engine, tts)), ids(run(engine, asr))
    first = engine.generate(tts, Sampling(max_new_ids=40))
    begun = [next(first).id for _ in range(5)]
    joined = ids(run(engine, asr))
    assert (begun + ids(list(first)), joined) == expected


def test_closing_midway_leaves_the_others_alone(engine: Engine, asr: Prompt, tts: Prompt) -> None:
    expected = ids(run(engine, asr))
    left, kept = (engine.generate(p, Sampling(max_new_ids=40)) for p in (tts, asr))
    begun = [next(left).id, next(kept).id][1:]
    left.close()  # type: ignore[attr-defined]
    assert begun + ids(list(kept)) == expected
    engine.generate(tts, Sampling()).close()  # type: ignore[attr-defined]  # never begun


@pytest.mark.parametrize("context", [(), (10**6,), (-1,)])
def test_ids_beyond_the_vocabulary_are_refused(engine: Engine, tts: Prompt, context: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match="ids from 0 to"):
        engine.generate(Prompt(context, (), tts.stop, tts.allowed, range(0)), Sampling())


@pytest.mark.parametrize("make", ["openvino", "transformers"])
def test_a_closed_engine_says_so(checkpoint: Checkpoint, tts: Prompt, make: str) -> None:
    if make == "transformers":
        pytest.importorskip("transformers")
        from gpa.engines.transformers import TransformersEngine

        engine: Engine = TransformersEngine(checkpoint.folder)
    else:
        engine = OpenVINOEngine(checkpoint.folder)
    running = engine.generate(tts, Sampling())
    next(running)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        list(running)
    with pytest.raises(EngineError, match="closed"):
        list(engine.generate(tts, Sampling()))


# --- OpenVINO -------------------------------------------------------------------------------------------------------


def test_closing_frees_the_slot(checkpoint: Checkpoint, tts: Prompt) -> None:
    engine = OpenVINOEngine(checkpoint.folder, cache_gb=0.01)
    running = engine.generate(tts, Sampling())
    next(running)
    assert engine._pipeline.has_non_finished_requests()
    running.close()  # type: ignore[attr-defined]
    assert not engine._pipeline.has_non_finished_requests()


def test_a_small_cache_serves_many_in_turn(checkpoint: Checkpoint, openvino: Engine, asr: Prompt, tts: Prompt) -> None:
    engine = OpenVINOEngine(checkpoint.folder, cache_gb=0.0001)  # 6 blocks of 32 ids
    assert engine._capacity == 6 * 32
    expected = [ids(run(openvino, p, max_new_ids=100)) for p in (asr, tts)]
    running = [engine.generate(p, Sampling(max_new_ids=100)) for p in (asr, tts) * 3]
    first = [[next(r).id] for r in running]
    assert [head + ids(list(r)) for head, r in zip(first, running, strict=True)] == expected * 3
    with pytest.raises(LimitError, match="raise cache_gb"):
        engine.generate(tts, Sampling(max_new_ids=6 * 32))


def test_a_prompt_of_an_unknown_task_is_refused(openvino: Engine, asr: Prompt, tts: Prompt) -> None:
    for allowed, stop in ((asr.allowed, tts.stop), (tts.allowed, asr.stop), ((), tts.stop)):
        with pytest.raises(EngineError, match="exported to generate"):
            openvino.generate(Prompt(tts.context, (), stop, allowed, range(0)), Sampling())
    with pytest.raises(EngineError, match="no ids at all after id 2"):
        openvino.generate(Prompt((2,), (), tts.stop, tts.allowed, range(0)), Sampling())


def test_without_heads_every_id_may_come(tmp_path: Path) -> None:
    vocab = write_checkpoint(tmp_path)
    export_openvino(tmp_path, tmp_path, "f32")
    everything = Prompt((1, 2, 3), (), (), (range(vocab.size),), range(0))
    out = run(OpenVINOEngine(tmp_path, cache_gb=0.01), everything, temperature=1.0, max_new_ids=100)
    assert len(out) == 100
    assert len({id in vocab.glm.ids for id in ids(out)}) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_int8_ids_do_not_depend_on_the_batch(checkpoint: Checkpoint, tmp_path: Path, asr: Prompt, tts: Prompt, threads: int) -> None:
    export_openvino(checkpoint.folder, tmp_path, "int8", tasks(checkpoint.vocab))
    engine = OpenVINOEngine(tmp_path, threads=threads, cache_gb=0.01)
    alone = [run(engine, p, temperature=1.0, seed=seed) for p in (asr, tts) for seed in range(4)]
    running = [engine.generate(p, Sampling(temperature=1.0, seed=seed, max_new_ids=40)) for p in (asr, tts) for seed in range(4)]
    first = [[next(r)] for r in running]
    together = [head + list(r) for head, r in zip(first, running, strict=True)]
    assert [ids(x) for x in together] == [ids(x) for x in alone]
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose([t.logprob for t in a], [t.logprob for t in b], atol=1e-5 if threads == 1 else 1e-3)


def test_a_missing_or_damaged_export_says_what_to_do(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gpa convert"):
        OpenVINOEngine(tmp_path)
    path = export_openvino(checkpoint.folder, tmp_path, "f32", tasks(checkpoint.vocab))
    path.write_text("<net>")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        OpenVINOEngine(tmp_path)
    for text in ("{", "{}", "[]", '{"heads": [1]}'):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(CheckpointError, match="gpa convert"):
            OpenVINOEngine(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match="gpa convert"):
        OpenVINOEngine(tmp_path)


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


def test_heads_bar_all_other_ids(checkpoint: Checkpoint) -> None:
    asr, tts, _ = tasks(checkpoint.vocab)
    letter, code = asr.allowed[0].start, tts.allowed[0].start
    fed = np.array([[asr.context[-1], letter, tts.context[-1], code]])
    finite = np.isfinite(plain_logits(checkpoint.folder / "openvino_model.xml", fed, (4,)))[0]
    for row, prompt in zip(finite, (asr, asr, tts, tts), strict=True):
        assert set(np.flatnonzero(row)) == {*prompt.stop, *(id for r in prompt.allowed for id in r)}


def test_tasks_that_end_alike_need_the_same_ids(checkpoint: Checkpoint) -> None:
    asr, tts, vc = tasks(checkpoint.vocab)
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
        LMShape.load(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        LMShape.load(tmp_path)


def test_rope_theta_is_found_where_new_transformers_put_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    old = LMShape.load(tmp_path)
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
    path.write_text(json.dumps(config))
    assert LMShape.load(tmp_path) == old

"""Engines: one suite for all backends on one tiny random checkpoint, and what OpenVINO must hold beyond it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from engine_suite import tasks, write_checkpoint
from gpa import prompt as prompts
from gpa.engines.base import Engine, Sampling, Token
from gpa.engines.openvino import OpenVINOEngine
from gpa.engines.paged import BLOCK
from gpa.errors import CheckpointError, EngineError, LimitError
from gpa.nets.export_lm import export_openvino
from gpa.prompt import Prompt
from gpa.vocab import Vocab


class Checkpoint(NamedTuple):
    folder: Path
    vocab: Vocab


ENGINES = ["openvino", "transformers", "llama", pytest.param("vllm", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("checkpoint")
    vocab = write_checkpoint(folder)
    export_openvino(folder, folder, "f32", tasks(vocab))
    return Checkpoint(folder, vocab)


def make(name: str, checkpoint: Checkpoint) -> Engine:
    """An engine of this name, computing in float32; skips where its package or its hardware is not at hand."""
    if name == "openvino":
        return OpenVINOEngine(checkpoint.folder, cache_gb=0.01)
    if name == "llama":
        pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'gpa[llama]'")
        pytest.importorskip("gguf", reason="gguf is not installed: pip install 'gpa[llama]'")
        from gpa.engines.llama import LlamaEngine
        from gpa.nets.export_gguf import export_gguf

        if not (checkpoint.folder / "model.gguf").exists():
            export_gguf(checkpoint.folder, checkpoint.folder, "f32", tasks(checkpoint.vocab))
        return LlamaEngine(checkpoint.folder, cache_gb=0.01)
    if name == "vllm":
        pytest.importorskip("vllm", reason="vllm is not installed: pip install 'gpa[vllm]'")
        from gpa.engines.vllm import VLLMEngine

        return VLLMEngine(checkpoint.folder, dtype="float32", longest=2048, eager=True)
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'gpa[torch]'")
    from gpa.engines.transformers import TransformersEngine

    return TransformersEngine(checkpoint.folder)


@pytest.fixture(scope="module")
def opened(checkpoint: Checkpoint) -> Iterator[Callable[[str], Engine]]:
    """Each engine is opened once."""
    engines: dict[str, Engine] = {}
    yield lambda name: engines.setdefault(name, engines.get(name) or make(name, checkpoint))
    for engine in engines.values():
        engine.close()


@pytest.fixture
def openvino(opened: Callable[[str], Engine]) -> Engine:
    return opened("openvino")


@pytest.fixture
def transformers(opened: Callable[[str], Engine]) -> Engine:
    return opened("transformers")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, opened: Callable[[str], Engine]) -> Engine:
    return opened(request.param)


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
def test_greedy_ids_and_logprobs_are_transformers(
    engine: Engine, transformers: Engine, request: pytest.FixtureRequest, task: str, penalty: float
) -> None:
    prompt = request.getfixturevalue(task)
    mine, theirs = (run(engine, prompt, repetition_penalty=penalty, min_new_ids=20) for engine in (engine, transformers))
    assert ids(mine) == ids(theirs)
    assert len(mine) >= 20
    if "VLLM" not in type(engine).__name__:  # its log-probabilities count illegal ids too
        np.testing.assert_allclose([t.logprob for t in mine], [t.logprob for t in theirs], atol=1e-4)


def test_only_legal_ids_come_out(engine: Engine, asr: Prompt, tts: Prompt) -> None:
    for prompt in (asr, tts):
        found = {id for seed in range(5) for id in ids(run(engine, prompt, temperature=2.0, seed=seed))}
        assert len(found) > 10
        assert all(any(id in r for r in prompt.allowed) for id in found)


def test_a_stop_ends_and_is_not_yielded(engine: Engine, asr: Prompt) -> None:
    lengths = [len(run(engine, asr, temperature=2.0, seed=seed, max_new_ids=200)) for seed in range(4)]
    assert min(lengths) < 200


def test_no_stop_comes_before_min_new_ids(engine: Engine, asr: Prompt) -> None:
    for least, most in ((30, 60), (20, 20)):
        lengths = [len(run(engine, asr, temperature=2.0, seed=seed, min_new_ids=least, max_new_ids=most)) for seed in range(4)]
        assert least <= min(lengths) <= max(lengths) <= most
    assert ids(run(engine, asr, min_new_ids=40))[:3] == ids(run(engine, asr))[:3]


def test_max_new_ids_is_exact(engine: Engine, tts: Prompt) -> None:
    assert [len(run(engine, tts, max_new_ids=n)) for n in (1, 2, 7)] == [1, 2, 7]


def test_the_penalty_bars_repetition(engine: Engine, tts: Prompt) -> None:
    plain, penalised = (run(engine, tts, repetition_penalty=p, min_new_ids=40) for p in (1.0, 100.0))
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


@pytest.mark.parametrize("name", ["openvino", "transformers"])
def test_a_prior_is_added_to_what_is_drawn_from(checkpoint: Checkpoint, opened: Callable[[str], Engine], name: str) -> None:
    source = [7, 7, 3, 50, 12, 7, 0, 63]
    asked, engine = prompts.vc(checkpoint.vocab, range(8), source), opened(name)
    wanted = checkpoint.vocab.bicodec_semantic.encode(source)
    followed = run(engine, asked, temperature=1.0, prior_weight=1e4)
    assert ids(followed) == wanted  # and the stop where the source ends
    assert max(token.logprob for token in followed) < 0  # as the model alone has it
    going_on = prompts.vc(checkpoint.vocab, range(8), source, spoken=[1, 2, 4])
    assert ids(run(engine, going_on, temperature=1.0, prior_weight=1e4)) == wanted[3:]
    plain = run(engine, replace(asked, prior=None), temperature=1.0, prior_weight=2.0)
    assert run(engine, asked, temperature=1.0, prior_weight=0.0) == plain


def test_drawing_with_a_prior_is_transformers(checkpoint: Checkpoint, openvino: Engine, transformers: Engine) -> None:
    asked = prompts.vc(checkpoint.vocab, range(8), range(0, 60, 2))
    mine, theirs = (ids(run(one, asked, prior_weight=3.0, repetition_penalty=1.1)) for one in (openvino, transformers))
    assert mine == theirs != ids(run(openvino, asked, repetition_penalty=1.1))


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


def test_closing_ends_the_work_at_once(engine: Engine, tts: Prompt) -> None:
    for _ in range(40):
        left = engine.generate(tts, Sampling(max_new_ids=1500))
        next(left)
        left.close()  # type: ignore[attr-defined]
    begun = time.monotonic()
    assert len(run(engine, tts, max_new_ids=5)) == 5
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("context", [(), (10**6,), (-1,)])
def test_ids_beyond_the_vocabulary_are_refused(engine: Engine, tts: Prompt, context: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match="ids from 0 to"):
        engine.generate(Prompt(context, (), tts.stop, tts.allowed, range(0)), Sampling())


@pytest.mark.parametrize("name", ENGINES)
def test_a_closed_engine_says_so(checkpoint: Checkpoint, tts: Prompt, name: str) -> None:
    engine = make(name, checkpoint)
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
    running = engine.generate(tts, Sampling(min_new_ids=512))
    next(running)
    blocks = engine._capacity // BLOCK
    assert engine._blocks.spare < blocks
    running.close()  # type: ignore[attr-defined]
    limit = time.monotonic() + 10
    while engine._blocks.spare < blocks and time.monotonic() < limit:
        time.sleep(0.01)  # a step may be under way
    assert engine._blocks.spare == blocks


def test_a_small_cache_serves_many_in_turn(checkpoint: Checkpoint, openvino: Engine, asr: Prompt, tts: Prompt) -> None:
    engine = OpenVINOEngine(checkpoint.folder, cache_gb=0.0002)  # 6 blocks of 32 ids
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
        np.testing.assert_allclose([t.logprob for t in a], [t.logprob for t in b], atol=1e-5)


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

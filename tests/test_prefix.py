"""The beginning that prompts share, a voice, is worked out once; whether it was kept or not changes no id of anybody."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from engine_suite import tasks, write_checkpoint
from gpa import prompt as prompts
from gpa.engines import blocks
from gpa.engines.base import Sampling, Token
from gpa.engines.openvino import BLOCK, OpenVINOEngine
from gpa.nets.export_lm import export_openvino
from gpa.prompt import Prompt
from gpa.vocab import Vocab

MANY = 32
FEW = 12
SIZES = (8, 29, 30, 31, 62, 70)  # codes of a voice; its marks make two more ids, and a block has 32


def voices(size: int) -> list[list[int]]:
    return [[(i * step) % 16 for i in range(size)] for step in (1, 3, 5, 7)]


@pytest.fixture(scope="module", params=["f32-1", "int8-1", "int8-2"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVINOEngine]:
    folder = tmp_path_factory.mktemp("checkpoint")
    precision, threads = request.param.split("-")
    export_openvino(folder, folder, precision, tasks(write_checkpoint(folder)))
    engine = OpenVINOEngine(folder, threads=int(threads), cache_gb=0.01)
    engine.vocab, engine.folder = Vocab.load(folder), folder  # type: ignore[attr-defined]
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def _nothing_is_kept(engine: Any) -> None:
    forget(engine)


def forget(engine: Any) -> None:
    assert soon(lambda: engine._blocks.spare * BLOCK == engine._capacity)
    while engine._blocks._kept:
        engine._blocks._forget()


def soon(true: Callable[[], bool]) -> bool:
    """Whether it becomes true within a minute; steps are made by a thread of their own."""
    end = time.monotonic() + 60
    while not true() and time.monotonic() < end:
        time.sleep(0.001)
    return true()


@pytest.fixture
def fed(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(ids that were fed before, ids that are fed) of every row of more than one id."""
    rows: list[tuple[int, int]] = []
    step = engine._net.step

    def noted(asked: Sequence[Any]) -> Any:
        rows.extend((row.past, len(row.ids)) for row in asked if len(row.ids) > 1)
        return step(asked)

    monkeypatch.setattr(engine._net, "step", noted)
    return rows


def plan(engine: Any, size: int, count: int = MANY) -> list[tuple[Prompt, Sampling]]:
    """Speech and conversions in four voices, of different length."""
    draw, asked = random.Random(size), []
    for seed in range(count):
        voice = voices(size)[draw.randrange(4)]
        if seed % 3:
            one = prompts.tts(engine.vocab, voice, "hello there, my friend"[: draw.randint(1, 22)])
        else:
            one = prompts.vc(engine.vocab, voice, [draw.randrange(64) for _ in range(draw.randint(1, 50))])
        asked.append((one, Sampling(1.0, repetition_penalty=1.1, seed=seed, max_new_ids=draw.randint(1, 30))))
    return asked


def each_alone(engine: Any, asked: Sequence[tuple[Prompt, Sampling]]) -> list[list[Token]]:
    return [list(engine.generate(*one)) for one in asked]


def all_at_once(engine: Any, asked: Sequence[tuple[Prompt, Sampling]]) -> list[list[Token]]:
    running = [engine.generate(*one) for one in asked]
    first = [[token for token in [next(one, None)] if token] for one in running]
    return [head + list(one) for head, one in zip(first, running, strict=True)]


def without(engine: Any, asked: Sequence[tuple[Prompt, Sampling]], monkeypatch: pytest.MonkeyPatch) -> list[list[Token]]:
    """What comes of each alone where nothing is ever kept."""
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "KEPT", 0)
        out = each_alone(engine, asked)
    assert not engine._blocks._kept
    assert len({tuple(tokens) for tokens in out}) > len(asked) * 2 // 3
    return out


@pytest.mark.parametrize("size", SIZES)
def test_kept_or_not_alone_or_in_a_batch_the_same_ids(
    engine: Any, fed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    asked = plan(engine, size, MANY if size == 31 else FEW)
    expected = without(engine, asked, monkeypatch)
    assert sum(past == 0 for past, _ in fed) == len(asked)
    fed.clear()
    assert each_alone(engine, asked) == expected  # the first in a voice is fed it, the others are not
    assert [row for row in fed if row[0] == 0] == [(0, size + 2)] * 4
    assert all_at_once(engine, asked) == expected  # all of them have it
    assert sum(past == 0 for past, _ in fed) == 4
    forget(engine)
    assert all_at_once(engine, asked) == expected  # many need it in the same step
    assert {row for row in fed if row[0] == 0} == {(0, size + 2)}
    assert len(engine._blocks._kept) == 4


def test_what_was_driven_out_is_made_anew(engine: Any, fed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plan(engine, 31)
    expected = without(engine, asked, monkeypatch)
    fed.clear()
    monkeypatch.setattr(blocks, "KEPT", 2)
    assert each_alone(engine, asked) == expected
    assert all_at_once(engine, asked) == expected
    assert sum(past == 0 for past, _ in fed) > 8
    assert len(engine._blocks._kept) == 2


def test_nobody_waits_for_what_is_only_kept(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cache of ten blocks, where requests drive out each other's voices."""
    block = BLOCK * engine._card.cached_numbers_per_id * (4 if engine._card.precision == "f32" else 2) / 1e9
    small: Any = OpenVINOEngine(engine.folder, threads=engine._net._threads, cache_gb=10.5 * block)
    assert small._capacity == 10 * BLOCK
    asked = plan(engine, 31)
    expected = without(engine, asked, monkeypatch)
    assert each_alone(small, asked) == expected
    assert small._blocks._kept
    assert all_at_once(small, asked) == expected
    whole = Sampling(max_new_ids=9 * BLOCK, min_new_ids=9 * BLOCK)
    assert len(list(small.generate(prompts.tts(engine.vocab, [1], "a"), whole))) == 9 * BLOCK  # needs every block
    assert soon(lambda: small._blocks.spare == 10)
    small.close()


@pytest.mark.parametrize("after", [0, 1, 5])
def test_who_began_a_voice_may_leave(engine: Any, fed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    asked = plan(engine, 31, FEW)
    expected = without(engine, asked, monkeypatch)
    fed.clear()
    left = [engine.generate(one, Sampling(1.0, seed=99, max_new_ids=400, min_new_ids=400)) for one, _ in asked]
    for one in left:  # those of the first voices are at it when the others come
        for _ in range(after):
            next(one)
    running = [engine.generate(*one) for one in asked]
    first = []
    for leaving, one in zip(left, running, strict=True):
        first.append([token for token in [next(one, None)] if token])
        leaving.close()
    assert [head + list(one) for head, one in zip(first, running, strict=True)] == expected
    assert each_alone(engine, asked) == expected
    assert {row for row in fed if row[0] == 0} == {(0, 33)}


def test_a_prompt_that_is_all_beginning_is_still_asked_after(engine: Any) -> None:
    """And one that begins alike without saying so is fed as a whole."""
    plain = prompts.tts(engine.vocab, [1, 2, 3], "hello")
    whole = Prompt(plain.context, (), plain.stop, plain.allowed, plain.source, len(plain.context))
    own = Prompt(plain.context, (), plain.stop, plain.allowed, plain.source)
    greedy = [[token.id for token in engine.generate(one, Sampling(max_new_ids=9))] for one in (whole, whole, own, plain)]
    assert len(greedy[0]) == 9
    assert greedy[0] == greedy[1]
    if engine._card.precision == "f32":
        assert greedy[0] == greedy[2] == greedy[3]

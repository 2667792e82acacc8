"""Beams: several continuations of a prompt, the same in every engine that can follow them, whoever else is in the batch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from engine_suite import tasks, write_checkpoint
from gpa import prompt as prompts
from gpa.engines.base import Sampling, Token
from gpa.engines.openvino import OpenVINOEngine
from gpa.engines.paged import BLOCK
from gpa.engines.search import Search
from gpa.errors import LimitError
from gpa.nets.export_lm import export_openvino
from gpa.prompt import Prompt
from gpa.vocab import Vocab

STOP = 3


class Opened(NamedTuple):
    folder: Path
    vocab: Vocab
    engine: OpenVINOEngine


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("checkpoint")
    vocab = write_checkpoint(folder)
    export_openvino(folder, folder, "f32", tasks(vocab))
    engine = OpenVINOEngine(folder, cache_gb=0.02)
    yield Opened(folder, vocab, engine)
    engine.close()


def prompt(vocab: Vocab, length: int) -> Prompt:
    return prompts.asr(vocab, [i % 32 for i in range(length)], [i * i % 64 for i in range(length)])


def ids(tokens: Iterator[Token]) -> list[int]:
    return [token.id for token in tokens]


class Asked(NamedTuple):
    context: tuple[int, ...] = (0,)
    prefix: int = 0
    allowed: tuple[range, ...] = (range(3),)
    stop: tuple[int, ...] = (STOP,)
    prior: None = None


def chain(seed: int) -> np.ndarray:
    """Scores of 0, 1, 2 and the stop after each id, and after each pair of ids."""
    return np.random.default_rng(seed).normal(0, 2, (4, 4, 4)).astype(np.float32)


def likeliest(scores: np.ndarray, longest: int) -> float:
    """The best mean log-probability of all continuations there are."""
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    best = -np.inf
    for length in range(longest + 1):
        for said in itertools.product(range(3), repeat=length):
            whole = [0, 0, *said, *([STOP] if length < longest else [])]
            best = max(best, float(np.mean([logs[a, b, c] for a, b, c in zip(whole, whole[1:], whole[2:], strict=False)])))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_wide_enough_it_finds_the_likeliest_of_all(seed: int) -> None:
    """Nothing can be lost where all are kept, however long the search goes on."""
    scores, longest = chain(seed), 4
    search = Search(Asked(), Sampling(max_new_ids=longest, beams=400), (range(4),))
    said: list[list[int]] = [[0, 0]]
    while parents := search.step([scores[one[-2], one[-1]] for one in said]):
        said = [[*said[parent], last] for parent, last in zip(parents, search.last, strict=True)]
    stop = [0.0] if len(search.best) < longest else []
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    whole = [0, 0, *ids(iter(search.best)), *([STOP] if stop else [])]
    mean = np.mean([logs[a, b, c] for a, b, c in zip(whole, whole[1:], whole[2:], strict=False)])
    assert mean == pytest.approx(likeliest(scores, longest), abs=1e-5)
    told = [logs[a, b, c] for a, b, c in zip(whole, whole[1:], whole[2:], strict=False)][: len(search.best)]
    np.testing.assert_allclose([token.logprob for token in search.best], told, atol=1e-5)


@pytest.mark.parametrize("beams", [2, 4, 7])
@pytest.mark.parametrize("length", [5, 31, 64])
def test_the_ids_are_transformers(opened: Opened, beams: int, length: int) -> None:
    """Of its own search, whose scores are those of the whole vocabulary with all but the legal ids barred."""
    torch = pytest.importorskip("torch")
    model = pytest.importorskip("transformers").Qwen3ForCausalLM.from_pretrained(opened.folder, dtype=torch.float32).eval()
    asked = prompt(opened.vocab, length)
    legal = [*itertools.chain(*asked.allowed), *asked.stop]
    barred = torch.full((model.config.vocab_size,), -torch.inf)
    barred[legal] = 0
    head = model.lm_head
    model.lm_head = torch.nn.Module()
    model.lm_head.forward = lambda hidden: head(hidden) + barred  # log-probabilities count legal ids alone
    fed = torch.tensor([asked.context])
    mask = torch.ones_like(fed)
    settings = {"do_sample": False, "num_beams": beams, "early_stopping": True, "eos_token_id": list(asked.stop), "pad_token_id": 0}
    theirs = model.generate(fed, attention_mask=mask, max_new_tokens=40, **settings)[0, fed.shape[1] :].tolist()
    mine = ids(opened.engine.generate(asked, Sampling(max_new_ids=40, beams=beams)))
    assert mine == [id for id in theirs if id not in asked.stop and id in legal]
    assert mine


def test_both_engines_alike(opened: Opened) -> None:
    pytest.importorskip("transformers")
    from gpa.engines.transformers import TransformersEngine

    other = TransformersEngine(opened.folder)
    for penalty, least in ((1.0, 0), (1.3, 0), (1.0, 12)):
        sampling = Sampling(max_new_ids=30, min_new_ids=least, repetition_penalty=penalty, beams=3)
        asked = prompt(opened.vocab, 20)
        mine, theirs = (list(engine.generate(asked, sampling)) for engine in (opened.engine, other))
        assert ids(iter(mine)) == ids(iter(theirs))
        assert len(mine) >= least
        np.testing.assert_allclose([t.logprob for t in mine], [t.logprob for t in theirs], atol=1e-4)


def test_a_batch_changes_nothing(opened: Opened) -> None:
    """Among others that search, draw, come and go; and nothing of the cache is lost."""
    asked = [(prompt(opened.vocab, 3 + 5 * i), Sampling(max_new_ids=10 + i, beams=1 + i % 5)) for i in range(12)]
    alone = [list(opened.engine.generate(*one)) for one in asked]
    spare = opened.engine._blocks.spare
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: list(opened.engine.generate(*one)), asked))
    assert together == alone
    assert opened.engine._blocks.spare == spare


def test_closing_frees_all_beams(opened: Opened) -> None:
    spare = opened.engine._blocks.spare
    running = opened.engine.generate(prompt(opened.vocab, 40), Sampling(min_new_ids=60, max_new_ids=60, beams=4))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, running)
        first.result()
    running.close()  # type: ignore[attr-defined]
    limit = time.monotonic() + 10
    while opened.engine._blocks.spare < spare and time.monotonic() < limit:
        time.sleep(0.01)  # a step may be under way
    assert opened.engine._blocks.spare == spare


def test_beams_that_no_cache_holds(opened: Opened) -> None:
    new = opened.engine._capacity // 2
    with pytest.raises(LimitError, match=rf"4 beams need a cache of \d+ ids and it has {opened.engine._capacity}: raise cache_gb"):
        opened.engine.generate(prompt(opened.vocab, 4), Sampling(max_new_ids=new, beams=4))
    assert opened.engine._capacity % BLOCK == 0


def test_beams_do_not_draw() -> None:
    with pytest.raises(ValueError, match=r"beams=2; legal: .*beams >= 1"):
        Sampling(temperature=0.5, beams=2)
    with pytest.raises(ValueError, match="beams=0"):
        Sampling(beams=0)

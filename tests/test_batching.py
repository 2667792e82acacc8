"""Continuous batching through the default engine: nobody's speech depends on who else is served, and nobody waits for the others' end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from gpa import hub
from gpa import prompt as prompts
from gpa.crowd import Crowd
from gpa.engines.base import Context, Engine, Sampling, Token
from gpa.engines.openvino import BLOCK, OpenVINOEngine
from gpa.errors import LimitError
from gpa.pipeline import GPA, load
from gpa.prompt import Prompt
from gpa.vocab import Vocab

MANY = 32
TEXTS = [f"{word} {i}." for i in range(8) for word in ("one", "three of", "good", "so it is")]
LONG = "The morning train was late again and nobody on the platform seemed to mind, but a woman read her letter twice"


class Recorder:
    """An engine that notes the ids it gives to each seed; `together` holds everybody at the first id until all have theirs."""

    def __init__(self, engine: Engine, together: Barrier | None = None) -> None:
        self.engine, self.together = engine, together
        self.given: dict[int, list[int]] = {}

    def generate(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        begun = sampling.seed in self.given
        for token in self.engine.generate(prompt, sampling):
            self.given.setdefault(sampling.seed, []).append(token.id)
            if self.together and not begun:
                self.together.wait(60)
            begun = True
            yield token

    def close(self) -> None:
        self.engine.close()


@pytest.fixture(scope="module")
def model(nano_checkpoint: Path) -> Iterator[GPA]:
    with load(nano_checkpoint) as model:
        assert isinstance(model.engine, OpenVINOEngine)  # the default
        yield model


@pytest.fixture
def tts(nano_checkpoint: Path) -> Prompt:
    return prompts.tts(Vocab.load(nano_checkpoint), [1, 2], "hello there")


def spoken(model: GPA, engine: Engine, seeds: range, streamed: range, together: bool) -> tuple[dict[int, list[int]], list[np.ndarray]]:
    """What `engine` drew for each of `seeds`, and what was heard; those in `streamed` are drained streams."""
    recorder = Recorder(engine, Barrier(len(seeds)) if together else None)
    speaker = GPA(model.checkpoint, recorder)
    speaker.crowd = Crowd(len(seeds))  # nobody waits

    def one(seed: int) -> np.ndarray:
        if seed in streamed:
            return np.concatenate(list(speaker.stream_tts(TEXTS[seed], seed=seed)))
        return speaker.tts(TEXTS[seed], seed=seed).wav

    with ThreadPoolExecutor(len(seeds) if together else 1) as pool:
        wavs = list(pool.map(one, seeds))
    return recorder.given, wavs


def test_same_seed_same_ids_alone_in_a_batch_of_32_and_streamed(model: GPA) -> None:
    alone, wavs = spoken(model, model.engine, range(MANY), streamed=range(0), together=False)
    assert len({tuple(ids) for ids in alone.values()}) > MANY // 2
    for seeds, streamed, together in ((range(MANY), range(0, MANY, 2), True), (range(4), range(4), False)):
        ids, heard = spoken(model, model.engine, seeds, streamed, together)
        assert ids == {seed: alone[seed] for seed in seeds}
        for seed, wav in zip(seeds, heard, strict=True):
            np.testing.assert_array_equal(wav, wavs[seed])


def soon(true: Callable[[], bool]) -> bool:
    """Whether it becomes true within a minute; steps are made by a thread of their own."""
    end = time.monotonic() + 60
    while not true() and time.monotonic() < end:
        time.sleep(0.001)
    return true()


def idle(engine: Any) -> bool:
    """Whether no request has a block of the cache."""
    return bool(engine._blocks.spare * BLOCK == engine._capacity)


def test_closing_a_stream_frees_its_slot(model: GPA) -> None:
    engine: Any = model.engine
    left, kept = model.stream_tts(LONG, seed=1), model.stream_tts(LONG, seed=2)
    next(left), next(kept)
    left.close()
    assert soon(lambda: len(engine._batch.live) <= 1)
    kept.close()
    assert soon(lambda: idle(engine))


def test_what_is_closed_during_a_step_is_gone_with_the_next(model: GPA, tts: Prompt) -> None:
    engine: Any = model.engine
    left, kept = (engine.generate(tts, Sampling(min_new_ids=400, max_new_ids=400, seed=seed)) for seed in range(2))
    next(left), next(kept)
    with engine._batch._engine:  # as while another thread is at it
        left.close()
        assert len(engine._batch.live) == 2
    next(kept), next(kept)  # that thread steps again, though the batch may have been far enough ahead of its readers to rest
    assert soon(lambda: len(engine._batch.live) == 1)
    assert len(list(kept)) == 397
    assert soon(lambda: idle(engine))


def test_a_short_request_is_done_while_long_ones_go_on(model: GPA, tts: Prompt) -> None:
    engine: Any = model.engine
    long = [engine.generate(tts, Sampling(min_new_ids=1500, max_new_ids=1500, seed=seed)) for seed in range(MANY - 1)]
    for ids in long:
        next(ids)
    assert len(list(engine.generate(tts, Sampling(min_new_ids=10, max_new_ids=10)))) == 10
    assert not idle(engine)
    for ids in long:
        ids.close()
    assert soon(lambda: idle(engine))


def test_more_than_the_cache_holds_waits_and_too_much_is_refused(model: GPA, nano_checkpoint: Path, tts: Prompt) -> None:
    roomy: Any = model.engine
    block = BLOCK * roomy._card.cached_numbers_per_id * 4 / 1e9  # in float32, as exported
    small: Any = OpenVINOEngine(nano_checkpoint, cache_gb=8.5 * block)
    assert small._capacity == 8 * BLOCK
    seeds = range(MANY)
    alone, _ = spoken(model, roomy, seeds, streamed=range(0), together=False)
    recorder = Recorder(small)
    speaker = GPA(hub.resolve(nano_checkpoint), recorder)
    with ThreadPoolExecutor(MANY) as pool:
        speeches = list(pool.map(lambda seed: speaker.tts(TEXTS[seed], seed=seed), seeds))
    assert all(len(speech.wav) for speech in speeches)
    assert recorder.given == alone
    assert soon(lambda: idle(small))
    with pytest.raises(LimitError, match="raise cache_gb"):
        small.generate(tts, Sampling(max_new_ids=8 * BLOCK))
    assert len(list(small.generate(tts, Sampling(min_new_ids=5, max_new_ids=5)))) == 5  # and it goes on
    small.close()

"""Continuous batching through the default engine: nobody's speech depends on who else is served, and nobody waits for the others' end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from gpa import hub
from gpa import prompt as prompts
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


def counted(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one at every step of the engine."""
    steps: list[None] = []
    step = engine._step
    monkeypatch.setattr(engine, "_step", lambda: (steps.append(None), step())[1])
    return steps


def test_closing_a_stream_frees_its_slot_within_a_step(model: GPA, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = model.engine
    left, kept = model.stream_tts(LONG, seed=1), model.stream_tts(LONG, seed=2)
    next(left), next(kept)
    assert len(engine._live) == 2
    steps = counted(engine, monkeypatch)
    left.close()
    assert len(steps) == 1
    assert len(engine._live) == 1
    kept.close()
    assert not engine._pipeline.has_non_finished_requests()


def test_what_is_closed_during_a_step_is_gone_with_the_next(model: GPA, tts: Prompt) -> None:
    engine: Any = model.engine
    left, kept = (engine.generate(tts, Sampling(min_new_ids=40, max_new_ids=40, seed=seed)) for seed in range(2))
    next(left), next(kept)
    with engine._lock:  # as while another thread steps
        left.close()
        assert len(engine._live) == 2
    next(kept)
    assert len(engine._live) == 1
    kept.close()
    assert not engine._pipeline.has_non_finished_requests()


def test_a_short_request_takes_its_own_steps_among_long_ones(model: GPA, tts: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = model.engine
    long = [engine.generate(tts, Sampling(min_new_ids=1000, max_new_ids=1000, seed=seed)) for seed in range(MANY - 1)]
    for ids in long:
        next(ids)
    steps = counted(engine, monkeypatch)
    short = list(engine.generate(tts, Sampling(min_new_ids=10, max_new_ids=10)))
    assert len(short) == 10
    assert len(steps) <= 10 + 1
    assert len(engine._live) >= len(long)  # and they are still at it
    for ids in long:
        ids.close()
    assert not engine._pipeline.has_non_finished_requests()


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
    assert small._pipeline.get_metrics().max_cache_usage <= 100
    with pytest.raises(LimitError, match="raise cache_gb"):
        small.generate(tts, Sampling(max_new_ids=8 * BLOCK))
    assert len(list(small.generate(tts, Sampling(min_new_ids=5, max_new_ids=5)))) == 5  # and it goes on
    small.close()

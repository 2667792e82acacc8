"""Guided attention: a target is read where it is said."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gpa import prompt
from gpa.data.shards import TokenisedUtterance, write_shard
from gpa.training.alignment import times_path
from gpa.training.guide import WIDTHS, course, guided_attention
from gpa.training.lm_data import LMData, Rows
from gpa.vocab import write_character_tokenizer

SEMANTIC, GLM, VOICE = np.arange(10, dtype=np.uint16), np.arange(5, dtype=np.uint16), np.arange(4, dtype=np.uint16)
TIMES = np.array([1, 2, 5, 8], np.uint16)  # of the letters of "h-i y"


@pytest.fixture
def vocab(tmp_path: Path):
    return write_character_tokenizer(tmp_path, glm=12, bicodec_global=16, bicodec_semantic=20)


def test_speech_is_read_from_the_letter_that_is_being_said(vocab):
    asked = prompt.tts(vocab, VOICE, "h-i y", SEMANTIC)
    along = course(vocab, "tts", asked, 10, TIMES)
    assert along.places.tolist() == [1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4]  # a code late at most; the hyphen goes with the h
    assert along.width == WIDTHS["tts"]


@pytest.mark.parametrize(("form", "source"), [("both", 10), ("glm", 5)])
def test_text_is_read_from_the_code_in_which_it_is_said(vocab, form, source):
    asked = prompt.asr(vocab, GLM, SEMANTIC if form == "both" else None, "h-i y")
    along = course(vocab, "asr", asked, 10, TIMES)
    assert along.places.tolist() == [x * source / 10 for x in (1, 1, 2, 5, 8, 9, 9)]


def test_conversion_keeps_time_and_the_rest_is_the_diagonal(vocab):
    asked = prompt.vc(vocab, VOICE, SEMANTIC, SEMANTIC)
    assert course(vocab, "vc", asked, 10, None).places.tolist() == [*range(10), 9]
    asked = prompt.tts(vocab, VOICE, "h-i y", SEMANTIC)
    diagonal = course(vocab, "tts", asked, 10, None).places
    assert diagonal.tolist() == pytest.approx([i * 5 / 11 for i in range(11)])
    assert course(vocab, "tts", asked, 10, TIMES[:3]).places.tolist() == diagonal.tolist()  # times of another text


def test_attention_on_its_course_costs_little(vocab, tmp_path):
    rows = [TokenisedUtterance("h-i y", "h000", "hibari-tts", SEMANTIC, GLM, VOICE, i ^ 1) for i in range(8)]
    write_shard(tmp_path / "a.npz", rows)
    np.save(times_path(tmp_path / "a.npz"), np.tile(TIMES, 8))
    for task in ("tts", "asr", "vc"):
        batch = LMData(Rows([tmp_path / "a.npz"]), vocab).batch(0, 0, task)
        assert all(c.width == WIDTHS[task] for c in batch.courses)
        T = batch.ids.shape[1]
        good, bad = torch.zeros(len(batch.prompts), T, T), torch.zeros(len(batch.prompts), T, T)
        for row, (p, c) in enumerate(zip(batch.prompts, batch.courses, strict=True)):
            for k, place in enumerate(c.places):
                good[row, len(p.context) - 1 + k, p.source.start + round(float(place))] = 50
                bad[row, len(p.context) - 1 + k, 0] = 50
        assert guided_attention([good], batch.prompts, batch.courses) < 0.05
        assert guided_attention([bad], batch.prompts, batch.courses) > 5
        assert guided_attention([good, bad], batch.prompts, batch.courses) > 2.5

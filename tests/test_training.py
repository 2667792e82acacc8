"""Training: batches follow from their number, runs resume exactly, labels and alignments stand where they must."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from gpa.data.shards import TokenisedUtterance, read_shard, write_shard
from gpa.errors import GPAError
from gpa.nets.bicodec import BiCodec
from gpa.nets.lm import LM
from gpa.nets.lm_config import LMConfig
from gpa.prompt import IGNORED
from gpa.training.checkpoint import learning_rate
from gpa.training.codec_data import LETTERS
from gpa.training.guide import WIDTHS, course
from gpa.training.jobs import CodecJob, read_job
from gpa.training.lm import LMRecipe, LMRun, Scorer
from gpa.training.lm_data import DEFAULT_MIX, LMData, Rows
from gpa.vocab import write_character_tokenizer

SIZES = {"glm": 12, "bicodec_global": 64, "bicodec_semantic": 40}


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        codes = int(rng.integers(5, 20))
        rows.append(
            TokenisedUtterance(
                text=f"utterance number {'abcdefghij'[i % 10]}, é",
                speaker=f"h{i % 4:03d}",
                source="hibari-tts" if i < 30 else "LJ Speech 1.1",
                semantic=rng.integers(0, 40, 2 * codes).astype(np.uint16),
                glm=rng.integers(0, 12, codes).astype(np.uint16),
                voice=rng.integers(0, 64, 4).astype(np.uint16),
                pair=i ^ 1 if i < 20 else -1,
            )
        )
    path = tmp_path_factory.mktemp("shards") / "a.npz"
    write_shard(path, rows)
    return path


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory):
    return write_character_tokenizer(tmp_path_factory.mktemp("vocab"), **SIZES)


def tiny_lm(vocab) -> LMConfig:
    return LMConfig(16, 32, 3, 2, 1, 8, vocab.size)


def test_shard_gives_back_what_was_written(shard):
    rows = read_shard(shard)
    assert len(rows) == 40
    assert rows[3].text == "utterance number d, é"
    assert (rows[3].speaker, rows[3].source, rows[3].pair) == ("h003", "hibari-tts", 2)
    assert rows[35].source == "LJ Speech 1.1"
    assert len(rows[3].semantic) == 2 * len(rows[3].glm)
    write_shard(shard.with_name("b.npz"), rows)
    for a, b in zip(rows, read_shard(shard.with_name("b.npz")), strict=True):
        assert a.semantic.tolist() == b.semantic.tolist()
        assert a.glm.tolist() == b.glm.tolist()
        assert a.voice.tolist() == b.voice.tolist()


def test_damaged_shard_is_named(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(GPAError, match=r"x\.npz is no shard"):
        read_shard(tmp_path / "x.npz")


@pytest.mark.parametrize("task", ["asr", "tts", "vc"])
def test_batch_is_a_function_of_its_number(shard, vocab, task):
    data = LMData(Rows([shard]), vocab, budget=400)
    a, b, c = data.batch(0, 7, task), data.batch(0, 7, task), data.batch(0, 8, task)
    assert torch.equal(a.ids, b.ids)
    assert torch.equal(a.labels, b.labels)
    assert a.ids.shape != c.ids.shape or not torch.equal(a.ids, c.ids)
    assert a.ids.numel() <= 400 + 8 * len(a.prompts)


@pytest.mark.parametrize("task", ["asr", "tts", "vc"])
def test_labels_are_the_next_ids_of_the_target_only(shard, vocab, task):
    batch = LMData(Rows([shard]), vocab, budget=400).batch(0, 3, task)
    for row, p in enumerate(batch.prompts):
        labels = batch.labels[row].tolist()
        first, last = len(p.context) - 1, len(p.ids) - 1
        assert labels[first:last] == list(p.target)
        assert set(labels[:first] + labels[last:]) <= {IGNORED}
        legal = {id for part in p.allowed for id in part} | set(p.stop)
        assert set(p.target) <= legal


def test_voice_comes_from_another_utterance(shard):
    rows = Rows([shard])
    rng = np.random.default_rng(0)
    for i in range(len(rows.rows)):
        for _ in range(5):
            assert rows.voice(i, rng).tolist() != rows.rows[i].voice.tolist()


def test_a_reference_is_another_utterance_of_the_speaker_with_its_words(shard, vocab):
    rows = read_shard(shard)
    known = {tuple(vocab.bicodec_semantic.encode(row.semantic)): row for row in rows}
    data = LMData(Rows([shard]), vocab, replace(DEFAULT_MIX, reference=1.0), budget=800)
    start, end = vocab.special("<|start_semantic_token|>"), vocab.special("<|end_content|>")
    for p in (p for draw in range(10) for p in data.batch(0, draw, "tts").prompts):
        at = p.context.index(start)
        said, own = known[p.context[at + 1 :]], known[p.target[:-1]]
        assert said is not own
        assert said.speaker == own.speaker
        assert p.context[1 : 1 + len(said.voice)] == tuple(vocab.bicodec_global.encode(said.voice))
        assert [p.context[i] for i in p.source] == vocab.encode(own.text)
        assert list(p.context[p.source.start - len(vocab.encode(said.text)) : at]) == [*vocab.encode(said.text + own.text), end]
        times = np.arange(sum(vocab.tokenizer.id_to_token(p.context[i]) in LETTERS for i in p.source))
        guided = course(vocab, "tts", p, len(own.semantic), times)
        assert guided.width == WIDTHS["tts"]  # by its letters, not by the diagonal
        assert 0 <= guided.places.min() <= guided.places.max() <= len(p.source) - 1


def test_references_change_no_other_batch(shard, vocab):
    plain, mixed = (LMData(Rows([shard]), vocab, replace(DEFAULT_MIX, reference=r), budget=400) for r in (0.0, 0.5))
    start, drawn = vocab.special("<|start_semantic_token|>"), []
    for draw in range(30):
        for task in ("asr", "vc"):
            assert torch.equal(plain.batch(0, draw, task).ids, mixed.batch(0, draw, task).ids)
        drawn.append({start in p.context for p in mixed.batch(0, draw, "tts").prompts})
    assert {True} in drawn
    assert {False} in drawn
    assert all(len(kinds) == 1 for kinds in drawn)  # a batch is of one form


def test_a_recipe_says_the_mix():
    assert LMRecipe().mix == DEFAULT_MIX
    assert LMRecipe(semantic_only=0.5, glm_only=0.0, disturbed=0.4, reference=0.1, asr_human=0.6).mix == replace(
        DEFAULT_MIX,
        asr_forms={"both": 0.5, "semantic": 0.5, "glm": 0.0},
        human={**DEFAULT_MIX.human, "asr": 0.6},
        disturbed=0.4,
        reference=0.1,
    )


def test_padding_and_neighbours_do_not_change_a_score(shard, vocab):
    torch.manual_seed(0)
    lm = LM(tiny_lm(vocab))
    batch = LMData(Rows([shard]), vocab, budget=400).batch(0, 2, "tts")
    together = lm(batch.ids)
    for row, p in enumerate(batch.prompts):
        alone = lm(torch.tensor([p.ids]))
        torch.testing.assert_close(together[row, : len(p.ids)], alone[0], atol=1e-5, rtol=1e-4)


def test_scores_are_taken_over_the_legal_ids(shard, vocab):
    lm = LM(tiny_lm(vocab))
    scorer = Scorer(lm, vocab)
    batch = LMData(Rows([shard]), vocab, budget=400).batch(0, 2, "asr")
    with torch.no_grad():
        loss, right, _ = scorer(batch, guide=True)
    rows, index = scorer.legal("asr", batch.prompts[0])
    assert len(rows) == len(vocab.text[0]) + 2
    assert index[rows].tolist() == list(range(len(rows)))
    assert 0 <= float(right) <= 1
    assert float(loss) > 0


def run_lm(shard: Path, vocab, out: Path, steps: int) -> dict[str, torch.Tensor]:
    recipe = LMRecipe(steps=4, budget=300, compile=False, short_steps=2, warmup=2)
    run = LMRun(tiny_lm(vocab), vocab, [shard], [shard], out, recipe)
    stop = run.loop.schedule.steps - steps
    figures = list(_until(run, 4 - stop))
    assert all(np.isfinite(list(row.values())).all() for row in figures)
    return {k: v.clone() for k, v in run.lm.state_dict().items()}


def _until(run: LMRun, step: int):
    for row in run.run(every=1):
        yield row
        if row["step"] == step:
            run.loop.save(dict(run.seen))
            return


def test_resumed_training_equals_uninterrupted(shard, vocab, tmp_path):
    whole = run_lm(shard, vocab, tmp_path / "whole", 4)
    run_lm(shard, vocab, tmp_path / "cut", 2)
    resumed = run_lm(shard, vocab, tmp_path / "cut", 4)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        torch.testing.assert_close(value, resumed[name], atol=0, rtol=0)


def test_learning_rate_warms_up_holds_and_falls():
    rates = [learning_rate(step, 1.0, 10, 90) for step in range(90)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:60] == [1.0] * 50
    assert rates[-1] == pytest.approx(1 / 30, abs=0.01)
    assert all(a >= b for a, b in pairwise(rates[60:]))


def test_recipes_are_read_and_typos_refused(tmp_path):
    recipe = Path(__file__).parent.parent / "recipes" / "nano"
    job = read_job(recipe / "codec.yaml", CodecJob)
    assert job.recipe.batch == 8
    assert isinstance(BiCodec(BiCodec.load_config(_as_folder(recipe / job.net, tmp_path))), BiCodec)
    (tmp_path / "bad.yaml").write_text("net: x\npacks: y\nout: z\nrecipe: {stepz: 3}\n")
    with pytest.raises(GPAError, match="stepz"):
        read_job(tmp_path / "bad.yaml", CodecJob)
    assert json.loads((recipe / "glm.json").read_text())["tail_frames"] == 8


def _as_folder(config: Path, folder: Path) -> Path:
    (folder / "config.yaml").write_text(config.read_text())
    return folder

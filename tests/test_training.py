"""Training: batches follow from their number, runs resume exactly, labels and alignments stand where they must."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from gpa.data import manifest
from gpa.data.manifest import Utterance
from gpa.data.shards import TokenisedUtterance, read_shard, write_shard
from gpa.errors import GPAError
from gpa.nets.bicodec import BiCodec
from gpa.nets.fake import tiny_bicodec
from gpa.nets.lm import LM
from gpa.nets.lm_config import LMConfig
from gpa.nets.quantize import FactorizedVQ
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig
from gpa.prompt import IGNORED
from gpa.training.checkpoint import learning_rate
from gpa.training.codec import CodecRecipe, CodecRun
from gpa.training.codec_data import LETTERS, CodecData
from gpa.training.guide import WIDTHS, course
from gpa.training.jobs import CodecJob, averaged, read_job
from gpa.training.lm import LMRecipe, LMRun, Scorer
from gpa.training.lm_data import DEFAULT_MIX, LMData, Rows
from gpa.training.losses import Codebook, PerceptualLoss, straight_through
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


def test_codebook_is_drawn_from_latents_and_dead_codes_move():
    torch.manual_seed(0)
    vq = FactorizedVQ(6, 16, 4)
    book = Codebook(vq, warm=2, patience=1)
    latents = torch.nn.functional.normalize(torch.randn(50, 4), dim=-1)
    codes = torch.zeros(50, dtype=torch.long)
    book.update(1, codes, latents)
    book.update(2, codes, latents)
    drawn = vq.codebook.weight.detach().clone()
    assert all(any(torch.allclose(row, latent) for latent in latents) for row in drawn)
    for step in (3, 4):
        book.update(step, codes, latents)
    assert not torch.equal(vq.codebook.weight, drawn)
    assert torch.allclose(vq.codebook.weight[0], drawn[0], atol=1e-6)  # the code in use stays


def test_straight_through_trains_encoder_and_codebook():
    torch.manual_seed(0)
    vq = FactorizedVQ(6, 16, 4)
    z = torch.randn(2, 5, 6, requires_grad=True)
    q = straight_through(vq, z, torch.ones(2, 5))
    assert torch.equal(q.codes, vq.encode(z))
    (q.vectors.square().sum() + q.loss).backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    assert vq.codebook.weight.grad is not None


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two aligned voices and a stranger: noise with a pitch, features of 48 channels."""
    folder = tmp_path_factory.mktemp("packs")
    rng = np.random.default_rng(1)
    rows, samples = [], 0
    for i in range(24):
        length = 1280 * 20
        pair = f"u{i ^ 1}" if i < 16 else None
        rows.append(Utterance(f"u{i}", "some words here", f"h{i % 2:03d}", "p.pcm", "hibari-tts", "Apache-2.0", samples, length, pair))
        samples += length
    manifest.write(folder / "p.jsonl", rows)
    (rng.standard_normal(samples) * 2000).astype("<i2").tofile(folder / "p.pcm")
    np.save(folder / "p.features.npy", rng.standard_normal((samples // 320, 48)).astype(np.float16))
    np.save(folder / "p.f0.npy", np.where(rng.random(samples // 160) < 0.5, 0, 120).astype(np.float16))
    return folder


def test_codec_batches_cut_all_parts_at_the_same_place(packs):
    data = CodecData(packs, crop=20)
    weights = data.weights({"hibari-tts": 1.0})
    batch = data.batch(0, 4, 3, weights, paired=0.0)
    again = data.batch(0, 4, 3, weights, paired=0.0)
    assert torch.equal(batch.wav, again.wav)
    assert batch.wav.shape == (3, 20 * 320)
    assert batch.f0.shape == batch.voiced.shape == (3, 40)
    for row in range(3):  # unpaired: the crop's features are the source's
        start = int(batch.start[row])
        torch.testing.assert_close(batch.target_features[row], batch.features[row, start : start + 20])


def test_codec_run_learns_and_resumes(packs, tmp_path):
    config = tiny_bicodec("nano")
    config["audio_tokenizer"]["encoder"]["input_channels"] = 48
    config["audio_tokenizer"]["postnet"]["out_channels"] = 24
    recipe = CodecRecipe(steps=3, batch=2, warm=1, shares={"hibari-tts": 1.0})
    run = CodecRun(config, packs, tmp_path / "codec", recipe)
    before = {k: v.clone() for k, v in run.trainer.state_dict().items()}
    list(run.run())
    assert any(not torch.equal(before[k], v) for k, v in run.trainer.state_dict().items())
    resumed = CodecRun(config, packs, tmp_path / "codec", recipe)
    assert list(resumed.run()) == []
    for name, value in run.trainer.state_dict().items():
        assert torch.equal(value, resumed.trainer.state_dict()[name]), name
    only_sound = CodecRecipe(steps=1, batch=2, freeze_codes=True)
    frozen = CodecRun(config, packs, tmp_path / "decoder", only_sound, averaged(tmp_path / "codec"))
    codes_before = frozen.trainer.codec.quantizer.codebook.weight.clone()
    list(frozen.run())
    assert torch.equal(frozen.trainer.codec.quantizer.codebook.weight, codes_before)


def tiny_whisper() -> WhisperVQ:
    torch.manual_seed(0)
    config = WhisperVQConfig(
        24, 4, 2, 48, 8, encoder_causal_convolution=False, pooling_position=4, quantize_position=4, quantize_vocab_size=16
    )
    return WhisperVQ(config)


def test_perceptual_loss_is_of_the_sound_alone():
    loss = PerceptualLoss(tiny_whisper(), (2, 4))
    time = torch.arange(6400) / 16_000
    tone, other = torch.sin(2 * torch.pi * 200 * time)[None] * 0.1, torch.sin(2 * torch.pi * 330 * time)[None] * 0.1
    assert loss(tone, tone) == 0
    ours = (tone + 1e-5 * torch.randn(1, 6400)).requires_grad_()
    near, far = loss(ours, tone), loss(other, tone)
    assert 0 < near < far
    near.backward()
    assert ours.grad.abs().sum() > 0
    assert all(p.grad is None for p in loss.encoder.parameters())


def test_a_decoder_can_be_trained_by_what_an_encoder_hears(packs, tmp_path):
    config = tiny_bicodec("nano")
    config["audio_tokenizer"]["encoder"]["input_channels"] = 48
    config["audio_tokenizer"]["postnet"]["out_channels"] = 24
    recipe = CodecRecipe(steps=2, batch=2, freeze_codes=True, perceptual=1.0)
    with pytest.raises(GPAError, match="name glm"):
        CodecRun(config, packs, tmp_path / "deaf", recipe)
    run = CodecRun(config, packs, tmp_path / "hearing", recipe, encoder=tiny_whisper())
    losses, _ = run._losses(0)
    assert losses["perceptual"] > 0
    list(run.run())
    assert not any("perceptual" in name for name in averaged(tmp_path / "hearing"))


def test_a_frozen_voice_keeps_its_global_codes(packs, tmp_path):
    config = tiny_bicodec("nano")
    config["audio_tokenizer"]["encoder"]["input_channels"] = 48
    config["audio_tokenizer"]["postnet"]["out_channels"] = 24
    with pytest.raises(GPAError, match="goes with freeze_codes"):
        CodecRun(config, packs, tmp_path / "loose", CodecRecipe(steps=1, freeze_voice=True))
    run = CodecRun(config, packs, tmp_path / "decoder", CodecRecipe(steps=2, batch=2, freeze_codes=True, freeze_voice=True))
    codec = run.trainer.codec
    clip, feature = torch.randn(2, 6400) * 0.1, torch.randn(2, 8, 48)
    before = codec.eval().tokenize_voice(clip), codec.tokenize(feature), codec.speaker_encoder.decode(codec.tokenize_voice(clip))
    list(run.run())
    after = codec.eval().tokenize_voice(clip), codec.tokenize(feature), codec.speaker_encoder.decode(codec.tokenize_voice(clip))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2])


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

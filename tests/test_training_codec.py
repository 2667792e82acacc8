"""Training of the codec: batches, codebook, losses, what stays frozen, exact resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpa.data import manifest
from gpa.data.manifest import Utterance
from gpa.errors import GPAError
from gpa.nets.bicodec import BiCodec
from gpa.nets.fake import tiny_bicodec
from gpa.nets.quantize import FactorizedVQ
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig
from gpa.training.adversary import Adversary
from gpa.training.codec import CodecRecipe, CodecRun
from gpa.training.codec_data import CodecData
from gpa.training.jobs import averaged
from gpa.training.linguistic import LinguisticRecipe, LinguisticRun, LinguisticTrainer
from gpa.training.losses import Codebook, IdentityLoss, MelLoss, PerceptualLoss, VoiceLoss, median_pitch, straight_through
from gpa.training.verifier import Verifier, VerifierRecipe, VerifierRun, VerifierTrainer


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


def tiny_codec() -> dict[str, Any]:
    """A BiCodec's config for the features of `packs`."""
    config = tiny_bicodec("nano")
    config["audio_tokenizer"]["encoder"]["input_channels"] = 48
    config["audio_tokenizer"]["postnet"]["out_channels"] = 24
    return config


def test_codec_run_learns_and_resumes(packs, tmp_path):
    config = tiny_codec()
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
    config = tiny_codec()
    recipe = CodecRecipe(steps=2, batch=2, freeze_codes=True, perceptual=1.0)
    with pytest.raises(GPAError, match="name glm"):
        CodecRun(config, packs, tmp_path / "deaf", recipe)
    run = CodecRun(config, packs, tmp_path / "hearing", recipe, encoder=tiny_whisper())
    losses, _ = run._losses(0)
    assert losses["perceptual"] > 0
    list(run.run())
    assert not any("perceptual" in name for name in averaged(tmp_path / "hearing"))


@pytest.mark.parametrize("freeze_codes", [True, False])
def test_a_frozen_voice_keeps_its_global_codes(packs, tmp_path, freeze_codes):
    recipe = CodecRecipe(steps=2, batch=2, warm=0, freeze_codes=freeze_codes, freeze_voice=True)
    run = CodecRun(tiny_codec(), packs, tmp_path / "codec", recipe)
    codec = run.trainer.codec
    clip, feature = torch.randn(2, 6400) * 0.1, torch.randn(2, 8, 48)
    before = codec.eval().tokenize_voice(clip), codec.tokenize(feature), codec.speaker_encoder.decode(codec.tokenize_voice(clip))
    encoder = codec.encoder.state_dict()
    encoder = {name: value.clone() for name, value in encoder.items()}
    list(run.run())
    after = codec.eval().tokenize_voice(clip), codec.tokenize(feature), codec.speaker_encoder.decode(codec.tokenize_voice(clip))
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[2], after[2])
    same = all(torch.equal(value, codec.encoder.state_dict()[name]) for name, value in encoder.items())
    assert same == freeze_codes
    if freeze_codes:
        assert torch.equal(before[1], after[1])


def test_a_reader_learns_alone_what_starts_a_run_on_an_export(packs, tmp_path):
    with pytest.raises(GPAError, match="goes with freeze_voice"):
        CodecRun(tiny_codec(), packs, tmp_path / "loose", CodecRecipe(steps=1, reader_only=True))
    with pytest.raises(GPAError, match="without freeze_codes"):
        CodecRun(tiny_codec(), packs, tmp_path / "loose", CodecRecipe(steps=1, reader_only=True, freeze_codes=True, freeze_voice=True))
    run = CodecRun(tiny_codec(), packs, tmp_path / "reader", CodecRecipe(steps=2, batch=2, warmup=1, freeze_voice=True, reader_only=True))
    before = {name: value.clone() for name, value in run.trainer.state_dict().items()}
    rows = list(run.run(every=1))
    assert all(row["ctc"] > 0 and row["features"] > 0 and "mel" not in row for row in rows)
    moved = {name.split(".")[0] for name, value in run.trainer.state_dict().items() if not torch.equal(before[name], value)}
    assert moved - {"codec"} == {"reader", "classifier"}
    codec_moved = {
        name.split(".")[1] for name in before if name.startswith("codec.") and not torch.equal(before[name], run.trainer.state_dict()[name])
    }
    assert codec_moved == {"postnet"}
    following = CodecRun(tiny_codec(), packs, tmp_path / "all", CodecRecipe(freeze_voice=True), averaged(tmp_path / "reader"))
    assert all(torch.equal(value, following.trainer.state_dict()[name]) for name, value in averaged(tmp_path / "reader").items())


def tiny_linguistic() -> dict[str, Any]:
    """A linguistic tokenizer's config for the features of `packs`."""
    sizes = {"d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "num_mel_bins": 8}
    pooling = {
        "pooling_kernel_size": 4,
        "pooling_position": 2,
        "quantize_position": 2,
        "quantize_vocab_size": 16,
        "quantize_adapter_dim": 12,
    }
    book = {"pooling_type": "conv", "quantize_adapter_layers": 1, "quantize_codebook_dim": 4}
    return {**sizes, **pooling, **book, "encoder_causal_convolution": False}


def test_a_linguistic_tokenizer_goes_on_from_an_export_with_a_reader_of_its_own(packs, tmp_path):
    shares = {"hibari-tts": 1.0}
    export = WhisperVQ(WhisperVQConfig.of(tiny_linguistic())).state_dict()
    start = {f"net.{name}": value for name, value in export.items()}
    encoder = {name: torch.zeros_like(value) for name, value in export.items() if name.startswith(("conv", "layers"))}
    reading = LinguisticRecipe(steps=2, batch=2, warm=0, reader_only=True, shares=shares)
    reader = LinguisticRun(tiny_linguistic(), encoder, packs, tmp_path / "reader", reading, start)
    list(reader.run())
    learned = averaged(tmp_path / "reader")
    assert all(torch.equal(learned[name], value) for name, value in start.items())
    torch.manual_seed(reading.seed)
    fresh = LinguisticTrainer(WhisperVQConfig.of(tiny_linguistic())).state_dict()
    assert not any(torch.equal(learned[name], fresh[name]) for name in fresh if name.startswith("out."))
    going_on = LinguisticRun(
        tiny_linguistic(), encoder, packs, tmp_path / "on", LinguisticRecipe(steps=2, batch=2, warm=0, shares=shares), learned
    )
    assert torch.equal(going_on.trainer.out.weight, learned["out.weight"])
    list(going_on.run())
    moved = {name.split(".")[1] for name in start if not torch.equal(averaged(tmp_path / "on")[name], start[name])}
    assert "quantizer" in moved
    assert not moved & {"conv1", "conv2", "layers", "embed_positions"}


def test_contrast_tells_a_smoothed_spectrum_from_a_true_one():
    loss = MelLoss()
    torch.manual_seed(0)
    noise = torch.randn(2, 16_000) * 0.05
    peaks = sum(torch.sin(torch.arange(16_000) * (2 * torch.pi * hertz / 16_000)) for hertz in (300, 1200, 3100)) * 0.05
    theirs = noise * 0.1 + peaks
    smooth, louder = noise.clone().requires_grad_(), theirs * 1.5
    assert loss(theirs, theirs) == (0, 0)
    assert loss(louder, theirs)[0] > 0.3
    assert loss(louder, theirs)[1] < 0.02  # as sharp as theirs at any level
    assert loss(smooth, theirs)[1] > 0.2
    (loss(smooth, theirs)[1] + loss(smooth * 0, theirs)[1]).backward()
    assert 0 < smooth.grad.abs().sum() < float("inf")


def test_voice_loss_is_of_the_voice_alone():
    codec = BiCodec(tiny_codec()).eval()
    loss = VoiceLoss(codec.speaker_encoder.speaker_encoder, codec.mel_transformer)
    tone = torch.sin(torch.arange(12_800) * (2 * torch.pi * 200 / 16_000))[None] * 0.1
    ours = (tone + 1e-3 * torch.randn(1, 12_800)).requires_grad_()
    assert loss(tone, tone) == 0
    assert 0 < loss(ours, tone) < loss(torch.randn(1, 12_800) * 0.1, tone)
    silence = torch.zeros(1, 12_800)
    (loss(ours, tone) + loss(ours * 0, silence)).backward()
    assert 0 < ours.grad.abs().sum() < float("inf")
    assert all(p.grad is None for p in codec.parameters())


def test_a_decoder_can_be_trained_by_the_voice_that_is_heard(packs, tmp_path):
    with pytest.raises(GPAError, match="goes with freeze_voice"):
        CodecRun(tiny_codec(), packs, tmp_path / "loose", CodecRecipe(steps=1, freeze_codes=True, voice=1.0))
    recipe = CodecRecipe(steps=2, batch=2, freeze_codes=True, freeze_voice=True, voice=1.0)
    run = CodecRun(tiny_codec(), packs, tmp_path / "voiced", recipe)
    assert all(row["voice"] > 0 for row in run.run(every=1))


def sine(hertz: float, samples: int = 12_800) -> torch.Tensor:
    return torch.sin(torch.arange(samples) * (2 * torch.pi * hertz / 16_000)) * 0.1


def test_identity_loss_asks_for_the_voice_and_forbids_the_source():
    torch.manual_seed(0)
    verifier = Verifier(tiny_codec()["audio_tokenizer"]["mel_params"], 16, 8, 12)
    loss = IdentityLoss(verifier)
    wavs = torch.stack([sine(200), sine(330), torch.randn(12_800) * 0.1])
    voices = loss.voices(wavs)
    assert torch.allclose(voices.norm(dim=-1), torch.ones(3))
    assert loss(wavs, voices) == pytest.approx(0, abs=1e-5)
    assert loss(wavs, voices.roll(1, 0)) > 0
    assert loss(wavs, voices, voices.roll(1, 0)) == pytest.approx(0, abs=1e-5)  # no more like the source than the voice is
    unmoved = loss(wavs, voices.roll(1, 0), voices)  # codes' own speaker is still heard
    assert unmoved == pytest.approx(2 * float(loss(wavs, voices.roll(1, 0))), rel=1e-4)
    silence = torch.zeros(1, 12_800, requires_grad=True)
    loss(silence, voices[:1]).backward()
    assert silence.grad.isfinite().all()
    assert all(p.grad is None for p in verifier.parameters())


def test_median_pitch_is_of_voiced_frames():
    f0 = torch.tensor([[100.0, 110, 400, 400, 400], [150, 150, 150, 150, 150]])
    voiced = torch.tensor([[1.0, 1, 0, 0, 1], [0, 0, 0, 0, 0]])
    assert median_pitch(f0, voiced).tolist() == [110, 150]


def test_a_verifier_learns_to_tell_speakers_apart_and_resumes(speakers, tmp_path):
    recipe = VerifierRecipe(steps=12, speakers=12, rate=5e-3, warmup=2, channels=16, bottleneck=8, dim=12, tilt=1.0, noise=0.0)
    run = VerifierRun(tiny_codec(), speakers, tmp_path / "verifier", recipe)
    first, *_, last = run.run(every=2)
    assert last["verifier"] < 0.7 * first["verifier"]
    resumed = VerifierRun(tiny_codec(), speakers, tmp_path / "verifier", recipe)
    assert list(resumed.run()) == []
    ours, theirs = run.trainer.state_dict(), resumed.trainer.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_verifier_hears_each_crop_through_a_channel_of_its_own(speakers, tmp_path):
    flat = VerifierRun(tiny_codec(), speakers, tmp_path, VerifierRecipe(steps=0, tilt=0, noise=0))
    wavs = torch.stack([sine(200), sine(330)])
    torch.testing.assert_close(flat._through_channels(wavs), wavs, atol=1e-5, rtol=0)
    noisy = VerifierRun(tiny_codec(), speakers, tmp_path, VerifierRecipe(steps=0, tilt=0, noise=1, snr=(20.0, 20.0)))
    noise = noisy._through_channels(wavs) - wavs
    torch.testing.assert_close(20 * (wavs.norm(dim=1) / noise.norm(dim=1)).log10(), torch.full((2,), 20.0), atol=0.1, rtol=0)
    tilted = VerifierRun(tiny_codec(), speakers, tmp_path, VerifierRecipe(steps=0, tilt=6.0, noise=0))
    gains = tilted._through_channels(wavs[:1].repeat(50, 1)).norm(dim=1) / wavs[0].norm()
    assert 3 < (20 * gains.log10()).std() < 9


def test_a_verifier_needs_two_speakers(speakers, tmp_path):
    rows = [row for row in manifest.read(speakers / "s.jsonl") if row.speaker == "p0"]
    manifest.write(tmp_path / "s.jsonl", rows)
    for name in ("s.pcm", "s.features.npy", "s.f0.npy"):
        (tmp_path / name).symlink_to(speakers / name)
    with pytest.raises(GPAError, match="one speaker only, p0"):
        VerifierRun(tiny_codec(), tmp_path, tmp_path / "verifier", VerifierRecipe())


def test_a_verifier_starts_from_the_frame_map_of_a_codec(speakers, tmp_path):
    recipe = VerifierRecipe(steps=0, channels=16, bottleneck=8, dim=12)
    start = {
        k: v + 1 for k, v in VerifierTrainer(tiny_codec()["audio_tokenizer"]["mel_params"], recipe).verifier.encoder.state_dict().items()
    }
    encoder = VerifierRun(tiny_codec(), speakers, tmp_path, recipe, start).trainer.verifier.encoder
    assert torch.equal(encoder.layer1.conv.weight, start["layer1.conv.weight"])
    assert not torch.equal(encoder.linear.weight, start["linear.weight"])


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight speakers of two utterances, each a pitch of its own; no features are read of them."""
    folder = tmp_path_factory.mktemp("speakers")
    rows = [Utterance(f"u{i}", "words", f"p{i // 2}", "s.pcm", "a corpus", "CC0 1.0", i * 64_000, 64_000) for i in range(16)]
    manifest.write(folder / "s.jsonl", rows)
    wav = np.concatenate([sine(150 + 100 * (i // 2), 64_000).numpy() for i in range(16)])
    (wav * 32767).astype("<i2").tofile(folder / "s.pcm")
    np.save(folder / "s.features.npy", np.zeros((16 * 200, 48), np.float16))
    np.save(folder / "s.f0.npy", np.full(16 * 400, 120, np.float16))
    return folder


def test_a_decoder_can_be_trained_by_whose_voice_is_heard(packs, tmp_path):
    with pytest.raises(GPAError, match="name verifier"):
        CodecRun(tiny_codec(), packs, tmp_path / "alone", CodecRecipe(steps=1, identity=1.0))
    verifier = Verifier(tiny_codec()["audio_tokenizer"]["mel_params"], 16, 8, 12)
    for batch in (1, 3):  # a batch of one has no other voice
        recipe = CodecRecipe(steps=2, batch=batch, freeze_codes=True, identity=1.0)
        run = CodecRun(tiny_codec(), packs, tmp_path / f"identity{batch}", recipe, verifier=verifier)
        assert all(row["identity"] > 0 for row in run.run(every=1))
    assert not any("verifier" in name for name in run.trainer.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_codec_learns_on_a_gpu(packs, tmp_path):
    recipe = CodecRecipe(steps=3, batch=2, warm=1, shares={"hibari-tts": 1.0}, perceptual=1.0, adversarial=0.1)
    list(CodecRun(tiny_codec(), packs, tmp_path / "codec", recipe, encoder=tiny_whisper()).run())
    polish = CodecRecipe(steps=2, batch=2, freeze_codes=True, freeze_voice=True, voice=1.0, identity=1.0)
    verifier = Verifier(tiny_codec()["audio_tokenizer"]["mel_params"], 16, 8, 12)
    run = CodecRun(tiny_codec(), packs, tmp_path / "decoder", polish, averaged(tmp_path / "codec"), verifier=verifier)
    told = list(run.run(every=1))
    assert all(np.isfinite(row["mel"]) for row in told)


def test_batches_move_whole(packs):
    data = CodecData(packs, crop=20)
    weights = data.weights({"hibari-tts": 1.0})
    for batch in (data.batch(0, 1, 2, weights), data.utterances(0, 1, 2, weights)):
        moved = batch.to(torch.device("meta"))
        assert all(x.device.type == "meta" for value in vars(moved).values() for x in (value if isinstance(value, list) else [value]))


def test_an_adversary_learns_to_tell_and_leaves_the_decoder_to_its_own_loss():
    torch.manual_seed(0)
    adversary = Adversary(width=4)
    recorded, rendered = torch.randn(4, 6400) * 0.1, torch.sin(torch.arange(6400) / 5).expand(4, -1) * 0.1
    wav = rendered.clone().requires_grad_()
    deceive, tell = adversary.losses(wav, recorded)
    deceive.backward(retain_graph=True)
    assert wav.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())
    wav.grad = None
    tell.backward()
    assert wav.grad is None
    assert all(p.grad is not None for p in adversary.parameters())
    optimiser = torch.optim.AdamW(adversary.parameters(), lr=3e-3)
    for _ in range(30):
        _, loss = adversary.losses(rendered, recorded)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.5 * tell
    assert adversary.losses(recorded, recorded)[0] < adversary.losses(rendered, recorded)[0]


def test_a_run_with_an_adversary_resumes_exactly(packs, tmp_path):
    recipe = CodecRecipe(steps=3, batch=2, freeze_codes=True, freeze_voice=True, adversarial=0.1)
    whole, cut = (CodecRun(tiny_codec(), packs, tmp_path / name, recipe) for name in ("whole", "cut"))
    told = list(whole.run(every=1))
    assert all(row["discriminator"] > 0 and row["adversarial"] > 0 for row in told)
    next(cut.run(every=1))
    cut.loop.save({})
    resumed = CodecRun(tiny_codec(), packs, tmp_path / "cut", recipe)
    assert [row["step"] for row in resumed.run(every=1)] == [2, 3]
    for name, value in whole.trainer.state_dict().items():
        assert torch.equal(value, resumed.trainer.state_dict()[name]), name

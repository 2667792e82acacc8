"""The tasks on stand-ins: what is asked of the engine, what comes out, streamed as offline, and every bad input."""

from __future__ import annotations

import io
import shutil
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fakes
import gpa
from gpa import audio, bounds, hub
from gpa.engines.base import Context, Sampling
from gpa.errors import AudioError, CheckpointError, EngineError, GPAError, LimitError, TextError
from gpa.pipeline import GPA, MAX_CHARS
from gpa.results import Segment, Speech, Transcript
from gpa.voice import Voice

RATE = 16_000
CLIP = hub.embedded() / "demo.opus"  # 3.5 s of a human


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GPA:
    return fakes.model(tmp_path_factory.mktemp("model") / "fake")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return audio.decode(CLIP, RATE)


def engine(model: GPA) -> fakes.Engine:
    assert isinstance(model.engine, fakes.Engine)
    return model.engine


def answering(tmp_path: Path, answer: Callable[[GPA, Context], Sequence[int]]) -> GPA:
    made = fakes.model(tmp_path / "fake")
    engine(made).answer = lambda asked: answer(made, asked)
    return made


# ---- text -> speech ----


def test_tts_speaks_in_the_voice_asked_for(model: GPA) -> None:
    speech = model.tts("Hello there.", voice="bob", seed=3)
    asked, sampling = engine(model).asked[-1]
    assert asked.context[1:5] == tuple(model.vocab.bicodec_global.encode((5, 6, 7, 8)))
    bounded = Sampling(0.2, 50, repetition_penalty=1.2, seed=3, max_new_ids=sampling.max_new_ids, min_new_ids=sampling.min_new_ids)
    assert sampling == bounded
    assert 1 < sampling.min_new_ids < 25 * 0.5 < 25 * 1.3 < sampling.max_new_ids < 25 * 3
    assert speech.sample_rate == RATE
    assert speech.duration == pytest.approx(len("Hello there.") / 25)
    assert not speech.truncated
    assert not speech.looped
    assert speech.wav.dtype == np.float32


def test_numbers_are_spelled_and_capitals_read(model: GPA) -> None:
    model.tts("Room 12")
    spoken = engine(model).asked[-1][0]
    assert model.vocab.decode(spoken.context[6:]) == "room twelve"


def test_default_voice_and_pause(model: GPA) -> None:
    before = len(engine(model).asked)
    speech = model.tts("Hello there. [pause:1.5s] How is everybody today?")
    assert len(engine(model).asked) == before + 2
    spoken = (len("Hello there.") + len("How is everybody today?")) / 25
    assert speech.duration == pytest.approx(spoken + 1.5)
    hello = round(len("Hello there.") / 25 * RATE)
    assert not speech.wav[hello : hello + round(1.5 * RATE)].any()


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_speed_changes_the_length_but_not_pauses(model: GPA, speed: float) -> None:
    said = "a sentence of some length"
    assert model.tts(f"{said} [pause:1s]", speed=speed).duration == pytest.approx(len(said) / 25 / speed + 1.0, abs=1e-3)
    with pytest.raises(ValueError, match="speed is 9"):
        model.stream_tts("hello", speed=9)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("ab ,.!?'I1\n你[]:pause2s"), max_size=80), st.sampled_from([0.7, 1.0, 1.9]))
def test_offline_is_the_drained_stream(model: GPA, text: str, speed: float) -> None:
    try:
        speech = model.tts(text, speed=speed)
    except TextError:
        with pytest.raises(TextError):
            model.stream_tts(text, speed=speed)
        return
    chunks = list(model.stream_tts(text, speed=speed))
    assert all(len(chunk) and chunk.dtype == np.float32 for chunk in chunks)
    assert np.array_equal(np.concatenate(chunks), speech.wav)
    assert engine(model).open == 0


def test_sound_comes_before_the_sentence_is_over(tmp_path: Path) -> None:
    made = fakes.model(tmp_path / "fake")
    stream = made.stream_tts("a rather long sentence to be spoken")
    assert len(next(stream)) == fakes.HOP  # the first code is out as soon as the decoder has seen enough
    assert engine(made).open == 1
    stream.close()
    assert engine(made).open == 0  # an abandoned stream frees the engine at once


def test_a_long_text_is_spoken_sentence_by_sentence(model: GPA) -> None:
    before = len(engine(model).asked)
    text = "This is a sentence of ordinary length. " * 40
    assert model.tts(text).duration > 40
    contexts = [asked.context for asked, _ in engine(model).asked[before:]]
    assert len(contexts) >= 40 // 4
    assert max(map(len, contexts)) < 200


@pytest.mark.parametrize("text", ["", " \n", "😀 🎉", "...", "[pause:1s]", "你好", "\x00"])
def test_nothing_to_say_is_an_error(model: GPA, text: str) -> None:
    with pytest.raises(TextError, match=r"nothing to say in .*legal: a text with letters"):
        model.tts(text)


def test_hundred_kilobytes_without_punctuation(model: GPA) -> None:
    text = "word " * 20_000
    with pytest.raises(LimitError, match=rf"100000 characters \(legal: up to {MAX_CHARS}"):
        model.tts(text)
    stream = model.stream_tts(text)
    assert len(next(stream))
    assert max(len(asked.context) for asked, _ in engine(model).asked[-3:]) < 200


def test_a_runaway_ends_at_twice_the_expected_length(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 32, 9999)
    made = answering(tmp_path, lambda model, _: (model.vocab.bicodec_semantic.first + codes).tolist())
    speech = made.tts("a few words")
    assert speech.truncated
    assert speech.duration == pytest.approx(2 * bounds.speech_seconds("a few words"), abs=0.05)


def test_a_loop_ends_the_sentence(tmp_path: Path) -> None:
    made = answering(tmp_path, lambda model, _: [model.vocab.bicodec_semantic.first + i % 3 for i in range(9999)])
    speech = made.tts("a few words that take a while to be spoken in full length")
    assert speech.looped
    assert not speech.truncated
    assert speech.duration == pytest.approx(25 / 25)  # a second of repetition, noticed
    assert engine(made).open == 0


def test_an_engine_without_an_answer_is_an_error(tmp_path: Path) -> None:
    for check in (False, True):
        with pytest.raises(EngineError, match="the model says nothing for 'hello'"):
            answering(tmp_path / str(check), lambda *_: []).tts("hello", check=check)


# ---- speech -> text ----


def test_keywords(tmp_path: Path) -> None:
    made = fakes.knowing_words(answering(tmp_path, lambda made, asked: made.vocab.encode("hibari there.")), "there is hello")
    assert made.asr(CLIP).text == "Hibari there."
    assert made.asr(CLIP, keywords=["HIBARI, There"]).text == "HIBARI there."  # there is a word without that
    list(made.stream_asr(CLIP, keywords=["Hibari"], partials=True))
    priors = [(asked.prior and asked.prior.expected, sampling.prior_weight) for asked, sampling in engine(made).asked]  # type: ignore[attr-defined]
    assert priors[:2] == [((), 0.3), (("hibari", "there"), 0.3)]
    assert set(priors[2:-1]) == {(None, 0)}  # partial results
    assert priors[-1] == (("hibari",), 0.3)
    with pytest.raises(LimitError, match="501 words to listen for"):
        made.asr(CLIP, keywords=(f"x{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(501)))
    with pytest.raises(GPAError, match="keywords: the sampling has a prior_weight of 0"):
        made.asr(CLIP, keywords=["Hibari"], sampling=Sampling())


def test_keywords_need_counts(model: GPA) -> None:
    with pytest.raises(GPAError, match="fake cannot listen for keywords: it has no counts of words"):
        model.asr(CLIP, keywords=["Hibari"])
    assert model.asr(CLIP, keywords=["", "42"]).text == "Hello there."


def test_asr_hears_segments(model: GPA, clip: np.ndarray) -> None:
    gap = np.zeros(RATE, np.float32)
    transcript = model.asr(np.concatenate([clip, gap, clip]))
    assert transcript.text == "Hello there. Hello there."  # sentence case: this tokenizer writes no capitals
    first, second = transcript.segments
    seconds = len(clip) / RATE
    assert 0 <= first.start < first.end < seconds + 0.5 < second.start < second.end < 2 * seconds + 1.1
    assert first.confidence == pytest.approx(np.exp(-0.5))
    asked, sampling = engine(model).asked[-1]
    assert sampling.temperature == 0
    assert asked.allowed == model.vocab.text


def test_every_kind_of_sound(model: GPA, clip: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(audio.encode(clip, RATE, "wav"))
    stereo = io.BytesIO()
    with wave.open(stereo, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.stack([clip, clip], 1) * 32767).astype("<i2").tobytes())
    sounds = [CLIP, str(CLIP), CLIP.read_bytes(), CLIP.open("rb"), clip, clip.astype(np.float64), Speech(clip, RATE), stereo.getvalue()]
    sounds += [tmp_path / "clip.wav", Speech(audio.as_wav(clip, RATE, 44_100), 44_100)]
    for sound in sounds:
        assert model.asr(sound).text == "Hello there."
    sounds[3].close()  # type: ignore[union-attr]


@pytest.mark.parametrize("seconds", [0.01, 1, 61])
def test_silence_is_an_empty_transcript(model: GPA, seconds: float) -> None:
    before = len(engine(model).asked)
    noise = np.random.default_rng(0).normal(0, 1e-3, round(seconds * RATE)).astype(np.float32)
    assert model.asr(np.zeros(round(seconds * RATE), np.float32)) == Transcript("")
    assert model.asr(noise) == Transcript("")
    assert len(engine(model).asked) == before  # the model is not asked


def test_long_speech_is_heard_in_pieces(model: GPA, clip: np.ndarray) -> None:
    tight = clip[2000:-6000]
    transcript = model.asr(np.tile(tight, 12))
    assert all(part.end - part.start <= 15.1 for part in transcript.segments)
    assert sum(part.end - part.start for part in transcript.segments) > 11 * len(tight) / RATE


def test_a_text_loop_is_cut_to_one_turn(tmp_path: Path, clip: np.ndarray) -> None:
    made = answering(tmp_path, lambda model, _: model.vocab.encode("so it " + "goes on " * 90))
    segment = made.asr(clip).segments[0]
    assert segment.looped
    assert segment.text == "So it goes on"


def test_bad_sounds(model: GPA, clip: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "notes.txt").write_text("these are no samples")
    nan = clip.copy()
    nan[100] = np.nan
    bad: list[tuple[object, str]] = [
        (tmp_path / "none.wav", "cannot be opened"),
        (tmp_path / "empty.wav", "0 bytes"),
        (tmp_path / "notes.txt", "cannot read audio"),
        (tmp_path, "cannot be opened"),
        (nan, "1 of .* NaN"),
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros((RATE, 2), np.float32), "mix its channels"),
        (np.zeros(RATE, np.int64), "samples of type int64"),
        (b"", "0 bytes"),
        (Speech(np.zeros(0, np.float32), RATE), "no samples"),
    ]
    for sound, message in bad:
        for task in (model.asr, lambda sound: model.vc(sound, "amy"), model.voice):
            with pytest.raises((AudioError, GPAError), match=message if task != model.voice else "."):
                task(sound)  # type: ignore[operator]


@pytest.mark.parametrize("rate", [4_000, 192_000])
def test_strange_rates(model: GPA, clip: np.ndarray, rate: int) -> None:
    assert model.asr(audio.encode(audio.as_wav(clip, RATE, rate), rate, "wav")).segments


def test_a_truncated_mp3_and_eight_channels(model: GPA, clip: np.ndarray) -> None:
    mp3 = audio.encode(clip, RATE, "mp3")
    assert model.asr(mp3[: len(mp3) * 2 // 3]).text == "Hello there."
    file = io.BytesIO()
    with wave.open(file, "wb") as wide:
        wide.setnchannels(8)
        wide.setsampwidth(2)
        wide.setframerate(RATE)
        wide.writeframes((np.stack([clip] * 8, 1) * 32767).astype("<i2").tobytes())
    assert model.asr(file.getvalue()).text == "Hello there."


@pytest.mark.slow
def test_three_silent_hours(model: GPA, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        for _ in range(180):
            file.writeframes(bytes(2 * 8000 * 60))
    assert model.asr(tmp_path / "long.wav") == Transcript("")
    with pytest.raises(LimitError, match="longer than 3600 s"):
        model.vc(tmp_path / "long.wav", "amy")


# ---- speech -> speech ----


def test_vc_keeps_time(model: GPA, clip: np.ndarray) -> None:
    source = np.concatenate([np.zeros(2 * RATE, np.float32), clip, np.zeros(3 * RATE, np.float32)])
    speech = model.vc(source, "bob")
    assert len(source) <= len(speech.wav) <= len(source) + RATE
    assert not speech.wav[: RATE + RATE // 2].any()
    assert not speech.wav[-2 * RATE :].any()
    asked, _ = engine(model).asked[-1]
    assert asked.context[1:5] == tuple(model.vocab.bicodec_global.encode((5, 6, 7, 8)))
    assert np.array_equal(np.concatenate(list(model.stream_vc(source, "bob"))), speech.wav)


def test_vc_of_silence_is_silence(model: GPA) -> None:
    speech = model.vc(np.zeros(40 * RATE, np.float32), "amy")
    assert speech.duration == 40
    assert not speech.wav.any()


# ---- voices ----


def test_a_voice_from_anything(model: GPA, clip: np.ndarray, tmp_path: Path) -> None:
    assert model.voices == ["amy", "bob"]
    assert model.voice() == model.voice("amy") == Voice((1, 2, 3, 4), 16, "amy")
    made = model.voice(CLIP)
    assert made.name == "demo"
    assert model.voice(clip).codes == model.voice(Speech(clip, RATE)).codes == made.codes
    made.save(tmp_path / "friend.json")
    assert model.voice(tmp_path / "friend.json") == made == model.voice(made)
    said = model.voice(clip, "Hello there.")
    assert (said.semantic_codebook, made.semantic_codebook) == ("c0de", "")
    said.save(tmp_path / "said.json")
    assert model.voice(tmp_path / "said.json") == said


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        ("zoe", "unknown voice 'zoe' .legal: amy, bob; or a voice file or a clip"),
        ("no/such.wav", "unknown voice"),
        (Voice((1, 2, 3), 16, "short"), "'short' has 3 codes of a codebook of 16 .legal for this checkpoint: 4 of 16"),
        (Voice((1, 2, 3, 4), 4096), "codebook of 4096"),
        (Voice((1, 2, 3, 4), 16, "old", "Hi.", (1,)), "'old' has a transcript .* of codebook '' .*legal .* 'c0de'; make it again"),
        (Voice((1, 2, 3, 4), 16, "old", "Hi.", (1,), semantic_codebook="babe"), "of codebook 'babe'"),
        (np.zeros(3 * RATE, np.float32), "no voice can be heard in a clip of 3.00 s with a peak of 0.0000"),
        (np.ones(1, np.float32), "clip of 0.00 s .*legal: 0.5 s and more"),
    ],
)
def test_no_such_voice(model: GPA, voice: object, message: str) -> None:
    for task in (model.voice, lambda voice: model.tts("hello", voice), lambda voice: model.stream_vc(CLIP, voice)):
        with pytest.raises(GPAError, match=message):
            task(voice)  # type: ignore[operator]


def test_a_checkpoint_without_voices(tmp_path: Path) -> None:
    checkpoint = fakes.write_checkpoint(tmp_path / "bare")
    for file in checkpoint.voices.values():
        file.unlink()
    made = fakes.GPA(hub.resolve(tmp_path / "bare"), fakes.Engine(lambda _: []))
    made.bicodec = fakes.Codec()  # type: ignore[assignment]
    with pytest.raises(GPAError, match="legal: no names; or a voice file or a clip"):
        made.tts("hello")


# ---- the model and its results ----


def test_close_and_context_manager(tmp_path: Path) -> None:
    with fakes.model(tmp_path / "fake") as made:
        assert not engine(made).closed
    assert engine(made).closed


def test_the_tokenizer_must_fit_the_config(tmp_path: Path) -> None:
    fakes.write_checkpoint(tmp_path / "bad")
    (tmp_path / "bad" / "config.json").write_text('{"model_type": "qwen3", "vocab_size": 20}')
    with pytest.raises(CheckpointError, match=r"config.json: vocab_size is 20 \(legal: \d+ or more"):
        GPA(hub.resolve(tmp_path / "bad"), fakes.Engine(lambda _: []))


def test_the_codec_must_fit_the_tokenizer(nano_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(nano_checkpoint, tmp_path / "bad")
    config = tmp_path / "bad" / "BiCodec" / "config.yaml"
    config.write_text(config.read_text().replace("codebook_size: 128", "codebook_size: 64"))
    with pytest.raises(CheckpointError, match=r"config.yaml has 64 bicodec_semantic codes \(legal: 128"):
        gpa.load(tmp_path / "bad")


def test_a_whole_checkpoint_does_every_task(nano_checkpoint: Path) -> None:
    """Random weights, but the real engine and the real nets."""
    with gpa.load(nano_checkpoint) as made:
        speech = made.tts("Hello there.", voice="bob", seed=2)
        assert np.isfinite(speech.wav).all()
        assert len(speech.wav) % 640 == 0  # whole codes of 40 ms
        assert np.array_equal(np.concatenate(list(made.stream_tts("Hello there.", voice="bob", seed=2))), speech.wav)
        assert not np.array_equal(made.tts("Hello there.", voice="bob", seed=3).wav[: len(speech.wav)], speech.wav)
        assert made.asr(CLIP) == made.asr(audio.decode(CLIP, RATE))
        voice = made.voice(CLIP)
        assert len(voice.codes) == 4
        swap = made.vc(CLIP, voice, seed=1)
        assert np.array_equal(np.concatenate(list(made.stream_vc(CLIP, voice, seed=1))), swap.wav)
        assert 4 < swap.duration < 6


def test_unknown_engine_and_device(tmp_path: Path) -> None:
    fakes.write_checkpoint(tmp_path / "bad")
    with pytest.raises(gpa.GPAError, match=r"unknown engine 'warp' .legal: auto, openvino, llama, transformers, vllm"):
        gpa.load(tmp_path / "bad", engine="warp")
    with pytest.raises(gpa.GPAError, match="openvino runs on cpu, found device 'cuda'"):
        gpa.load(tmp_path / "bad", engine="openvino", device="cuda")


def test_subtitles() -> None:
    transcript = Transcript("One. Two.", (Segment(0.0, 1.5, "One.", 0.9), Segment(3723.5, 3724.0004, "Two < three.", 0.8)))
    assert transcript.srt() == "1\n00:00:00,000 --> 00:00:01,500\nOne.\n\n2\n01:02:03,500 --> 01:02:04,000\nTwo < three.\n"
    assert transcript.vtt() == ("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nOne.\n\n01:02:03.500 --> 01:02:04.000\nTwo &lt; three.\n")
    assert Transcript("").srt() == ""
    assert Transcript("").vtt() == "WEBVTT\n"


@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "opus", "ogg"])
def test_speech_is_saved(model: GPA, tmp_path: Path, suffix: str) -> None:
    speech = model.tts("hello there, everybody")
    speech.save(tmp_path / f"x.{suffix}")
    assert len(audio.decode(tmp_path / f"x.{suffix}", RATE)) == pytest.approx(len(speech.wav), abs=400)

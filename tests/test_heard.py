"""Rows that are only listened to: how they are made, and that training hears them in ASR batches and nowhere else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpa import audio
from gpa.data import disturb, manifest, noise
from gpa.data.manifest import PACK_RATE, Utterance
from gpa.data.pack import ALIGNMENT
from gpa.errors import GPAError
from test_cli import CLIP, run

seeds = st.integers(0, 2**31)
counts = st.integers(2000, 30_000)


def voice(seed: int, count: int) -> np.ndarray:
    """Something like speech: a tone that comes and goes."""
    rng, time = np.random.default_rng(seed), np.arange(count) / PACK_RATE
    wave = np.sin(2 * np.pi * rng.uniform(100, 300) * time) * np.abs(np.sin(2 * np.pi * 3 * time))
    return (0.1 * wave + 0.001 * rng.standard_normal(count)).astype(np.float32)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of 12 rows in 12 voices."""
    folder = tmp_path_factory.mktemp("speech")
    rows, wavs, offset = [], [], 0
    for i in range(12):
        wavs.append((voice(i, ALIGNMENT * (8 + i)) * 32767).astype("<i2"))
        row = Utterance(f"u{i}", f"text {i}", f"h{i:03d}", "p.pcm", "hibari-tts", "Apache-2.0", offset, len(wavs[-1]), f"u{i ^ 1}")
        rows.append(row)
        offset += len(wavs[-1])
    np.concatenate(wavs).tofile(folder / "p.pcm")
    manifest.write(folder / "p.jsonl", rows)
    return folder / "p.jsonl"


def decibel(signal: np.ndarray, rest: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(signal.astype(float) ** 2) / np.mean(rest.astype(float) ** 2)))


@settings(max_examples=30, deadline=None)
@given(seeds, counts, st.sampled_from(list(noise.COLOURS)), st.floats(*disturb.SNR))
def test_noise_has_the_ratio_asked_for(seed, count, colour, wanted):
    wav = voice(seed, count)
    heard = disturb.with_noise(wav, noise.coloured(np.random.default_rng(seed), count, colour), wanted)
    assert abs(decibel(wav, heard - wav) - wanted) < 1


@settings(max_examples=30, deadline=None)
@given(seeds, counts)
def test_what_is_disturbed_keeps_its_length_but_for_speed(seed, count):
    wav, rng = voice(seed, count), np.random.default_rng(seed)
    room = disturb.impulse_response(rng, rng.uniform(*disturb.REVERBERATION), 6.0)
    assert len(disturb.in_room(wav, room)) == len(disturb.by_telephone(wav)) == len(disturb.recorded(wav, 12.0)) == count
    speed = rng.uniform(*disturb.SPEED)
    assert abs(len(disturb.at_speed(wav, speed)) - count / speed) <= 2
    heard = disturb.disturb(wav, np.random.default_rng(seed), noise.any_colour)
    assert count / disturb.SPEED[1] - 2 <= len(heard) <= count / disturb.SPEED[0] + 2
    assert np.isfinite(heard).all()
    assert np.abs(heard).max() <= 1
    np.testing.assert_array_equal(heard, disturb.disturb(wav, np.random.default_rng(seed), noise.any_colour))


@pytest.mark.parametrize("format", disturb.BIT_RATES)
def test_a_lossy_file_is_heard_at_the_same_time_with_few_bits(format):
    wav = voice(0, 3 * PACK_RATE)
    heard = disturb.through_file(wav, format)
    assert len(heard) == len(wav)
    assert np.corrcoef(wav, heard)[0, 1] > 0.9
    file = audio.encode(wav, PACK_RATE, format, bit_rate=disturb.BIT_RATES[format])
    assert len(file) * 8 / 3 < 1.3 * disturb.BIT_RATES[format]


def test_a_telephone_passes_its_band_alone():
    for pitch, least, most in ((100, 0.0, 0.05), (1000, 0.95, 1.05), (3900, 0.0, 0.05), (6000, 0.0, 0.05)):
        wav = noise.tone(pitch, PACK_RATE)
        ratio = np.sqrt(np.mean(disturb.by_telephone(wav)[800:-800] ** 2) / np.mean(wav**2))
        assert least <= ratio <= most, pitch


def test_a_room_rings_60_decibel_down_in_its_time():
    response = disturb.impulse_response(np.random.default_rng(0), 0.4, 6.0)
    assert decibel(response[:1], response[1:]) - 10 * np.log10(len(response) - 1) == pytest.approx(6.0, abs=0.1)
    assert decibel(response[500:1140], response[500 + 3200 : 1140 + 3200]) == pytest.approx(30, abs=3)  # 0.2 s later
    clap = np.eye(1, 8000, dtype=np.float32)[0]
    np.testing.assert_allclose(disturb.in_room(clap, response)[: len(response)], response, atol=1e-5)


def test_speed_moves_the_pitch():
    spectrum = np.abs(np.fft.rfft(disturb.at_speed(noise.tone(1000, PACK_RATE), 1.1)))
    assert np.argmax(spectrum) * PACK_RATE / (2 * (len(spectrum) - 1)) == pytest.approx(1100, rel=0.01)


def pack(path: Path) -> tuple[list[Utterance], bytes]:
    return manifest.read(path.with_suffix(".jsonl")), path.with_suffix(".pcm").read_bytes()


def test_disturbed_rows_keep_their_words(speech: Path, tmp_path: Path):
    originals = manifest.read(speech)
    rows = disturb.write_disturbed(speech, tmp_path / "d", seed=3)
    assert pack(tmp_path / "d")[0] == rows
    for row, original in zip(rows, originals, strict=True):
        assert (row.text, row.speaker, row.source, row.license) == (original.text, original.speaker, original.source, original.license)
        assert row.listen_only
        assert row.pair is None
        assert row.id != original.id
        assert row.samples % ALIGNMENT == 0
        assert not np.array_equal(manifest.load_wav(row, tmp_path), manifest.load_wav(original, speech.parent))
    disturb.write_disturbed(speech, tmp_path / "again", seed=3)
    disturb.write_disturbed(speech, tmp_path / "other", seed=4)
    assert pack(tmp_path / "again")[1] == pack(tmp_path / "d")[1] != pack(tmp_path / "other")[1]


def test_a_row_is_disturbed_alike_whichever_are_drawn(speech: Path, tmp_path: Path):
    whole = {row.id: row for row in disturb.write_disturbed(speech, tmp_path / "whole")}
    some = disturb.write_disturbed(speech, tmp_path / "some", count=5)
    assert len(some) == 5
    for row in some:
        np.testing.assert_array_equal(manifest.load_wav(row, tmp_path), manifest.load_wav(whole[row.id], tmp_path))


def test_disturbed_packs_are_not_disturbed_again(speech: Path, tmp_path: Path):
    disturb.write_disturbed(speech, tmp_path / "d", count=3)
    assert disturb.write_disturbed(tmp_path / "d.jsonl", tmp_path / "dd") == []


@pytest.mark.parametrize("kind", noise.KINDS[:-1])
@settings(max_examples=6, deadline=None)
@given(seed=seeds, count=st.integers(PACK_RATE, 3 * PACK_RATE))
def test_noise_is_a_sound_of_its_generator(kind, seed, count):
    wav = noise.sound(kind, np.random.default_rng(seed), count)
    assert wav.shape == (count,)
    assert wav.dtype == np.float32
    assert np.isfinite(wav).all()
    assert 0 < np.abs(wav).max() <= (1.0 if kind != "silence" else 0.004) + 1e-6
    np.testing.assert_array_equal(wav, noise.sound(kind, np.random.default_rng(seed), count))


def test_colours_fall_as_they_should():
    for colour, slope in noise.COLOURS.items():
        power = np.abs(np.fft.rfft(noise.coloured(np.random.default_rng(0), 4 * PACK_RATE, colour))) ** 2
        low, high = power[4 * 200 : 4 * 400].mean(), power[4 * 1600 : 4 * 3200].mean()
        assert 10 * np.log10(low / high) == pytest.approx(slope * 9, abs=1), colour  # three octaves of 3 dB


def test_noise_rows_are_empty_and_named(speech: Path, tmp_path: Path):
    licensed = replace(manifest.read(speech)[0], id="x", license="CC BY 4.0")
    crowd = noise.Crowd([*manifest.read(speech), licensed], speech.parent)
    crowd.rows = crowd.rows * 2  # enough for 16 voices
    rows = noise.write_noise(tmp_path / "n", 14, seed=1, crowd=crowd)
    assert pack(tmp_path / "n")[0] == rows
    assert {row.text for row in rows} == {""}
    assert {row.source for row in rows} == {noise.SOURCE}
    assert all(row.listen_only and row.samples and 1 <= row.samples / PACK_RATE < 8.1 for row in rows)
    assert [row.speaker for row in rows[:7]] == [f"noise-{kind}" for kind in noise.KINDS]
    assert {row.license for row in rows if row.speaker != "noise-babble"} == {manifest.SOURCES[noise.SOURCE].license}
    assert {row.license for row in rows if row.speaker == "noise-babble"} <= {"Apache-2.0", "Apache-2.0 + CC BY 4.0"}
    assert "noise-babble" not in {row.speaker for row in noise.write_noise(tmp_path / "m", 14, seed=1)}


def test_a_babble_needs_voices(speech: Path):
    with pytest.raises(GPAError, match="needs more rows"):
        noise.Crowd(manifest.read(speech), speech.parent).draw(np.random.default_rng(0), 12)


def test_the_verbs_make_packs(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.opus").write_bytes(Path(CLIP).read_bytes())
    manifest.write(tmp_path / "files.jsonl", [Utterance("a", "Looking through.", "ann", "clip.opus", "mine", "CC0 1.0")])
    assert run("data", "disturb", "files.jsonl", "-o", "heard/d") == (0, "heard/d.jsonl 1 utterances\n", "")
    assert run("data", "noise", "-o", "heard/n", "--count", "6") == (0, "heard/n.jsonl 6 utterances\n", "")
    code, _, err = run("data", "noise", "-o", "heard/b", "--count", "7", "--babble", "files.jsonl")
    assert code == 1
    assert "needs more rows" in err


def test_listen_only_is_written_where_it_holds(tmp_path: Path):
    row = Utterance("a", "", "s", "a.wav", "home", "CC0 1.0")
    manifest.write(tmp_path / "m.jsonl", [row, replace(row, listen_only=True, offset=0, samples=0)])
    first, second = (tmp_path / "m.jsonl").read_text().splitlines()
    assert "listen_only" not in first
    assert '"offset": 0' in second
    assert [found.listen_only for found in manifest.read(tmp_path / "m.jsonl")] == [False, True]
    with pytest.raises(GPAError, match="listen_only"):
        manifest.parse(first.replace('"text"', '"listen_only": 1, "text"'))


# --- shards and batches ------------------------------------------------------------------------------------------------

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A shard of rows that are spoken, named to come last, and one of rows that are only heard (with pairs that tempt)."""
    from gpa.data.shards import TokenisedUtterance, write_shard

    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        codes = int(rng.integers(5, 20))
        row = TokenisedUtterance(
            text=f"utterance number {'abcdefghij'[i % 10]}, é",
            speaker=f"h{i % 4:03d}",
            source="hibari-tts" if i < 30 else "LJ Speech 1.1",
            semantic=rng.integers(0, 40, 2 * codes).astype(np.uint16),
            glm=rng.integers(0, 12, codes).astype(np.uint16),
            voice=rng.integers(0, 64, 4).astype(np.uint16),
            pair=i ^ 1 if i < 20 else -1,
        )
        rows.append(row)
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "spoken.npz", rows)
    heard = [replace(row, text="disturbed", listen_only=True) for row in rows]
    heard += [replace(row, text="", source="synthetic noise", pair=-1, listen_only=True) for row in rows[:20]]
    write_shard(folder / "heard.npz", heard)
    return folder / "spoken.npz", folder / "heard.npz"


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory):
    from gpa.vocab import write_character_tokenizer

    return write_character_tokenizer(tmp_path_factory.mktemp("vocab"), glm=12, bicodec_global=64, bicodec_semantic=40)


def test_shards_carry_listen_only_and_old_ones_have_none(shards, tmp_path):
    from gpa.data.shards import read_shard, write_shard

    spoken, heard = (read_shard(shard) for shard in shards)
    assert {row.listen_only for row in spoken} == {False}
    assert {row.listen_only for row in heard} == {True}
    assert heard[-1].text == ""
    with np.load(shards[1]) as file:
        np.savez(tmp_path / "old.npz", **{name: file[name] for name in file.files if name != "listen_only"})
    assert {row.listen_only for row in read_shard(tmp_path / "old.npz")} == {False}
    write_shard(tmp_path / "one.npz", heard[-1:])
    assert [(row.text, row.listen_only) for row in read_shard(tmp_path / "one.npz")] == [("", True)]


def test_without_such_rows_batches_are_those_of_old(shards, vocab):
    """A run resumes by (seed, draw): this digest was taken before rows could be listened to only."""
    from gpa.training.lm_data import LMData, Rows

    data, digest = LMData(Rows(shards[:1]), vocab, budget=400), hashlib.sha256()
    for draw in range(40):
        batch = data.batch(1, draw, longest_codes=20 if draw % 2 else None)
        digest.update(f"{batch.task}{[p.ids for p in batch.prompts]}".encode())
    assert digest.hexdigest() == "9c41f03b4c079dbbfc973a3245b164bed6851ab3256198d89e3738300da31215"


@pytest.mark.parametrize("task", ["tts", "vc"])
def test_what_is_only_heard_changes_nothing_that_is_spoken(shards, vocab, task):
    from gpa.training.lm_data import LMData, Rows

    alone, mixed = LMData(Rows(shards[:1]), vocab, budget=400), LMData(Rows(shards[::-1]), vocab, budget=400)
    for draw in range(20):
        assert [p.ids for p in alone.batch(0, draw, task).prompts] == [p.ids for p in mixed.batch(0, draw, task).prompts]


def test_voices_and_pairs_are_spoken_rows(shards):
    from gpa.training.lm_data import Rows

    rows = Rows(shards[::-1])
    known = {i for members in rows.by_speaker.values() for i in members}
    assert known == {i for i, row in enumerate(rows.rows) if not row.listen_only}
    assert set(rows.paired) <= known
    assert {rows.pair[i] for i in rows.paired} <= known


def test_the_mix_tells_how_many_asr_rows_are_only_heard(shards, vocab):
    from gpa.training.lm_data import DEFAULT_MIX, LMData, Rows

    rows = Rows(shards[::-1])
    data = LMData(rows, vocab, replace(DEFAULT_MIX, disturbed=0.3, empty=0.1))
    drawn = [rows.rows[i] for draw in range(100) for i in data._draw(np.random.default_rng(draw), "asr", None)]
    assert np.mean([row.listen_only and row.text != "" for row in drawn]) == pytest.approx(0.3, abs=0.02)
    assert np.mean([row.listen_only and row.text == "" for row in drawn]) == pytest.approx(0.1, abs=0.01)
    words = [row for row in drawn if row.text]
    human = [np.mean([row.source == "LJ Speech 1.1" for row in words if row.listen_only is heard]) for heard in (True, False)]
    assert human[0] == pytest.approx(human[1], abs=0.03)
    assert human[0] == pytest.approx(DEFAULT_MIX.human["asr"], abs=0.1)


def test_favoured_voices_have_their_share_of_speech_and_of_nothing_else(shards, vocab):
    from gpa.training.lm_data import DEFAULT_MIX, LMData, Rows

    rows = Rows(shards[::-1])
    plain, favoured = (LMData(rows, vocab, replace(DEFAULT_MIX, voices=voices)) for voices in ({}, {"h001": 0.5, "h00": 0.1}))
    drawn = [rows.rows[i] for draw in range(100) for i in favoured._draw(np.random.default_rng(draw), "tts", None)]
    taught = [row for row in drawn if row.source == "hibari-tts"]
    assert 1 - len(taught) / len(drawn) == pytest.approx(DEFAULT_MIX.human["tts"], abs=0.1)
    assert np.mean([row.speaker == "h001" for row in taught]) == pytest.approx(
        0.5 + 0.5 * 8 / 30, abs=0.03
    )  # 8 of the 30 are h001's anyway
    assert not any(row.listen_only for row in drawn)
    for task in ("asr", "vc"):
        a, b = (data._draw(np.random.default_rng(3), task, None) for data in (plain, favoured))
        assert a == b
    with pytest.raises(GPAError, match="begins with 'flite'"):
        LMData(rows, vocab, replace(DEFAULT_MIX, voices={"flite": 0.1}))


def test_an_empty_answer_is_the_stop_alone(shards, vocab):
    from gpa.prompt import IGNORED, asr
    from gpa.training.lm_data import DEFAULT_MIX, LMData, Rows

    made = asr(vocab, [1, 2], [3, 4], "")
    assert made.target == made.stop
    assert made.labels == (IGNORED,) * len(made.context) + made.stop
    batch = LMData(Rows(shards), vocab, replace(DEFAULT_MIX, empty=1.0, disturbed=0.0), budget=400).batch(0, 0, "asr")
    assert {p.target for p in batch.prompts} == {made.stop}
    for labels, p in zip(batch.labels, batch.prompts, strict=True):
        assert labels[labels != IGNORED].tolist() == list(p.stop)

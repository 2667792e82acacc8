"""The verbs that make checkpoints: what they hand to the rooms below, and what they print."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fakes
import gpa
from gpa.cli import judge
from gpa.data import manifest
from gpa.data.manifest import Utterance
from gpa.evaluation.judge import Heard
from gpa.evaluation.run import Judges
from test_cli import CLIP, run


def test_convert_writes_what_a_checkpoint_runs_from(nano_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(nano_checkpoint, folder, ignore=shutil.ignore_patterns("*.onnx", "openvino_model.*"))
    code, out, _ = run("convert", str(folder), "--lm", "f32", "--nets", "f32")
    assert code == 0
    names = [
        "glm-4-voice-tokenizer/model.onnx",
        *(f"BiCodec/{net}.onnx" for net in ("encoder", "speaker", "decoder")),
        "openvino_model.xml",
    ]
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [str(folder / name) for name in names]
    assert "100.0% of codes equal" in lines[0]
    assert all(" MB, " in line and "s of sound a second" in line for line in lines[:-1])
    with gpa.load(folder) as one, gpa.load(nano_checkpoint) as other:
        assert np.array_equal(one.tts("Hello there.", seed=1).wav, other.tts("Hello there.", seed=1).wav)


def test_convert_needs_weights(nano_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(nano_checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    code, _, err = run("convert", str(folder))
    assert code == 1
    assert "model.safetensors" in err
    assert "is missing" in err


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A manifest of one clip under three names."""
    shutil.copyfile(CLIP, tmp_path / "clip.opus")
    rows = [
        Utterance("a", "Looking through.", "ann", "clip.opus", "mine", "CC0 1.0"),
        Utterance("b", "Looking through.", "ben", "clip.opus", "mine", "CC0 1.0"),
        Utterance("c", "Looking through.", "cat", "clip.opus", "mine", "CC BY-SA 3.0"),
    ]
    manifest.write(tmp_path / "all.jsonl", rows)
    (tmp_path / "held.txt").write_text("# held out\nben\n")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "speakers"),
    [
        ([], ["ann", "ben", "cat"]),
        (["--without", "held.txt"], ["ann", "cat"]),
        (["--only", "held.txt"], ["ben"]),
        (["--not-license", "BY-SA", "--without", "held.txt"], ["ann"]),
    ],
)
def test_pack_takes_whom_it_is_told(recordings: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], speakers: list[str]) -> None:
    monkeypatch.chdir(recordings)
    code, out, _ = run("data", "pack", "all.jsonl", "-o", "packs/p", *options)
    assert (code, out) == (0, f"packs/p.jsonl {len(speakers)} utterances\n")
    assert [row.speaker for row in manifest.read(recordings / "packs" / "p.jsonl")] == speakers


def test_synth_names_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a\nb\n")
    code, _, err = run("data", "synth", "-o", str(tmp_path / "out"), "-t", str(tmp_path / "text.txt"))
    assert code == 1
    assert "has 2 lines; synthesis needs more than the 1000" in err
    assert "unknown kind of pack 'opera'" in run("data", "synth", "-o", "x", "-t", "x", "--kind", "opera")[2]


@pytest.mark.parametrize(
    ("words", "job"),
    [
        (["tokenizer", "codec"], "train_codec"),
        (["tokenizer", "linguistic"], "train_linguistic"),
        (["verifier"], "train_verifier"),
        (["lm"], "train_lm"),
    ],
)
def test_training_reports_rows(monkeypatch: pytest.MonkeyPatch, words: list[str], job: str) -> None:
    asked = []

    def train(path: Path, work: Path) -> Iterator[dict[str, float]]:
        asked.append((path, work))
        yield {"step": 100, "loss": 1.23456}

    monkeypatch.setattr(f"gpa.training.jobs.{job}", train)
    assert run("train", *words, "job.yaml", "--work", "here") == (0, "step 100  loss 1.235\n", "")
    assert asked == [(Path("job.yaml"), Path("here"))]


def test_a_recipe_with_a_typing_mistake(tmp_path: Path) -> None:
    (tmp_path / "lm.yaml").write_text("codec: bicodec.yaml\nglm: glm.json\nshard: shards\n")
    code, _, err = run("train", "lm", str(tmp_path / "lm.yaml"), "-w", str(tmp_path))
    assert code == 1
    assert "unknown keys ['shard']" in err


class Ears:
    """Hears every text right but the last word of each window."""

    def hear_all(self, wavs: list[Any], texts: list[str], packed: bool = True) -> list[Heard]:
        return [Heard(text, text.rsplit(" ", 1)[0]) for text in texts]


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch, nano_checkpoint: Path) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setattr(judge, "_judges", lambda *_: Judges(Ears()))
    return lambda *words: run("eval", "-c", str(nano_checkpoint), *words)


def test_eval_reports_every_task(ears: Callable[..., tuple[int, str, str]], recordings: Path) -> None:
    (recordings / "text.txt").write_text("# to say\nhello there\nhow are you\n")
    named = f"humans={recordings / 'all.jsonl'}"
    words = ["-o", str(recordings / "r.json"), "--clips", named, "-t", str(recordings / "text.txt"), "--voices", "amy,bob", "--limit", "2"]
    code, out, err = ears(*words)
    assert code == 0, err
    rows = json.loads((recordings / "r.json").read_text())["scores"]
    found = {(row["task"], row["set"], row["metric"]) for row in rows}
    assert found == {(task, "humans", "wer") for task in ("source", "codec", "asr", "vc")} | {
        ("asr", "humans", "cer"),
        ("tts", "amy", "wer"),
        ("tts", "bob", "wer"),
    }
    assert out.startswith("task")


def test_eval_speaks_in_the_voices_of_strangers(ears: Callable[..., tuple[int, str, str]], recordings: Path) -> None:
    sentences = recordings.parent / "sentences.txt"
    sentences.write_text("a b\nc d\n")
    code, out, _ = ears("-o", str(recordings.parent / "r.json"), "--text", str(sentences), "--strangers", f"people={recordings}")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()[1:]} == {"clone"}
    code, _, err = ears("-o", "r.json", "--strangers", f"people={recordings}")
    assert code == 2
    assert "nothing to say" in err


def test_eval_needs_something_to_measure(ears: Callable[..., tuple[int, str, str]]) -> None:
    assert ears("-o", "r.json")[0] == 2
    code, _, err = ears("-o", "r.json", "--clips", "humans")
    assert code == 1
    assert "legal: NAME=MANIFEST" in err


def test_stand_ins_are_complete(tmp_path: Path) -> None:
    """What the fakes leave out would be tested nowhere."""
    made = fakes.model(tmp_path / "fake")
    assert {"encode", "voice", "stream", "sample_rate", "frame_rate", "token_num"} <= set(dir(made.bicodec))

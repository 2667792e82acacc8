"""Measurements of engines and of speech: what is asked for is measured, in processes of their own, and adds up."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fakes
from engine_suite import DIM, FFN, HEADS, HIDDEN, KV_HEADS, LAYERS, write_checkpoint
from gpa.bench import speaker, speech
from gpa.bench.engines import Plan, bytes_per_id, installed, measure, once, read_limit, table
from gpa.bench.worker import prompt_of
from gpa.bounds import speech_seconds
from gpa.cli import app
from gpa.convert import convert_lm
from gpa.errors import EngineError, MissingExtra
from gpa.pipeline import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    convert_lm(folder, folder, "openvino", "int8")
    return folder


def test_engines_are_measured_in_turns(folder: Path) -> None:
    heard: list[str] = []
    report = measure(folder, ["openvino:f32", "openvino"], Plan((1, 2), new=5, rounds=1), heard.append)
    assert len(heard) == 2 * 2
    assert report.limit_gb_per_cpu_s > 0.1
    assert [row.engine for row in report.rows] == ["openvino:f32", "openvino"]
    for row in report.rows:
        assert [rate.streams for rate in row.rates] == [1, 2]
        assert min(row.load_s, row.peak_mb, row.prefill_ids_per_s, row.weights_mb, row.of_limit) > 0
        assert all(rate.ids_per_s > 0 and rate.first_ms > 0 and rate.times_reference is None for rate in row.rates)
    assert json.loads(json.dumps(asdict(report)))["rows"][0]["rates"][1]["streams"] == 2
    lines = list(table(report))
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1


def test_one_line_on_an_export(folder: Path) -> None:
    assert "ids/s" in once(folder / "openvino_model.xml", "openvino")


def test_an_engine_that_cannot_be_opened_says_why(folder: Path, tmp_path: Path) -> None:
    for name in ("openvino:int3", "transformers:int8"):
        with pytest.raises(EngineError, match="legal: openvino or llama"):
            measure(folder, [name])
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(EngineError, match=r"no_such cannot be measured: .*unknown engine"):
        measure(folder, ["no_such"])


def test_the_bytes_of_an_id_are_those_of_layers_and_legal_rows(folder: Path) -> None:
    layer = HIDDEN * DIM * 2 * (HEADS + KV_HEADS) + 3 * HIDDEN * FFN
    assert bytes_per_id(folder, folder, "openvino") == LAYERS * layer + (64 + 1) * HIDDEN
    assert bytes_per_id(folder, folder, "transformers") == 4 * bytes_per_id(folder, folder, "openvino")
    assert bytes_per_id(folder, folder, "reference") > bytes_per_id(folder, folder, "transformers")


def test_prompts_have_the_length_asked_for(folder: Path) -> None:
    from gpa.vocab import Vocab

    assert [len(prompt_of(Vocab.load(folder), n).context) for n in (20, 150)] == [20, 150]


def test_what_is_installed_is_measured(folder: Path) -> None:
    assert "openvino" in installed(folder)
    assert "llama" not in installed(folder)


def test_memory_can_be_read() -> None:
    assert read_limit(2, 8) > 1e8


# --- speech ---------------------------------------------------------------------------------------------------------


def test_speech_is_measured_beside_the_plain_way(nano_checkpoint: Path) -> None:
    heard: list[str] = []
    plan = speech.Plan(streams=(2,), seconds=(0.8,), rates=(50,), requests=2)
    report = speech.measure(nano_checkpoint, "openvino", plan, heard.append)
    assert len(heard) == len(report.cases) == 2 * 2
    assert set(report.cold_start_s) == {"gpa", "reference"}
    assert min(report.cold_start_s.values()) > 0.1
    assert [case.loop for case in report.cases] == ["closed"] * 2 + ["open"] * 2
    for ours, theirs in zip(report.cases[::2], report.cases[1::2], strict=True):
        assert (ours.way, theirs.way, theirs.times_reference) == ("gpa", "reference", 1.0)
        assert ours.times_reference == pytest.approx(ours.audio_per_s / theirs.audio_per_s)
        assert ours.audio_s == pytest.approx(theirs.audio_s, abs=0.05)  # the same codes; only who waits for what differs
        for case in (ours, theirs):
            assert (case.requests, case.failed, case.error) == (2, 0, "")
            assert 0 < case.ttfc_ms.p50 <= case.ttfc_ms.p99
            assert 0 < case.rtf.p50 <= case.rtf.p99
            assert case.codes_per_s == pytest.approx(25 * case.audio_per_s)
            assert 10 < case.rss_mb <= case.peak_mb
    lines = list(speech.table(report))
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1
    assert json.loads(json.dumps(asdict(report)))["cases"][3]["way"] == "reference"


def test_the_plain_way_says_the_same_in_whole_seconds(nano_checkpoint: Path) -> None:
    text = speaker.said(3.0, 1).replace(".", "")  # one sentence
    with load(nano_checkpoint) as model:
        ours = np.concatenate(list(speaker.together(model)(text, 3)))
        chunks = list(speaker.alone(model)(text, 3))
    assert len(np.concatenate(chunks)) == len(ours)
    assert len(chunks) > 1
    assert {len(chunk) for chunk in chunks[:-1]} == {model.sample_rate}


def test_requests_come_as_clients_ask_or_as_they_were_drawn(tmp_path: Path) -> None:
    model = fakes.model(tmp_path)
    closed, opened = (speaker.run(speaker.together(model), 2, rate, 5, 0.5)["heard"] for rate in (0.0, 200.0))
    for heard in (closed, opened):
        assert len(heard) == 5  # type: ignore[arg-type]
        assert all(request["chunks"] and not request["error"] for request in heard)  # type: ignore[attr-defined]
    drawn = np.random.default_rng(speaker.ARRIVALS).exponential(1 / 200, 5).cumsum()
    assert [request["asked"] for request in opened] == pytest.approx(drawn)  # type: ignore[attr-defined]


def test_a_request_that_fails_is_counted(tmp_path: Path) -> None:
    def speak(text: str, seed: int) -> object:
        if seed == 1:
            raise EngineError("the cache is full")
        yield np.zeros(160, np.float32)

    run = speaker.run(speak, 2, 0.0, 3, 0.5)  # type: ignore[arg-type]
    assert [request["error"] for request in run["heard"]] == ["", "the cache is full", ""]  # type: ignore[attr-defined]


@pytest.mark.parametrize("seconds", [0.1, 1, 10, 60])
def test_texts_are_as_long_as_asked_for(seconds: float) -> None:
    texts = [speaker.said(seconds, number) for number in range(5)]
    assert len(set(texts)) == 5
    assert all(seconds <= speech_seconds(text) < seconds + 1.5 for text in texts)


def test_a_player_runs_dry_where_a_chunk_is_late() -> None:
    assert speech.silences([(5.0, 100)], 100) == []
    assert speech.silences([(5.0, 100), (6.0, 100), (6.5, 100), (8.0, 100)], 100) == []
    assert speech.silences([(0.0, 100), (1.5, 100), (2.0, 100), (4.0, 100)], 100) == [0.5, 0.5]


def test_figures_over_requests() -> None:
    assert speech.spread([]) == speech.Spread(0, 0, 0)
    assert speech.spread([1, 2, 6]) == speech.Spread(3, 2, pytest.approx(5.92))
    served = [speaker.Heard(asked, [(1.0, 1)]) for asked in (0.0, 0.5, 1.2, 9.0)]
    assert speech.most_at_once(served) == 2


def test_a_drawing_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match="matplotlib"):
        speech.plot(speech.Report("nano", "auto", {}, ()), tmp_path / "speech.svg")


@pytest.mark.parametrize("wrong", [["--streams", "1,x"], ["--streams", "1.5"], ["--seconds", "0"], ["--rate", "-1"], ["--rate", "inf"]])
def test_numbers_that_cannot_be_measured(wrong: list[str]) -> None:
    assert CliRunner().invoke(app, ["bench", "speech", *wrong]).exit_code == 2

"""Measurements of the engines: what is asked for is measured, in processes of their own, and adds up."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from engine_suite import DIM, FFN, HEADS, HIDDEN, KV_HEADS, LAYERS, write_checkpoint
from gpa.bench.engines import Plan, bytes_per_id, installed, measure, once, read_limit, table
from gpa.bench.worker import prompt_of
from gpa.convert import convert_lm
from gpa.errors import EngineError


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
    assert read_limit(8) > 1e8

"""The measurement of the server: what it counts, on a server of stand-ins; and once on a server of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

import fakes
from gpa.bench import serving
from gpa.bench.serving import Client, Plan, measure, table
from gpa.errors import EngineError
from live import Live, served
from test_server_live import Slow

PLAN = Plan(concurrency=2, queue=2, seconds=1.0, requests=20, warm_s=0.1, rates=(2.0,), pairs=2, disconnects=3)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    model = fakes.model(tmp_path / "fake")
    model.engine = Slow(model.engine.answer)  # type: ignore[attr-defined]
    model.engine.pause = 0.002  # type: ignore[attr-defined]
    with served(model, tmp_path / "voices", concurrency=2, queue=2) as found:
        yield found


def test_what_is_counted(live: Live) -> None:
    base = serving._load(live.port, PLAN, 0.0, 0.0)
    assert (base.asked, base.served, base.refused, base.failed) == (20, 20, 0, 0)
    assert 0 < base.first_p50 <= base.first_p95 <= base.whole_p95
    assert base.served_per_s > 0
    over = serving._load(live.port, PLAN, 50.0, 50 * base.served_per_s)
    assert over.served + over.refused == 20
    assert over.refused
    with closing(Client(live.port)) as client:
        assert client.speak("").status == 400
    freed = serving._freed(live.port, PLAN)
    assert len(freed) == 3
    assert all(0 < ms < 5000 for ms in freed)


def test_a_client_that_gets_no_answer() -> None:
    with closing(Client(9)) as client:  # nobody listens there
        assert client.speak("Hello.").status == 0


def test_a_server_that_does_not_come_up(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not come up"), serving.served(tmp_path / "nothing", "auto", PLAN):
        pass


@pytest.mark.slow
def test_the_whole_measurement(nano_checkpoint: Path) -> None:
    heard: list[str] = []
    report = measure(nano_checkpoint, "auto", PLAN, heard.append)
    assert len(heard) == 4
    assert [load.share for load in report.loads] == [0.0, 2.0]
    assert report.first_http_ms[0] > 0
    assert json.loads(json.dumps(asdict(report)))["loads"][0]["served"] == 20
    lines = list(table(report))
    assert len({line.count("|") for line in lines}) == 1

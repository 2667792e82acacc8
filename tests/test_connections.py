# ruff: noqa: E402  (the extra `server` may be missing)
"""How many connections may stay open: WebSockets and Wyoming's, in all and of one key; what those hear that come beyond."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
websockets = pytest.importorskip("websockets.sync.client")
InvalidStatus = pytest.importorskip("websockets.exceptions").InvalidStatus

import fakes
import live
from gpa.server import frames
from gpa.server.access import Counted, hashed
from gpa.server.app import create_app
from gpa.server.connections import Connections
from gpa.server.metrics import Metrics
from gpa.server.settings import Settings
from gpa.server.wyoming import listening

KEYS = ("the-first-key-of-two", "the-second-key-of-two")
PATHS = ("/ws/tts", "/ws/vc", "/v1/realtime")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[live.Live]:
    settings = {"key_hashes": frozenset(map(hashed, KEYS)), "sockets": 3, "sockets_per_key": 2}
    with live.served(fakes.model(tmp_path / "fake"), tmp_path / "voices", **settings) as found:
        yield found


def connect(server: live.Live, key: str, path: str = "/ws/tts") -> Any:
    return websockets.connect(f"ws://127.0.0.1:{server.port}{path}", additional_headers={"authorization": f"Bearer {key}"})


def refused(server: live.Live, key: str, path: str = "/ws/tts") -> tuple[Any, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as caught, connect(server, key, path):
        pass
    response = caught.value.response
    return response, json.loads(response.body)["error"]


def test_sockets_beyond_their_number_are_refused(server: live.Live) -> None:
    with ExitStack() as held:
        for path in PATHS[:2]:
            held.enter_context(connect(server, KEYS[0], path))
        for path in PATHS:
            response, error = refused(server, KEYS[0], path)
            assert response.status_code == 429
            assert 1 <= int(response.headers["retry-after"]) <= 120
            assert response.headers["x-request-id"]
            assert error["type"] == "rate_limit_error"
            assert "this key or address has 2 connections open" in error["message"]
        held.enter_context(connect(server, KEYS[1]))
        response, error = refused(server, KEYS[1])
        assert response.status_code == 429
        assert error["message"].startswith("3 connections are open")
        page = server.app.state.desk.metrics.text()
        assert "gpa_sockets_open 3" in page
        assert 'gpa_rejected_total{task="socket",reason="sockets_per_key"} 3' in page
        assert 'gpa_rejected_total{task="socket",reason="sockets"} 1' in page
        live.until(lambda: 'status="429"} 4' in server.app.state.desk.metrics.text())
    live.until(lambda: "gpa_sockets_open 0" in server.app.state.desk.metrics.text())
    with connect(server, KEYS[0]):
        pass


def test_a_socket_without_a_key_hears_why(server: live.Live) -> None:
    response, error = refused(server, "a-key-that-is-not-known")
    assert response.status_code == 401
    assert error["code"] == "invalid_api_key"


def test_servers_that_can_only_close() -> None:
    sent: list[Any] = []
    connections = Connections("socket", Settings(sockets=1), Metrics())

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        with connections.place("other"):
            await Counted(None, connections)({"type": "websocket", "gpa.caller": "me"}, None, send)  # type: ignore[arg-type]

    asyncio.run(run())
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert "1 connections are open" in sent[0]["reason"]
    assert connections.open == 0


def test_wyoming_has_its_own_number(tmp_path: Path) -> None:
    settings = replace(Settings(wyoming=0, voices=tmp_path / "voices"), sockets_per_key=2)
    desk = create_app(fakes.model(tmp_path / "fake"), settings).state.desk

    async def run() -> None:
        async with listening(desk) as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            for reader, writer in held:
                writer.write(frames.encode(frames.Frame("describe")))
                assert (await asked(reader)).type == "info"
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            error = await asked(reader)
            assert error.type == "error"
            assert error.data["code"] == "rate_limit_exceeded"
            assert await reader.read() == b""
            writer.close()
            held.pop()[1].close()
            for _ in range(500):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(frames.encode(frames.Frame("describe")))
                found = await asked(reader)
                writer.close()
                if found.type == "info":
                    break
                await asyncio.sleep(0.01)
            assert found.type == "info"
            held.pop()[1].close()
        assert 'gpa_rejected_total{task="wyoming",reason="sockets_per_key"}' in desk.metrics.text()

    asyncio.run(run())


async def asked(reader: asyncio.StreamReader) -> frames.Frame:
    frame = await frames.read(reader, 10)
    assert frame is not None
    return frame

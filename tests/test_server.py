"""The server on stand-ins, in process: what clients send and what they get."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import fakes
from gpa import audio
from gpa.server.app import create_app
from gpa.server.settings import Settings

RATE = 24_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(fakes.model(tmp_path / "fake"), Settings(voices=tmp_path / "voices"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as found:
        yield found


pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("format", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
async def test_speech_in_every_format(client: httpx.AsyncClient, format: str) -> None:
    body = {"model": "tts-1", "input": "Hello there, everybody.", "voice": "alloy", "response_format": format}
    answer = await client.post("/v1/audio/speech", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == audio.FORMATS[format].media_type
    assert answer.headers["x-request-id"].startswith("req_")
    seconds = len(answer.content) / 2 / RATE if format == "pcm" else len(audio.decode(answer.content, RATE)) / RATE
    assert seconds == pytest.approx(len("Hello there, everybody.") / 25, abs=0.1)


async def test_speech_as_events(client: httpx.AsyncClient) -> None:
    body = {"model": "gpt-4o-mini-tts", "input": "Hello.", "voice": {"id": "bob"}, "stream_format": "sse", "response_format": "pcm"}
    answer = await client.post("/v1/audio/speech", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line]
    sound = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert len(sound) / 2 / RATE == pytest.approx(6 / 25, abs=0.01)
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"] == {"input_tokens": 6, "output_tokens": 6, "total_tokens": 12}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": " "}, "input"),
        ({"input": "a" * 4097}, "input"),
        ({"voice": "nobody"}, "voice"),
        ({"voice": "/etc/passwd"}, "voice"),
        ({"voice": {"id": "../amy"}}, "voice"),
        ({"speed": 5}, "speed"),
        ({"response_format": "ogg"}, "response_format"),
        ({"input": None}, "input"),
    ],
)
async def test_speech_refused(client: httpx.AsyncClient, change: dict[str, object], param: str) -> None:
    answer = await client.post("/v1/audio/speech", json={"model": "tts-1", "input": "Hello.", "voice": "amy"} | change)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"].startswith(param)
    assert error["type"] == "invalid_request_error"


async def test_health_and_metrics(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health/ready")).json() == {"status": "ready", "running": 0, "waiting": 0}
    await client.post("/v1/audio/speech", json={"model": "tts-1", "input": "Hello.", "voice": "amy"})
    page = (await client.get("/metrics")).text
    assert 'gpa_requests_total{route="/v1/audio/speech",status="200"} 1' in page
    assert 'gpa_tokens_total{task="tts",kind="output"} 6' in page
    assert 'gpa_first_chunk_seconds_count{task="tts"} 1' in page

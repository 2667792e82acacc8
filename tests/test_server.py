# ruff: noqa: E402  (the extra `server` may be missing)
"""The server on stand-ins, in process: what clients send and what they get."""

from __future__ import annotations

import base64
import inspect
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import fakes
import gpa
from gpa import audio, hub, watermark
from gpa.errors import CheckpointError
from gpa.server.app import ROUTERS, create_app
from gpa.server.desk import OPENAI_VOICES
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


async def test_wrong_addresses_are_told(client: httpx.AsyncClient) -> None:
    """Most of all to somebody who left out /v1."""
    lost = await client.post("/audio/speech", json={})
    assert lost.status_code == 404
    assert "below /v1" in lost.json()["error"]["message"]
    asked = await client.get("/v1/audio/speech")
    assert (asked.status_code, asked.headers["allow"]) == (405, "POST")
    assert set(asked.json()["error"]) == {"message", "type", "param", "code"}


def test_no_request_waits_for_a_thread() -> None:
    """FastAPI runs plain functions on threads of a pool, which a busy machine is slow to start."""
    for router in ROUTERS:
        for route in router.routes:
            calls = [route.endpoint, *(one.call for one in route.dependant.dependencies)]  # type: ignore[attr-defined]
            assert all(map(inspect.iscoroutinefunction, calls)), route.path  # type: ignore[attr-defined]


async def test_health_and_metrics(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health/ready")).json() == {"status": "ready", "running": 0, "waiting": 0}
    await client.post("/v1/audio/speech", json={"model": "tts-1", "input": "Hello.", "voice": "amy"})
    page = (await client.get("/metrics")).text
    assert 'gpa_requests_total{route="/v1/audio/speech",status="200"} 1' in page
    assert 'gpa_tokens_total{task="tts",kind="output"} 6' in page
    assert 'gpa_first_chunk_seconds_count{task="tts"} 1' in page


# ---- transcriptions ----


def clip(seconds: float = 0.0) -> bytes:
    """The bundled recording of a human, with silence behind."""
    wav = audio.decode(hub.embedded() / "demo.opus", 16_000)
    return audio.encode(np.concatenate([wav, np.zeros(round(seconds * 16_000), np.float32)]), 16_000, "wav")


CLIP = clip()
SECONDS = len(audio.decode(CLIP, 16_000)) / 16_000


async def transcribe(client: httpx.AsyncClient, data: bytes = CLIP, name: str = "file.wav", **form: object) -> httpx.Response:
    return await client.post("/v1/audio/transcriptions", files={"file": (name, data)}, data={"model": "whisper-1"} | form)


async def test_json(client: httpx.AsyncClient) -> None:
    answer = await transcribe(client, include=["logprobs"], temperature="0", **{"languages[]": ["de", "en-US"]}, prompt="names")
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert body["text"] == "Hello there."
    assert [row["token"] for row in body["logprobs"]] == ["Hello", " there."]
    assert body["logprobs"][0]["bytes"] == list(b"Hello")
    assert body["logprobs"][0]["logprob"] == pytest.approx(-0.5)
    assert body["usage"]["type"] == "tokens"
    assert body["usage"]["total_tokens"] == body["usage"]["input_tokens"] + body["usage"]["output_tokens"]


async def test_hints(tmp_path: Path) -> None:
    """Keywords and the names of a prompt reach the model; one without counts of words is not troubled by them."""
    for made in (fakes.model(tmp_path / "plain"), fakes.knowing_words(fakes.model(tmp_path / "knowing"), "hello there")):
        engine = made.engine
        app = create_app(made, Settings(voices=tmp_path / "voices"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as found:
            answer = await transcribe(found, **{"keywords[]": ["Zyn", "Hello"]}, prompt="Hello there, Hibari. Hello!")
        assert answer.json()["text"] == "Hello there."
        asked, _ = engine.asked[-1]  # type: ignore[attr-defined]
        assert asked.prior is None if made.prior is None else asked.prior.expected == ("zyn", "hello", "hibari")


async def test_verbose_json(client: httpx.AsyncClient) -> None:
    body = (await transcribe(client, response_format="verbose_json", **{"timestamp_granularities[]": ["segment"]})).json()
    assert body["task"] == "transcribe"
    assert body["language"] == "english"
    assert body["duration"] == pytest.approx(SECONDS, abs=0.2)
    assert body["usage"] == {"type": "duration", "seconds": math.ceil(SECONDS)}
    (segment,) = body["segments"]
    assert segment["text"] == " Hello there."
    assert 0 <= segment["start"] < segment["end"] <= body["duration"]
    keys = "id seek start end text tokens temperature avg_logprob compression_ratio no_speech_prob"
    assert set(segment) == set(keys.split())


@pytest.mark.parametrize(("format", "begins"), [("text", "Hello there.\n"), ("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n00:00:0")])
async def test_plain_formats(client: httpx.AsyncClient, format: str, begins: str) -> None:
    answer = await transcribe(client, response_format=format)
    assert not answer.headers["content-type"].startswith("application/json")
    assert answer.text.startswith(begins)
    assert "Hello there." in answer.text


async def test_events_of_a_transcription(client: httpx.AsyncClient) -> None:
    answer = await transcribe(client, stream="true", **{"chunking_strategy[type]": "server_vad", "include[]": "logprobs"})
    *rows, last = [line[6:] for line in answer.text.split("\n\n") if line]
    assert last == "[DONE]"
    events = [json.loads(row) for row in rows]
    assert [event["type"] for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert events[0]["delta"] == events[1]["text"] == "Hello there."
    assert events[0]["logprobs"][0]["token"] == "Hello"
    assert events[1]["usage"]["type"] == "tokens"


async def test_silence_is_no_text(client: httpx.AsyncClient) -> None:
    silence = audio.encode(np.zeros(16_000, np.float32), 16_000, "wav")
    assert (await transcribe(client, silence)).json()["text"] == ""
    assert (await transcribe(client, silence, response_format="verbose_json")).json()["segments"] == []


@pytest.mark.parametrize(
    ("form", "data", "status", "param"),
    [
        ({"response_format": "diarized_json"}, CLIP, 400, "response_format"),
        ({"response_format": "xml"}, CLIP, 400, "response_format"),
        ({"language": "tlh"}, CLIP, 400, "language"),
        ({"languages[]": ["tlh", "de"]}, CLIP, 400, "language"),
        ({"timestamp_granularities[]": "letter"}, CLIP, 400, "timestamp_granularities"),
        ({}, b"", 400, "file"),
        ({}, b"no sound at all", 400, "file"),
        ({}, b"#EXTM3U\nfile:///etc/passwd\n", 400, "file"),
    ],
)
async def test_transcriptions_refused(client: httpx.AsyncClient, form: dict[str, str], data: bytes, status: int, param: str) -> None:
    answer = await transcribe(client, data, **form)
    assert answer.status_code == status
    assert answer.json()["error"]["param"].startswith(param)


async def test_forms_that_are_none(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/audio/transcriptions", json={"model": "whisper-1"})).status_code == 400
    assert (await client.post("/v1/audio/transcriptions", data={"file": "x"}, files={"other": b"x"})).json()["error"]["param"] == "file"
    broken = await client.post("/v1/audio/transcriptions", content=b"--x", headers={"content-type": "multipart/form-data; boundary=y"})
    assert broken.status_code == 400
    assert broken.json()["error"]["type"] == "invalid_request_error"
    none = await client.post("/v1/audio/transcriptions", content=b"--x", headers={"content-type": "multipart/form-data"})
    assert none.status_code == 400


async def test_translations_are_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/audio/translations", files={"file": CLIP}, data={"model": "whisper-1"})
    assert answer.status_code == 400
    assert "translations are not offered" in answer.json()["error"]["message"]


# ---- conversions ----


async def test_conversion(client: httpx.AsyncClient) -> None:
    form = {"voice": "bob", "response_format": "wav"}
    answer = await client.post("/v1/audio/conversions", files={"file": ("me.wav", CLIP)}, data=form)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "audio/wav"
    assert len(audio.decode(answer.content, RATE)) / RATE == pytest.approx(4, abs=1)
    events = await client.post("/v1/audio/conversions", files={"file": CLIP}, data=form | {"stream_format": "sse"})
    assert '"speech.audio.done"' in events.text
    assert (await client.post("/v1/audio/conversions", files={"file": CLIP}, data={"voice": ""})).status_code == 400


# ---- models, voices, consents ----


async def test_models(client: httpx.AsyncClient) -> None:
    ids = [row["id"] for row in (await client.get("/v1/models")).json()["data"]]
    assert {"fake", "tts-1", "whisper-1", "gpt-4o-mini-tts", "gpt-4o-transcribe"} <= set(ids)
    assert (await client.get("/v1/models/whisper-1")).json()["object"] == "model"
    assert (await client.get("/v1/models/gpt-9")).status_code == 404
    assert {"id": "tts-1", "name": "tts-1"} in (await client.get("/audio/models")).json()["models"]


async def test_every_openai_voice_speaks(client: httpx.AsyncClient) -> None:
    listed = {row["id"]: row["name"] for row in (await client.get("/v1/audio/voices")).json()["voices"]}
    assert set(listed) == {"amy", "bob", *OPENAI_VOICES}
    assert listed["ash"] == "ash (bob)"
    for name in OPENAI_VOICES:
        body = {"model": "tts-1", "input": "Hi.", "voice": name, "response_format": "pcm"}
        assert (await client.post("/v1/audio/speech", json=body)).status_code == 200


async def test_a_voice_is_made_used_and_deleted(client: httpx.AsyncClient, tmp_path: Path) -> None:
    made = (await client.post("/v1/audio/voices", data={"name": "Mine", "consent": ""}, files={"audio_sample": CLIP})).json()
    assert made["object"] == "audio.voice"
    assert (await client.get(f"/v1/audio/voices/{made['id']}")).json() == made
    assert {"id": made["id"], "name": "Mine"} in (await client.get("/v1/audio/voices")).json()["voices"]
    for voice in ({"id": made["id"]}, made["id"], "Mine"):
        body = {"model": "tts-1", "input": "Hi.", "voice": voice, "response_format": "pcm"}
        assert (await client.post("/v1/audio/speech", json=body)).status_code == 200
    assert len(list((tmp_path / "voices").iterdir())) == 1
    gone = await client.delete(f"/v1/audio/voices/{made['id']}")
    assert gone.json() == {"id": made["id"], "object": "audio.voice.deleted", "deleted": True}
    assert not list((tmp_path / "voices").iterdir())
    assert (await client.delete(f"/v1/audio/voices/{made['id']}")).status_code == 404


async def test_voices_refused(client: httpx.AsyncClient) -> None:
    for form in ({"name": ""}, {"name": "x" * 81}, {"name": "x", "consent": "cons_none"}, {"name": "x", "type": "prompt"}):
        answer = await client.post("/v1/audio/voices", data=form, files={"audio_sample": CLIP})
        assert answer.status_code in (400, 404), form
    silence = audio.encode(np.zeros(16_000, np.float32), 16_000, "wav")
    answer = await client.post("/v1/audio/voices", data={"name": "x"}, files={"audio_sample": silence})
    assert answer.status_code == 400
    assert "no voice can be heard" in answer.json()["error"]["message"]


async def test_consents(client: httpx.AsyncClient) -> None:
    kept = [
        (await client.post("/v1/audio/voice_consents", data={"name": f"c{i}", "language": "en-US"}, files={"recording": CLIP})).json()
        for i in range(3)
    ]
    assert kept[0]["object"] == "audio.voice_consent"
    page = (await client.get("/v1/audio/voice_consents", params={"limit": 2})).json()
    assert page["has_more"]
    rest = (await client.get("/v1/audio/voice_consents", params={"limit": 2, "after": page["last_id"]})).json()
    assert not rest["has_more"]
    assert {row["id"] for row in page["data"] + rest["data"]} == {row["id"] for row in kept}
    renamed = await client.post(f"/v1/audio/voice_consents/{kept[0]['id']}", json={"name": "new"})
    assert renamed.json()["name"] == "new"
    made = (await client.post("/v1/audio/voices", data={"name": "v", "consent": kept[0]["id"]}, files={"audio_sample": CLIP})).json()
    assert (await client.delete(f"/v1/audio/voice_consents/{kept[0]['id']}")).json()["deleted"]
    assert (await client.get(f"/v1/audio/voices/{made['id']}")).status_code == 404, "a withdrawn consent takes its voices along"


async def test_words(client: httpx.AsyncClient) -> None:
    body = (await transcribe(client, response_format="verbose_json", **{"timestamp_granularities[]": ["word", "segment"]})).json()
    assert [row["word"] for row in body["words"]] == ["Hello", "there."]
    assert 0 <= body["words"][0]["start"] <= body["words"][0]["end"] <= body["words"][1]["end"] <= body["duration"]
    only = (await transcribe(client, response_format="verbose_json", timestamp_granularities="word")).json()
    assert "segments" not in only


async def test_what_is_made_carries_the_mark(tmp_path: Path) -> None:
    found = {}
    for wanted in (True, False):
        app = create_app(fakes.model(tmp_path / f"fake-{wanted}", watermark=wanted), Settings(voices=tmp_path / "voices"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            body = {"model": "x", "input": "Hello there, everybody.", "voice": "amy", "response_format": "wav"}
            found[wanted] = audio.decode((await client.post("/v1/audio/speech", json=body)).content, 16_000)
    plain = found[False]
    assert not np.allclose(found[True], plain, atol=1e-4)
    marked = watermark.embed(plain, 16_000)
    assert np.abs(found[True] - marked)[:-400].max() < 2e-2


# ---- the embedded checkpoint ----


async def test_nano(tmp_path: Path) -> None:
    try:
        model = gpa.load()
    except CheckpointError as error:
        pytest.skip(str(error))
    with model:
        app = create_app(model, Settings(voices=tmp_path / "voices"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            body = {"model": "tts-1", "input": "Hello there.", "voice": "alloy", "response_format": "wav", "speed": 1.25}
            spoken = await client.post("/v1/audio/speech", json=body)
            assert np.abs(audio.decode(spoken.content, RATE)).max() > 0.01
            form = {"response_format": "verbose_json", "timestamp_granularities[]": ["segment", "word"]}
            heard = (await transcribe(client, **form)).json()
            assert heard["text"]
            assert len(heard["words"]) == len(heard["text"].split())
            made = await client.post("/v1/audio/voices", data={"name": "me"}, files={"audio_sample": CLIP})
            swapped = await client.post("/v1/audio/conversions", data={"voice": made.json()["id"]}, files={"file": CLIP})
            assert len(audio.decode(swapped.content, RATE)) / RATE == pytest.approx(SECONDS, abs=1)


async def test_the_api_describes_itself(client: httpx.AsyncClient) -> None:
    answer = await client.get("/openapi.json")
    assert answer.status_code == 200
    assert {"/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/conversions"} <= set(answer.json()["paths"])

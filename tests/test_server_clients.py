# ruff: noqa: E402  (the extra `server` and the clients may be missing)
"""Real clients and the requests that others send, unchanged, against a live server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

import pydantic

import clients
import fakes
from gpa import audio, hub
from live import Live, served

RATE = 24_000
CLIP = audio.encode(audio.decode(hub.embedded() / "demo.opus", 16_000), 16_000, "wav")
SAID = "Hello there."


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("clients")
    with served(fakes.model(folder / "fake"), folder / "voices") as found:
        yield found


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def http(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, verify=False, timeout=30.0) as found:
        yield found


# ---- openai's Python SDK ----


def test_openai_speech(client: openai.OpenAI, tmp_path: Path) -> None:
    answer = client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="Hello there.", instructions="Cheerful.")
    assert answer.response.headers["content-type"] == "audio/mpeg"
    assert len(audio.decode(answer.content, RATE)) / RATE == pytest.approx(12 / 25, abs=0.2)
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice={"id": "bob"}, input="Hello there.", response_format="pcm", speed=2.0
    ) as streamed:
        pcm = b"".join(streamed.iter_bytes())
        assert streamed.request_id.startswith("req_")
    assert len(pcm) / 2 / RATE == pytest.approx(6 / 25, abs=0.05)


def test_openai_transcriptions(client: openai.OpenAI) -> None:
    sound = ("me.wav", CLIP)
    assert client.audio.transcriptions.create(model="whisper-1", file=sound).text == SAID
    assert client.audio.transcriptions.create(model="whisper-1", file=sound, response_format="text").strip() == SAID
    assert "-->" in client.audio.transcriptions.create(model="whisper-1", file=sound, response_format="srt")
    whole = client.audio.transcriptions.create(
        model="whisper-1", file=sound, response_format="verbose_json", timestamp_granularities=["segment", "word"], language="en"
    )
    assert whole.segments is not None
    assert whole.segments[0].text == f" {SAID}"
    assert whole.words is not None
    assert [word.word for word in whole.words] == SAID.split()
    assert whole.usage is not None
    assert whole.usage.type == "duration"
    sure = client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=sound, include=["logprobs"], chunking_strategy={"type": "server_vad"}, prompt="names"
    )
    assert sure.logprobs is not None
    assert sure.logprobs[0].token == "Hello"
    assert sure.usage is not None
    assert sure.usage.type == "tokens"


def test_openai_transcription_events(client: openai.OpenAI) -> None:
    events = list(client.audio.transcriptions.create(model="gpt-4o-mini-transcribe", file=("me.wav", CLIP), stream=True))
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert events[-1].text == SAID  # type: ignore[union-attr]


def test_openai_voices(client: openai.OpenAI) -> None:
    kept = client.audio.voice_consents.create(name="me", language="en-US", recording=("me.wav", CLIP))
    assert client.audio.voice_consents.retrieve(kept.id) == kept
    assert client.audio.voice_consents.update(kept.id, name="myself").name == "myself"
    assert [one.id for one in client.audio.voice_consents.list(limit=1)] == [kept.id]
    voice = client.audio.voices.create(name="Mine", audio_sample=("me.wav", CLIP), consent=kept.id)
    assert client.audio.speech.create(model="tts-1", voice={"id": voice.id}, input="Hi.").content
    assert client.audio.voices.delete(voice.id).deleted
    assert client.audio.voice_consents.delete(kept.id).deleted


def test_answers_have_the_types_of_the_sdk(http: httpx.Client) -> None:
    """Read strictly, where the SDK itself takes what comes."""
    from openai.types import audio as types

    def asked(path: str, files: dict[str, object], **form: object) -> str:
        answer = http.post(f"/v1/audio/{path}", data=form, files=files)
        assert answer.status_code == 200, answer.text
        return answer.text

    sound = {"file": CLIP}
    types.Transcription.model_validate_json(asked("transcriptions", sound, model="x", **{"include[]": "logprobs"}), strict=True)
    both = {"timestamp_granularities[]": ["word", "segment"]}
    whole = asked("transcriptions", sound, model="x", response_format="verbose_json", **both)
    read = types.TranscriptionVerbose.model_validate_json(whole, strict=True)
    assert read.words
    assert read.segments
    events = asked("transcriptions", sound, model="x", stream="true", **{"include[]": "logprobs"}).split("\n\n")
    kinds = pydantic.TypeAdapter(types.TranscriptionStreamEvent)
    for line in filter(None, events):
        assert line == "data: [DONE]" or kinds.validate_json(line.removeprefix("data: "), strict=True).logprobs  # type: ignore[union-attr]
    consent = types.VoiceConsent.model_validate_json(asked("voice_consents", {"recording": CLIP}, name="me", language="en-US"), strict=True)
    voice = types.Voice.model_validate_json(asked("voices", {"audio_sample": CLIP}, name="me", consent=consent.id), strict=True)
    types.VoiceDeleted.model_validate_json(http.delete(f"/v1/audio/voices/{voice.id}").text, strict=True)
    gone = http.delete(f"/v1/audio/voice_consents/{consent.id}").text
    types.VoiceConsentDeleted.model_validate_json(gone, strict=True)
    openai.types.Model.model_validate_json(http.get("/v1/models/tts-1").text, strict=True)


@pytest.mark.filterwarnings("ignore:deprecated")
def test_openai_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="unknown voice") as caught:
        client.audio.speech.create(model="tts-1", voice="nobody", input="Hello.")
    assert caught.value.param == "voice"
    assert caught.value.request_id
    with pytest.raises(openai.BadRequestError, match="translations are not offered"):
        client.audio.translations.create(model="whisper-1", file=("me.wav", CLIP))
    with pytest.raises(openai.BadRequestError, match="does not tell speakers apart"):
        client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("me.wav", CLIP), response_format="diarized_json")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    assert "whisper-1" in [model.id for model in client.models.list()]


@pytest.mark.anyio
async def test_openai_async(live: Live) -> None:
    asked = {"model": "gpt-4o-mini-tts", "voice": "nova", "input": "Hello.", "response_format": "pcm"}
    async with (
        openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none") as client,
        client.audio.speech.with_streaming_response.create(**asked) as answer,
    ):
        assert sum([len(chunk) async for chunk in answer.iter_bytes()]) == round(6 / 25 * RATE) * 2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# ---- what others send: field by field from their own sources ----


def test_livekit(http: httpx.Client) -> None:
    assert http.get("/").status_code < 500  # it warms the connection up with this
    body = {"input": SAID, "model": "gpt-4o-mini-tts", "voice": "ash", "instructions": None, "response_format": "mp3", "speed": 1.0}
    answer = http.post("/v1/audio/speech", json=body | {"stream_format": "sse"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    mp3 = b"".join(base64.b64decode(event["audio"]) for event in events if event["type"] == "speech.audio.delta")
    assert len(audio.decode(mp3, RATE))
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"]["output_tokens"]
    plain = http.post("/v1/audio/speech", json=body | {"model": "tts-1"})
    assert plain.headers["content-type"] == "audio/mpeg"
    form = {"model": "whisper-1", "language": "en", "prompt": "", "response_format": "verbose_json"}
    heard = http.post("/v1/audio/transcriptions", data=form, files={"file": ("file.wav", CLIP, "audio/wav")}).json()
    assert heard["text"] == SAID
    assert heard["segments"][0]["avg_logprob"] <= 0


def test_pipecat(http: httpx.Client) -> None:
    body = {"input": SAID, "model": "gpt-4o-mini-tts", "voice": "marin", "response_format": "pcm"}
    with http.stream("POST", "/v1/audio/speech", json=body) as answer:
        assert answer.status_code == 200
        assert sum(map(len, answer.iter_raw(1024))) == round(12 / 25 * RATE) * 2
    form = {"model": "gpt-4o-transcribe", "language": "en", "response_format": "json", "include[]": "logprobs", "temperature": "0.0"}
    heard = http.post("/v1/audio/transcriptions", data=form, files={"file": ("audio.wav", CLIP, "audio/wav")}).json()
    assert heard["text"] == SAID
    assert heard["logprobs"]


def test_open_webui(http: httpx.Client) -> None:
    for base in ("/v1", ""):
        voices = http.get(f"{base}/audio/voices").json()["voices"]
        assert all(set(voice) == {"id", "name"} for voice in voices)
        assert http.get(f"{base}/audio/models").json()["models"][0]["id"] == "fake"
    answer = http.post("/v1/audio/speech", json={"input": SAID, "model": "tts-1", "voice": "alloy"})
    assert audio.decode(BytesIO(answer.content), RATE).size
    form = {"model": "whisper-1", "language": "en"}
    heard = http.post("/v1/audio/transcriptions", data=form, files={"file": ("recording.webm", CLIP, "audio/webm")})
    assert heard.json()["text"] == SAID
    wrong = http.post("/v1/audio/transcriptions", data=form, files={"file": ("recording.webm", b"?", "audio/webm")})
    assert wrong.json()["error"]["message"]


def test_sillytavern(http: httpx.Client) -> None:
    body = {"model": "tts-1", "input": SAID, "voice": "fable", "response_format": "mp3", "speed": 1}
    assert http.post("/v1/audio/speech", json=body).headers["content-type"] == "audio/mpeg"


def test_wyoming_openai_reads_the_header_of_a_wav(http: httpx.Client) -> None:
    with http.stream(
        "POST", "/v1/audio/speech", json={"input": SAID, "model": "tts-1", "voice": "echo", "response_format": "wav"}
    ) as answer:
        first = next(answer.iter_raw())
    assert first[:4] == b"RIFF"
    assert len(first) > 44
    assert int.from_bytes(first[24:28], "little") == RATE


def test_home_assistant_languages(http: httpx.Client) -> None:
    for language in ("en", "en-US", "en_GB", "English", ""):
        form = {"model": "whisper-1", "language": language}
        assert http.post("/v1/audio/transcriptions", data=form, files={"file": ("a.wav", CLIP)}).status_code == 200, language


# ---- openai's SDK for JavaScript ----

NODE = """
import fs from "node:fs";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: "SERVER/v1", apiKey: "none", maxRetries: 0 });
const found = {};
const pcm = await client.audio.speech.create({ model: "tts-1", voice: { id: "bob" }, input: "Hello there.", response_format: "pcm" });
found.bytes = (await pcm.arrayBuffer()).byteLength;
const streamed = await client.audio.speech.create({ model: "tts-1", voice: "ash", input: "Hello.", response_format: "wav" });
found.head = Buffer.from((await streamed.body.getReader().read()).value).toString("latin1", 0, 4);
const sound = () => fs.createReadStream("me.wav");
const verbose = { response_format: "verbose_json", timestamp_granularities: ["word", "segment"] };
const whole = await client.audio.transcriptions.create({ model: "whisper-1", file: sound(), ...verbose });
found.words = whole.words.map((word) => word.word);
const events = await client.audio.transcriptions.create({ model: "gpt-4o-transcribe", file: sound(), stream: true, include: ["logprobs"] });
found.events = [];
for await (const event of events) found.events.push(event.type);
const memory = await toFile(fs.readFileSync("me.wav"), "me.wav");
found.srt = await client.audio.transcriptions.create({ model: "whisper-1", file: memory, response_format: "srt" });
found.models = [];
for await (const model of client.models.list()) found.models.push(model.id);
try {
  await client.audio.speech.create({ model: "tts-1", voice: "nobody", input: "Hello." });
} catch (error) {
  found.refused = [error.constructor.name, error.status, error.param, typeof error.requestID];
}
console.log(JSON.stringify(found));
"""


def test_openai_node(live: Live, tmp_path: Path) -> None:
    (tmp_path / "me.wav").write_bytes(CLIP)
    found = json.loads(clients.node(NODE.replace("SERVER", live.url), tmp_path))
    assert found["bytes"] == round(12 / 25 * RATE) * 2
    assert found["head"] == "RIFF"
    assert found["words"] == SAID.split()
    assert found["events"] == ["transcript.text.delta", "transcript.text.done"]
    assert "-->" in found["srt"]
    assert "whisper-1" in found["models"]
    assert found["refused"] == ["BadRequestError", 400, "voice", "string"]

# ruff: noqa: E402  (the extra `server` may be missing)
"""/v1/realtime: the events that LiveKit, Pipecat and OpenAI's SDK send, over a socket; what is damaged; who goes away."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

pytest.importorskip("fastapi")
sockets = pytest.importorskip("websockets.sync.client")

import fakes
import live
from gpa import audio
from gpa.engines.base import Context
from gpa.results import Segment
from gpa.server.app import create_app
from gpa.server.failures import Refusal
from gpa.server.realtime import Talk, Turn
from gpa.server.session import Format, Session
from gpa.server.settings import Settings
from gpa.server.turns import Began, Manner, Over, Spoken, Turns
from gpa.server.wire import Gone

RATE = 24_000
SPEECH = audio.decode(Path(__file__).parent / "data" / "speech.opus", RATE)  # 3.6 s
ITEM = "conversation.item.input_audio_transcription"
LIVEKIT = {  # as livekit-plugins-openai 1.8 sends it
    "type": "session.update",
    "session": {
        "type": "transcription",
        "audio": {
            "input": {
                "format": {"rate": 24000, "type": "audio/pcm"},
                "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en"},
                "turn_detection": {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 600, "silence_duration_ms": 350},
            }
        },
    },
}
PIPECAT = {  # as pipecat-ai 1.14 sends it
    "type": "session.update",
    "session": {
        "type": "transcription",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": {"model": "gpt-realtime-whisper", "language": "en"},
                "turn_detection": None,
            }
        },
    },
}


try:  # the SDK takes what comes; here its types are read in earnest
    from openai.types.realtime import RealtimeServerEvent

    KNOWN: TypeAdapter[Any] | None = TypeAdapter(RealtimeServerEvent)
except ImportError:
    KNOWN = None


def pcm(wav: np.ndarray) -> bytes:
    return (wav * 32767).astype("<i2").tobytes()


def silence(seconds: float) -> bytes:
    return bytes(2 * round(seconds * RATE))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    folder = tmp_path_factory.mktemp("realtime")
    with live.served(fakes.model(folder / "fake"), folder / "voices") as found:
        yield found


class Client:
    def __init__(self, socket: Any) -> None:
        self.socket = socket

    def send(self, event: dict[str, Any] | str, **fields: Any) -> None:
        self.socket.send(json.dumps(event | fields) if isinstance(event, dict) else event)

    def append(self, data: bytes, step: int = 2400) -> None:
        for at in range(0, len(data), step):
            self.send({"type": "input_audio_buffer.append", "audio": base64.b64encode(data[at : at + step]).decode()})

    def until(self, type: str) -> list[dict[str, Any]]:
        events = []
        while not events or events[-1]["type"] != type:
            message = self.socket.recv(timeout=30)
            events.append(json.loads(message))
            assert events[-1]["event_id"].startswith("event_")
            if KNOWN is not None and events[-1]["type"] != "transcription_session.updated":  # a beta client's
                KNOWN.validate_json(message)
        return events


@contextmanager
def opened(server: live.Live, query: str = "?intent=transcription") -> Iterator[Client]:
    with sockets.connect(f"ws://127.0.0.1:{server.port}/v1/realtime{query}") as socket:
        client = Client(socket)
        (greeting,) = client.until("session.created")
        assert greeting["session"]["object"] == "realtime.transcription_session"
        assert greeting["session"]["type"] == "transcription"
        yield client


def test_livekit_turns_by_the_server(server: live.Live) -> None:
    with opened(server, "?intent=transcription&model=gpt-4o-mini-transcribe") as client:
        client.send(LIVEKIT)
        (updated,) = client.until("session.updated")
        assert updated["session"]["audio"]["input"] == LIVEKIT["session"]["audio"]["input"] | {"noise_reduction": None}  # type: ignore[index]
        previous = None
        for _ in range(2):
            client.append(silence(1) + pcm(SPEECH) + silence(1))
            events = client.until(f"{ITEM}.completed")
            kinds = [event["type"] for event in events]
            assert kinds[0] == "input_audio_buffer.speech_started"
            rest = [kind for kind in kinds[1:] if kind != f"{ITEM}.delta"]
            assert rest == [
                "input_audio_buffer.speech_stopped",
                "input_audio_buffer.committed",
                "conversation.item.added",
                "conversation.item.done",
                f"{ITEM}.completed",
            ]
            deltas = "".join(event["delta"] for event in events if event["type"] == f"{ITEM}.delta")
            assert events[-1]["transcript"] == deltas == "Hello there."
            assert events[-1]["content_index"] == 0
            assert events[-1]["usage"]["type"] == "tokens"
            assert events[-1]["usage"]["output_tokens"] == len("hello there.")
            assert len({event["item_id"] for event in events if "item_id" in event}) == 1
            (committed,) = [event for event in events if event["type"] == "input_audio_buffer.committed"]
            assert committed["previous_item_id"] == previous
            previous = committed["item_id"]
            start, stop = events[0]["audio_start_ms"], next(event for event in events if "audio_end_ms" in event)["audio_end_ms"]
            assert 3000 < stop - start < 5500


def test_pipecat_commits(server: live.Live) -> None:
    with opened(server) as client:
        client.send(PIPECAT)
        (updated,) = client.until("session.updated")
        assert updated["session"]["audio"]["input"]["turn_detection"] is None
        client.append(silence(0.5) + pcm(SPEECH) + silence(1.5) + pcm(SPEECH))
        client.send({"type": "input_audio_buffer.commit"})
        events = client.until(f"{ITEM}.completed")
        assert not {"input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"} & {event["type"] for event in events}
        assert events[-1]["transcript"] == "Hello there. Hello there."
        client.send({"type": "input_audio_buffer.commit", "event_id": "mine"})
        (error,) = client.until("error")
        assert error["error"]["code"] == "input_audio_buffer_commit_empty"
        assert error["error"]["event_id"] == "mine"
        client.append(silence(0.5))
        client.send({"type": "input_audio_buffer.commit"})
        assert client.until(f"{ITEM}.completed")[-1]["transcript"] == ""


def test_a_model_without_turn_detection_is_committed_by_its_client(server: live.Live) -> None:
    with opened(server) as client:
        client.send({"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "gpt-live-transcribe"}}}}})
        assert client.until("session.updated")[0]["session"]["audio"]["input"]["turn_detection"] is None
        client.append(pcm(SPEECH) + silence(1))
        client.send({"type": "input_audio_buffer.commit"})
        kinds = [event["type"] for event in client.until(f"{ITEM}.completed")]
        assert kinds.count("input_audio_buffer.committed") == 1


def test_clear_forgets(server: live.Live) -> None:
    with opened(server) as client:
        client.send(PIPECAT)
        client.append(pcm(SPEECH))
        client.send({"type": "input_audio_buffer.clear"})
        client.until("input_audio_buffer.cleared")
        client.append(silence(0.2))
        client.send({"type": "input_audio_buffer.commit"})
        events = client.until(f"{ITEM}.completed")
        assert events[-1]["transcript"] == ""


@pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")  # of the SDK with websockets 17
def test_the_openai_sdk(server: live.Live) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(api_key="none", base_url=f"{server.url}/v1")
    with client.realtime.connect(model="gpt-4o-transcribe", extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        connection.session.update(session=LIVEKIT["session"])
        assert connection.recv().type == "session.updated"
        connection.input_audio_buffer.append(audio=base64.b64encode(pcm(SPEECH) + silence(1)).decode())
        events = []
        for event in connection:
            events.append(event)
            if event.type.endswith("completed"):
                break
        assert events[-1].transcript == "Hello there."
        assert events[-1].usage.total_tokens > 0
    client.close()


@pytest.mark.parametrize(
    ("event", "param"),
    [
        ("{", None),
        ("[1]", None),
        ('"text"', None),
        ("{}", "type"),
        ({"type": "response.create"}, "type"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "session.type"),
        (
            {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/opus"}}}}},
            "session.audio.input.format.type",
        ),
        ({"type": "session.update", "session": {"audio": {"input": {"format": {"rate": 1}}}}}, "session.audio.input.format.rate"),
        ({"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"threshold": 2}}}}}, None),
        ({"type": "session.update", "session": {"audio": {"input": {"transcription": {"language": "tlh"}}}}}, "language"),
        ({"type": "input_audio_buffer.append", "audio": "?"}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": "AAA="}, None),
        ({"type": "input_audio_buffer.append", "audio": "AA=="}, "audio"),
        ({"type": "input_audio_buffer.commit"}, None),
        ("[" * 100_000, None),
    ],
)
def test_mistakes_are_told_and_the_socket_stays_open(server: live.Live, event: dict[str, Any] | str, param: str | None) -> None:
    with opened(server) as client:
        client.send(event)
        if event == {"type": "input_audio_buffer.append", "audio": "AAA="}:
            client.send({"type": "input_audio_buffer.commit"})  # one sample is legal, and too little
        (error,) = client.until("error")
        assert error["error"]["type"] == "invalid_request_error"
        assert error["error"]["message"]
        assert param is None or error["error"]["param"] == param
        client.send(PIPECAT)
        assert len(client.until("session.updated")) == 1


def test_beta_clients(server: live.Live) -> None:
    with opened(server) as client:
        flat = {"input_audio_format": "g711_ulaw", "input_audio_transcription": {"model": "whisper-1"}, "turn_detection": None}
        client.send({"type": "transcription_session.update", "session": flat})
        (updated,) = client.until("transcription_session.updated")
        assert updated["session"]["audio"]["input"]["format"] == {"type": "audio/pcmu"}
        client.append(b"\xff" * 4000)
        client.send({"type": "input_audio_buffer.commit"})
        assert client.until(f"{ITEM}.completed")[-1]["transcript"] == ""


@pytest.mark.parametrize("law", ["mulaw", "alaw"])
def test_g711_equals_ffmpegs(law: str) -> None:
    codec = av.AudioCodecContext.create(f"pcm_{law}", "r")
    codec.sample_rate, codec.layout = 8_000, "mono"  # type: ignore[assignment]
    (frame,) = codec.decode(av.Packet(bytes(range(256))))
    ours = Format(type="audio/pcmu" if law == "mulaw" else "audio/pcma").decode(bytes(range(256)))
    np.testing.assert_array_equal(ours * 32768, frame.to_ndarray()[0])


def test_silence_is_free(server: live.Live) -> None:
    """Where nobody speaks nothing is asked of the model, and no slot is held."""
    with opened(server) as client:
        runner = server.app.state.desk.runner
        client.append(silence(3))
        assert runner.running == 0
        client.send({"type": "session.update", "session": {}})
        assert len(client.until("session.updated")) == 1


def test_hints_reach_the_model(tmp_path: Path) -> None:
    model = fakes.knowing_words(fakes.model(tmp_path / "fake"), "hello there")
    engine = model.engine
    with live.served(model, tmp_path / "voices") as server, opened(server) as client:
        hints = {"keywords": ["Zyn"], "prompt": "hello Hibari"}
        client.send({"type": "session.update", "session": {"audio": {"input": {"transcription": hints}}}})
        client.append(pcm(SPEECH) + silence(1))
        assert client.until(f"{ITEM}.completed")[-1]["transcript"] == "Hello there."
    priors = [asked.prior for asked, sampling in engine.asked if sampling.prior_weight]  # type: ignore[attr-defined]
    assert [prior.expected for prior in priors] == [("zyn", "hibari")]


def test_a_full_server_fails_the_item_and_keeps_the_session(tmp_path: Path) -> None:
    gate = threading.Event()

    def waits(prompt: Context) -> list[int]:
        gate.wait(30)
        return []

    model = fakes.model(tmp_path / "fake", waits)
    with live.served(model, tmp_path / "voices", concurrency=1, queue=0) as server, opened(server) as one, opened(server) as other:
        one.append(pcm(SPEECH) + silence(1))
        live.until(lambda: server.app.state.desk.runner.running == 1)
        other.append(pcm(SPEECH) + silence(1))
        failed = other.until(f"{ITEM}.failed")[-1]
        assert failed["error"]["type"] == "rate_limit_error"
        gate.set()
        one.until(f"{ITEM}.completed")
        other.append(pcm(SPEECH) + silence(1))
        other.until(f"{ITEM}.completed")


def test_a_disconnect_frees_the_slot(tmp_path: Path) -> None:
    model = fakes.model(tmp_path / "fake")
    model.engine = engine = fakes.Endless(0.005)  # type: ignore[assignment]
    with live.served(model, tmp_path / "voices") as server:
        runner = server.app.state.desk.runner
        with opened(server) as client:
            client.append(pcm(SPEECH) + silence(1))
            live.until(lambda: engine.open == 1)
            assert runner.running == 1
            client.socket.socket.close()
        assert live.until(lambda: runner.running == 0 and engine.open == 0) < 1  # measured: some 10 ms


# ---- damaged events ----


class FakeWire:
    """Gives messages, then goes away."""

    def __init__(self, messages: list[str | bytes]) -> None:
        self.messages, self.sent = messages, list[dict[str, Any]]()

    async def receive(self) -> str | bytes:
        if not self.messages:
            raise Gone
        return self.messages.pop(0)

    async def send(self, message: dict[str, Any]) -> None:
        json.dumps(message)
        self.sent.append(message)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
words = st.sampled_from(
    [
        "type",
        "session",
        "audio",
        "input",
        "format",
        "rate",
        "transcription",
        "turn_detection",
        "server_vad",
        "language",
        "threshold",
        "event_id",
    ]
)
shaped = st.recursive(anything, lambda inner: st.dictionaries(words, inner, max_size=5), max_leaves=12)
names = st.sampled_from(
    ["session.update", "transcription_session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"]
)
events = st.fixed_dictionaries(
    {"type": names | anything},
    optional={
        "session": shaped,
        "audio": st.binary(max_size=64).map(lambda b: base64.b64encode(b).decode()) | anything,
        "event_id": anything,
    },
)
messages = st.lists(events.map(json.dumps) | st.text(max_size=50) | st.binary(max_size=50), max_size=8)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("desk")
    return create_app(fakes.model(folder / "fake"), Settings(voices=folder / "voices")).state.desk


@settings(max_examples=60, deadline=None)
@given(messages)
def test_no_event_ends_a_connection(desk: Any, messages: list[str | bytes]) -> None:
    async def run() -> list[dict[str, Any]]:
        wire, count = FakeWire(list(messages)), len(messages)
        with pytest.raises(Gone):
            await Talk(wire, desk, "").read()  # type: ignore[arg-type]
        assert not wire.messages
        assert wire.sent[0]["type"] == "session.created"
        assert sum(sent["type"] == "error" for sent in wire.sent) <= count
        return wire.sent

    for sent in asyncio.run(run()):
        if sent["type"] == "error":
            assert set(sent["error"]) == {"message", "type", "param", "code", "event_id"}


@settings(max_examples=60, deadline=None)
@given(shaped, shaped)
def test_a_session_is_legal_or_refused(first: Any, second: Any) -> None:
    session = Session()
    for change in (first, second):
        if isinstance(change, dict):
            with suppress(Refusal):
                session = session.updated(change)
    shown = session.shown()
    assert json.loads(json.dumps(shown))["audio"]["input"]["format"]["type"].startswith("audio/")
    assert Session().updated(shown).shown() == shown


# ---- deltas and turns ----


def test_deltas_only_add() -> None:
    turn = Turn()
    partial = [turn.told(Segment(0, 1, text, 1, partial=True)) for text in ("Hello", "Hello there", "Yellow bear", "hello there old")]
    assert partial == ["Hello", " there", "", " old"]
    assert turn.told(Segment(0, 2, "Hello there, old friend.", 1)) == ""  # it does not go on from what was told
    assert turn.said == "Hello there, old friend."
    assert Turn(said="One.", sent="One.").told(Segment(3, 4, "Two.", 1)) == " Two."


def heard(cuts: list[int], manner: Manner) -> list[Any]:
    wav = np.concatenate([np.zeros(RATE, np.float32), SPEECH, np.zeros(2 * RATE, np.float32), SPEECH[:RATE], np.zeros(RATE, np.float32)])
    turns = Turns(RATE, manner)
    events = [event for part in np.split(wav, cuts) for event in turns.push(part)]
    sound = b"".join(event.pcm.tobytes() for event in events if isinstance(event, Spoken))
    return [event for event in events if not isinstance(event, Spoken)] + [sound]


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(0, 8 * RATE), max_size=6).map(sorted))
def test_turns_do_not_depend_on_how_sound_is_cut(cuts: list[int]) -> None:
    manner = Manner(0.5, 600, 350)
    whole = heard([], manner)
    assert heard(cuts, manner) == whole
    kinds = [type(event) for event in whole[:-1]]
    assert kinds[:2] == [Began, Over]
    assert kinds == [Began, Over] * (len(kinds) // 2)


def test_prefix_and_silence_are_those_asked_for() -> None:
    short, long = (heard([], Manner(0.5, prefix, quiet))[:2] for prefix, quiet in ((0, 350), (600, 800)))
    assert short[0].ms - long[0].ms == pytest.approx(600, abs=40)
    assert long[1].ms - short[1].ms == pytest.approx(450, abs=400)

# ruff: noqa: E402  (the extra `server` may be missing)
"""/ws/tts and /ws/vc over a socket: sound before the text ends, captions from one encoding, cancel, mistakes, slow readers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")
websockets = pytest.importorskip("websockets.sync.client")
InvalidStatus = pytest.importorskip("websockets.exceptions").InvalidStatus

import fakes
import live
from gpa import audio
from gpa.segment import Segmenter
from gpa.server.access import hashed
from gpa.server.app import create_app
from gpa.server.live import Block, Codes, convert
from gpa.server.runner import Runner
from gpa.server.settings import Settings
from gpa.server.sockets import Converting, Request, Speak, Speaking
from gpa.server.wire import Gone, Pipe, Works, race

RATE = 24_000
SPEECH = audio.decode(Path(__file__).parent / "data" / "speech.opus", RATE)
FIRST, SECOND = "The bed light is off now. ", "The kitchen lights are on again."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    folder = tmp_path_factory.mktemp("sockets")
    with live.served(fakes.model(folder / "fake"), folder / "voices", read_seconds=1.0) as found:
        yield found


class Client:
    def __init__(self, socket: Any) -> None:
        self.socket = socket

    def send(self, *messages: dict[str, Any] | bytes | str) -> None:
        for message in messages:
            self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    def receive(self) -> dict[str, Any] | bytes:
        message = self.socket.recv(timeout=30)
        return message if isinstance(message, bytes) else json.loads(message)

    def until(self, type: str) -> tuple[bytes, list[dict[str, Any]]]:
        """Sound and events up to one of a type."""
        sound, events = b"", list[dict[str, Any]]()
        while not events or events[-1]["type"] != type:
            message = self.receive()
            if isinstance(message, bytes):
                sound += message
            else:
                events.append(message)
        return sound, events


@contextmanager
def opened(server: live.Live, path: str, **options: Any) -> Iterator[Client]:
    with websockets.connect(f"ws://127.0.0.1:{server.port}{path}", **options) as connection:
        yield Client(connection)


def text(piece: str) -> dict[str, Any]:
    return {"type": "text", "text": piece}


def test_sound_comes_while_the_text_still_comes(server: live.Live) -> None:
    with opened(server, "/ws/tts") as client:
        client.send({"type": "start", "voice": "bob"}, *map(text, FIRST + SECOND[:20]))
        assert client.receive() == {"type": "audio", "format": "pcm", "rate": RATE}
        early = client.receive()
        assert isinstance(early, bytes)
        client.send(text(SECOND[20:]), {"type": "end"})
        late, events = client.until("done")
        done = events[-1]
        assert done["seconds"] == pytest.approx(len(FIRST + SECOND) / 25, abs=0.2)
        assert len(early + late) / 2 / RATE == pytest.approx(done["seconds"], abs=0.01)
        assert done["usage"]["input_tokens"] == len(FIRST + SECOND)
        client.send({"type": "start", "format": "mp3", "speed": 2}, text("Once more."), {"type": "end"})
        sound, events = client.until("done")
        assert len(audio.decode(sound, RATE)) / RATE == pytest.approx(10 / 25 / 2, abs=0.1)


def test_requests_are_done_in_order(server: live.Live) -> None:
    with opened(server, "/ws/tts") as client:
        for said in ("One, two.", "Three, four, five, six."):
            client.send({"type": "start"}, text(said), {"type": "end"})
        seconds = [client.until("done")[1][-1]["seconds"] for _ in range(2)]
        assert seconds == [pytest.approx(n / 25, abs=0.1) for n in (9, 23)]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (["{"], None),
        ([{"type": "start", "voice": "nobody"}], "voice"),
        ([{"type": "start", "voice": "../amy"}], "voice"),
        ([{"type": "start", "speed": 9}], "start.speed"),
        ([{"type": "start", "colour": "red"}], "start.colour"),
        ([text("Hello.")], "type"),
        ([{"type": "start"}, text("x" * 4097)], "text"),
        ([{"type": "start"}, text("..."), {"type": "end"}], "input"),
        ([b"\x00\x01"], None),
    ],
)
def test_mistakes_end_the_request_and_not_the_connection(server: live.Live, messages: list[Any], param: str | None) -> None:
    with opened(server, "/ws/tts") as client:
        client.send(*messages)
        _, events = client.until("error")
        assert events[-1]["error"]["param"] == param
        assert events[-1]["error"]["message"]
        if {"type": "end"} not in messages:
            client.send(text("what was still on its way"), {"type": "end"})
        client.send({"type": "start"}, text("Now a right one."), {"type": "end"})
        _, events = client.until("done")
        assert [event["type"] for event in events] == ["audio", "done"]


def test_silent_clients_hold_no_slot(server: live.Live) -> None:
    with opened(server, "/ws/tts") as client:
        client.send({"type": "start"}, text("Hello"))
        _, events = client.until("error")
        assert events[-1]["error"]["code"] == "timeout"
        assert server.app.state.desk.runner.running == 0


def test_keys_of_browsers(tmp_path: Path) -> None:
    key = "a-key-of-sixteen-characters"
    with live.served(fakes.model(tmp_path / "fake"), tmp_path / "voices", key_hashes=frozenset({hashed(key)})) as server:
        for path in ("/ws/tts", "/ws/vc", "/v1/realtime"):
            with pytest.raises(InvalidStatus), opened(server, path):
                pass
        with opened(server, "/ws/tts", additional_headers={"Authorization": f"Bearer {key}"}) as client:
            assert client.socket.subprotocol is None
        for path in ("/ws/tts", "/v1/realtime"):
            with opened(server, path, subprotocols=["gpa", f"openai-insecure-api-key.{key}"]) as client:
                assert client.socket.subprotocol == "gpa"


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[tuple[live.Live, Runner, fakes.Endless]]:
    model = fakes.model(tmp_path / "fake")
    model.engine = engine = fakes.Endless()  # type: ignore[assignment]
    with live.served(model, tmp_path / "voices", write_seconds=0.3, max_text=10**6) as server:
        yield server, server.app.state.desk.runner, engine


LONG = "A long text that nobody hears to its end. " * 300


def test_cancel_ends_at_once_what_is_said_and_what_waits(endless: tuple[live.Live, Runner, fakes.Endless]) -> None:
    server, runner, engine = endless
    with opened(server, "/ws/tts") as client:
        for _ in range(2):
            client.send({"type": "start"}, text(LONG), {"type": "end"})
        client.until("audio")
        live.until(lambda: engine.open == 1)
        client.send({"type": "cancel"})
        client.until("cancelled")
        assert live.until(lambda: runner.running == 0 and engine.open == 0) < 1


def test_a_disconnect_frees_the_slot(endless: tuple[live.Live, Runner, fakes.Endless]) -> None:
    server, runner, engine = endless
    with opened(server, "/ws/tts") as client:
        client.send({"type": "start"}, text(LONG), {"type": "end"})
        live.until(lambda: engine.open == 1)
        client.socket.socket.close()
        assert live.until(lambda: runner.running == 0 and engine.open == 0) < 1


def test_a_slow_reader_is_given_up(endless: tuple[live.Live, Runner, fakes.Endless]) -> None:
    server, runner, engine = endless
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(("127.0.0.1", server.port))
    with opened(server, "/ws/tts", sock=small, max_queue=1, compression=None) as client:
        client.send({"type": "start"}, text(LONG * 20), {"type": "end"})
        live.until(lambda: engine.open == 1)
        live.until(lambda: runner.running == 0, 60)
        assert engine.open == 0
        with suppress(Exception):
            client.socket.socket.close()


# ---- conversion ----


def pcm(wav: np.ndarray) -> list[bytes]:
    data = (wav * 32767).astype("<i2").tobytes()
    return [data[at : at + 4800] for at in range(0, len(data), 4800)]


TALK = np.concatenate([np.zeros(RATE, np.float32), SPEECH, np.zeros(RATE, np.float32)])


@pytest.mark.parametrize("window", [0.32, None])
def test_conversion_with_captions(server: live.Live, window: float | None) -> None:
    with opened(server, "/ws/vc") as client:
        client.send({"type": "start", "voice": "bob", "rate": RATE, "window": window, "captions": True}, *pcm(TALK), {"type": "end"})
        sound, events = client.until("done")
        assert events[0] == {"type": "audio", "format": "pcm", "rate": RATE}
        captions = [event for event in events if event["type"] == "caption"]
        assert [caption["text"] for caption in captions] == ["Hello there."]
        assert captions[0]["start"] == pytest.approx(1, abs=0.5)
        assert captions[0]["end"] == pytest.approx(1 + len(SPEECH) / RATE, abs=0.6)
        assert events[-1]["seconds"] == pytest.approx(len(TALK) / RATE, abs=0.7)
        if window:
            assert len(sound) / 2 == pytest.approx(len(TALK), abs=2)


def test_live_sound_comes_before_the_source_ends(server: live.Live) -> None:
    with opened(server, "/ws/vc") as client:
        client.send({"type": "start", "voice": "amy", "rate": RATE, "window": 0.16}, *pcm(TALK[: 2 * RATE]))
        assert client.receive() == {"type": "audio", "format": "pcm", "rate": RATE}
        assert isinstance(client.receive(), bytes)
        client.send({"type": "end"})
        client.until("done")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([b"\x00\x00"], "type"),
        ([{"type": "start"}], "start.voice"),
        ([{"type": "start", "voice": "amy", "rate": 1}], "start.rate"),
        ([{"type": "start", "voice": "amy", "window": 9}], "start.window"),
        ([{"type": "start", "voice": "amy"}, b"\x00"], "sound"),
        ([{"type": "text", "text": "no"}], None),
    ],
)
def test_mistakes_of_a_conversion(server: live.Live, messages: list[Any], param: str | None) -> None:
    with opened(server, "/ws/vc") as client:
        client.send(*messages)
        _, events = client.until("error")
        assert events[-1]["error"]["param"] == param


class Marks(fakes.Codec, fakes.Linguist):
    """Hears a source whose samples are its positions: each code is the number of the 640 samples that it stands for."""

    def encode(self, features: np.ndarray) -> np.ndarray:
        return features % 32

    def encode_with_features(self, wav: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.rint(wav * 32768).astype(np.int64)
        return numbers[::1280] % 16, numbers[::640]


@pytest.mark.parametrize("window", [0.16, 0.32, 1.0])
def test_captions_read_each_code_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: float) -> None:
    """What a conversion by windows encodes with context and look-ahead is put together as if it were encoded once."""
    model = fakes.model(tmp_path / "fake")
    model.bicodec = model.glm = Marks()  # type: ignore[assignment]
    speech = audio.as_wav(TALK, RATE, 16_000)
    positions, heard = (np.arange(len(speech)) // 640).astype(np.int16), 0
    hear = Segmenter.push

    def push(self: Segmenter, block: np.ndarray) -> Any:  # the detector hears speech where the encoder hears positions
        nonlocal heard
        heard += len(block)
        return hear(self, speech[heard - len(block) : heard])

    monkeypatch.setattr(Segmenter, "push", push)
    found = [item for item in convert(model, iter([Block(positions)]), "amy", 16_000, window) if isinstance(item, Codes)]
    semantic = [code for part in found for code in part.semantic]
    glm = [code for part in found for code in part.glm]
    first = round(found[0].start * 25)
    np.testing.assert_array_equal(semantic, (first + np.arange(len(semantic))) % 32)
    np.testing.assert_array_equal(glm, (first + 2 * np.arange(len(glm))) % 16)
    assert len(semantic) > 80
    assert found[-1].end == pytest.approx(found[0].start + len(semantic) / 25)


# ---- works ----


def test_a_work_that_swallows_a_cancellation_ends_all_the_same() -> None:
    """As `asyncio.wait_for` does up to Python 3.11, where it succeeds in the same turn of the loop."""

    async def run() -> list[str]:
        works, request, log = Works(), Request(Speak(type="start"), None, Pipe()), list[str]()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                log.append("swallowed")
            await asyncio.sleep(60)

        async def other() -> None:
            log.append("next")
            raise Gone

        await works.add(request, work)
        await works.add(Request(Speak(type="start"), None, Pipe()), other)
        asyncio.get_running_loop().call_later(0.01, works.drop, request)
        await asyncio.wait_for(race(works.run()), 30)
        return log

    assert asyncio.run(run()) == ["swallowed", "next"]


# ---- damaged messages ----


class FakeWire:
    """Gives messages, then goes away."""

    def __init__(self, messages: list[str | bytes]) -> None:
        self.messages, self.sent = messages, list[Any]()

    async def receive(self) -> str | bytes:
        if not self.messages:
            raise Gone
        await asyncio.sleep(0)
        return self.messages.pop(0)

    async def send(self, message: dict[str, Any] | bytes) -> None:
        if isinstance(message, dict):
            json.dumps(message)
        self.sent.append(message)


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.integers(), max_size=2)
types = st.sampled_from(["start", "text", "end", "cancel"])
known = st.sampled_from(["voice", "format", "speed", "language", "rate", "window", "captions", "text"])
events = st.builds(
    lambda type, rest: rest | {"type": type},
    types | anything,
    st.dictionaries(known, anything | st.sampled_from(["amy", "pcm", 1]), max_size=3),
)
good = st.sampled_from([{"type": "start", "voice": "amy"}, text("Hello."), {"type": "end"}, {"type": "cancel"}])
messages = st.lists((events | good).map(json.dumps) | st.text(max_size=30) | st.binary(max_size=30), max_size=10)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("desk")
    return create_app(fakes.model(folder / "fake"), Settings(voices=folder / "voices", concurrency=16)).state.desk


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([Speaking, Converting]), messages)
def test_no_message_ends_a_connection(desk: Any, kind: type[Speaking] | type[Converting], messages: list[str | bytes]) -> None:
    async def run() -> None:
        wire = FakeWire(list(messages))
        talk = kind(wire, desk, "")  # type: ignore[arg-type]
        await race(talk.read(), talk.works.run())
        assert not wire.messages
        for _ in range(1000):  # its slot comes back a moment later
            if desk.runner.running == 0:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("a slot is held")

    asyncio.run(run())

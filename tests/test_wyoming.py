"""The Wyoming port, asked as Home Assistant does with Wyoming's own library; frames that are damaged; who goes away."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports audioop
    pytest.importorskip("wyoming.audio")

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped, SynthesizeVoice

import fakes
import live
from gpa import audio
from gpa.errors import GPAError
from gpa.server import announce, frames
from gpa.server.app import create_app
from gpa.server.desk import Desk
from gpa.server.settings import Settings
from gpa.server.work import End
from gpa.server.wyoming import TAIL, Sound, listening

RATE = 16_000
OUT = 24_000
SPEECH = audio.decode(Path(__file__).parent / "data" / "speech.opus", RATE)
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return made(tmp_path)


def made(folder: Path, engine: Any = None, **changes: Any) -> Desk:
    model = fakes.model(folder / "fake")
    if engine is not None:
        model.engine = engine
    found: Desk = create_app(model, replace(Settings(wyoming=0, voices=folder / "voices"), **changes)).state.desk
    return found


@asynccontextmanager
async def opened(desk: Desk) -> AsyncIterator[AsyncTcpClient]:
    async with listening(desk) as port, AsyncTcpClient("127.0.0.1", port, read_timeout=30) as client:
        yield client


async def until(client: AsyncTcpClient, last: type[Any]) -> list[Event]:
    """Events up to one of a type, or to the end of the connection."""
    events = list[Event]()
    while not events or not last.is_type(events[-1].type):
        event = await client.read_event()
        if event is None:
            break
        events.append(event)
    return events


def sound(events: list[Event]) -> bytes:
    return b"".join(AudioChunk.from_event(event).audio for event in events if AudioChunk.is_type(event.type))


async def test_describe(desk: Desk) -> None:
    async with opened(desk) as client:
        await client.write_event(Describe().event())
        info = Info.from_event((await until(client, Info))[-1])
        (asr,), (tts,) = info.asr, info.tts
        assert asr.installed
        assert asr.supports_transcript_streaming
        assert asr.models[0].languages == ["en"]
        assert tts.installed
        assert tts.supports_synthesize_streaming
        assert [voice.name for voice in tts.voices] == ["amy", "bob"]
        await client.write_event(Ping(text="hello").event())
        assert Pong.from_event((await until(client, Pong))[-1]).text == "hello"


async def test_transcribe_as_home_assistant(desk: Desk) -> None:
    async with opened(desk) as client:
        await client.write_event(Transcribe(language="en").event())
        await client.write_event(AudioStart(RATE, 2, 1).event())
        data = (np.concatenate([SPEECH, np.zeros(RATE, np.float32), SPEECH]) * 32767).astype("<i2").tobytes()
        for at in range(0, len(data), 2048):
            await client.write_event(AudioChunk(RATE, 2, 1, data[at : at + 2048]).event())
        await client.write_event(AudioStop().event())
        events = await until(client, Transcript)
        transcript = Transcript.from_event(events[-1])
        assert (transcript.text, transcript.language) == ("Hello there. Hello there.", "en")
        assert [event.type for event in events[:-1]] == ["transcript-start", "transcript-chunk", "transcript-chunk"]
        assert "".join(event.data["text"] for event in events[1:-1]) == transcript.text
        assert (await client.read_event() or events[0]).type == "transcript-stop"
        await client.write_event(AudioStart(RATE, 2, 1).event())  # nobody speaks
        await client.write_event(AudioChunk(RATE, 2, 1, bytes(RATE)).event())
        await client.write_event(AudioStop().event())
        assert Transcript.from_event((await until(client, Transcript))[-1]).text == ""


async def test_synthesize(desk: Desk) -> None:
    async with opened(desk) as client:
        await client.write_event(Synthesize("Hello there, everybody.", SynthesizeVoice("bob")).event())
        events = await until(client, AudioStop)
        assert AudioStart.from_event(events[0]).rate == OUT
        assert {(event.data["rate"], event.data["width"], event.data["channels"]) for event in events[:-1]} == {(OUT, 2, 1)}
        assert len(sound(events)) / 2 / OUT == pytest.approx(len("Hello there, everybody.") / 25 + TAIL, abs=0.1)
        assert not any(SynthesizeStopped.is_type(event.type) for event in events)


async def test_synthesize_streams_as_home_assistant(desk: Desk) -> None:
    first = "The bed light is off now. "
    rest = ["The kitchen ", "lights are on", " again. Anything else?"]
    async with opened(desk) as client:
        await client.write_event(SynthesizeStart().event())
        await client.write_event(SynthesizeChunk(first).event())
        await client.write_event(SynthesizeChunk(rest[0] + rest[1]).event())
        event = await client.read_event()  # sound comes while the text is still coming
        assert event is not None
        assert AudioStart.is_type(event.type)
        await client.write_event(SynthesizeChunk(rest[2]).event())
        await client.write_event(Synthesize(first + "".join(rest)).event())  # for servers that do not stream
        await client.write_event(SynthesizeStop().event())
        events = await until(client, SynthesizeStopped)
        assert [event.type for event in events[-2:]] == ["audio-stop", "synthesize-stopped"]
        assert sum(AudioStart.is_type(event.type) for event in events) == 0
        assert len(sound(events)) / 2 / OUT == pytest.approx(len(first + "".join(rest)) / 25 + TAIL, abs=0.3)
        await client.write_event(Synthesize("Once more, by itself.").event())
        assert sound(await until(client, AudioStop))


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Synthesize("Hello.", SynthesizeVoice("nobody")), "unknown voice"),
        (Synthesize("..."), "nothing to say"),
        (Synthesize("<speak>Hello.</speak>", text_format="ssml"), "'ssml'"),
        (Synthesize("a" * 5000), "5000 characters"),
        (SynthesizeStart(SynthesizeVoice("/etc/passwd")), "unknown voice"),
        (AudioStart(1, 2, 1), "rate"),
        (AudioStart(16_000, 9, 1), "width"),
    ],
)
async def test_errors_end_the_connection(desk: Desk, event: Any, said: str) -> None:
    """Home Assistant passes over `error`: it waits for sound or text, or for the end."""
    async with opened(desk) as client:
        await client.write_event(event.event())
        events = await until(client, SynthesizeStop)
        assert [event.type for event in events] == ["error"]
        assert said in events[0].data["text"]
        assert events[0].data["code"]


async def test_an_error_within_a_stream_ends_it(desk: Desk) -> None:
    async with opened(desk) as client:
        for event in (SynthesizeStart(), SynthesizeChunk("..."), SynthesizeStop()):
            await client.write_event(event.event())
        assert [event.type for event in await until(client, Describe)] == ["error", "synthesize-stopped"]


async def test_sound_of_another_format_is_refused_midway(desk: Desk) -> None:
    async with opened(desk) as client:
        await client.write_event(AudioStart(RATE, 2, 1).event())
        await client.write_event(AudioChunk(RATE, 2, 2, bytes(400)).event())
        assert [event.type for event in await until(client, Describe)] == ["error"]


async def until_true(condition: Callable[[], bool], seconds: float = 10) -> float:
    return await asyncio.to_thread(live.until, condition, seconds)


async def test_describe_while_busy_and_a_disconnect_frees_the_slot(tmp_path: Path) -> None:
    engine = fakes.Endless()
    desk = made(tmp_path, engine, concurrency=1)
    async with listening(desk) as port:
        async with AsyncTcpClient("127.0.0.1", port) as busy:
            await busy.write_event(Synthesize("A long text. " * 200).event())
            await until_true(lambda: engine.open == 1)
            async with AsyncTcpClient("127.0.0.1", port) as client:
                began = time.monotonic()
                await client.write_event(Describe().event())
                assert Info.is_type((await until(client, Info))[-1].type)
                assert time.monotonic() - began < 1
            assert desk.runner.running == 1
        assert await until_true(lambda: desk.runner.running == 0 and engine.open == 0) < 1


class Loading:
    """A House whose model is not there yet."""

    ready = False

    def start(self, function: Any, args: Any, tell: Any, ahead: int) -> Any:
        self.tell = tell
        return self

    def stop(self) -> None:
        self.tell(End())

    def more(self) -> None:
        return

    def feed(self, number: int, item: Any, last: bool = False) -> None:
        return

    def close(self) -> None:
        return


async def test_describe_while_loading(tmp_path: Path) -> None:
    checkpoint = fakes.write_checkpoint(tmp_path / "fake")
    desk = create_app(Loading(), Settings(wyoming=0, voices=tmp_path / "voices"), checkpoint).state.desk  # type: ignore[arg-type]
    async with opened(desk) as client:
        await client.write_event(Synthesize("Waits for the model.").event())
        began = time.monotonic()
        await client.write_event(Describe().event())
        assert [event.type for event in await until(client, Info)] == ["info"]
        assert time.monotonic() - began < 1


async def test_a_slow_reader_is_given_up(tmp_path: Path) -> None:
    engine = fakes.Endless()
    desk = made(tmp_path, engine, write_seconds=0.2, max_text=10**6)
    async with listening(desk) as port:
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.connect(("127.0.0.1", port))
        _, writer = await asyncio.open_connection(sock=small, limit=1024)
        writer.write(frames.encode(frames.Frame("synthesize", {"text": "A long text that nobody hears. " * 3000})))
        await until_true(lambda: engine.open == 1)
        await until_true(lambda: desk.runner.running == 0, 60)
        writer.close()


async def test_a_silent_client_holds_no_slot(tmp_path: Path) -> None:
    desk = made(tmp_path, read_seconds=0.2)
    async with opened(desk) as client:
        await client.write_event(SynthesizeStart().event())
        assert [event.type for event in await until(client, Describe)] == ["error", "synthesize-stopped"]
        assert desk.runner.running == 0


async def test_a_taken_port_says_so(desk: Desk) -> None:
    async with listening(desk) as port:
        other = replace(desk, settings=replace(desk.settings, wyoming=port))
        with pytest.raises(GPAError, match=f"port {port} .* cannot be listened at"):
            async with listening(other):
                raise AssertionError


# ---- damaged frames ----

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
starts = ["describe", "ping", "transcribe", "audio-start", "audio-chunk", "audio-stop"]
types = st.sampled_from([*starts, *(f"synthesize{end}" for end in ("", "-start", "-chunk", "-stop")), "unknown"])
words = st.sampled_from(["text", "voice", "name", "language", "rate", "width", "channels"])
fields = st.dictionaries(words, anything | st.sampled_from([16_000, 1, 2, "Hello there."]), max_size=4)


@st.composite
def frame(draw: st.DrawFn) -> bytes:
    """A frame, perhaps one whose lengths are wrong."""
    whole = frames.encode(frames.Frame(draw(types), draw(fields), draw(st.binary(max_size=64))))
    if draw(st.integers(0, 3)):
        return whole
    head, _, rest = whole.partition(b"\n")
    changed = json.loads(head) | draw(st.dictionaries(st.sampled_from(["type", "data", "data_length", "payload_length"]), anything))
    return json.dumps(changed).encode() + b"\n" + rest


async def send(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""  # it was closed before it had read all
    finally:
        writer.close()


@settings(max_examples=60, deadline=None)
@given(data=st.lists(frame() | st.binary(max_size=60), max_size=6).map(b"".join))
def test_no_bytes_crash_a_connection(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    desk = made(tmp_path_factory.mktemp("fuzz"))
    failures = list[Any]()

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with listening(desk) as port:
            await send(port, data)
            answer = await send(port, frames.encode(frames.Frame("describe")))
            assert json.loads(answer.split(b"\n")[0])["type"] == "info"
            await until_true(lambda: desk.runner.running == 0)

    asyncio.run(run())
    assert not failures


@given(st.text(max_size=30), st.dictionaries(st.text(max_size=9), st.integers() | st.text(max_size=9), max_size=4), st.binary(max_size=99))
def test_frames_come_back(type: str, data: dict[str, Any], payload: bytes) -> None:
    sent = frames.Frame(type, data, payload)

    async def run() -> frames.Frame | None:
        reader = asyncio.StreamReader(limit=frames.MAX_LINE)
        reader.feed_data(frames.encode(sent))
        reader.feed_eof()
        return await frames.read(reader, 1)

    assert asyncio.run(run()) == sent


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_every_width(width: int) -> None:
    wav = np.array([0, 1 << 14, -(1 << 14), 32512], np.int64)
    wide = ((wav >> 8) + 128 if width == 1 else wav << 8 * (width - 2)).astype("<i8")
    data = np.stack([wide, wide]).T.reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    np.testing.assert_array_equal(Sound(rate=16_000, width=width, channels=2).mono(data), wav)


# ---- mDNS ----


class FakeZeroconf:
    """The two names that are used of `zeroconf.asyncio`."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.seen, self.closed = fails, list[Any](), False

    def AsyncServiceInfo(self, kind: str, name: str, addresses: list[bytes], port: int) -> tuple[str, str, list[bytes], int]:
        return kind, name, addresses, port

    def AsyncZeroconf(self) -> FakeZeroconf:
        return self

    async def async_register_service(self, service: Any, allow_name_change: bool) -> None:
        if self.fails:
            raise OSError("no network")
        self.seen.append(service)

    async def async_close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("host", "fails", "told"), [("127.0.0.1", False, 0), ("10.0.0.7", False, 1), ("10.0.0.7", True, 0)])
async def test_the_port_is_announced_beyond_loopback(monkeypatch: pytest.MonkeyPatch, host: str, fails: bool, told: int) -> None:
    fake = FakeZeroconf(fails)
    monkeypatch.setattr(announce, "import_module", lambda name: fake)
    async with announce.announced(host, 10300):
        assert len(fake.seen) == told
    assert fake.closed == (host != "127.0.0.1")
    assert not told or (fake.seen[0][0] == "_wyoming._tcp.local." and fake.seen[0][2:] == ([b"\x0a\x00\x00\x07"], 10300))

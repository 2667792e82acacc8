"""Wyoming: Home Assistant's voice protocol on a TCP port of its own (`gpa serve --wyoming 10300`).

`describe` is answered from what is known without the model: at once, while it loads and while it works. Other requests of one
connection are done in order. Home Assistant reads no `error`, it waits for what it asked for or for the end of the
connection: so after an error the connection is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import gpa
from gpa.errors import GPAError
from gpa.results import Segment
from gpa.server import frames, jobs, live
from gpa.server.announce import announced
from gpa.server.connections import Connections
from gpa.server.desk import Desk
from gpa.server.failures import Refusal, refusal
from gpa.server.frames import Frame
from gpa.server.patience import patient, within
from gpa.server.runner import Busy
from gpa.server.wire import Gone, Pipe, Works, fed, invalid, race
from gpa.voice import Voice

log = logging.getLogger("gpa.server")

CHUNK = 2048  # samples of an audio-chunk: 85 ms
TAIL = 0.2  # seconds of silence behind a text: players swallow the end of the last word
_SOUND = {"rate": jobs.RATE, "width": 2, "channels": 1}
_URL = "https://pypi.org/project/gpa/"


@asynccontextmanager
async def listening(desk: Desk) -> AsyncIterator[int]:
    """Serve at `settings.wyoming` (0: a free port) for as long as the block runs; gives the port. Raises GPAError: it is taken."""
    host, port = desk.settings.host, desk.settings.wyoming
    talks: set[asyncio.Task[None]] = set()
    connections = Connections("wyoming", desk.settings, desk.metrics)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        talk = Talk(reader, writer, desk)
        try:
            with connections.place(talk.who):
                await talk.run()
        except Busy as error:
            await talk.fail(refusal(error))
        finally:
            talks.discard(task)
            writer.close()

    try:
        server = await asyncio.start_server(connected, host, port, limit=frames.MAX_LINE)
    except OSError as error:
        raise GPAError(f"port {port} of {host} cannot be listened at: {error.strerror or error}") from error
    port = int(server.sockets[0].getsockname()[1])
    log.info("Wyoming listens at tcp://%s:%d", host, port)
    try:
        async with announced(host, port):
            yield port
    finally:
        server.close()
        for task in list(talks):
            task.cancel()
        if talks:
            await asyncio.wait(talks, timeout=5)


class Ask(BaseModel):
    """Fields of the events that are read."""

    model_config = ConfigDict(extra="ignore")


class AnyVoice(Ask):
    """A voice by its name; a language alone leaves the choice to us."""

    name: str | None = None


class Speak(Ask):
    """`synthesize` and `synthesize-start`."""

    text: str = ""
    voice: AnyVoice | None = None
    text_format: str | None = None  # marks of SSML would be read aloud


class Piece(Ask):
    """`synthesize-chunk`."""

    text: str


class Hear(Ask):
    """`transcribe`."""

    language: str | None = None


class Sound(Ask):
    """`audio-start` and `audio-chunk`."""

    rate: int = Field(ge=4_000, le=192_000)
    width: int = Field(ge=1, le=4)
    channels: int = Field(ge=1, le=8)

    def mono(self, data: bytes) -> NDArray[np.int16]:
        """Interleaved little-endian samples of any width -> their mean over the channels. Raises Refusal: half a sample."""
        size = self.width * self.channels
        if len(data) % size:
            raise Refusal(400, f"found {len(data)} bytes of sound (legal: a multiple of {size})", "payload", "invalid_value")
        if self.width == 1:
            wide = (np.frombuffer(data, np.uint8).astype(np.int16) - 128) << 8
        else:  # the two highest bytes of each sample
            high = np.frombuffer(data, np.uint8).reshape(-1, self.width)[:, -2:]
            wide = np.ascontiguousarray(high).view("<i2").reshape(-1)
        return wide if self.channels == 1 else wide.reshape(-1, self.channels).mean(axis=1).astype(np.int16)


@dataclass(eq=False)
class Request:
    """One thing that was asked for, and the pipe of what comes for it."""

    source: Pipe
    streams: bool = False  # a text in pieces, which ends with `synthesize-stopped`
    format: Sound | None = None  # of sound that comes in
    language: str | None = None
    seconds: float = 0.0  # of sound that came
    characters: int = 0
    dropped: bool = False


class Talk:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, desk: Desk) -> None:
        self._reader, self._writer, self._desk = reader, writer, desk
        self.who = str((writer.get_extra_info("peername") or ("local",))[0])
        self._works = Works(8)
        self._turn = asyncio.Lock()
        self._speech: Request | None = None  # takes synthesize-chunk
        self._sound: Request | None = None  # takes audio-chunk
        self._language: str | None = None  # of the last `transcribe`
        self._handlers = {
            "describe": self._describe,
            "ping": self._ping,
            "transcribe": self._transcribe,
            "audio-start": self._audio_start,
            "audio-chunk": self._audio_chunk,
            "audio-stop": self._audio_stop,
            "synthesize": self._synthesize,
            "synthesize-start": self._synthesize_start,
            "synthesize-chunk": self._synthesize_chunk,
            "synthesize-stop": self._synthesize_stop,
        }

    async def run(self) -> None:
        """Until the client goes away, or an error."""
        try:
            await race(self._read(), self._works.run())
        except (GPAError, Refusal, ValidationError) as error:
            await self.fail(invalid(error) if isinstance(error, ValidationError) else refusal(error))

    async def _read(self) -> None:
        """Events that are not known are passed over: the protocol grows."""
        while (frame := await frames.read(self._reader, self._desk.settings.read_seconds)) is not None:
            handler = self._handlers.get(frame.type)
            if handler is not None:
                await handler(frame)

    async def _send(self, type: str, data: dict[str, Any] | None = None, payload: bytes = b"") -> None:
        """Raises Gone."""
        try:
            async with self._turn:
                self._writer.write(frames.encode(Frame(type, data or {}, payload)))
                await within(self._desk.settings.write_seconds, self._writer.drain())
        except (asyncio.TimeoutError, ConnectionError) as error:
            self._writer.transport.abort()
            raise Gone("closed, or reads nothing") from error

    async def fail(self, refused: Refusal) -> None:
        """Say why, before the connection is closed."""
        try:
            await self._send("error", {"text": str(refused), "code": refused.code or str(refused.status)})
            if self._speech is not None and self._speech.streams:
                await self._send("synthesize-stopped")
        except Gone:
            return

    # ---- what is here ----

    async def _describe(self, _: Frame) -> None:
        await self._send("info", info(self._desk))

    async def _ping(self, frame: Frame) -> None:
        await self._send("pong", {"text": frame.data.get("text")})

    # ---- sound in, text out ----

    async def _transcribe(self, frame: Frame) -> None:
        asked = Hear.model_validate(frame.data)
        self._language = (asked.language or "").replace("_", "-").partition("-")[0].lower() or None

    async def _audio_start(self, frame: Frame) -> None:
        format = Sound.model_validate(frame.data)
        await self._audio_stop(frame)
        self._sound = request = Request(Pipe(256), format=format, language=self._language)
        await self._works.add(request, partial(self._listen, request))

    async def _audio_chunk(self, frame: Frame) -> None:
        request, format = self._sound, Sound.model_validate(frame.data)
        if request is None:
            return  # what a satellite sends before it was asked to, or after the end
        assert request.format is not None
        if format != request.format:
            raise Refusal(400, f"found {format} after {request.format} (legal: one format a stream)", code="invalid_value")
        wav = format.mono(frame.payload)
        request.seconds += len(wav) / format.rate
        if request.seconds > self._desk.settings.max_seconds:
            raise Refusal(413, f"the sound is longer than {self._desk.settings.max_seconds:g} s", code="too_large")
        await request.source.put(live.Block(wav))

    async def _audio_stop(self, _: Frame) -> None:
        if self._sound is not None:
            await self._sound.source.end()
            self._sound = None

    async def _listen(self, request: Request) -> None:
        assert request.format is not None
        clock, said = self._desk.clock("asr"), list[str]()
        async with self._desk.runner.slot("asr", self.who) as slot:
            async for item in fed(slot, patient(request.source, self._desk.settings.read_seconds), live.hear, request.format.rate, False):
                if isinstance(item, Segment):
                    clock.first()
                    if not said:
                        await self._send("transcript-start", {"language": request.language} if request.language else None)
                    said.append(item.text)
                    await self._send("transcript-chunk", {"text": f" {item.text}" if len(said) > 1 else item.text})
                else:
                    clock.done(item.seconds, item.input_tokens, item.output_tokens)
        text = {"text": " ".join(said)} | ({"language": request.language} if request.language else {})
        await self._send("transcript", text)
        if said:
            await self._send("transcript-stop")

    # ---- text in, sound out ----

    async def _synthesize(self, frame: Frame) -> None:
        if self._speech is not None and self._speech.streams:
            return  # the whole text once more, for servers that do not stream
        asked = Speak.model_validate(frame.data)
        request = await self._begin(asked, streams=False)
        await self._say(request, asked.text)
        await request.source.end()

    async def _synthesize_start(self, frame: Frame) -> None:
        await self._synthesize_stop(frame)
        self._speech = await self._begin(Speak.model_validate(frame.data), streams=True)

    async def _synthesize_chunk(self, frame: Frame) -> None:
        if self._speech is not None:
            await self._say(self._speech, Piece.model_validate(frame.data).text)

    async def _synthesize_stop(self, _: Frame) -> None:
        if self._speech is not None:
            await self._speech.source.end()
            self._speech = None

    async def _begin(self, asked: Speak, streams: bool) -> Request:
        if asked.text_format not in (None, "text"):
            raise Refusal(400, f"found a text in {asked.text_format[:40]!r} (legal: text)", "text_format", "unsupported_value")
        voice = self._desk.voice((asked.voice and asked.voice.name) or "")
        request = Request(Pipe(256), streams)
        await self._works.add(request, partial(self._speak, request, voice))
        return request

    async def _say(self, request: Request, text: str) -> None:
        limit = self._desk.settings.max_text
        request.characters += len(text)
        if request.characters > limit:
            raise Refusal(413, f"the text has {request.characters} characters (legal: up to {limit})", code="too_large")
        if text:
            await request.source.put(text)

    async def _speak(self, request: Request, voice: Voice | str | None) -> None:
        clock, begun = self._desk.clock("tts"), False
        try:
            async with self._desk.runner.slot("tts", self.who) as slot:
                job = (live.speak, voice, "pcm", 1.0, None)
                async for item in fed(slot, patient(request.source, self._desk.settings.read_seconds), *job):
                    if isinstance(item, jobs.Usage):
                        clock.done(item.seconds, item.input_tokens, item.output_tokens)
                    elif item.data:
                        clock.first()
                        if not begun:
                            begun = True
                            await self._send("audio-start", _SOUND)
                        await self._chunks(item.data)
            await self._chunks(bytes(2 * round(TAIL * jobs.RATE)))
            await self._send("audio-stop")
        except (GPAError, Refusal):
            self._speech = request if request.streams else None  # its end is told with the error
            raise
        if request.streams:
            await self._send("synthesize-stopped")

    async def _chunks(self, pcm: bytes) -> None:
        for at in range(0, len(pcm), 2 * CHUNK):
            await self._send("audio-chunk", _SOUND, pcm[at : at + 2 * CHUNK])


def info(desk: Desk) -> dict[str, Any]:
    """What is here, as Home Assistant asks for it."""
    card = desk.checkpoint.card
    languages = list((card.languages if card else ()) or ("en",))
    made = {entry.id: entry.name for entry in desk.made("")}  # no key, no voice that belongs to one
    voices = {name: name for name in desk.voices} | made
    program = _artifact("gpa", "One model that speaks, listens and converts voices")
    asr = program | {"models": [_artifact(desk.checkpoint.name, "speech recognition") | {"languages": languages}]}
    asr |= {"supports_transcript_streaming": True, "requires_external_vad": True}
    tts = program | {"voices": [_artifact(name, shown) | {"languages": languages, "speakers": None} for name, shown in voices.items()]}
    tts |= {"supports_synthesize_streaming": True}
    empty: dict[str, Any] = {kind: [] for kind in ("handle", "intent", "wake", "mic", "snd")}
    return {"asr": [asr], "tts": [tts]} | empty


def _artifact(name: str, description: str) -> dict[str, Any]:
    attribution = {"name": "gpa", "url": _URL}
    return {"name": name, "description": description, "installed": True, "version": gpa.__version__, "attribution": attribution}

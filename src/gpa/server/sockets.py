"""/ws/tts and /ws/vc: the plainest WebSockets that do it. Text pieces in, sound out while the text still comes; a voice in, another out.

Events are JSON with a `type`, sound is binary. docs/realtime.md holds the protocol. Whatever a client asks for on one
connection is done in order; `cancel` ends it at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, WebSocket
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gpa.errors import GPAError
from gpa.results import Segment
from gpa.server import jobs, live
from gpa.server.access import caller
from gpa.server.desk import Desk, desk
from gpa.server.failures import Refusal, refusal
from gpa.server.patience import patient
from gpa.server.runner import Busy
from gpa.server.speech import usage
from gpa.server.wire import Gone, Pipe, Wire, Works, fed, invalid, race
from gpa.voice import Voice

router = APIRouter()


class Event(BaseModel):
    """Our own protocol: what is not known is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Speak(Event):
    """Begin a text."""

    type: Literal["start"]
    voice: str = ""
    format: Literal["pcm", "wav", "mp3", "opus", "aac", "flac"] = "pcm"
    speed: float = Field(1.0, ge=0.25, le=4.0)
    language: Literal["en", "zh"] | None = None


class Convert(Event):
    """Begin a conversation's sound: s16le mono at `rate` Hz. `window` in seconds: None waits for the end of each stretch of speech."""

    type: Literal["start"]
    voice: str
    rate: int = Field(24_000, ge=8_000, le=48_000)
    window: float | None = Field(0.32, ge=0.16, le=4.0)
    captions: bool = False


class Text(Event):
    """A piece of the text, of any size."""

    type: Literal["text"]
    text: str


class End(Event):
    """Nothing follows."""

    type: Literal["end"]


class Cancel(Event):
    """Stop, and forget what waits."""

    type: Literal["cancel"]


Start = TypeVar("Start", Speak, Convert)
_SPEAK: TypeAdapter[Speak | Text | End | Cancel] = TypeAdapter(Annotated[Speak | Text | End | Cancel, Field(discriminator="type")])
_CONVERT: TypeAdapter[Convert | End | Cancel] = TypeAdapter(Annotated[Convert | End | Cancel, Field(discriminator="type")])


@dataclass(eq=False)
class Request(Generic[Start]):
    """What was asked for with one `start`."""

    start: Start
    voice: Voice | str | None
    source: Pipe
    taken: int = 0  # characters of text
    dropped: bool = False


class _Talk(Generic[Start]):
    """One connection: requests one after the other, each a pipe that the client fills."""

    def __init__(self, wire: Wire, desk: Desk, who: str) -> None:
        self.works = Works()
        self._wire, self._desk, self._who = wire, desk, who
        self._open: Request[Start] | None = None  # takes what comes
        self._deaf = False  # after a failure, until the next start: pieces of what failed are still on their way
        self._all: list[Request[Start]] = []  # not yet done

    async def read(self) -> None:
        """Obey. A mistake ends the request that is open, not the connection. Raises Gone."""
        while True:
            message = await self._wire.receive()
            try:
                await self._take(message)
            except (ValidationError, Refusal) as error:
                if self._open is not None:
                    self._drop(self._open)
                self._deaf = True
                await self._fail(invalid(error) if isinstance(error, ValidationError) else error)

    async def _take(self, message: str | bytes) -> None:
        raise NotImplementedError

    async def _do(self, request: Request[Start]) -> None:
        raise NotImplementedError

    async def _begin(self, start: Start) -> None:
        await self._end()
        self._deaf, voice = False, self._desk.voice(start.voice, self._who)
        self._open = request = Request(start, voice, Pipe(256))
        self._all.append(request)
        await self.works.add(request, partial(self._work, request))

    async def _piece(self, piece: Any) -> None:
        if self._open is not None:
            await self._open.source.put(piece)
        elif not self._deaf:
            raise Refusal(400, "found a piece before a start (legal: start, pieces, end)", "type", "invalid_value")

    async def _work(self, request: Request[Start]) -> None:
        try:
            await self._do(request)
        except Gone:
            raise
        except Exception as error:
            self._deaf = self._deaf or self._open is request
            await self._fail(refusal(error))
        finally:
            self._forget(request)

    async def _end(self) -> None:
        if self._open is not None:
            await self._open.source.end()
            self._open = None

    async def _cancel(self) -> None:
        for request in self._all:
            self._drop(request)
        await self._wire.send({"type": "cancelled"})

    def _drop(self, request: Request[Start]) -> None:
        self.works.drop(request)
        self._forget(request)

    def _forget(self, request: Request[Start]) -> None:
        request.source.shut()
        self._all = [other for other in self._all if other is not request]
        if self._open is request:
            self._open = None

    async def _fail(self, refused: Refusal) -> None:
        await self._wire.send({"type": "error", **refused.body()})


class Speaking(_Talk[Speak]):
    """/ws/tts."""

    async def _take(self, message: str | bytes) -> None:
        event = _SPEAK.validate_json(message)
        if isinstance(event, Speak):
            await self._begin(event)
        elif isinstance(event, Text):
            await self._text(event.text)
        elif isinstance(event, End):
            await self._end()
        else:
            await self._cancel()

    async def _text(self, text: str) -> None:
        limit = self._desk.settings.max_text
        if self._open is not None:
            self._open.taken += len(text)
            if self._open.taken > limit:
                found = f"the text has {self._open.taken} characters"
                raise Refusal(400, f"{found} (legal: up to {limit})", "text", "string_above_max_length")
        await self._piece(text)

    async def _do(self, request: Request[Speak]) -> None:
        start, clock = request.start, self._desk.clock("tts")
        async with self._desk.runner.slot("tts", self._who) as slot:
            job = (live.speak, request.voice, start.format, start.speed, start.language)
            await self._wire.send({"type": "audio", "format": start.format, "rate": jobs.RATE})
            async for item in fed(slot, patient(request.source, self._desk.settings.read_seconds), *job):
                if isinstance(item, jobs.Usage):
                    clock.done(item.seconds, item.input_tokens, item.output_tokens)
                    await self._wire.send({"type": "done", "seconds": round(item.seconds, 3), "usage": usage(item)})
                elif item.data:
                    clock.first()
                    await self._wire.send(item.data)


class Converting(_Talk[Convert]):
    """/ws/vc. Captions are read from the codes that were converted, at a slot of their own: they delay no sound."""

    def __init__(self, wire: Wire, desk: Desk, who: str) -> None:
        super().__init__(wire, desk, who)
        self.captions = Works()

    async def _take(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            await self._sound(message)
            return
        event = _CONVERT.validate_json(message)
        if isinstance(event, Convert):
            await self._begin(event)
        elif isinstance(event, End):
            await self._end()
        else:
            await self._cancel()

    async def _sound(self, data: bytes) -> None:
        if len(data) % 2:
            raise Refusal(400, f"found {len(data)} bytes of 16-bit samples (legal: an even number)", "sound", "invalid_value")
        await self._piece(live.Block(np.frombuffer(data, "<i2")))

    async def _do(self, request: Request[Convert]) -> None:
        start, clock = request.start, self._desk.clock("vc")
        async with self._desk.runner.slot("vc", self._who) as slot:
            job = (live.convert, request.voice, start.rate, start.window)
            await self._wire.send({"type": "audio", "format": "pcm", "rate": jobs.RATE})
            async for item in fed(slot, patient(request.source, self._desk.settings.read_seconds), *job):
                if isinstance(item, jobs.Usage):
                    clock.done(item.seconds, item.input_tokens, item.output_tokens)
                    done = {"type": "done", "seconds": round(item.seconds, 3), "usage": usage(item)}
                    await self.captions.add(request, partial(self._wire.send, done))
                elif isinstance(item, live.Codes):
                    if start.captions:
                        await self.captions.add(request, partial(self._read, item))
                elif item.data:
                    clock.first()
                    await self._wire.send(item.data)

    async def _read(self, codes: live.Codes) -> None:
        try:
            async with self._desk.runner.slot("asr", self._who) as slot:
                segment: Segment = await slot.call(live.read, codes)
        except Busy:
            return  # sound comes first
        except GPAError as error:
            await self._fail(refusal(error))
            return
        if segment.text:
            await self._wire.send(caption(segment))

    def _drop(self, request: Request[Convert]) -> None:
        super()._drop(request)
        self.captions.drop(request)


def caption(segment: Segment) -> dict[str, Any]:
    """What was said in the source, from `start` to `end` in seconds of it."""
    return {"type": "caption", "start": round(segment.start, 3), "end": round(segment.end, 3), "text": segment.text}


@router.websocket("/ws/tts")
async def tts(socket: WebSocket, desk: Annotated[Desk, Depends(desk)], who: Annotated[str, Depends(caller)]) -> None:
    """Speak texts that come in pieces, until the client goes away."""
    wire = await Wire.accept(socket, desk.settings.write_seconds)
    talk = Speaking(wire, desk, who)
    await race(talk.read(), talk.works.run())
    await wire.close()


@router.websocket("/ws/vc")
async def vc(socket: WebSocket, desk: Annotated[Desk, Depends(desk)], who: Annotated[str, Depends(caller)]) -> None:
    """Convert live sound, until the client goes away."""
    wire = await Wire.accept(socket, desk.settings.write_seconds)
    talk = Converting(wire, desk, who)
    await race(talk.read(), talk.works.run(), talk.captions.run())
    await wire.close()

"""/v1/realtime: live sound in, its transcript out, in OpenAI's events (a transcription session, today's names).

A turn is what becomes one item of the conversation. It may hold several stretches of speech: the server ends a turn after the first,
or, where turn detection is off, the client commits it. Only while somebody speaks does a session hold a slot at the model;
what is understood so far goes out as deltas, which only ever add: `completed` holds the text that counts.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, WebSocket
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gpa.results import Segment
from gpa.segment import VAD_RATE
from gpa.server import jobs, live
from gpa.server.access import caller
from gpa.server.desk import Desk, desk
from gpa.server.failures import Refusal, refusal
from gpa.server.session import Session, Transcription, modern
from gpa.server.transcription import spoken_language, tokens
from gpa.server.turns import Began, Event, Over, Spoken, Turns
from gpa.server.wire import Gone, Pipe, Wire, Works, fed, invalid, race

router = APIRouter()

MAX_APPEND = 15 << 20  # bytes of sound in one event, as OpenAI has it
LEAST = 100  # ms that a commit must find in the buffer
BACKLOG = 300.0  # seconds of speech that may wait for a slot


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket, desk: Annotated[Desk, Depends(desk)], who: Annotated[str, Depends(caller)]) -> None:
    """Transcribe live sound until the client goes away. `model` and `intent` of the address may be anything."""
    wire = await Wire.accept(socket, desk.settings.write_seconds)
    talk = Talk(wire, desk, who)
    await race(talk.read(), talk.works.run())
    await wire.close()


class ClientEvent(BaseModel):
    """What every event of a client has; and what some of them have."""

    model_config = ConfigDict(extra="ignore")
    type: str = Field(max_length=200)
    event_id: str | None = Field(None, max_length=512)
    audio: str | None = None
    session: dict[str, Any] | None = None


@dataclass(eq=False)
class Turn:
    """An item in the making. `sent` is what its deltas told so far, `said` the text of the speech that is over."""

    id: str = field(default_factory=lambda: f"item_{secrets.token_hex(12)}")
    dropped: bool = False
    heard_ms: float = 0.0  # sound appended since the last commit
    waiting: float = 0.0  # seconds of speech that were not yet taken
    sent: str = ""
    said: str = ""
    speech: Pipe | None = None  # the open stretch
    input_tokens: int = 0
    output_tokens: int = 0
    error: Refusal | None = None

    def told(self, segment: Segment) -> str:
        """What a delta adds: deltas cannot be taken back, so a revised text waits until it goes on from what was told."""
        text = f"{self.said} {segment.text}".strip()
        if not segment.partial:
            self.said = text
        if not text.lower().startswith(self.sent.lower()):
            return ""
        delta = text[len(self.sent) :]
        self.sent += delta
        return delta


class Talk:
    """One connection."""

    def __init__(self, wire: Wire, desk: Desk, who: str) -> None:
        self.works = Works()
        self._wire, self._desk, self._who = wire, desk, who
        self._id = f"sess_{secrets.token_hex(12)}"
        self._session = Session()
        self._turns = Turns(self._session.input.format.hertz, self._session.manner)
        self._turn = Turn()
        self._last: str | None = None  # id of the item before
        self._handlers: dict[str, Callable[[ClientEvent], Awaitable[None]]] = {
            "session.update": self._update,
            "transcription_session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }

    # ---- what the client says ----

    async def read(self) -> None:
        """Greet, then obey. A mistake of the client is told to it, and leaves the connection open. Raises Gone."""
        await self._send("session.created", session=self._shown())
        while True:
            message = await self._wire.receive()
            name = None
            try:
                event = ClientEvent.model_validate_json(message)
                name = event.event_id
                await self._handler(event)(event)
            except ValidationError as error:
                await self._fail(invalid(error), name)
            except Refusal as refused:
                await self._fail(refused, name)

    def _handler(self, event: ClientEvent) -> Callable[[ClientEvent], Awaitable[None]]:
        found = self._handlers.get(event.type)
        if found is None:
            message = f"found an event of type {event.type[:80]!r} (legal in a transcription session: {', '.join(self._handlers)})"
            raise Refusal(400, message, "type", "invalid_value")
        return found

    async def _update(self, event: ClientEvent) -> None:
        beta = event.type.startswith("transcription")
        asked = event.session or {}
        if asked.get("type", "transcription") != "transcription":
            message = f"found a session of type {str(asked['type'])[:40]!r} (legal: transcription)"
            raise Refusal(400, message, "session.type", "invalid_value")
        session = self._session.updated(modern(asked) if beta else asked)
        if (said := session.input.transcription) is not None:
            spoken_language(self._desk, *([said.language] if said.language else said.languages or ()))
        before, self._session = self._session, session
        if (before.input.format, before.manner) != (session.input.format, session.manner):
            await self._heard(self._turns.stop())
            self._turns = Turns(session.input.format.hertz, session.manner)
        await self._send("transcription_session.updated" if beta else "session.updated", session=self._shown())

    async def _append(self, event: ClientEvent) -> None:
        try:
            data = base64.b64decode(event.audio or "", validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refusal(400, f"audio is not base64: {error}", "audio", "invalid_value") from error
        if len(data) > MAX_APPEND:
            raise Refusal(400, f"found {len(data)} bytes of audio (legal: up to {MAX_APPEND})", "audio", "invalid_value")
        if not data:
            return
        wav = self._session.input.format.decode(data)
        self._turn.heard_ms += 1000 * len(wav) / self._session.input.format.hertz
        await self._heard(await asyncio.to_thread(self._turns.push, wav))

    async def _commit(self, event: ClientEvent) -> None:
        if self._turn.heard_ms < LEAST:
            found = f"buffer only has {self._turn.heard_ms:.2f}ms of audio"
            message = f"Error committing input audio buffer: buffer too small. Expected at least {LEAST}ms of audio, but {found}."
            raise Refusal(400, message, code="input_audio_buffer_commit_empty")
        self._turns.stop()
        await self._close_speech()
        await self._committed()

    async def _clear(self, event: ClientEvent) -> None:
        self._turns.stop()
        self.works.drop(self._turn)
        self._turn = Turn()
        await self._send("input_audio_buffer.cleared")

    # ---- what is heard ----

    async def _heard(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Began):
                if self._session.detects:
                    await self._send("input_audio_buffer.speech_started", item_id=self._turn.id, audio_start_ms=event.ms)
                self._turn.speech = Pipe()
                await self.works.add(self._turn, partial(self._listen, self._turn, self._turn.speech))
            elif isinstance(event, Spoken):
                await self._say(event)
            else:
                await self._over(event)

    async def _say(self, event: Spoken) -> None:
        turn, seconds = self._turn, len(event.pcm) / VAD_RATE
        if turn.waiting + seconds > BACKLOG:
            turn.error = Refusal(429, f"more than {BACKLOG:g} s of speech wait for the model", code="rate_limit_exceeded")
        elif turn.speech is not None:
            turn.waiting += seconds
            await turn.speech.put(live.Block(event.pcm))

    async def _over(self, event: Over) -> None:
        await self._close_speech()
        if self._session.detects:
            await self._send("input_audio_buffer.speech_stopped", item_id=self._turn.id, audio_end_ms=event.ms)
            await self._committed()

    async def _close_speech(self) -> None:
        if self._turn.speech is not None:
            await self._turn.speech.end()
            self._turn.speech = None

    async def _committed(self) -> None:
        turn, before = self._turn, self._last
        self._turn, self._last = Turn(), turn.id
        content = [{"type": "input_audio", "transcript": None}]
        item = {"id": turn.id, "object": "realtime.item", "type": "message", "role": "user", "status": "completed", "content": content}
        await self._send("input_audio_buffer.committed", item_id=turn.id, previous_item_id=before)
        for name in ("conversation.item.added", "conversation.item.done"):
            await self._send(name, previous_item_id=before, item=item)
        await self.works.add(turn, partial(self._complete, turn))

    # ---- what is understood ----

    async def _listen(self, turn: Turn, speech: Pipe) -> None:
        """One stretch of speech; what goes wrong is told when its turn is complete."""
        runner, clock = self._desk.runner, self._desk.clock("asr")
        try:
            async with runner.slot("asr", self._who) as slot:
                partials = not runner.waiting  # with others in line, every stretch is read once
                asked = self._session.input.transcription or Transcription()
                async for item in fed(slot, self._taken(turn, speech), live.hear, VAD_RATE, partials, asked.hints):
                    if isinstance(item, jobs.Usage):
                        turn.input_tokens += item.input_tokens
                        turn.output_tokens += item.output_tokens
                        clock.done(item.seconds, item.input_tokens, item.output_tokens)
                    elif delta := turn.told(item):
                        clock.first()
                        await self._item("delta", turn, delta=delta)
        except Gone:
            raise
        except Exception as error:
            turn.error = refusal(error)

    async def _taken(self, turn: Turn, speech: Pipe) -> AsyncIterator[Any]:
        async for block in speech:
            turn.waiting -= len(block.pcm) / VAD_RATE
            yield block

    async def _complete(self, turn: Turn) -> None:
        if turn.error is not None:
            await self._item("failed", turn, error=turn.error.body()["error"])
            return
        usage = tokens(jobs.Usage(turn.input_tokens, turn.output_tokens, 0.0))
        await self._item("completed", turn, transcript=turn.said, usage=usage)

    # ---- what is told ----

    async def _item(self, what: str, turn: Turn, **fields: Any) -> None:
        await self._send(f"conversation.item.input_audio_transcription.{what}", item_id=turn.id, content_index=0, **fields)

    async def _send(self, type: str, **fields: Any) -> None:
        await self._wire.send({"type": type, "event_id": f"event_{secrets.token_hex(10)}", **fields})

    async def _fail(self, refused: Refusal, name: str | None) -> None:
        await self._send("error", error=refused.body()["error"] | {"event_id": name})

    def _shown(self) -> dict[str, Any]:
        return {"id": self._id, "object": "realtime.transcription_session", **self._session.shown()}

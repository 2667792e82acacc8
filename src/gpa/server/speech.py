"""POST /v1/audio/speech: text in, sound out, as OpenAI's clients ask for it."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from gpa import audio
from gpa.server import jobs
from gpa.server.access import caller
from gpa.server.desk import Desk, desk
from gpa.server.failures import Refusal
from gpa.server.pour import EVENTS, Pour, event
from gpa.server.work import Function

router = APIRouter()


class VoiceId(BaseModel):
    """A voice that was made here."""

    model_config = ConfigDict(extra="forbid")
    id: str


class SpeechRequest(BaseModel):
    """The body. `model` may be any name: there is one. `instructions` are read and not followed."""

    model_config = ConfigDict(extra="ignore")  # clients send more than the specification knows
    model: str = "gpa"
    input: str
    voice: str | VoiceId = ""
    instructions: str | None = Field(None, max_length=4096)
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = Field(1.0, ge=0.25, le=4.0)
    stream_format: Literal["audio", "sse"] = "audio"


@router.post("/v1/audio/speech", response_class=Pour)
async def speech(body: SpeechRequest, desk: Annotated[Desk, Depends(desk)], who: Annotated[str, Depends(caller)]) -> Pour:
    """Speak a text."""
    if not body.input.strip():
        raise Refusal(400, "input is empty (legal: a text with letters or digits)", "input", "invalid_value")
    limit = desk.settings.max_text
    if len(body.input) > limit:
        raise Refusal(400, f"input has {len(body.input)} characters (legal: up to {limit})", "input", "string_above_max_length")
    voice = desk.voice(body.voice.id if isinstance(body.voice, VoiceId) else body.voice, who)
    format = body.response_format
    return poured(desk, who, "tts", format, body.stream_format, jobs.speak, body.input, voice, format, body.speed)


def poured(desk: Desk, who: str, task: str, format: str, stream_format: str, job: Function, *args: Any) -> Pour:
    """The answer of a job that makes sound: its bytes as they are made, or as events."""
    sse = stream_format == "sse"
    media_type = EVENTS if sse else audio.FORMATS[format].media_type
    return Pour(_sound(desk, who, task, sse, job, *args), media_type, desk.settings.write_seconds)


async def _sound(desk: Desk, who: str, task: str, sse: bool, job: Function, *args: Any) -> AsyncGenerator[bytes, None]:
    clock = desk.clock(task)
    async with desk.runner.slot(task, who) as slot:
        async for item in slot.stream(job, *args):
            if isinstance(item, jobs.Usage):
                clock.done(item.seconds, item.input_tokens, item.output_tokens)
                if sse:
                    yield event({"type": "speech.audio.done", "usage": usage(item)})
            elif item.data:
                clock.first()
                yield event({"type": "speech.audio.delta", "audio": base64.b64encode(item.data).decode()}) if sse else item.data


def usage(found: jobs.Usage) -> dict[str, int]:
    """As OpenAI counts."""
    counts = {"input_tokens": found.input_tokens, "output_tokens": found.output_tokens}
    return counts | {"total_tokens": sum(counts.values())}

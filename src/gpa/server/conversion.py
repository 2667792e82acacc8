"""POST /v1/audio/conversions: a sound in, the same said in another voice out. OpenAI has no such thing: the form is ours."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict

from gpa.server import forms, jobs
from gpa.server.access import caller
from gpa.server.desk import Desk, desk
from gpa.server.failures import Refusal
from gpa.server.pour import Pour
from gpa.server.speech import poured

router = APIRouter()


class ConversionRequest(BaseModel):
    """The form beside `file`."""

    model_config = ConfigDict(extra="ignore")
    model: str = "gpa"
    voice: str
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    stream_format: Literal["audio", "sse"] = "audio"


@router.post("/v1/audio/conversions", response_class=Pour)
async def conversions(request: Request, desk: Annotated[Desk, Depends(desk)], who: Annotated[str, Depends(caller)]) -> Pour:
    """Convert a voice; the answer streams, as that of /v1/audio/speech does."""
    form, data = await forms.read(request, ConversionRequest, "file")
    voice = desk.voice(form.voice, who)
    if voice is None:
        raise Refusal(400, "voice is empty (legal: the voice to convert to)", "voice", "invalid_value")
    job = (jobs.convert, data, voice, form.response_format, desk.limits)
    return poured(desk, who, "vc", form.response_format, form.stream_format, *job)

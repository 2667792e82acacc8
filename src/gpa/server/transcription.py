"""POST /v1/audio/transcriptions: sound in, text out, in the shapes that OpenAI's clients read. Translations are refused."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gpa.results import Segment, Transcript
from gpa.server import forms, jobs
from gpa.server.access import caller
from gpa.server.desk import Desk, desk
from gpa.server.failures import Refusal
from gpa.server.pour import EVENTS, Pour, event

router = APIRouter()

LANGUAGES = {"en": "english", "zh": "chinese"}  # as verbose_json names them


class TranscriptionRequest(BaseModel):
    """The form beside `file`. `model`, `temperature` and `chunking_strategy` are read and change nothing: there is one model, it does
    not draw, and it always cuts long sounds at pauses. Of `prompt` only names count."""

    model_config = ConfigDict(extra="ignore")  # clients send more than the specification knows
    model: str = "gpa"
    language: str | None = None
    languages: Annotated[list[str], BeforeValidator(forms.listed)] = []  # what it may be, of newer models
    prompt: str | None = None
    keywords: Annotated[list[str], BeforeValidator(forms.listed)] = []
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json", "diarized_json"] = "json"
    temperature: float = Field(0.0, ge=0, le=2)
    include: Annotated[list[Literal["logprobs"]], BeforeValidator(forms.listed)] = []
    timestamp_granularities: Annotated[list[Literal["word", "segment"]], BeforeValidator(forms.listed)] = []
    stream: bool = False


@router.post("/v1/audio/transcriptions", response_class=Pour)
async def transcriptions(request: Request, desk: Annotated[Desk, Depends(desk)], who: Annotated[str, Depends(caller)]) -> Pour:
    """Transcribe a sound."""
    form, data = await forms.read(request, TranscriptionRequest, "file")
    if form.response_format == "diarized_json":
        raise Refusal(400, "diarized_json is not offered: this model does not tell speakers apart", "response_format", "unsupported_value")
    language = spoken_language(desk, *([form.language] if form.language else form.languages))
    hints = jobs.Hints(tuple(form.keywords), form.prompt or "")
    heard = desk.listen(who, data, "word" in form.timestamp_granularities, hints)
    if form.stream:
        return Pour(_events(heard, form), EVENTS, desk.settings.write_seconds)
    media_type = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}.get(form.response_format, "application/json")
    return Pour(_body(heard, form, language), media_type, desk.settings.write_seconds)


@router.post("/v1/audio/translations")
async def translations() -> None:
    """Not offered."""
    raise Refusal(
        400, "translations are not offered: this model writes down what is said, in the language it is said in", code="unsupported"
    )


def spoken_language(desk: Desk, *asked: str) -> str:
    """A client's words for what the language may be -> the first that is known, as en, zh, ...; without any, the checkpoint's first.

    Raises Refusal: the model was trained on none of them."""
    card = desk.checkpoint.card
    known = (card.languages if card else ()) or tuple(LANGUAGES)
    words = [one for one in asked if one]
    codes = [_code(word) for word in words]
    if words and not set(codes) & set(known):
        found = ", ".join(repr(word[:40]) for word in words[:4])
        raise Refusal(400, f"found the language {found} (legal for this model: {', '.join(known)})", "language", "invalid_value")
    return next((code for code in codes if code in known), known[0])


def _code(word: str) -> str:
    """en-US, en_GB, English -> en."""
    wanted = word.strip().lower().replace("_", "-").partition("-")[0]
    return next((code for code, name in LANGUAGES.items() if name == wanted), wanted)


async def _body(
    heard: AsyncGenerator[Segment | jobs.Usage, None], form: TranscriptionRequest, language: str
) -> AsyncGenerator[bytes, None]:
    segments, usage = [], jobs.Usage(0, 0, 0.0)
    async with aclosing(heard):
        async for item in heard:
            if isinstance(item, Segment):
                segments.append(item)
            else:
                usage = item
    transcript = Transcript(" ".join(segment.text for segment in segments), tuple(segments))
    plain: dict[str, Callable[[], str]] = {"text": lambda: transcript.text + "\n", "srt": transcript.srt, "vtt": transcript.vtt}
    if form.response_format in plain:
        yield plain[form.response_format]().encode()
        return
    body = verbose(transcript, form, language, usage) if form.response_format == "verbose_json" else brief(transcript, form, usage)
    yield json.dumps(body, ensure_ascii=False).encode()


async def _events(heard: AsyncGenerator[Segment | jobs.Usage, None], form: TranscriptionRequest) -> AsyncGenerator[bytes, None]:
    said: list[Segment] = []
    async with aclosing(heard):
        async for item in heard:
            if isinstance(item, Segment):
                delta = {"type": "transcript.text.delta", "delta": f" {item.text}" if said else item.text}
                said.append(item)
                yield event(delta | _logprobs([item], form))
            else:
                done = {"type": "transcript.text.done", "text": " ".join(segment.text for segment in said), "usage": tokens(item)}
                yield event(done | _logprobs(said, form))
    yield b"data: [DONE]\n\n"


def brief(transcript: Transcript, form: TranscriptionRequest, usage: jobs.Usage) -> dict[str, Any]:
    """The body of `json`."""
    return {"text": transcript.text} | _logprobs(transcript.segments, form) | {"usage": tokens(usage)}


def tokens(usage: jobs.Usage) -> dict[str, Any]:
    """As OpenAI counts ids: of sound, and of text."""
    total = usage.input_tokens + usage.output_tokens
    counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "total_tokens": total}
    return {"type": "tokens", **counts, "input_token_details": {"audio_tokens": usage.input_tokens, "text_tokens": 0}}


def verbose(transcript: Transcript, form: TranscriptionRequest, language: str, usage: jobs.Usage) -> dict[str, Any]:
    """The body of `verbose_json`."""
    body: dict[str, Any] = {"task": "transcribe", "language": LANGUAGES.get(language, language), "duration": round(usage.seconds, 3)}
    body["text"] = transcript.text
    granularities = form.timestamp_granularities or ["segment"]
    if "segment" in granularities:
        body["segments"] = [_segment(number, segment) for number, segment in enumerate(transcript.segments)]
    if "word" in granularities:
        rows = [(word.text, word.start, word.end) for word in transcript.words]
        body["words"] = [{"word": text, "start": round(start, 3), "end": round(end, 3)} for text, start, end in rows]
    return body | {"usage": {"type": "duration", "seconds": math.ceil(usage.seconds)}}


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    """`tokens` stays empty: ids mean nothing to a client. `no_speech_prob` is 0: what holds no speech is no segment."""
    text = segment.text.encode()
    return {
        "id": number,
        "seek": round(segment.start * 100),  # hundredths of a second, Whisper's frames
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": f" {segment.text}",
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(_logprob(segment), 4),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 4),
        "no_speech_prob": 0.0,
    }


def _logprob(segment: Segment) -> float:
    return math.log(max(segment.confidence, 1e-10))


def _logprobs(segments: Sequence[Segment], form: TranscriptionRequest) -> dict[str, Any]:
    """One row a word, where they were asked for. Each has the mean of its segment: the model tells no more."""
    if "logprobs" not in form.include:
        return {}
    words = [
        (f" {word}" if at or number else word, segment)
        for number, segment in enumerate(segments)
        for at, word in enumerate(segment.text.split())
    ]
    return {"logprobs": [{"token": word, "bytes": list(word.encode()), "logprob": _logprob(segment)} for word, segment in words]}

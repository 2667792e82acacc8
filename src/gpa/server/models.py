"""/v1/models: the one model there is, and the names under which OpenAI's clients ask for it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from gpa.server.desk import Desk, desk
from gpa.server.failures import Refusal

router = APIRouter()
ALIASES = (
    *("tts-1", "tts-1-hd", "gpt-4o-mini-tts"),
    *("whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"),
    *("gpt-live-transcribe", "gpt-realtime-whisper"),
)


def names(desk: Desk) -> list[str]:
    """The checkpoint's own first."""
    return [desk.checkpoint.name, *ALIASES]


@router.get("/v1/models")
async def list_models(desk: Annotated[Desk, Depends(desk)]) -> dict[str, Any]:
    """As OpenAI lists them."""
    return {"object": "list", "data": [_model(name) for name in names(desk)]}


@router.get("/v1/models/{name:path}")
async def get_model(name: str, desk: Annotated[Desk, Depends(desk)]) -> dict[str, Any]:
    """One of them."""
    if name not in names(desk):
        raise Refusal(404, f"found no model {name[:80]!r} (legal: {', '.join(names(desk))})", "model", "model_not_found")
    return _model(name)


@router.get("/v1/audio/models")
@router.get("/audio/models")
async def list_audio_models(desk: Annotated[Desk, Depends(desk)]) -> dict[str, Any]:
    """As Open WebUI asks for them."""
    return {"models": [{"id": name, "name": name} for name in names(desk)]}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "gpa"}

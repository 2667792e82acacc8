"""What /openapi.json says beyond the routes' own types: forms, the kinds of sound and text that come back, errors, keys."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from gpa import audio
from gpa.server.conversion import ConversionRequest
from gpa.server.settings import Settings
from gpa.server.transcription import TranscriptionRequest
from gpa.server.voices import ConsentForm, VoiceForm

_FORMS: dict[str, tuple[type[BaseModel], str]] = {  # of POST, and the field of the sound
    "/v1/audio/transcriptions": (TranscriptionRequest, "file"),
    "/v1/audio/conversions": (ConversionRequest, "file"),
    "/v1/audio/voices": (VoiceForm, "audio_sample"),
    "/v1/audio/voice_consents": (ConsentForm, "recording"),
}
_EVENTS = "text/event-stream"
_SOUNDS = (*sorted({format.media_type for format in audio.FORMATS.values()}), _EVENTS)
_CONTENT = {  # of a success, where it is not JSON alone
    "/v1/audio/speech": _SOUNDS,
    "/v1/audio/conversions": _SOUNDS,
    "/v1/audio/transcriptions": ("application/json", "text/plain", "application/x-subrip", "text/vtt", _EVENTS),
    "/metrics": ("text/plain",),
}
_OPEN = ("/health/live", "/health/ready", "/audio/voices", "/audio/models", "/v1/audio/models")  # asks for no key
_TEXT = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": _TEXT, "code": _TEXT},
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def describe(app: FastAPI, settings: Settings) -> None:
    """Let the app's description be this one, made when it is first asked for."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(plain(), settings)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(found: dict[str, Any], settings: Settings) -> dict[str, Any]:
    schemas = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own shape, which no answer has
        schemas.pop(name, None)
    schemas["Error"] = _ERROR
    if settings.key_hashes:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            _complete(operation, path, method)
            if settings.key_hashes and not (path in _OPEN or (method, path) == ("get", "/v1/audio/voices")):
                operation["security"] = [{"key": []}]
    return found


def _complete(operation: dict[str, Any], path: str, method: str) -> None:
    answers = operation["responses"]
    answers.pop("422", None)
    if path in _CONTENT:
        answers["200"]["content"] = {kind: {} for kind in _CONTENT[path]}
    if path == "/v1/audio/translations":
        del answers["200"]
    if path == "/health/ready":
        answers["503"] = {**answers["200"], "description": "Not ready"}
    answers["default"] = {"description": "Refused", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    if method == "post" and path in _FORMS:
        schema = _form(*_FORMS[path])
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _form(model: type[BaseModel], file: str) -> dict[str, Any]:
    schema = model.model_json_schema()
    schema["properties"][file] = {"type": "string", "format": "binary"}
    schema["required"] = [*schema.get("required", ()), file]
    return schema

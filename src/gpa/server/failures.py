"""Every failure in OpenAI's shape: {"error": {message, type, param, code}}, with the headers that its clients obey."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi import HTTPException as Raised
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from gpa.errors import AudioError, EngineError, GPAError, LimitError, TextError
from gpa.server.runner import Busy

log = logging.getLogger("gpa.server")
_PATHS = {  # what a client hears that asked at a wrong place
    404: "there is nothing at this address (legal: what /openapi.json lists; OpenAI's API is below /v1)",
    405: "this address is not asked in this way (legal: what /openapi.json lists)",
}
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(Raised):  # of FastAPI's kind: it lets those through, wherever they are raised
    """An answer other than success, meant for the client."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, retry: float | None = None) -> None:
        super().__init__(status, message)
        self.status, self.param, self.code, self.retry = status, param, code, retry

    def __str__(self) -> str:
        return str(self.detail)

    def body(self) -> dict[str, Any]:
        """The JSON that clients read."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def retry_headers(self) -> dict[str, str]:
        """When to try again."""
        if self.retry is None:
            return {}
        seconds = min(max(1, math.ceil(self.retry)), 120)
        return {"retry-after": str(seconds), "retry-after-ms": str(seconds * 1000)}

    def response(self) -> Response:
        """As HTTP."""
        return JSONResponse(self.body(), self.status, {**(self.headers or {}), **self.retry_headers()})


def refusal(error: Exception) -> Refusal:
    """Any exception as the client may see it; what is not meant for clients is logged and hidden."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, Busy):
        return Refusal(429, str(error), code="rate_limit_exceeded", retry=error.seconds)
    if isinstance(error, LimitError):
        return Refusal(413, str(error), code="too_large")
    if isinstance(error, EngineError):
        return Refusal(503, str(error), code="model_unavailable", retry=2)
    if isinstance(error, GPAError):
        param = "file" if isinstance(error, AudioError) else "input" if isinstance(error, TextError) else None
        return Refusal(400, str(error), param, "invalid_value")
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        found = Refusal(error.status_code, _PATHS.get(error.status_code, str(error.detail)))
        found.headers = error.headers  # of 405: which methods are legal
        return found
    log.error("a request failed", exc_info=error)
    return Refusal(500, "the server failed at this request; its log says more")


def _invalid(error: RequestValidationError) -> Refusal:
    """The first thing that is wrong with a request."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = ".".join(place) or None
    found = "" if first["type"] == "missing" else f", found {json.dumps(first.get('input'), default=str)[:100]}"
    return Refusal(400, f"{param or 'the request'}: {first['msg']}{found}", param, first["type"])


def install(app: FastAPI) -> None:
    """Let every handler's exceptions end as `refusal` says."""

    async def handle(_: Request, error: Exception) -> Response:
        return refusal(error).response()

    for kind in (Refusal, GPAError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)

"""Who may call: keys, origins, sizes and slow writers, request ids and the log. Plain ASGI, in front of every route."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from contextlib import ExitStack
from datetime import datetime, timezone
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpa.server.connections import Connections
from gpa.server.failures import Refusal, refusal
from gpa.server.metrics import Metrics
from gpa.server.patience import within
from gpa.server.runner import Busy
from gpa.server.settings import LOOPBACK, Settings

rows = logging.getLogger("gpa.requests")  # each message is one JSON object
_OPEN = ("/", "/health/live", "/health/ready", "/v1/audio/voices", "/audio/voices", "/v1/audio/models", "/audio/models")
OPEN = {(method, path) for path in _OPEN for method in ("GET", "HEAD")}  # asks for no key
GONE = 499  # the client had gone before it got an answer
_KEY_PROTOCOL = "openai-insecure-api-key."  # how a browser's WebSocket carries a key
_REQUEST_ID = re.compile(r"[\w.-]{1,64}")


def hashed(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


async def caller(connection: HTTPConnection) -> str:
    """Who asks, for `Runner.slot`: a short hash of the key, else the address. A FastAPI dependency, for HTTP and WebSockets."""
    return str(connection.scope["gpa.caller"])


class Observed:
    """Outermost: gives each request an id, counts it, and logs one JSON line without any of its content."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-client-request-id", "")
        scope["gpa.id"] = name = asked if _REQUEST_ID.fullmatch(asked) else f"req_{secrets.token_hex(12)}"
        started, status = time.monotonic(), GONE

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = name
                headers["x-content-type-options"] = "nosniff"
                headers["openai-processing-ms"] = str(round((time.monotonic() - started) * 1000))
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close" and status == GONE:
                status = 403  # as a server says it before the handshake
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.answered(route, status)
            moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            row = {"time": moment, "id": name, "method": scope.get("method", "WS"), "route": route, "status": status}
            row |= {"seconds": round(time.monotonic() - started, 4), "caller": scope.get("gpa.caller", "")}
            rows.info("%s", json.dumps(row))


class Guarded:
    """Refuses pages of foreign origins and requests without a legal key; both for HTTP and WebSockets."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope["gpa.caller"] = (scope.get("client") or ("local",))[0]
        refused = self._origin(headers) or self._key(scope, headers)
        if refused is None:
            await self.app(scope, receive, send)
        else:
            await _deny(refused, scope, receive, send)

    def _origin(self, headers: Headers) -> Refusal | None:
        """A browser names the page that asks. Ours and the listed ones may, others may not even send.

        Where only this machine can reach the server, ours has one of its names: a page that has its own name point here (DNS
        rebinding) is foreign."""
        origin = headers.get("origin")
        if origin is None or origin in self.settings.cors or "*" in self.settings.cors:
            return None
        place = _place(origin)
        ours = place is not None and place.netloc == headers.get("host")
        if ours and place is not None and (self.settings.host not in LOOPBACK or place.hostname in LOOPBACK):
            return None
        return Refusal(403, f"pages of {origin[:100]!r} may not call this server (legal: its own page, and what --cors lists)")

    def _key(self, scope: Scope, headers: Headers) -> Refusal | None:
        hashes = self.settings.key_hashes
        if not hashes:
            return None
        found = hashed(_key(scope, headers))
        legal = [hmac.compare_digest(found, one) for one in hashes]  # every one is compared: no early end to be timed
        if any(legal):
            scope["gpa.caller"] = found[:12]
            return None
        if scope["type"] == "http" and (scope["method"], scope["path"]) in OPEN:
            scope["gpa.caller"] = ""
            return None
        said = "no API key" if found == hashed("") else "an unknown API key"
        return Refusal(401, f"found {said} (legal: one of this server's, as `Authorization: Bearer ...`)", code="invalid_api_key")


def _place(origin: str) -> SplitResult | None:
    try:
        return urlsplit(origin)
    except ValueError:
        return None


def _key(scope: Scope, headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    offered = scope.get("subprotocols", ())
    return next((one[len(_KEY_PROTOCOL) :] for one in offered if one.startswith(_KEY_PROTOCOL)), "")


async def _deny(refused: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request over HTTP, or a WebSocket before its handshake: with the same status and body, where the server can."""
    if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
        await refused.response()(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": str(refused)[:120]})


class Counted:
    """Refuses WebSockets beyond their number. Stands behind `Guarded`, which knows the caller."""

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self.app, self.connections = app, connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        with ExitStack() as place:
            if scope["type"] == "websocket":
                try:
                    place.enter_context(self.connections.place(scope["gpa.caller"]))
                except Busy as error:
                    await _deny(refusal(error), scope, receive, send)
                    return
            await self.app(scope, receive, send)


class Bounded:
    """Refuses bodies that are too large, and ends those that come too slowly."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit, held, whole = self.settings.max_body, 0, False
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:20]) > limit:
            await _too_large(limit).response()(scope, receive, send)
            return
        deadline = time.monotonic() + 10 * self.settings.read_seconds

        async def receiving() -> Message:
            nonlocal held, whole
            if whole:
                return await receive()  # waits for the client to go away
            patience = min(self.settings.read_seconds, deadline - time.monotonic())
            try:
                message = await within(max(patience, 0.001), receive())
            except asyncio.TimeoutError as error:
                raise Refusal(408, f"the body did not come within {self.settings.read_seconds:g} s") from error
            held += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if held > limit:
                raise _too_large(limit)
            return message

        await self.app(scope, receiving, send)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"the body is too large (legal: up to {limit >> 20} MiB)", code="too_large")


def read_keys(text: str) -> frozenset[str]:
    """The hashes of a file's keys: each line is a key, or the SHA-256 of one in hexadecimal; # begins a comment."""
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    return frozenset(key.lower() if re.fullmatch(r"[0-9a-fA-F]{64}", key) else hashed(key) for key in keys)

"""Pour: an answer that is made while it is sent, ended early when the client goes away or does not read."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gpa.server.failures import refusal
from gpa.server.patience import end, within

log = logging.getLogger("gpa.server")
EVENTS = "text/event-stream"


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


class Pour(Response):
    """Sends what an async generator yields. Nothing is sent before its first item: a failure until then is an ordinary error
    answer; later, an event stream gets an error event, and any other body ends without its last chunk, which clients notice.

    On disconnect, or when one write takes longer than `write_seconds`, the generator is closed, and with it its slot.
    """

    def __init__(self, items: AsyncGenerator[bytes, None], media_type: str, write_seconds: float, status_code: int = 200) -> None:
        # FastAPI reads the default of `status_code` to describe the route
        self.items, self.write_seconds = items, write_seconds
        self.status_code, self.media_type, self.background = status_code, media_type, None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it."""
        pouring = asyncio.ensure_future(self._pour(send))
        watching = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({pouring, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(watching)
            await end(pouring)  # no effect on what is done
        if not pouring.cancelled():
            pouring.result()

    async def _pour(self, send: Send) -> None:
        started = False
        async with aclosing(self.items) as items:
            try:
                async for item in items:
                    if not started:
                        started = True
                        await self._write(send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                    await self._write(send, {"type": "http.response.body", "body": item, "more_body": True})
            except asyncio.TimeoutError:
                log.warning("a reader took nothing for %g s: given up", self.write_seconds)
                return
            except Exception as error:
                if not started:
                    raise
                failed = refusal(error)
                log.warning("an answer broke off: %s", failed.code or failed.status)
                if not str(self.media_type).startswith(EVENTS):
                    return
                await self._write(send, {"type": "http.response.body", "body": event(failed.body()), "more_body": True})
        if not started:
            await self._write(send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._write(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, message: dict[str, Any]) -> None:
        await within(self.write_seconds, send(message))


async def _gone(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass

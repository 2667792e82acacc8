"""Wyoming's frames: a line of JSON, then as many bytes of JSON data and of payload as it says. Sizes are bounded, time too."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from gpa.errors import GPAError
from gpa.server.patience import within

VERSION = "1.5.4"  # of the protocol: the first with streaming synthesis in its events
MAX_LINE, MAX_DATA, MAX_PAYLOAD = 64 << 10, 1 << 20, 4 << 20  # bytes


class FrameError(GPAError):
    """What came is no frame: nothing after it can be understood."""


@dataclass(frozen=True)
class Frame:
    """One event."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""


class _Head(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: str = Field(max_length=100)
    data: dict[str, Any] | None = None
    data_length: int | None = Field(None, ge=0, le=MAX_DATA)
    payload_length: int | None = Field(None, ge=0, le=MAX_PAYLOAD)


async def read(reader: asyncio.StreamReader, seconds: float) -> Frame | None:
    """The next frame; None where the stream ends, even within one. Between frames it waits for ever, within one so many seconds.

    `reader` has a limit of MAX_LINE. Raises FrameError."""
    try:
        line = await reader.readuntil(b"\n")
        return await within(seconds, _rest(reader, line))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except asyncio.LimitOverrunError as error:
        raise FrameError(f"found a line of more than {MAX_LINE} bytes (legal: a JSON object and a newline)") from error
    except asyncio.TimeoutError as error:
        raise FrameError(f"a frame did not come within {seconds:g} s") from error


async def _rest(reader: asyncio.StreamReader, line: bytes) -> Frame:
    try:
        head = _Head.model_validate_json(line)
    except ValidationError as error:
        raise FrameError(f"found no head of a frame: {error.errors()[0]['msg']} (legal: a JSON object with a type)") from error
    data = dict(head.data or {})
    if head.data_length:
        more = await reader.readexactly(head.data_length)
        try:
            found = from_json(more)
        except ValueError as error:
            raise FrameError(f"the data of {head.type[:40]!r} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise FrameError(f"the data of {head.type[:40]!r} is a {type(found).__name__} (legal: an object)")
        data |= found
    payload = await reader.readexactly(head.payload_length) if head.payload_length else b""
    return Frame(head.type, data, payload)


def encode(frame: Frame) -> bytes:
    """As it is sent."""
    data = json.dumps(frame.data, ensure_ascii=False).encode(errors="replace") if frame.data else b""
    head: dict[str, Any] = {"type": frame.type, "version": VERSION}
    head |= {"data_length": len(data)} if data else {}
    head |= {"payload_length": len(frame.payload)} if frame.payload else {}
    return json.dumps(head).encode() + b"\n" + data + frame.payload

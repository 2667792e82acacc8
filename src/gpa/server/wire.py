"""Wire: a WebSocket with an end to patience; Works: what one connection asks for, done one after the other.

A connection is two coroutines: one reads what the client says and adds works, one does them. `race` runs both until the
first ends: a client that goes away, or stops reading, ends the works and frees their slots.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol

from fastapi import WebSocket
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect, WebSocketState

from gpa.server.failures import Refusal
from gpa.server.patience import end, within
from gpa.server.runner import Feed, Slot
from gpa.server.work import Function


class Gone(Exception):
    """The client has closed its connection, or does not read what it asked for."""


class Wire:
    """An accepted WebSocket. Messages may be sent from several tasks."""

    def __init__(self, socket: WebSocket, write_seconds: float) -> None:
        self._socket, self._write_seconds = socket, write_seconds
        self._turn = asyncio.Lock()

    @classmethod
    async def accept(cls, socket: WebSocket, write_seconds: float) -> Wire:
        """Accept, with the first subprotocol offered that is no key: browsers insist on one of those that they offer."""
        offered = [name for name in socket.scope.get("subprotocols", ()) if not name.startswith("openai-")]
        await socket.accept(offered[0] if offered else None)
        return cls(socket, write_seconds)

    async def send(self, message: dict[str, Any] | bytes) -> None:
        """One message: an event as JSON, or sound. Raises Gone."""
        data: dict[str, Any] = {"type": "websocket.send"}
        data |= {"bytes": message} if isinstance(message, bytes) else {"text": json.dumps(message, ensure_ascii=False)}
        try:
            async with self._turn:
                await within(self._write_seconds, self._socket.send(data))
        except asyncio.TimeoutError as error:
            raise Gone(f"took nothing for {self._write_seconds:g} s") from error
        except (WebSocketDisconnect, RuntimeError) as error:  # RuntimeError: it is closed already
            raise Gone("closed") from error

    async def receive(self) -> str | bytes:
        """The next message. Raises Gone."""
        try:
            message = await self._socket.receive()
        except (WebSocketDisconnect, RuntimeError) as error:
            raise Gone("closed") from error
        if message["type"] != "websocket.receive":
            raise Gone("closed")
        text: str | None = message.get("text")
        return text if text is not None else bytes(message.get("bytes") or b"")

    async def close(self, code: int = 1000) -> None:
        """Close, if the client has not."""
        if WebSocketState.DISCONNECTED not in (self._socket.client_state, self._socket.application_state):
            try:
                await within(self._write_seconds, self._socket.close(code))
            except (WebSocketDisconnect, RuntimeError, asyncio.TimeoutError):
                return


class Owner(Protocol):
    """Whose work it is: what was dropped is not begun any more."""

    dropped: bool


class Works:
    """Done in the order they were added. A work sends its own failures to the client; what it raises ends the connection."""

    def __init__(self, most: int = 64) -> None:
        self._waiting: asyncio.Queue[tuple[Owner, Callable[[], Coroutine[Any, Any, None]]]] = asyncio.Queue(most)
        self._owner: Owner | None = None
        self._current: asyncio.Future[None] | None = None
        self._ending: asyncio.Future[None] | None = None  # kept, or it might be collected

    async def add(self, owner: Owner, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Waits while too many wait."""
        await self._waiting.put((owner, work))

    def drop(self, owner: Owner) -> None:
        """End the works of one owner, and begin no more of them."""
        owner.dropped = True
        if self._owner is owner and self._current is not None:
            self._ending = asyncio.ensure_future(end(self._current))

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            owner, work = await self._waiting.get()
            if owner.dropped:
                continue
            self._owner, self._current = owner, asyncio.ensure_future(work())
            try:
                await asyncio.wait({self._current})
            finally:
                await end(self._current)
                self._owner = None
            if not self._current.cancelled():
                self._current.result()


class Pipe:
    """What is put in comes out of `async for`, until `end`."""

    def __init__(self, most: int = 0) -> None:
        """`most` things may wait; 0: any number."""
        self._items: asyncio.Queue[Any] = asyncio.Queue(most)
        self._shut = False

    async def put(self, item: Any) -> None:
        """Waits while too much waits."""
        if not self._shut:
            await self._items.put(item)

    async def end(self) -> None:
        """Nothing follows."""
        await self.put(None)

    def shut(self) -> None:
        """Nobody will take what comes: whoever waits to put goes on."""
        self._shut = True
        while not self._items.empty():
            self._items.get_nowait()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (item := await self._items.get()) is not None:
            yield item


async def fed(slot: Slot, source: AsyncIterator[Any] | Pipe, job: Function, *args: Any) -> AsyncGenerator[Any, None]:
    """What a job `(model, iterator, *args)` yields while its iterator is fed from `source`. Raises what either raises."""
    inlet, failed = slot.inlet(), list[Exception]()
    feeding = asyncio.ensure_future(_feed(inlet, source, slot, failed))
    try:
        async for item in slot.stream(job, inlet, *args):
            yield item
    except Exception:
        if failed:
            raise failed[0] from None
        raise
    finally:
        await end(feeding)


async def _feed(inlet: Feed, source: AsyncIterator[Any] | Pipe, slot: Slot, failed: list[Exception]) -> None:
    try:
        async for item in source:
            await inlet.put(item)
    except Exception as error:
        failed.append(error)
        await slot.close()  # what the job would still make is not wanted
    inlet.end()


async def race(*coroutines: Awaitable[None]) -> None:
    """Run until the first ends, then end the others. Raises what the first raised; Gone ends quietly."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(asyncio.gather(*tasks, return_exceptions=True))
    for task in done:
        if not isinstance(task.exception(), Gone):
            task.result()


def invalid(error: ValidationError) -> Refusal:
    """The first thing that is wrong with a message, as the client may see it."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or None
    return Refusal(400, f"{place or 'the message'}: {first['msg']}", place, first["type"])

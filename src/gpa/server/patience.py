"""Waiting with an end: for something, for what a client sends, for a task to be over. A cancellation is never lost on the way.

Up to Python 3.11 `asyncio.wait_for` swallows a cancellation that comes in the turn of the loop in which what it waits for
succeeds. Whoever was cancelled then goes on, and a job works for a client that has gone. So nothing here uses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from typing import Any, TypeVar

from gpa.server.failures import Refusal

T = TypeVar("T")


async def within(seconds: float, awaited: Awaitable[T]) -> T:
    """What it gives. Cancelled, it cancels what it waits for, waits until that is over, and is cancelled itself in any case.

    Raises asyncio.TimeoutError: it took longer; then it has been cancelled, too."""
    task = asyncio.ensure_future(awaited)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        await end(task)
    if task.cancelled():
        raise asyncio.TimeoutError
    return task.result()


async def end(task: asyncio.Future[Any]) -> None:
    """Cancel, and wait until it is over; its failure is not asked for.

    Once may not be enough: libraries that use `asyncio.wait_for` swallow a cancellation, too."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait({task}, timeout=0.05)
        except asyncio.CancelledError as error:  # of whoever ends it: not before it is over
            cancelled = error
    if not task.cancelled():
        task.exception()
    if cancelled is not None:
        raise cancelled


async def patient(source: AsyncIterable[Any], seconds: float) -> AsyncIterator[Any]:
    """What a client sends, for as long as it does: a slot is not held for one who is silent. Raises Refusal (408)."""
    items = aiter(source)
    while True:
        try:
            item = await within(seconds, anext(items))
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError as error:
            raise Refusal(408, f"nothing came within {seconds:g} s", code="timeout") from error
        yield item

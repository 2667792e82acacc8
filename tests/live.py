"""A server on a free port of 127.0.0.1, in a thread of the test's process, with the fakes' model or any other."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import uvicorn
from fastapi import FastAPI

from gpa.hub import Checkpoint
from gpa.pipeline import GPA
from gpa.server.app import create_app
from gpa.server.main import config
from gpa.server.settings import Settings
from gpa.server.work import House


@dataclass
class Live:
    """`url` without a slash at its end."""

    url: str
    port: int
    app: FastAPI


def until(true: Callable[[], bool], seconds: float = 10.0) -> float:
    """How long it takes to become true."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, "it did not come true"
        time.sleep(0.002)
    return time.monotonic() - started


@contextmanager
def served(model: GPA | House, folder: Path, checkpoint: Checkpoint | None = None, **settings: object) -> Iterator[Live]:
    """Serve, and go down afterwards. `folder` takes the voices; a House needs its checkpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = replace(Settings(port=port, voices=folder, drain_seconds=2), **settings)  # type: ignore[arg-type]
    app = create_app(model, found, checkpoint)
    server = uvicorn.Server(config(app, found))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.005)
    assert server.started
    try:
        yield Live(f"http://127.0.0.1:{port}", port, app)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()

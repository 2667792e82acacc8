"""Starts and ends the server: uvicorn around the app, the model's process, signals, draining and the log."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpa import hub
from gpa.errors import CheckpointError
from gpa.pipeline import load
from gpa.server.app import create_app
from gpa.server.process import Process
from gpa.server.settings import LOOPBACK, Settings

log = logging.getLogger("gpa.server")


def run(model: str, settings: Settings, engine: str = "auto", device: str = "auto") -> None:
    """Serve until SIGTERM or SIGINT. Raises CheckpointError and GPAError: what cannot be loaded, a damaged voice."""
    checkpoint = hub.resolve(model)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    uvicorn_log = logging.getLogger("uvicorn.error")
    uvicorn_log.setLevel(logging.WARNING)
    uvicorn_log.addFilter(lambda record: "without completing handshake" not in record.getMessage())  # it says so of every refused WebSocket
    if settings.host not in LOOPBACK and not settings.key_hashes:
        log.warning("%s is open to other machines, and no key is asked for (--api-key-file)", settings.host)
    house = Process(partial(load, checkpoint.folder, engine, device, watermark=settings.watermark))
    try:
        server = Server(config(create_app(house, settings, checkpoint), settings))
        house.failed = server.end
        if not house.error:  # else it failed before somebody listened
            server.run()
    finally:
        house.close()
    if house.error:
        raise CheckpointError(house.error)


class Server(uvicorn.Server):
    """Says where it listens; at a first signal refuses new work and lets what runs end, at a second one ends at once."""

    def end(self) -> None:
        """From any thread."""
        self.should_exit = True

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for server in self.servers:
            for socket in server.sockets:
                host, port = socket.getsockname()[:2]
                log.info("listening at http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM, SIGINT."""
        log.info("%s: finishing what runs", signal.Signals(sig).name)
        self.config.app.state.desk.runner.draining = True  # type: ignore[union-attr]
        self.force_exit = self.should_exit  # it is the second one
        self.should_exit = True  # uvicorn's own would raise the signal again at the end: an exit code other than 0


def config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn is to serve the app."""
    return uvicorn.Config(
        app,
        settings.host,
        settings.port,
        http=_impatient(settings),
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_seconds),
        h11_max_incomplete_event_size=64 << 10,
        ws_max_size=21 << 20,  # 15 MiB of sound in base64, as OpenAI allows
    )


def _impatient(settings: Settings) -> type[H11Protocol]:
    """uvicorn's protocol, which waits for ever, with an end to waiting for a request's head and for a reader."""

    class Impatient(H11Protocol):
        _reading: asyncio.TimerHandle | None = None
        _writing: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            if self._reading is None and (before is None or before.response_complete):  # the next request begins
                self._await_head()
            super().data_received(data)
            if self.cycle is not before:  # its head is there
                self._drop(self._reading)
                self._reading = None

        def _await_head(self) -> None:
            self._reading = self.loop.call_later(settings.read_seconds, self._head_due)

        def _head_due(self) -> None:
            if self.transport.get_protocol() is self:  # else it is a WebSocket by now
                self.transport.abort()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._drop(self._writing)
            self._writing = self.loop.call_later(settings.write_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._drop(self._writing)

        def connection_lost(self, exc: Exception | None) -> None:
            self._drop(self._reading)
            self._drop(self._writing)
            super().connection_lost(exc)

        def _drop(self, timer: asyncio.TimerHandle | None) -> None:
            if timer is not None:
                timer.cancel()

    return Impatient

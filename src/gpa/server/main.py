"""Starts and ends the server: uvicorn around the app, the model's process, signals, draining and the log."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpa import hub
from gpa.errors import CheckpointError, GPAError
from gpa.pipeline import load
from gpa.server.app import create_app
from gpa.server.process import Process
from gpa.server.settings import LOOPBACK, Settings

log = logging.getLogger("gpa.server")


def run(model: str, settings: Settings, engine: str = "auto", device: str = "auto") -> None:
    """Serve until SIGTERM or SIGINT. Raises CheckpointError and GPAError: what cannot be loaded, a damaged voice, a port that is taken."""
    checkpoint = hub.resolve(model)
    with ExitStack() as doors:
        mine = [doors.enter_context(door) for door in listeners(settings.host, settings.port)]
        if settings.wyoming is not None:
            for door in listeners(settings.host, settings.wyoming, "--wyoming"):
                door.close()  # it is opened again when the app starts, where a failure would end in pages of traceback
        _speak_up(settings)
        house = Process(partial(load, checkpoint.folder, engine, device, watermark=settings.watermark))
        try:
            server = Server(config(create_app(house, settings, checkpoint), settings))
            house.failed = server.end
            if not house.error:  # else it failed before somebody listened
                server.run(mine)
        finally:
            house.close()
    if house.error:
        raise CheckpointError(house.error)


def _speak_up(settings: Settings) -> None:
    """Begin to log: of requests pure JSON, of all else a line with its time. The first one is a warning, where one is due."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    requests = logging.getLogger("gpa.requests")
    requests.addHandler(logging.StreamHandler(sys.stderr))
    requests.propagate = False
    uvicorn_log = logging.getLogger("uvicorn.error")
    uvicorn_log.setLevel(logging.WARNING)
    uvicorn_log.addFilter(lambda record: "without completing handshake" not in record.getMessage())  # it says so of every refused WebSocket
    if settings.host not in LOOPBACK and not settings.key_hashes:
        log.warning("%s is open to other machines, and no key is asked for (--api-key-file)", settings.host)


class Server(uvicorn.Server):
    """Says where it listens; at a first signal refuses new work and lets what runs end, at a second one ends at once."""

    def end(self) -> None:
        """From any thread."""
        self.should_exit = True

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for server in self.servers:
            for door in server.sockets:
                host, port = door.getsockname()[:2]
                url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
                log.info("listening at %s (a page for a browser, and OpenAI's API below /v1); Ctrl+C ends it", url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM, SIGINT."""
        log.info("%s: finishing what runs", signal.Signals(sig).name)
        self.config.app.state.desk.runner.draining = True  # type: ignore[union-attr]
        self.force_exit = self.should_exit  # it is the second one
        self.should_exit = True  # uvicorn's own would raise the signal again at the end: an exit code other than 0


_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_REASONS = {
    errno.EADDRINUSE: "another program listens there",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "that port needs privileges",
}


def listeners(host: str, port: int, option: str = "--port") -> list[socket.socket]:
    """A socket for each address that `host` has (localhost: two), at one port; 0 is a free one. Raises GPAError: it is taken."""
    found: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, str(place[0])) for family, _, _, _, place in addresses):
            at = found[0].getsockname()[1] if found else port
            try:
                door = socket.create_server((address, at), family=family, backlog=2048)
                # of a socket that is said to be TCP's, asyncio sends small pieces at once; of others they wait 40 ms for an answer
                found.append(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, door.detach()))
            except OSError as error:
                if not found or error.errno not in _ABSENT:  # a machine without IPv6 may have a name for it all the same
                    raise
    except OSError as error:
        for made in found:
            made.close()
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise GPAError(f"cannot listen at {host}, port {port}: {reason} (legal: a free port, as in {option} {port % 65535 + 1})") from error
    return found


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

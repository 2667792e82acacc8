"""Starts and ends the server: uvicorn around the app, with signals, draining and the log."""

from __future__ import annotations

import logging
import sys

import uvicorn
from fastapi import FastAPI

from gpa import hub
from gpa.pipeline import load
from gpa.server.app import create_app
from gpa.server.settings import Settings


def run(model: str, engine: str, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises CheckpointError and whatever else loading raises."""
    checkpoint = hub.resolve(model)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    app = create_app(load(model, engine), settings, checkpoint)
    uvicorn.Server(config(app, settings)).run()


def config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn is to serve the app."""
    return uvicorn.Config(
        app,
        settings.host,
        settings.port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_seconds),
        h11_max_incomplete_event_size=64 << 10,
        ws_max_size=16 << 20,
    )

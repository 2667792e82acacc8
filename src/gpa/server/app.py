"""The app: routes of every module, in front of them who may call, behind them the runner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import gpa
from gpa import hub
from gpa.pipeline import GPA
from gpa.server import conversion, health, models, page, realtime, sockets, speech, transcription, voices, wyoming
from gpa.server.access import Bounded, Counted, Guarded, Observed
from gpa.server.connections import Connections
from gpa.server.described import describe
from gpa.server.desk import Desk
from gpa.server.failures import install
from gpa.server.metrics import Metrics
from gpa.server.runner import Runner
from gpa.server.settings import Settings
from gpa.server.shelf import Shelf
from gpa.server.work import House, Threads

ROUTERS = (
    page.router,
    health.router,
    speech.router,
    transcription.router,
    conversion.router,
    voices.router,
    models.router,
    realtime.router,
    sockets.router,
)


def create_app(model: GPA | House, settings: Settings, checkpoint: hub.Checkpoint | None = None) -> FastAPI:
    """`model`: loaded, used on threads of this process; or a House (`gpa.server.process.Process`) with its `checkpoint`.

    The app closes it when it goes down. Raises GPAError: a damaged file among the voices."""
    house: House
    if isinstance(model, GPA):
        house, checkpoint = Threads(model), model.checkpoint
    else:
        house = model
        assert checkpoint is not None
    metrics = Metrics()
    runner = Runner(house, settings, metrics)
    metrics.gauge("gpa_jobs_running", lambda: runner.running)
    metrics.gauge("gpa_jobs_waiting", lambda: runner.waiting)
    metrics.gauge("gpa_jobs_ending", lambda: runner.ending)
    connections = Connections("socket", settings, metrics)
    metrics.gauge("gpa_sockets_open", lambda: connections.open)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with nullcontext() if settings.wyoming is None else wyoming.listening(app.state.desk):
            yield
        house.close()

    app = FastAPI(
        title="gpa",
        version=gpa.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # both of these pages load foreign scripts
        redoc_url=None,
    )
    app.state.desk = Desk(settings, checkpoint, runner, metrics, Shelf(settings.voices, settings.max_voices))
    for router in ROUTERS:
        app.include_router(router)
    install(app)
    describe(app, settings)
    app.add_middleware(Bounded, settings=settings)
    app.add_middleware(Counted, connections=connections)
    app.add_middleware(Guarded, settings=settings)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=("x-request-id", "retry-after"),
        )
    app.add_middleware(Observed, metrics=metrics)  # added last, it stands outermost
    return app

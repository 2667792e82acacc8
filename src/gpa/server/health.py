"""What is asked by those who operate a server: alive, ready, metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gpa.server.desk import Desk, desk
from gpa.server.runner import Runner

router = APIRouter()


@router.get("/health/live")
async def live(desk: Annotated[Desk, Depends(desk)]) -> dict[str, str]:
    """The event loop answers, whatever the model does: ready, loading, or draining (the server goes down)."""
    return {"status": "live", "model": _state(desk.runner)}


@router.get("/health/ready")
async def ready(desk: Annotated[Desk, Depends(desk)]) -> Response:
    """Whether a new request would be taken now: 503 while the model loads, and while the server goes down."""
    runner, status = desk.runner, _state(desk.runner)
    return JSONResponse({"status": status, "running": runner.running, "waiting": runner.waiting}, 200 if status == "ready" else 503)


def _state(runner: Runner) -> str:
    return "draining" if runner.draining else "ready" if runner.house.ready else "loading"


@router.get("/metrics")
async def metrics(desk: Annotated[Desk, Depends(desk)]) -> Response:
    """Prometheus' text format."""
    return PlainTextResponse(desk.metrics.text(), media_type="text/plain; version=0.0.4")

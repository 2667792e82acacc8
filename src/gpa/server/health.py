"""What is asked by those who operate a server: alive, ready, metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gpa.server.desk import Desk, desk

router = APIRouter()


@router.get("/health/live")
async def live() -> dict[str, str]:
    """The event loop answers, whatever the model does."""
    return {"status": "live"}


@router.get("/health/ready")
async def ready(desk: Annotated[Desk, Depends(desk)]) -> Response:
    """Whether a new request would be taken now: 503 while the model loads, and while the server goes down."""
    runner = desk.runner
    status = "draining" if runner.draining else "ready" if runner.house.ready else "loading"
    return JSONResponse({"status": status, "running": runner.running, "waiting": runner.waiting}, 200 if status == "ready" else 503)


@router.get("/metrics")
async def metrics(desk: Annotated[Desk, Depends(desk)]) -> Response:
    """Prometheus' text format."""
    return PlainTextResponse(desk.metrics.text(), media_type="text/plain; version=0.0.4")

"""Desk: what every route needs, in one value: the runner, the settings, the metrics, the voices, and what the model is."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from gpa import hub
from gpa.server.failures import Refusal
from gpa.server.metrics import Clock, Metrics
from gpa.server.runner import Runner
from gpa.server.settings import Settings
from gpa.server.shelf import Shelf
from gpa.voice import Voice

# OpenAI's names, so that clients which know no others work unchanged; in the order that a checkpoint's voices are given out
OPENAI_VOICES = ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")


@dataclass
class Desk:
    """One an app, at `app.state.desk`; `desk` hands it to routes."""

    settings: Settings
    checkpoint: hub.Checkpoint
    runner: Runner
    metrics: Metrics
    shelf: Shelf

    def __post_init__(self) -> None:
        self.voices = list(self.checkpoint.voices)  # read once: the folder is not looked at again

    def clock(self, task: str) -> Clock:
        """Times one job for the metrics."""
        return Clock(self.metrics, task)

    def voice(self, asked: str) -> Voice | str | None:
        """A client's word -> a voice of the checkpoint, of OpenAI's names or of the shelf; "" is the default. Never a path.

        Raises Refusal: unknown."""
        if not asked or asked == "default":
            return None
        if asked in self.voices:
            return asked
        if asked.lower() in OPENAI_VOICES and self.voices:
            return self.alias(asked.lower())
        made = self.shelf.voice(asked)
        if made is None:
            legal = ", ".join([*self.voices, *OPENAI_VOICES])
            raise Refusal(400, f"unknown voice {asked[:80]!r} (legal: {legal}, or the id of a voice made here)", "voice", "invalid_value")
        return made

    def alias(self, name: str) -> str:
        """The voice that answers to one of OPENAI_VOICES."""
        return self.voices[OPENAI_VOICES.index(name) % len(self.voices)]


def desk(connection: HTTPConnection) -> Desk:
    """A FastAPI dependency, for HTTP and WebSockets."""
    found: Desk = connection.app.state.desk
    return found

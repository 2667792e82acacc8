"""Desk: what every route needs, in one value: the runner, the settings, the metrics, the voices, and what the model is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from gpa import hub
from gpa.results import Segment
from gpa.server import jobs
from gpa.server.consent import Phrases
from gpa.server.failures import Refusal
from gpa.server.metrics import Clock, Metrics
from gpa.server.runner import Runner
from gpa.server.settings import Settings
from gpa.server.shelf import Consent, Made, Shelf
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
        self.phrases = Phrases()

    def clock(self, task: str) -> Clock:
        """Times one job for the metrics."""
        return Clock(self.metrics, task)

    @property
    def limits(self) -> jobs.Limits:
        """Of one file."""
        return jobs.Limits(self.settings.max_seconds, self.settings.max_decoded)

    async def listen(
        self, who: str, data: bytes, words: bool = False, hints: jobs.Hints = jobs.NO_HINTS
    ) -> AsyncGenerator[Segment | jobs.Usage, None]:
        """What is said in a file, as it is understood; then Usage."""
        clock = self.clock("asr")
        async with self.runner.slot("asr", who) as slot:
            async for item in slot.stream(jobs.listen, data, self.limits, words, hints):
                if isinstance(item, jobs.Usage):
                    clock.done(item.seconds, item.input_tokens, item.output_tokens)
                clock.first()
                yield item

    def owner(self, who: str) -> str:
        """Who a voice made now belongs to; "" is everybody, where no keys are asked for."""
        return who if self.settings.key_hashes else ""

    def visible(self, entry: Consent | Made, who: str) -> bool:
        """Whether `who` may use it: it belongs to them, or to everybody."""
        return entry.owner in ("", self.owner(who)) or not self.settings.key_hashes

    def made(self, who: str) -> list[Made]:
        """The voices made here that `who` may use."""
        return [made for made in self.shelf.all(Made) if self.visible(made, who)]

    def voice(self, asked: str, who: str = "") -> Voice | str | None:
        """A client's word -> a voice of the checkpoint, of OpenAI's names or of those made here, by id or by name; "" is the
        default. Never a path.

        Raises Refusal: unknown."""
        if not asked or asked == "default":
            return None
        if asked in self.voices:
            return asked
        if asked.lower() in OPENAI_VOICES and self.voices:
            return self.alias(asked.lower())
        made = next((made for made in self.made(who) if asked in (made.id, made.name)), None)
        if made is None:
            legal = ", ".join([*self.voices, *OPENAI_VOICES])
            raise Refusal(400, f"unknown voice {asked[:80]!r} (legal: {legal}, or the id of a voice made here)", "voice", "invalid_value")
        return made.voice

    def alias(self, name: str) -> str:
        """The voice that answers to one of OPENAI_VOICES."""
        return self.voices[OPENAI_VOICES.index(name) % len(self.voices)]


async def desk(connection: HTTPConnection) -> Desk:
    """A FastAPI dependency, for HTTP and WebSockets."""
    found: Desk = connection.app.state.desk
    return found

"""The configuration of a realtime session, as OpenAI's clients send and read it: every field may be left out, changed, or null."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gpa.audio import Wav
from gpa.server.failures import Refusal
from gpa.server.jobs import Hints
from gpa.server.turns import Manner
from gpa.server.wire import invalid

# Their clients leave turn detection out, since OpenAI refuses it for these models, and commit the buffer themselves.
COMMITTING = ("gpt-realtime-whisper", "gpt-live-transcribe")
EAGERNESS = {"low": 1000, "medium": 500, "auto": 500, "high": 300}  # ms of silence that end a turn of `semantic_vad`


class Part(BaseModel):
    """Clients send more than is known here."""

    model_config = ConfigDict(extra="ignore")


class Format(Part):
    """`audio/pcm` is s16le mono; the other two are G.711 at 8 kHz."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = Field(default=None, ge=8_000, le=48_000)

    @property
    def hertz(self) -> int:
        """Samples a second."""
        return (self.rate or 24_000) if self.type == "audio/pcm" else 8_000

    def decode(self, data: bytes) -> Wav:
        """Bytes -> (T,). Raises Refusal: half a sample."""
        if self.type != "audio/pcm":
            return _G711[self.type][np.frombuffer(data, np.uint8)]
        if len(data) % 2:
            raise Refusal(400, f"found {len(data)} bytes of 16-bit samples (legal: an even number)", "audio", "invalid_value")
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


class Detection(Part):
    """When a turn is over."""

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5_000)
    silence_duration_ms: int = Field(default=500, ge=0, le=10_000)
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool | None = None
    interrupt_response: bool | None = None

    @property
    def manner(self) -> Manner:
        """For `Turns`. There is no model of meaning here: `semantic_vad` waits for a silence, too."""
        silence = EAGERNESS[self.eagerness] if self.type == "semantic_vad" else self.silence_duration_ms
        return Manner(self.threshold, self.prefix_padding_ms, silence)


class Transcription(Part):
    """`model` may be any name: there is one."""

    model: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    prompt: str | None = None
    keywords: list[str] | None = None
    delay: str | None = None

    @property
    def hints(self) -> Hints:
        """For whoever listens."""
        return Hints(tuple(self.keywords or ()), self.prompt or "")


class Input(Part):
    """What comes in."""

    format: Format = Format()
    transcription: Transcription | None = Transcription()
    turn_detection: Detection | None = Detection()
    noise_reduction: dict[str, Any] | None = None  # read and not done: the tokenizers were trained with noise


class Audio(Part):
    """Only one way."""

    input: Input = Input()


class Session(Part):
    """All of it."""

    type: Literal["transcription"] = "transcription"
    audio: Audio = Audio()
    include: list[str] | None = None

    @property
    def input(self) -> Input:
        """What comes in."""
        return self.audio.input

    @property
    def detects(self) -> bool:
        """Whether the server ends turns; else the client commits them."""
        given = self.input
        if "turn_detection" in given.model_fields_set:
            return given.turn_detection is not None
        return not ((given.transcription and given.transcription.model) or "").startswith(COMMITTING)

    @property
    def manner(self) -> Manner:
        """How turns are found."""
        return (self.input.turn_detection or Detection()).manner

    def updated(self, change: dict[str, Any]) -> Session:
        """With the fields that a client sent; the others stay. Raises Refusal: illegal."""
        before = self.model_dump(exclude_unset=True)
        try:
            return Session.model_validate(_merged(before, change))
        except ValidationError as error:
            raise _of_session(invalid(error)) from error

    def shown(self) -> dict[str, Any]:
        """As it stands, every field that has effect."""
        shown = self.model_dump(exclude_none=True)
        given = shown["audio"]["input"]
        given.setdefault("noise_reduction", None)
        given["turn_detection"] = given.get("turn_detection") if self.detects else None
        if given["turn_detection"] and given["turn_detection"]["type"] == "server_vad":
            del given["turn_detection"]["eagerness"]
        given["format"] = {"type": given["format"]["type"]} | ({"rate": self.input.format.hertz} if self._pcm else {})
        return shown

    @property
    def _pcm(self) -> bool:
        return self.input.format.type == "audio/pcm"


def modern(flat: dict[str, Any]) -> dict[str, Any]:
    """The session of a beta client's `transcription_session.update` -> today's form."""
    formats = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
    given: dict[str, Any] = {}
    if "input_audio_format" in flat:
        found = flat["input_audio_format"]
        given["format"] = {"type": formats.get(found, found) if isinstance(found, str) else found}
    names = {"input_audio_transcription": "transcription", "turn_detection": "turn_detection"}
    given |= {new: flat[old] for old, new in (names | {"input_audio_noise_reduction": "noise_reduction"}).items() if old in flat}
    return {"type": "transcription", "audio": {"input": given}}


def _merged(old: Any, new: Any) -> Any:
    """Dictionaries field by field; anything else is replaced."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return copy.deepcopy(new)
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def _of_session(refused: Refusal) -> Refusal:
    return Refusal(400, f"session.{refused}", f"session.{refused.param}", refused.code)


def _mu_law() -> NDArray[np.float32]:
    """The 256 values of ITU-T G.711, mu-law."""
    code = ~np.arange(256, dtype=np.uint8)
    value = ((((code & 0x0F).astype(np.int32) << 3) + 132) << ((code & 0x70) >> 4)) - 132
    return (np.where(code & 0x80, -value, value) / 32768).astype(np.float32)


def _a_law() -> NDArray[np.float32]:
    """The 256 values of ITU-T G.711, A-law."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    step, row = (code & 0x0F).astype(np.int32) << 4, ((code & 0x70) >> 4).astype(np.int32)
    value = np.where(row == 0, step + 8, (step + 264) << np.maximum(row - 1, 0))
    return (np.where(code & 0x80, value, -value) / 32768).astype(np.float32)


_G711 = {"audio/pcmu": _mu_law(), "audio/pcma": _a_law()}

"""What an operator may set: one frozen value that the whole server reads. Defaults suit one machine and one user."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def voices_folder() -> Path:
    """Where voices go when nobody says: the user's data folder."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "gpa" / "voices"


@dataclass(frozen=True)
class Settings:
    """Limits are of one request unless they say otherwise; sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    wyoming: int | None = None  # port of the Wyoming protocol; None: off
    key_hashes: frozenset[str] = frozenset()  # SHA-256, hexadecimal, of each key; empty: no key is asked for
    cors: tuple[str, ...] = ()  # origins whose pages may call; none by default
    concurrency: int = 4  # jobs at the model at once
    queue: int = 16  # jobs that may wait for a slot; the next one is refused with 429
    burst_seconds: float = 5.0  # a line that stood for most of about that long is overload: then only `concurrency` jobs may wait
    queue_seconds: float = 30.0  # that a job waits at most
    per_key: int = 0  # jobs of one key at once, waiting ones included; 0: no such limit
    sockets: int = 64  # WebSockets that may be open at once, and as many connections of Wyoming
    sockets_per_key: int = 16  # of them, of one key or address; 0: no such limit
    ahead: int = 256  # chunks (of about half a second) that a job may be ahead of its reader
    max_body: int = 25 << 20
    max_text: int = 4096  # characters
    max_seconds: float = 600.0  # of sound in one file
    max_decoded: int = 256 << 20  # of sound in one file, as float32
    read_seconds: float = 30.0  # between two pieces of a body
    write_seconds: float = 30.0  # that one piece of an answer may take to leave
    drain_seconds: float = 20.0  # that running requests are given at SIGTERM
    voices: Path = field(default_factory=voices_folder)
    max_voices: int = 1000  # in that folder, and as many consents; each is less than 1 KB
    consent: bool | None = None  # ask for a spoken phrase before a voice is made; None: beyond loopback
    watermark: bool = True  # mark what is spoken and converted, so that `gpa detect` finds it

    @property
    def asks_consent(self) -> bool:
        """Whether a voice needs a recorded consent."""
        return self.host not in LOOPBACK if self.consent is None else self.consent

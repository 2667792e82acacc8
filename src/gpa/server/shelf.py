"""Shelf: the voices and consents that clients made, one small JSON file each in one folder, bounded in number.

Ids are ours, names are only shown: nothing a client says becomes a path.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from gpa import strict
from gpa.errors import GPAError, LimitError
from gpa.voice import MAX_NAME, Voice


@dataclass(frozen=True)
class Consent:
    """Somebody said the phrase that was asked for. `voice` is of the recording."""

    id: str
    name: str
    language: str
    created_at: int  # Unix time
    owner: str  # `gpa.server.access.caller`
    voice: Voice
    phrase: str = ""  # that was asked for; empty: none was


@dataclass(frozen=True)
class Made:
    """A voice made here. `consent`: the id of a Consent, "" where none is asked for."""

    id: str
    name: str
    created_at: int
    owner: str
    consent: str
    voice: Voice


Entry = TypeVar("Entry", Consent, Made)
KINDS: dict[type[Consent | Made], str] = {Consent: "cons", Made: "voice"}


class Shelf:
    """Read once, when made; written through. Used from the event loop only."""

    def __init__(self, folder: Path, most: int) -> None:
        """`most` entries of each kind. The folder is made with the first entry."""
        self.folder, self.most = folder, most
        self._entries: dict[str, Consent | Made] = {}
        for kind, prefix in KINDS.items():
            for path in sorted(folder.glob(f"{prefix}_*.json")):
                entry = strict.load(kind, path)
                self._entries[entry.id] = entry

    def all(self, kind: type[Entry]) -> list[Entry]:
        """The oldest first."""
        found = [entry for entry in self._entries.values() if isinstance(entry, kind)]
        return sorted(found, key=lambda entry: (entry.created_at, entry.id))

    def get(self, kind: type[Entry], id: str) -> Entry | None:
        """None: there is no such thing."""
        found = self._entries.get(id)
        return found if isinstance(found, kind) else None

    def put(self, entry: Consent | Made) -> None:
        """Keep it, or replace the one with its id. Raises LimitError (full), GPAError (name too long, not writable)."""
        if len(entry.name) > MAX_NAME:
            raise GPAError(f"the name has {len(entry.name)} characters (legal: up to {MAX_NAME})")
        if entry.id not in self._entries and sum(type(one) is type(entry) for one in self._entries.values()) >= self.most:
            raise LimitError(f"the server keeps {self.most} of these already (legal: up to {self.most}); delete one first")
        path = self._path(entry.id)
        draft = path.with_suffix(".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft.write_text(json.dumps(asdict(entry), ensure_ascii=False), encoding="utf-8")
            os.replace(draft, path)
        except OSError as error:
            raise GPAError(f"the voice cannot be kept: {error.strerror or error}") from error
        self._entries[entry.id] = entry

    def drop(self, id: str) -> None:
        """Forget an entry that is there."""
        del self._entries[id]
        self._path(id).unlink(missing_ok=True)

    def _path(self, id: str) -> Path:
        return self.folder / f"{id}.json"


def new_id(kind: type[Consent | Made]) -> str:
    """A fresh id."""
    return f"{KINDS[kind]}_{secrets.token_hex(12)}"


def now() -> int:
    """Unix time."""
    return int(time.time())

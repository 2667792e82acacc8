"""How many connections stay open at once: WebSockets and Wyoming's, in all and of each caller. Requests over HTTP pass by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gpa.server.metrics import Metrics
from gpa.server.runner import Busy
from gpa.server.settings import Settings

RETRY = 5.0  # seconds after which a refused client may ask again: who is connected stays for minutes


class Connections:
    """Of one kind (`socket` or `wyoming`, a label of the metrics), counted on the event loop only."""

    def __init__(self, kind: str, settings: Settings, metrics: Metrics) -> None:
        self._kind, self._settings, self._metrics = kind, settings, metrics
        self._callers: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """How many there are."""
        return self._callers.total()

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """For as long as the block runs. Raises Busy: there is none."""
        most, of_one = self._settings.sockets, self._settings.sockets_per_key
        if self.open >= most:
            self._metrics.rejected(self._kind, "sockets")
            raise Busy(f"{most} connections are open (legal: up to {most})", RETRY)
        if of_one and self._callers[caller] >= of_one:
            self._metrics.rejected(self._kind, "sockets_per_key")
            raise Busy(f"this key or address has {of_one} connections open (legal: up to {of_one})", RETRY)
        self._callers[caller] += 1
        try:
            yield
        finally:
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]

"""A measured process and its parent: a line of JSON each way. A process each, because memory and a cold start cannot be
measured otherwise, and kept alive, so that what is compared can be measured in turns."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, TextIO

from gpa.errors import EngineError


def threads() -> int:
    """Half the processors: what big models get (see `gpa.engines.threads`)."""
    return max(1, (os.cpu_count() or 1) // 2)


class Worker:
    """`python -m MODULE ARGUMENTS`, which says something when it is ready and then answers what it is asked."""

    def __init__(self, name: str, module: str, *arguments: str, limit: int | None = None) -> None:
        """`limit`: threads of torch; None is `threads()`, for it would take every core and spin."""
        self.name, self._command = name, [sys.executable, "-m", module, *arguments]
        self._limit = limit or threads()

    def __enter__(self) -> Worker:
        self._log = TemporaryFile("w+")
        pipe, limited = subprocess.PIPE, {**os.environ, "OMP_NUM_THREADS": str(self._limit)}
        begun = time.perf_counter()
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=self._log, text=True, env=limited)
        try:
            self.hello = self._read()
        except EngineError as error:
            self.__exit__(None, error, None)
            raise
        self.ready = time.perf_counter() - begun  # seconds from nothing to its first line
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def ask(self, **asked: float) -> dict[str, Any]:
        """One measurement. Raises EngineError: the process is gone."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            last = (self._log.read().strip().splitlines() or ["it said nothing"])[-1]
            raise EngineError(f"{self.name} cannot be measured: {last}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def answers() -> TextIO:
    """Where a worker writes its lines; from now on whatever else prints goes to stderr."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lines


def memory(field: str = "VmHWM") -> int:
    """Bytes of memory of this process: at most so far, or (VmRSS) now; where there is no /proc always the most.

    Linux's getrusage would count what the parent held when it started this process."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

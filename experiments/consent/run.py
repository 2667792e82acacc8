"""How often a consent is wrongly refused or taken: python experiments/consent/run.py HUMANS WORK [STYLE...]

HUMANS is a manifest of clips of people that were not trained on (`id`, `text`, `speaker`, `audio`, `offset`, `samples`; 16 kHz s16le
beside it); WORK keeps what was spoken, so that the next checkpoint is measured on the same readings. STYLE: `phrase` (what the
server asks for), or `sentence` (one with slots, which was compared). Right readings: teachers and
voices of the checkpoint read fresh phrases, people read the text of their own clip. Wrong ones: every reading against the phrases
of the others, in the same and in other voices. Needs `gpa[data]` and
flite; where espeak-ng is missing one teacher is left out.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import gpa
from gpa.audio import Wav
from gpa.data.teachers import Teachers, speaker
from gpa.server import consent
from gpa.voice import Voice

RATE = 16_000
TEACHERS = [f"h{i}" for i in range(300, 310)] + ["heart@1.0", "joe@1.0", *(f"flite-{name}@1.0" for name in ("rms", "slt", "awb", "kal16"))]
if not shutil.which("espeak-ng"):
    TEACHERS.remove("joe@1.0")  # who is spelled by it
EACH = 4  # phrases a speaker
SAMPLE = "The harbour was quiet that morning. A boat came in, slowly, and somebody on the pier waved to it with a red scarf."
SLOTS = (
    "old young tall quiet happy clever little famous friendly hungry lucky tired brave careful gentle polite",
    "teacher doctor farmer sailor painter dancer singer soldier driver baker lawyer poet student neighbor captain hunter",
    "carried painted counted followed borrowed collected delivered discovered described forgot repaired remembered",
    "two three four five six seven eight nine ten eleven twelve twenty",
    "letters candles baskets ladders pictures bottles flowers rabbits horses lemons blankets mirrors tickets hammers",
    "behind under near across beside above",
    "yellow purple golden silver orange wooden broken empty frozen narrow distant ancient",
    "bridge garden kitchen station market river castle mountain village window library harbor island forest",
)


@dataclass
class Reading:
    """A clip, what it should say and what was heard. Samples of a voice have no phrase."""

    kind: str
    speaker: str
    phrase: str
    heard: str = ""
    voice: Voice | None = None


def asked(style: str, rng: random.Random) -> str:
    """A fresh phrase."""
    if style == "phrase":
        return consent.phrase(rng)
    adjective, who, did, count, what, where, colour, place = (rng.choice(slot.split()) for slot in SLOTS)
    return f"I agree that the {adjective} {who} {did} {count} {what} {where} the {colour} {place}."


def spoken(style: str, work: Path, model: gpa.GPA) -> list[tuple[Reading, Wav]]:
    """Teachers and six voices of the checkpoint; kept in WORK."""
    place = work / f"{style}.npz"
    if not place.exists():
        teachers, rng, out = Teachers(), random.Random(7), []
        for name in TEACHERS:
            noise = np.random.default_rng(3)
            texts = [asked(style, rng) for _ in range(EACH)]
            out += [("teacher", name, text, teachers.speak(text, speaker(name), noise)) for text in texts]
            out.append(("teacher", name, "", teachers.speak(SAMPLE, speaker(name), noise)))
        for name in list(model.voices)[:6]:
            texts = [asked(style, rng) for _ in range(EACH)]
            out += [("nano", name, text, model.tts(text, name).wav) for text in texts]
            out.append(("nano", name, "", model.tts(SAMPLE, name).wav))
        np.savez(place, said=json.dumps([row[:3] for row in out]), **{f"w{i}": row[3] for i, row in enumerate(out)})
    with np.load(place) as file:
        return [(Reading(*row), file[f"w{i}"]) for i, row in enumerate(json.loads(str(file["said"])))]


def humans(rows: Path, count: int = 80) -> list[tuple[Reading, Wav]]:
    """People's own clips of 3 to 10 s, at most two of each as readings, and one more as the sample where there is one."""
    sound, seen, out = np.memmap(rows.with_suffix(".pcm"), np.int16, "r"), {}, []
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    found = [row for row in found if 3 * RATE <= row["samples"] <= 10 * RATE]
    random.Random(5).shuffle(found)
    for row in found:
        n = seen[row["speaker"]] = seen.get(row["speaker"], 0) + 1
        wav = sound[row["offset"] : row["offset"] + row["samples"]].astype(np.float32) / 32768
        if n <= 3:
            out.append((Reading("human", row["speaker"], "" if n == 2 else row["text"]), wav))
    twice = [pair for pair in out if seen[pair[0].speaker] > 1]
    once = [pair for pair in out if seen[pair[0].speaker] == 1]
    return twice + once[: max(0, count - len(twice))]


def listen(model: gpa.GPA, clips: list[tuple[Reading, Wav]]) -> list[Reading]:
    """As the server does it."""
    for reading, wav in clips:
        reading.voice = model.voice(wav[: 10 * RATE])
        if reading.phrase:
            reading.heard = " ".join(segment.text for segment in model.stream_asr(wav))
    return [reading for reading, _ in clips]


def told(name: str, values: list[float], legal: float, below: bool) -> None:
    """One line: the quantiles of a measure, and the share on the legal side."""
    found = np.array(values)
    share = 100 * np.mean(found <= legal if below else found >= legal)
    shares = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]
    marks = " ".join(f"{mark:6.2f}" for mark in np.quantile(np.nan_to_num(found, posinf=999, nan=999), shares))
    sys.stdout.write(f"  {name:34} {len(found):6}  1 5 25 50 75 95 99 %: {marks}   accepted {share:5.1f} %\n")


def report(readings: list[Reading]) -> None:
    """The four tables of RESULT.md."""
    for kind in sorted({reading.kind for reading in readings}):
        said = [one for one in readings if one.kind == kind and one.phrase]
        right = [consent.misheard(one.phrase, one.heard) for one in said]
        told(f"{kind}: right phrase, wrong %", right, consent.WRONG, True)
        others = [(one, other) for one in said for other in said if other.phrase != one.phrase]
        told(f"{kind}: another's phrase, wrong %", [consent.misheard(b.phrase, a.heard) for a, b in others], consent.WRONG, True)
        samples = [one for one in readings if one.kind == kind and not one.phrase]
        pairs = [(one.speaker == sample.speaker, consent.likeness(one.voice, sample.voice)) for one in said for sample in samples]
        told(f"{kind}: same voice, likeness", [like for same, like in pairs if same], consent.ALIKE, False)
        told(f"{kind}: other voice, likeness", [like for same, like in pairs if not same], consent.ALIKE, False)
        whole = [
            consent.misheard(one.phrase, one.heard) <= consent.WRONG and consent.likeness(one.voice, sample.voice) >= consent.ALIKE
            for one in said
            for sample in samples
            if one.speaker == sample.speaker
        ]
        sys.stdout.write(f"  {kind}: phrase and voice both right, taken at once {100 * np.mean(whole):.1f} % of {len(whole)}\n")


def main(rows: Path, work: Path, styles: list[str]) -> None:
    """Read, listen, tell."""
    work.mkdir(parents=True, exist_ok=True)
    with gpa.load() as model:
        for style in styles:
            readings = listen(model, spoken(style, work, model) + (humans(rows) if style == styles[0] else []))
            sys.stdout.write(f"{style}\n")
            report(readings)
            kept = [[one.kind, one.speaker, one.phrase, one.heard, one.voice.codes if one.voice else None] for one in readings]
            (work / f"{style}.json").write_text(json.dumps(kept, default=lambda codes: [int(code) for code in codes]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or ["phrase"])

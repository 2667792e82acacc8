"""Several takes of many sentences, what the model reads in each before it is decoded, and what a judge hears in each: to choose by.

    python experiments/self_check/takes.py CACHE OUT.jsonl TEXT [COUNT [TAKES [FIRST [CHECKPOINT]]]]

CACHE keeps the judge (Whisper-base). Sentences of TEXT, each in one of four voices in turn. Several
sentences share a window of the judge; its errors are given to the sentences that its words are aligned with. choose.py reads OUT.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

import gpa
from gpa import bounds, prompt, speaking
from gpa.evaluation import judge, metrics
from gpa.listening import Hearing, read
from gpa.parts import Outcome
from gpa.speaking import Manner, character_errors, pieces_of

VOICES = ("amy", "ron", "kathleen", "sam")
STREAMS = 8


@dataclass
class Take:
    """One generation of a sentence."""

    sentence: int
    take: int
    text: str
    voice: str
    codes: list[int]
    looped: bool
    truncated: bool
    heard: str  # by the model itself
    confidence: float
    cer: float  # of that
    logprob: float  # mean of the codes, as they were drawn
    errors: float = 0.0  # words that the judge has wrong
    words: int = 0


def make(model: gpa.GPA, number: int, take: int, text: str) -> Take:
    """Generate and read; `text` is one piece, as the front end leaves it."""
    voice = VOICES[number % len(VOICES)]
    manner = Manner(model.voice(voice), sampling=replace(model.sampling("tts", None, 0), seed=take * speaking._NEXT_SEED))
    outcome, rate = Outcome(), model.bicodec.frame_rate
    bounded = replace(manner.sampling, max_new_ids=bounds.tts_limit(text, rate), min_new_ids=bounds.tts_floor(text, rate))
    asked = prompt.tts(model.vocab, manner.voice.codes, text, None, manner.voice.transcript, manner.voice.semantic)
    tokens = list(model.tokens(asked, bounded, bounds.Loop(shortest=round(rate)), outcome))
    tokens = tokens[: len(tokens) - outcome.repeated]
    codes = [model.vocab.bicodec_semantic.code(token.id) for token in tokens]
    logprob = float(np.mean([token.logprob for token in tokens])) if tokens else -99.0
    reading = read(model, None, codes, Hearing.of(model).quick)
    cer = character_errors(text, reading.text)
    return Take(number, take, text, voice, codes, outcome.looped, outcome.truncated, reading.text, reading.confidence, cer, logprob)


def judged(model: gpa.GPA, listener: judge.Judge, takes: Sequence[Take]) -> Iterator[Take]:
    """Decode and have the judge count, window by window."""
    voices = {take.voice: model.voice(take.voice) for take in takes}
    wavs = [model.bicodec.decode(take.codes, voices[take.voice].codes, fit=voices[take.voice].fit) for take in takes]
    left = iter(takes)
    for window in judge.windows(wavs, [take.text for take in takes]):
        heard = shared(window.texts, listener.heard(window).hypothesis)
        for take, (errors, words) in zip(islice(left, len(window.texts)), heard, strict=True):
            take.errors, take.words = errors, words
            yield take


def shared(references: Sequence[str], hypothesis: str) -> list[tuple[int, int]]:
    """Word errors of a window, by sentence, and the words of each; an inserted word counts for the sentence before it."""
    split = [metrics.normalise(text).split() for text in references]
    owner = np.repeat(np.arange(len(split)), [len(words) for words in split])
    said, heard = [word for words in split for word in words], metrics.normalise(hypothesis).split()
    cost = np.zeros((len(said) + 1, len(heard) + 1), int)
    cost[:, 0], cost[0] = np.arange(len(said) + 1), np.arange(len(heard) + 1)
    for i, word in enumerate(said, 1):
        for j, other in enumerate(heard, 1):
            cost[i, j] = min(cost[i - 1, j - 1] + (word != other), cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    errors = np.zeros(len(split), int)
    i, j = len(said), len(heard)
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (said[i - 1] != heard[j - 1]):
            errors[owner[i - 1]] += said[i - 1] != heard[j - 1]
            i, j = i - 1, j - 1
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            errors[owner[i - 1]] += 1
            i -= 1
        else:
            errors[owner[max(i - 1, 0)]] += 1
            j -= 1
    return [(int(wrong), len(words)) for wrong, words in zip(errors, split, strict=True)]


def main(cache: Path, out: Path, text: Path, count: int, takes: int, first: int, checkpoint: str) -> None:
    """Take by take over all sentences, so that no sentence stands beside itself in a window."""
    lines = [line for line in text.read_text().splitlines() if line and line[0] != "#"][first : first + count]
    listener = judge.Judge(cache)
    with gpa.load(checkpoint) as model, ThreadPoolExecutor(STREAMS) as pool, out.open("w") as file:
        jobs = []
        for number, line in enumerate(lines, first):
            jobs += [(number, piece.text) for piece in pieces_of(model, line, None) if not piece.pause]
        for take in range(takes):
            made = list(pool.map(lambda job, take=take: make(model, job[0], take, job[1]), jobs))
            for done in judged(model, listener, made):
                file.write(json.dumps(asdict(done)) + "\n")
            file.flush()


if __name__ == "__main__":
    given = [*sys.argv[1:], *("100", "3", "0", "nano")[len(sys.argv) - 4 :]]
    main(Path(given[0]), Path(given[1]), Path(given[2]), *map(int, given[3:6]), given[6])

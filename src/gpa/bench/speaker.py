"""One model that speaks in a process of its own (`gpa.bench.process`): what was heard when, of as many requests as asked for.

Two ways of speaking. `gpa` is `GPA.stream_tts` from many threads. `reference` is the plain way, with the same model: one
request at a time, and all codes of a sentence decoded again for every second of sound.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from threading import Lock
from typing import TypeAlias, cast

import numpy as np

from gpa import bounds
from gpa.audio import Wav
from gpa.bench import process
from gpa.errors import GPAError
from gpa.pipeline import GPA, load
from gpa.tokenizers.bicodec import BiCodec
from gpa.tokenizers.fit import NOTHING, Fit
from gpa.voice import Voice

OURS, REFERENCE = WAYS = ("gpa", "reference")
CHUNK = 1.0  # seconds of sound that come at a time; those of the published server
ARRIVALS = 0  # seed of the moments at which requests come in the open loop
PASSAGE = (
    "The morning train was late again. Nobody on the platform seemed to mind. A woman read her letter twice, and folded it with care. "
    "Two boys counted the birds on the wire. Then the rain began, first softly, then all at once. Everyone moved under the old roof, "
    "where the clock had stopped years ago. Somebody laughed, and somebody else opened a bag of warm bread. When the train came at "
    "last, it was almost empty, and very quiet."
)

Speak: TypeAlias = Callable[[str, int], Iterator[Wav]]  # text, seed -> arrays (T,)


@dataclass(frozen=True)
class Heard:
    """One request; moments in seconds."""

    asked: float  # since the run began
    chunks: list[tuple[float, int]]  # since it was asked: when each came, and its samples
    error: str = ""


def main() -> None:
    """python -m gpa.bench.speaker FOLDER ENGINE WAY: its first line comes with the first samples."""
    answers = process.answers()
    folder, engine, way = sys.argv[1:]
    with load(folder, engine) as model:
        speak = alone(model) if way == REFERENCE else together(model)
        first = speak(said(1.0, 0), 0)
        next(first)
        facts = {"rate": model.sample_rate, "codes_per_s": model.bicodec.frame_rate}
        answers.write(json.dumps(facts) + "\n")
        list(first)
        for line in sys.stdin:
            answers.write(json.dumps(run(speak, **json.loads(line))) + "\n")


def said(seconds: float, number: int) -> str:
    """A text that takes about so long to say; each number begins elsewhere in the passage."""
    passage = PASSAGE.split()
    words: list[str] = []
    while not words or bounds.speech_seconds(" ".join(words)) < seconds:
        words.append(passage[(number * 7 + len(words)) % len(passage)])
    return " ".join(words).rstrip(".,") + "."


def together(model: GPA) -> Speak:
    """All requests at once."""
    voice = _voice(model)
    return lambda text, seed: model.stream_tts(text, voice, seed=seed)


def alone(model: GPA) -> Speak:
    """One request at a time, decoded in full at every chunk; the language model and what it is asked stay the same."""
    voice, turn = _voice(model), Lock()
    every = os.cpu_count()  # nobody else needs a processor
    model.bicodec = cast("BiCodec", FullDecode(BiCodec(model.checkpoint.bicodec, threads=every)))

    def speak(text: str, seed: int) -> Iterator[Wav]:
        with turn:
            yield from model.stream_tts(text, voice, seed=seed)

    return speak


def _voice(model: GPA) -> str | Voice:
    """The checkpoint's own choice; one without voices speaks in that of code 0."""
    return model.checkpoint.default_voice or Voice((0,) * model.bicodec.token_num, model.vocab.bicodec_global.size, "zero")


class FullDecode:
    """A codec whose streams decode everything anew for each second, without look-ahead: seams are heard."""

    def __init__(self, codec: BiCodec) -> None:
        self._codec = codec
        self.sample_rate, self.frame_rate, self.token_num = codec.sample_rate, codec.frame_rate, codec.token_num

    def stream(self, voice: Iterable[int], seed: int = 0, listener: object = None, fit: Fit = NOTHING) -> FullStream:
        """See `BiCodec.stream`."""
        return FullStream(self._codec, tuple(voice), seed, fit)


class FullStream:
    """One utterance."""

    def __init__(self, codec: BiCodec, voice: tuple[int, ...], seed: int, fit: Fit) -> None:
        self._codec, self._voice, self._seed, self._fit = codec, voice, seed, fit
        self._codes: list[int] = []
        self._given, self._next = 0, round(CHUNK * codec.frame_rate)

    def push(self, codes: Iterable[int]) -> Wav:
        """Codes (N,) -> the next second of samples when it is full, else none."""
        self._codes += codes
        if len(self._codes) < self._next:
            return np.zeros(0, np.float32)
        self._next += round(CHUNK * self._codec.frame_rate)
        return self.flush()

    def flush(self) -> Wav:
        """All codes -> the samples not yet given."""
        wav = self._codec.decode(self._codes, self._voice, self._seed, fit=self._fit)
        new, self._given = wav[self._given :], len(wav)
        return new


def run(speak: Speak, streams: int, rate: float, requests: int, seconds: float) -> dict[str, object]:
    """`requests` texts of about `seconds`: from `streams` clients, each asking again as soon as it was served (rate 0, the
    closed loop), or at `rate` a second whatever is still being served (the open loop, moments drawn from a Poisson process).

    In the open loop a request's time begins when it should have come, so that a late start counts against who caused it."""
    drawn = np.random.default_rng(ARRIVALS).exponential(1 / rate, requests).cumsum().tolist() if rate else [0.0] * requests
    begun, worked = time.perf_counter(), time.process_time()

    def one(number: int, text: str) -> Heard:
        asked = drawn[number] if rate else time.perf_counter() - begun
        chunks: list[tuple[float, int]] = []
        try:
            for wav in speak(text, number):
                chunks.append((time.perf_counter() - begun - asked, len(wav)))
        except GPAError as error:
            return Heard(asked, chunks, str(error))
        return Heard(asked, chunks)

    with ThreadPoolExecutor(requests if rate else streams) as pool:
        served = []
        for number, moment in enumerate(drawn):
            time.sleep(max(0.0, moment - (time.perf_counter() - begun)))
            served.append(pool.submit(one, number, said(seconds, number)))
        heard = [future.result() for future in served]
    wall, cpu = time.perf_counter() - begun, time.process_time() - worked
    sizes = {"rss": process.memory("VmRSS"), "peak": process.memory()}
    return {"heard": [asdict(request) for request in heard], "wall": wall, "cpu": cpu, **sizes}


if __name__ == "__main__":
    main()

"""One engine in a process of its own (`gpa.bench.process`): opens it, then measures what it is asked for."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Barrier, Thread
from typing import Any, Protocol

from gpa import prompt as prompts
from gpa.bench import process
from gpa.engines.base import Sampling
from gpa.engines.choose import open_engine
from gpa.prompt import Prompt
from gpa.vocab import Vocab

REFERENCE = "reference"
# what the published script samples speech with
SAMPLING = Sampling(temperature=0.2, top_k=50, repetition_penalty=1.2)


@dataclass(frozen=True)
class Run:
    """One measurement. Times in seconds; the rest counts from the moment at which every stream has its first id."""

    first: float  # until a stream has its first id, mean over the streams
    ids: int
    wall: float
    cpu: float  # of all threads of the process


class Batch(Protocol):
    """Continues one prompt in several streams at once."""

    def run(self, prompt: Prompt, streams: int, new: int) -> Run:
        """Measure `streams` continuations of exactly `new` ids."""


def main() -> None:
    """python -m gpa.bench.worker FOLDER ENGINE [THREADS]: see the module."""
    answers = process.answers()
    folder, name, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None
    vocab = Vocab.load(folder)
    begun = time.perf_counter()
    batch: Batch = Reference(folder) if name == REFERENCE else Streams(folder, name, limit)
    _answer(answers, {"load": time.perf_counter() - begun})
    for line in sys.stdin:
        asked = json.loads(line)
        _answer(answers, asdict(batch.run(prompt_of(vocab, asked["context"]), asked["streams"], asked["new"])))


def _answer(answers: Any, fields: dict[str, float]) -> None:
    answers.write(json.dumps(fields | {"peak": process.memory()}) + "\n")


def prompt_of(vocab: Vocab, length: int) -> Prompt:
    """A prompt of speech with `length` ids: a voice, and the codes of a source to convert."""
    bare = len(prompts.vc(vocab, [0], []).context)
    codes = [i * 7 % vocab.bicodec_semantic.size for i in range(max(0, length - bare))]
    return prompts.vc(vocab, [0], codes)


class Streams:
    """An engine of ours, a thread for each stream."""

    def __init__(self, folder: Path, name: str, limit: int | None = None) -> None:
        self._engine = open_engine(folder, name, threads=limit)

    def run(self, prompt: Prompt, streams: int, new: int) -> Run:
        """See `Batch.run`."""
        begun: list[float] = []
        marks: list[tuple[float, float]] = []
        together = Barrier(streams)

        def one(seed: int) -> None:
            ids = self._ids(prompt, new, seed)
            together.wait()
            start = time.perf_counter()
            next(ids)
            begun.append(time.perf_counter() - start)
            if len(begun) == streams:
                marks.append((time.perf_counter(), time.process_time()))
            counts.append(sum(time.perf_counter() >= marks[0][0] if marks else False for _ in ids))

        counts: list[int] = []
        threads = [Thread(target=one, args=(seed,)) for seed in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _run(begun, marks[0], sum(counts))

    def _ids(self, prompt: Prompt, new: int, seed: int) -> Iterator[int]:
        sampling = Sampling(**{**vars(SAMPLING), "max_new_ids": new, "min_new_ids": new, "seed": seed})
        return (token.id for token in self._engine.generate(prompt, sampling))


class Reference:
    """The path of the published script: transformers' generate in float32, every row of the head, one static batch."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import Qwen3ForCausalLM

        self._torch = torch
        model: Any = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._model = model.eval()

    def run(self, prompt: Prompt, streams: int, new: int) -> Run:
        """See `Batch.run`."""
        torch = self._torch
        marks: list[tuple[float, float]] = []

        def mark(*_: Any) -> Any:
            marks.append((time.perf_counter(), time.process_time()))
            return torch.zeros(streams, dtype=torch.bool)

        fed = torch.tensor([list(prompt.context)] * streams)
        start = time.perf_counter()
        rules = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": True, "stopping_criteria": [mark], "pad_token_id": 0}
        rules |= {"temperature": SAMPLING.temperature, "top_k": SAMPLING.top_k, "repetition_penalty": SAMPLING.repetition_penalty}
        self._model.generate(fed, attention_mask=torch.ones_like(fed), eos_token_id=prompt.stop[0], **rules)
        return _run([marks[0][0] - start], marks[0], streams * (len(marks) - 1))


def _run(firsts: Sequence[float], mark: tuple[float, float], ids: int) -> Run:
    wall, cpu = time.perf_counter() - mark[0], time.process_time() - mark[1]
    return Run(sum(firsts) / len(firsts), ids, wall, cpu)


if __name__ == "__main__":
    main()

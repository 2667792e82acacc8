"""Stand-ins for the nets: the tasks' own logic is tested on these, in milliseconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpa import hub
from gpa.data.ngrams import count, words_of
from gpa.engines.base import Context, Sampling, Token
from gpa.pipeline import GPA
from gpa.tokenizers.fit import NOTHING, Fit
from gpa.vocab import Vocab, write_character_tokenizer
from gpa.voice import Voice

HOP = 640  # samples of one semantic code
LAG = 3  # codes that the decoder holds back

Wav = np.ndarray


class Codec:
    """A code is heard as 640 samples of its own number; the voice adds an offset."""

    sample_rate = 16_000
    frame_rate = 25.0
    token_num = 4
    tone_bands = 0
    semantic_codebook = "c0de"
    own_features = False

    def encode(self, features: Wav) -> Wav:
        return np.arange(-(-len(features) // 2)) % 32

    def voice(self, wav: Wav) -> Wav:
        return (np.abs(wav[:4]) * 1000).astype(np.int64) % 16

    def fit(self, wav: Wav, codes: Sequence[int], voice: Sequence[int]) -> Fit:
        return NOTHING

    def stream(self, voice: Sequence[int], seed: int = 0, longest: float = 4.0, listener: object = None, fit: Fit = NOTHING) -> Decoder:
        return Decoder()


class Decoder:
    def __init__(self) -> None:
        self.held: list[int] = []

    def push(self, codes: Sequence[int]) -> Wav:
        self.held += codes
        ready, self.held = self.held[:-LAG], self.held[-LAG:]
        return sound_of(ready)

    def flush(self) -> Wav:
        return sound_of(self.held)


def sound_of(codes: Sequence[int]) -> Wav:
    return np.repeat(np.asarray(codes, np.float32) / 100, HOP)


class Linguist:
    def encode_with_features(self, wav: Wav) -> tuple[Wav, Wav]:
        return np.arange(-(-len(wav) // 1280)) % 16, np.zeros((-(-len(wav) // 320), 4), np.float32)


class Engine:
    """Says what `answer` makes of a prompt and remembers what it was asked."""

    def __init__(self, answer: Callable[[Context], Sequence[int]]) -> None:
        self.answer = answer
        self.asked: list[tuple[Context, Sampling]] = []
        self.open = 0  # generations not yet closed
        self.closed = False

    def generate(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        self.asked.append((prompt, sampling))
        return self._stream(prompt, sampling)

    def _stream(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        self.open += 1
        try:
            for id in self.answer(prompt)[: sampling.max_new_ids]:
                yield Token(id, -0.5)
        finally:
            self.open -= 1

    def close(self) -> None:
        self.closed = True


class Endless:
    """An engine that speaks until it is stopped, one id every `pause` seconds."""

    def __init__(self, pause: float = 0.0003) -> None:
        self.pause, self.open = pause, 0

    def generate(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        self.open += 1
        try:
            for i in range(10**6):
                time.sleep(self.pause)
                yield Token(prompt.allowed[0].start + i * 7 % 16, -0.5)
        finally:
            self.open -= 1

    def close(self) -> None:
        return


def write_checkpoint(folder: Path) -> hub.Checkpoint:
    """The small files of a checkpoint, and two voices."""
    folder.mkdir(parents=True, exist_ok=True)
    write_character_tokenizer(folder, glm=16, bicodec_global=16, bicodec_semantic=32)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "vocab_size": 120}))
    for part, name, text in (("BiCodec", "config.yaml", "sample_rate: 16000\n"), ("glm-4-voice-tokenizer", "config.json", "{}")):
        (folder / part).mkdir()
        (folder / part / name).write_text(text)
    (folder / "voices").mkdir()
    Voice((1, 2, 3, 4), 16, "amy").save(folder / "voices" / "amy.json")
    Voice((5, 6, 7, 8), 16, "bob").save(folder / "voices" / "bob.json")
    return hub.read(folder, "fake")


def codes_per_character(vocab: Vocab) -> Callable[[Context], Sequence[int]]:
    """Speech of one code a source position (never twice the same in a row); for an asr prompt the text `hello there.`"""

    def answer(prompt: Context) -> Sequence[int]:
        if prompt.allowed == vocab.text:
            return vocab.encode("hello there.")
        return [vocab.bicodec_semantic.first + i * 7 % 32 for i in range(len(prompt.source))]  # type: ignore[attr-defined]

    return answer


def model(folder: Path, answer: Callable[[Context], Sequence[int]] | None = None, watermark: bool = False) -> GPA:
    """A GPA on stand-ins; its engine is a fakes.Engine."""
    checkpoint = write_checkpoint(folder)
    engine = Engine(answer or codes_per_character(Vocab.load(folder)))
    made = GPA(checkpoint, engine, watermark=watermark)
    made.bicodec, made.glm = Codec(), Linguist()  # type: ignore[assignment]
    return made


def knowing_words(made: GPA, *sentences: str) -> GPA:
    """The same, that has counted words and searches by them; to be called before it listens."""
    count([words_of(sentence) for sentence in sentences]).save(made.checkpoint.ngrams)
    sampling = made.checkpoint.sampling | {"asr": Sampling(beams=2, prior_weight=0.3)}  # type: ignore[operator]
    made.checkpoint = replace(made.checkpoint, sampling=sampling)
    return made

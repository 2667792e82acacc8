"""Parts: what a loaded model is made of, and what every task does with it. Codes -> ids -> codes; no text, no voice is known here."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from gpa import bounds, hub
from gpa.audio import Wav
from gpa.crowd import Crowd
from gpa.engines.base import Engine, Sampling, Token
from gpa.engines.choose import open_engine
from gpa.ngrams import Counts, NGrams, Said
from gpa.prompt import Prompt
from gpa.results import Check
from gpa.vocab import Vocab

if TYPE_CHECKING:
    from gpa.tokenizers.bicodec import BiCodec
    from gpa.tokenizers.glm import GLMTokenizer

Stream: TypeAlias = Generator[Wav, None, None]  # arrays (T,) of a sound in the making; close it to stop the work at once


@dataclass
class Outcome:
    """What a generation, or a task of several, tells beside its ids."""

    truncated: bool = False
    looped: bool = False
    repeated: int = 0  # ids at the end of the last generation that are mere repetition
    checks: list[Check] = field(default_factory=list)  # of the sentences that were read again

    def add(self, other: Outcome) -> None:
        """Remember the flags of one generation among several."""
        self.truncated |= other.truncated
        self.looped |= other.looped


class Parts:
    """Vocabulary, engine, codec and linguistic tokenizer of one checkpoint; the nets are loaded when first used."""

    def __init__(self, checkpoint: hub.Checkpoint, engine: str | Engine = "auto", device: str = "auto", *, watermark: bool = True) -> None:
        """Raises CheckpointError, EngineError, MissingExtra."""
        self.checkpoint, self.watermark = checkpoint, watermark
        self.crowd = Crowd()  # of streams of speech
        self.vocab: Vocab = hub.checked_vocab(checkpoint)
        self.engine: Engine = open_engine(checkpoint.folder, engine, device) if isinstance(engine, str) else engine

    @cached_property
    def bicodec(self) -> BiCodec:
        """The codec: semantic and global codes <-> sound."""
        from gpa.tokenizers.bicodec import BiCodec

        return BiCodec(self.checkpoint.bicodec)

    @cached_property
    def glm(self) -> GLMTokenizer:
        """The linguistic tokenizer."""
        from gpa.tokenizers.glm import GLMTokenizer

        return GLMTokenizer(self.checkpoint.glm)

    @cached_property
    def prior(self) -> Said | None:
        """What is likely to be said, where the checkpoint knows."""
        path = self.checkpoint.ngrams
        return Said.nothing(NGrams(Counts.load(path)), self.vocab) if path.is_file() else None

    @property
    def sample_rate(self) -> int:
        """Hz, of every sound that goes in as an array and of all that comes out."""
        return self.bicodec.sample_rate

    @cached_property
    def writes_capitals(self) -> bool:
        """Whether the vocabulary tells A from a."""
        return self.vocab.encode("A") != self.vocab.encode("a")

    def sampling(self, task: str, given: Sampling | None, seed: int) -> Sampling:
        """What a caller asked for, else the checkpoint's own, with a seed."""
        return replace(given or self.checkpoint.sampling[task], seed=seed)

    def encode(self, wav: Wav) -> tuple[list[int], list[int]]:
        """(linguistic codes, semantic codes) of a sound of at most SPAN seconds."""
        glm, features = self.glm.encode_with_features(wav)
        return glm.tolist(), self.bicodec.encode(wav if features is None else features).tolist()

    def semantic_codes(self, wav: Wav) -> list[int]:
        """Semantic codes alone: a linguistic tokenizer that the codec does not need stays unloaded."""
        return self.bicodec.encode(wav).tolist() if self.bicodec.own_features else self.encode(wav)[1]

    def tokens(self, asked: Prompt, sampling: Sampling, loop: bounds.Loop, outcome: Outcome) -> Iterator[Token]:
        """Ids as the engine draws them. Ends, and frees the engine's slot, at the stop, at `max_new_ids` or in a loop."""
        for count, token in enumerate(self.engine.generate(asked, sampling), 1):
            yield token
            outcome.truncated |= count == sampling.max_new_ids
            outcome.repeated = loop.push(token.id)
            if outcome.repeated:
                outcome.looped = True
                return

    def semantic(self, asked: Prompt, sampling: Sampling, outcome: Outcome) -> Iterator[int]:
        """Semantic codes as the engine draws them; a second of repetition ends them."""
        loop = bounds.Loop(shortest=round(self.bicodec.frame_rate))
        book = self.vocab.bicodec_semantic
        return (book.code(token.id) for token in self.tokens(asked, sampling, loop, outcome))

    def close(self) -> None:
        """Free the model."""
        self.engine.close()

"""Prompt: the only writer of structural tokens, for training and inference alike.

Each task is one layout of ids (paper section 3; the published reference writes the same ids):
asr  glm(source) + semantic(source)      -> text
tts  global(voice) + text                -> semantic; with a reference: global + both texts + semantic(reference) -> semantic
vc   global(voice) + semantic(source)    -> semantic
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpa.engines.base import Prior
from gpa.vocab import Vocab

IGNORED = -100  # label of a position whose id is not learned (torch's cross_entropy default)


@dataclass(frozen=True)
class Prompt:
    """Ids to feed (`context`), ids to learn (`target`; empty at inference) and what may be generated."""

    context: tuple[int, ...]
    target: tuple[int, ...]
    stop: tuple[int, ...]  # ids that end a generation
    allowed: tuple[range, ...]  # ids that may be generated beside `stop`
    source: range  # positions in `context` of the text or codes that the target follows in time
    prefix: int = 0  # ids at the beginning of `context` that every prompt in this voice has
    prior: Prior | None = None  # what is likely to be generated, for a sampling that heeds it

    @property
    def ids(self) -> tuple[int, ...]:
        """Context and target, as fed in training."""
        return self.context + self.target

    @property
    def labels(self) -> tuple[int, ...]:
        """One label an id: IGNORED over the context by construction."""
        return (IGNORED,) * len(self.context) + self.target


@dataclass(frozen=True)
class InStep:
    """The prior of what goes on in step with its source: one nat for the id that stands at the same place there."""

    source: tuple[int, ...]  # a stop behind it
    at: int = 0

    def scores(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Prior.scores`."""
        return (ids == self.source[self.at]).astype(np.float64) if self.at < len(self.source) else np.zeros(len(ids))

    def after(self, id: int) -> InStep:
        """One id further, whichever it is."""
        return replace(self, at=self.at + 1)


def asr(vocab: Vocab, glm: Iterable[int] | None, semantic: Iterable[int] | None, text: str | None = None) -> Prompt:
    """Speech -> text, from GLM codes, semantic codes or (as published) both."""
    special = vocab.special
    context: list[int] = []
    source = range(0)
    if semantic is None and glm is None:
        raise ValueError("asr needs glm codes, semantic codes or both")
    if glm is not None:
        codes = vocab.glm.encode(glm)
        source = range(1, 1 + len(codes))
        context += [special("<|start_glm_token|>"), *codes, special("<|end_glm_token|>")]
    if semantic is not None:
        codes = vocab.bicodec_semantic.encode(semantic)
        source = range(len(context) + 1, len(context) + 1 + len(codes))
        context += [special("<|start_semantic_token|>"), *codes, special("<|end_semantic_token|>")]
    context.append(special("<|start_content|>"))
    end, stop = special("<|end_content|>"), special("<|im_end|>")
    target = (*vocab.encode(text), end, stop) if text is not None else ()
    return Prompt(tuple(context), target, (end, stop), vocab.text, source)


def tts(
    vocab: Vocab,
    voice: Iterable[int],
    text: str,
    semantic: Iterable[int] | None = None,
    reference_text: str = "",
    reference_semantic: Iterable[int] = (),
) -> Prompt:
    """Text -> semantic codes in a voice.

    With a reference (what is said in the voice's clip, and its semantic codes: both or neither, ValueError) the text is
    spoken on from the clip: the two texts stand side by side without a space, as the published model of March 2026 has them."""
    spoken = vocab.bicodec_semantic.encode(reference_semantic)
    if bool(reference_text) != bool(spoken):
        raise ValueError(f"a reference has a text and codes (found {len(reference_text)} characters, {len(spoken)} codes)")
    words = vocab.encode(reference_text + text)
    own = len(vocab.encode(text)) if spoken else len(words)  # of `words`, those that are still to be said
    context = _voice(vocab, voice)
    prefix = len(context)
    context += [vocab.special("<|start_content|>"), *words]
    source = range(len(context) - own, len(context))
    context.append(vocab.special("<|end_content|>"))
    if spoken:
        context += [vocab.special("<|start_semantic_token|>"), *spoken]
    return _speech(vocab, context, semantic, source, prefix)


def vc(
    vocab: Vocab, voice: Iterable[int], source: Iterable[int], semantic: Iterable[int] | None = None, spoken: Iterable[int] = ()
) -> Prompt:
    """Semantic codes of one speaker -> semantic codes in a voice; a live conversion goes on from those already `spoken`.

    Its prior is the source itself."""
    context = _voice(vocab, voice)
    prefix = len(context)
    codes = vocab.bicodec_semantic.encode(source)
    span = range(len(context) + 1, len(context) + 1 + len(codes))
    context += [vocab.special("<|start_semantic_token|>"), *codes, vocab.special("<|end_semantic_token|>")]
    context.append(vocab.special("<|end_content|>"))  # closes a block never opened: the published model was trained so
    said = vocab.bicodec_semantic.encode(spoken)
    asked = _speech(vocab, [*context, *said], semantic, span, prefix)
    return replace(asked, prior=InStep((*codes, *asked.stop), len(said)))


def _voice(vocab: Vocab, voice: Iterable[int]) -> list[int]:
    codes = vocab.bicodec_global.encode(voice)
    return [vocab.special("<|start_global_token|>"), *codes, vocab.special("<|end_global_token|>")]


def _speech(vocab: Vocab, context: list[int], semantic: Iterable[int] | None, source: range, prefix: int) -> Prompt:
    stop = vocab.special("<|im_end|>")
    target = (*vocab.bicodec_semantic.encode(semantic), stop) if semantic is not None else ()
    return Prompt(tuple(context), target, (stop,), (vocab.bicodec_semantic.ids,), source, prefix)

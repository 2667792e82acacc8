"""Text -> speech: sentences -> prompts -> semantic codes -> sound, sentence by sentence, each as soon as its text is certain.

With `check` a sentence is read again from its codes by the model itself before any of it is heard; a bad one is drawn
anew with another seed, and the best of its readings is spoken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from gpa import bounds, prompt, sounds
from gpa.audio import Wav
from gpa.engines.base import Sampling
from gpa.errors import EngineError, LimitError, TextError
from gpa.evaluation.metrics import edits
from gpa.listening import Hearing, read
from gpa.parts import Outcome, Parts, Stream
from gpa.passages import passages
from gpa.results import Check
from gpa.stretch import Stretcher
from gpa.text import Piece, normalise, speakable, split
from gpa.tokenizers.turns import Listener
from gpa.voice import Voice

PIECE = 120  # characters that are spoken at once
TRIES = 3  # generations of a sentence that reads badly
GOOD = 0.1  # character error rate up to which a sentence passes (experiments/self_check: half of nano's do)
_NEXT_SEED = 1_000_003


@dataclass(frozen=True)
class Manner:
    """How a text is spoken; speed 1 is the voice's own."""

    voice: Voice
    speed: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    check: bool = False


def speak(parts: Parts, pieces: Iterable[Piece], manner: Manner, outcome: Outcome) -> Stream:
    """Pieces of text -> arrays (T,), some of them empty. Raises EngineError: the model says nothing for a sentence."""
    spoken, listener = _checked if manner.check else _spoken, Listener()
    for piece in pieces:
        if piece.pause:
            yield from sounds.silence(piece.pause, parts.sample_rate)
            continue
        stretcher, heard = Stretcher(manner.speed, parts.sample_rate), 0
        for wav in _decoded(parts, spoken(parts, piece.text, manner, outcome), manner, listener):
            heard += len(wav)
            yield stretcher.push(wav)
        yield stretcher.flush()
        if not heard:
            raise EngineError(f"the model says nothing for {piece.text!r}")


def pieces_of(parts: Parts, text: str | Iterable[str], language: str | None, longest: int | None = None) -> Iterator[Piece]:
    """Sentences and pauses, as soon as each is certain.

    Raises, while iterating, TextError (nothing in it that this checkpoint can say; known at its end) and LimitError (more
    than `longest` characters)."""
    beginning, anything, letters, known = "", False, False, "en"
    for passage in passages(_counted(text, longest)):
        beginning = (beginning + passage)[:40]
        letters |= speakable(passage)
        known = language or _language(passage) or known
        for piece in split(normalise(passage, known), PIECE):
            if piece.pause or parts.vocab.encode(piece.text):
                anything |= not piece.pause
                yield piece
    if not anything:
        legal = "of a script that this checkpoint reads" if letters else "or digits"
        raise TextError(f"found nothing to say in {beginning!r} (legal: a text with letters {legal})")


def _counted(text: str | Iterable[str], longest: int | None) -> Iterator[str]:
    count = 0
    for part in (text,) if isinstance(text, str) else text:
        count += len(part)
        if longest is not None and count > longest:
            raise LimitError(f"the text has {count} characters (legal: up to {longest}; stream_tts takes any length)")
        yield part


def _language(said: str) -> str | None:
    """zh or en by the script; None where a passage has no letters: it is read like the one before."""
    if any("\u4e00" <= char <= "\u9fff" for char in said):
        return "zh"
    return "en" if any(char.isalpha() for char in said) else None


def _decoded(parts: Parts, codes: Iterator[int], manner: Manner, listener: Listener) -> Iterator[Wav]:
    """Semantic codes as they come -> sound in a voice as soon as its samples are settled."""
    decoder = parts.bicodec.stream(manner.voice.codes, manner.sampling.seed, listener=listener, fit=manner.voice.fit)
    for code in codes:
        yield decoder.push([code])
    yield decoder.flush()


def _spoken(parts: Parts, said: str, manner: Manner, outcome: Outcome) -> Iterator[int]:
    rate = parts.bicodec.frame_rate
    bounded = replace(manner.sampling, max_new_ids=bounds.tts_limit(said, rate), min_new_ids=bounds.tts_floor(said, rate))
    voice = manner.voice
    return parts.semantic(prompt.tts(parts.vocab, voice.codes, said, None, voice.transcript, voice.semantic), bounded, outcome)


def _checked(parts: Parts, said: str, manner: Manner, outcome: Outcome) -> Iterator[int]:
    """The codes of the best of up to TRIES generations, and what was read in them, as a Check of the outcome."""
    tries = [_tried(parts, said, manner, 0)]
    while tries[-1].bad and len(tries) < TRIES:
        tries.append(_tried(parts, said, manner, len(tries)))
    best = min(tries, key=lambda tried: (not tried.codes, tried.forced, tried.cer - tried.confidence / 2))
    outcome.add(best.outcome)
    outcome.checks.append(Check(said, best.heard, best.cer, len(tries)))
    return iter(best.codes)


@dataclass(frozen=True)
class _Try:
    codes: list[int]
    heard: str
    confidence: float
    cer: float
    outcome: Outcome

    @property
    def forced(self) -> bool:
        return self.outcome.looped or self.outcome.truncated

    @property
    def bad(self) -> bool:
        return self.cer > GOOD or self.forced


def _tried(parts: Parts, said: str, manner: Manner, number: int) -> _Try:
    outcome = Outcome()
    seed = manner.sampling.seed + number * _NEXT_SEED
    codes = list(_spoken(parts, said, replace(manner, sampling=replace(manner.sampling, seed=seed)), outcome))
    codes = codes[: len(codes) - outcome.repeated]
    if not codes:
        return _Try(codes, "", 0.0, 1.0, outcome)
    reading = read(parts, None, codes, Hearing.of(parts).quick)  # what is said, not what is likely
    return _Try(codes, reading.text, reading.confidence, character_errors(said, reading.text), outcome)


def character_errors(said: str, heard: str) -> float:
    """Edits per character of what should be said, in letters and digits of any script; case and marks do not count."""
    reference, hypothesis = _letters(said), _letters(heard)
    return edits(reference, hypothesis) / max(1, len(reference))


def _letters(text: str) -> str:
    return " ".join("".join(char if char.isalnum() else " " for char in text.lower().replace("'", "")).split())

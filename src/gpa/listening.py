"""Speech -> text: spans of speech -> codes -> prompt -> ids -> text, with times and confidence; of a live source also partial results.

What holds no speech never reaches the model, so silence, noise and music are not heard as words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gpa import align, bounds, prompt, sounds
from gpa.audio import Wav
from gpa.engines.base import Sampling
from gpa.errors import GPAError, LimitError
from gpa.ngrams import Said, spellings
from gpa.parts import Outcome, Parts
from gpa.results import Segment, Word
from gpa.segment import Segment as Span
from gpa.segment import Segmenter
from gpa.sounds import SPAN, Ear, Sound
from gpa.text import sentence_case

MAX_KEYWORDS = 500
STEP = 0.08  # seconds of a live source that are looked at together
_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff]|[^\\s\u3040-\u30ff\u3400-\u9fff]+")
_WRITTEN = re.compile("[A-Za-z']+")
FIRST = 0.64  # seconds of open speech, the detector's padding of 0.16 included, that are read first ...
AGAIN = 0.4  # ... and then after so many more seconds, and
GROWTH = 1.2  # times as much speech: reading a long span again and again costs little more than reading it once


@dataclass(frozen=True)
class Hearing:
    """How a sound is listened to."""

    sampling: Sampling
    words: bool = False  # with the time of every word
    expected: Mapping[str, str] = field(default_factory=dict)  # letters of keywords -> the words as they were given

    @classmethod
    def of(cls, parts: Parts, sampling: Sampling | None = None, words: bool = False, keywords: Iterable[str] = ()) -> Hearing:
        """As asked for, else as the checkpoint listens. Raises LimitError (too many keywords), GPAError (they cannot be heeded)."""
        drawn, expected = parts.sampling("asr", sampling, 0), spellings(keywords)
        if len(expected) > MAX_KEYWORDS:
            raise LimitError(f"{len(expected)} words to listen for (legal: at most {MAX_KEYWORDS})")
        if expected and (parts.prior is None or not drawn.prior_weight):
            found = "it has no counts of words" if parts.prior is None else "the sampling has a prior_weight of 0"
            raise GPAError(f"the checkpoint {parts.checkpoint.name} cannot listen for keywords: {found}")
        return cls(drawn, words, expected)

    @property
    def quick(self) -> Hearing:
        """For what is soon read anew: no search, letter by letter."""
        return Hearing(replace(self.sampling, beams=1, prior_weight=0.0))


@dataclass(frozen=True)
class Reading:
    """A text and how sure the model is of it: geometric mean of the ids' probabilities, 0 .. 1."""

    text: str
    confidence: float
    truncated: bool
    looped: bool


def listen(parts: Parts, sound: Sound, hearing: Hearing) -> Iterator[Segment]:
    """The segments of a sound in which something is said."""
    for start, wav in sounds.spans(sound, parts.sample_rate):
        if len(wav) and (heard := hear(parts, start, wav, hearing)).text:
            yield heard


def listen_live(parts: Parts, sound: Sound, hearing: Hearing, late: Callable[[], bool] = lambda: False) -> Iterator[Segment]:
    """As `listen`, and while somebody speaks what is understood so far, as partial segments (without words).

    None is read while it is `late`: on a busy machine the finished text must not come later for the sake of the unfinished one."""
    segmenter, ear, shown = Segmenter(SPAN, parts.sample_rate), Ear(parts.sample_rate), _Shown()
    for block in sounds.steps(sound, parts.sample_rate, STEP):
        yield from shown.finals(hear_span(parts, ear, found, hearing) for found in segmenter.push(block))
        begun = segmenter.begun
        if begun is not None and not late() and shown.due(begun.end - begun.start):
            yield from shown.partials(hear_span(parts, ear, begun, hearing.quick))
    yield from shown.finals(hear_span(parts, ear, found, hearing) for found in segmenter.flush())


class _Shown:
    """What a reader of partial results has seen of the open span."""

    def __init__(self) -> None:
        self._text = ""
        self._seconds = 0.0  # of speech when it was last read

    def due(self, seconds: float) -> bool:
        """Whether an open span of so many seconds should be read."""
        if seconds < (FIRST if not self._seconds else max(self._seconds + AGAIN, self._seconds * GROWTH)):
            return False
        self._seconds = seconds
        return True

    def partials(self, heard: Segment) -> Iterator[Segment]:
        """A reading without its last word, of which perhaps only a half was spoken; nothing where nothing is new."""
        first, _, _ = heard.text.rpartition(" ")
        text = (first or heard.text).rstrip(" .,;:?!")
        if text and text != self._text:
            yield replace(heard, text=text, partial=True, revised=not _goes_on(self._text, text))
            self._text = text

    def finals(self, segments: Iterator[Segment]) -> Iterator[Segment]:
        """Finished segments; one that was shown and turns out empty is given too, to be taken back."""
        for heard in segments:
            if heard.text or self._text:
                yield replace(heard, revised=not _goes_on(self._text, heard.text))
            self._text, self._seconds = "", 0.0


def _goes_on(before: str, text: str) -> bool:
    """Whether a text begins with the words of the one before; capitals come and go with the ends of sentences."""
    return not before or (text[: len(before)].lower() == before.lower() and not text[len(before) : len(before) + 1].isalnum())


def hear_span(parts: Parts, ear: Ear, found: Span, hearing: Hearing) -> Segment:
    """A span of a `Segmenter` -> what is said in it: nothing, without a look at the model, where nobody speaks."""
    if not ear.hears(found):
        return Segment(found.start, found.end, "", 0.0)
    return hear(parts, found.start, found.wav, hearing)


def hear(parts: Parts, start: float, wav: Wav, hearing: Hearing) -> Segment:
    """One stretch of speech of at most SPAN seconds -> what is said in it, possibly nothing."""
    reading = read(parts, *parts.encode(wav), hearing)
    end = start + len(wav) / parts.sample_rate
    timed = words_of(reading.text, wav, parts.sample_rate, start) if hearing.words else ()
    return Segment(start, end, reading.text, reading.confidence, reading.truncated, reading.looped, timed)


def words_of(text: str, wav: Wav, sample_rate: int, start: float = 0.0) -> tuple[Word, ...]:
    """A text and the sound (T,) that it is said in from `start` on -> its words with their times; of scripts without spaces each sign."""
    said = _WORD.findall(text)
    times = align.words(wav, sample_rate, said)
    return tuple(Word(start + time.start, start + time.end, word) for word, time in zip(said, times, strict=True))


def read(parts: Parts, glm: Sequence[int] | None, semantic: Sequence[int], hearing: Hearing) -> Reading:
    """Codes of one stretch of speech -> text; the linguistic codes may be missing, as for speech that was never heard."""
    outcome, seconds = Outcome(), len(semantic) / parts.bicodec.frame_rate
    bounded = replace(hearing.sampling, max_new_ids=bounds.asr_limit(seconds), min_new_ids=0)
    prior = parts.prior if bounded.prior_weight else None
    asked = replace(prompt.asr(parts.vocab, glm, semantic), prior=prior and replace(prior, expected=tuple(hearing.expected)))
    tokens = list(parts.tokens(asked, bounded, bounds.Loop(), outcome))
    tokens = tokens[: len(tokens) - outcome.repeated]
    said = " ".join(parts.vocab.decode([token.id for token in tokens]).split())
    if not parts.writes_capitals:
        said = sentence_case(said)
    if prior and hearing.expected:
        said = _WRITTEN.sub(lambda word: _as_given(prior, hearing.expected, word[0]), said)
    confidence = float(np.exp(np.mean([token.logprob for token in tokens]))) if tokens else 0.0
    return Reading(said, confidence, outcome.truncated, outcome.looped)


def _as_given(prior: Said, expected: Mapping[str, str], word: str) -> str:
    """A name as its keyword is written; what is a word without that stays as it is."""
    spelled = word.lower()
    return word if prior.ngrams.word(spelled) >= 0 else expected.get(spelled, word)

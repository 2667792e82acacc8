"""Text in pieces of any size, as a language model writes them, -> passages to speak, each out as soon as its end is certain.

Where a text is cut depends on the text alone, never on how its pieces were: so text that streams in is spoken exactly as
the same text given at once. A passage is one sentence or a few short ones, of at most LONGEST characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gpa.text import sentence_ends

LEAST = 16  # bytes of UTF-8 in a passage, and behind it before it is cut off: very short sentences are spoken with a neighbour
LONGEST = 400  # characters without the end of a sentence; longer ones are cut between words
_SEEN = 64  # characters that decide about a cut
_BRACKETS = 40  # characters of a pause mark or the like, which no cut may part


def passages(texts: str | Iterable[str]) -> Iterator[str]:
    """Pull pieces of text until a passage is certain, give it out, go on; the passages joined are the text."""
    held = ""
    for text in (texts,) if isinstance(texts, str) else texts:
        for start in range(0, len(text), LONGEST):  # a little at a time: linear in the text
            held += text[start : start + LONGEST]
            while end := _end(held):
                yield held[:end]
                held = held[end:]
    if held:
        yield held


def _end(text: str) -> int:
    """Where the first passage ends, 0 while that is not certain."""
    for end in sentence_ends(text):
        if end > LONGEST:
            break
        if _bytes(text[:end]) < LEAST:
            continue
        if _bytes(text[end : end + _SEEN]) >= LEAST:
            return end
        if len(text) - end < _SEEN:
            return 0
    return _between_words(text) if len(text) >= LONGEST + _SEEN else 0


def _between_words(text: str) -> int:
    window = text[:LONGEST]
    place = max(window.rfind(" "), window.rfind("\n")) + 1 or LONGEST
    bracket = text.rfind("[", max(1, place - _BRACKETS), place)
    return bracket if bracket > 0 and "]" not in text[bracket:place] else place


def _bytes(text: str) -> int:
    return len(text.strip().encode(errors="replace"))

"""Texts that make speech models run away, skip or fall silent: the same 2,400 at every call, of the kinds users complained about.

`push` speaks them with a model, many at a time, and tells what became of each.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gpa import bounds
from gpa.errors import GPAError, TextError
from gpa.pipeline import GPA
from gpa.speaking import pieces_of

GRAIN = 0.04  # seconds that one code lasts, and by which a limit may be rounded up, for each sentence

PROSE = "the river was cold and grey when morning came over small hills where nobody had walked for many long years of quiet snow"
WORDS = PROSE.split()
CODE = (
    "for i in range({a}): print(i, x[{b}])",
    "if (a != {a}) {{ return b->c({b}); }}",
    "x = {{'k{a}': [{b}, None]}}",
    "SELECT * FROM t{a} WHERE id={b};",
)
SIGNS = "❤😀→§©½²µΩ√∞★♪✓€£¥°%&@#^~|\\/<>{}[]()_=+*"
SCRIPTS = ("你好世界", "こんにちは", "안녕하세요", "привет мир", "مرحبا بالعالم", "שלום", "नमस्ते", "ελληνικά", "สวัสดี", "café naïve")


def texts(count: int = 2400) -> list[str]:
    """`count` of them, an equal number of each kind."""
    draw = random.Random(20261124)
    kinds = list(_KINDS)
    return [kinds[i % len(kinds)](draw) for i in range(count)]


def shortened(texts: Sequence[str], characters: int = 60, whole: int = 25) -> list[str]:
    """The texts cut to so many characters, but for every `whole`th: sentences are bounded one by one, so length proves little."""
    return [text if i % whole == 0 else text[:characters] for i, text in enumerate(texts)]


@dataclass(frozen=True)
class Said:
    """What became of a text."""

    text: str
    expected: float = 0.0  # seconds, pauses included
    seconds: float = 0.0  # of sound
    sentences: int = 0
    truncated: bool = False  # a sentence was stopped at its limit
    looped: bool = False
    refused: bool = False  # with an error that says what is legal
    failed: str = ""  # any other exception

    @property
    def runaway(self) -> bool:
        """Longer than twice what was expected."""
        return self.seconds > bounds.SLACK * self.expected + GRAIN * self.sentences

    @property
    def empty(self) -> bool:
        """Neither sound nor an error."""
        return not (self.seconds or self.refused or self.failed)


def push(model: GPA, texts: Sequence[str], streams: int = 16) -> Iterator[Said]:
    """Speak all texts, `streams` at a time, in order."""
    with ThreadPoolExecutor(streams) as pool:
        yield from pool.map(lambda text: say(model, text), texts)


def say(model: GPA, text: str) -> Said:
    """Speak one text; no exception leaves this."""
    try:
        pieces = list(pieces_of(model, text, None))
        expected = sum(piece.pause or bounds.speech_seconds(piece.text) for piece in pieces)
        speech = model.tts(text)
        return Said(text, expected, speech.duration, len(pieces), speech.truncated, speech.looped)
    except TextError as error:
        return Said(text, refused="legal" in str(error), failed="" if "legal" in str(error) else repr(error))
    except (GPAError, ValueError, RuntimeError, LookupError, TypeError, ArithmeticError, OSError) as error:
        return Said(text, failed=repr(error))


def _words(draw: random.Random, least: int = 2, most: int = 12) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))


def _number(draw: random.Random) -> str:
    return draw.choice(
        [
            lambda: str(draw.randrange(10 ** draw.randint(1, 18))),
            lambda: f"{draw.randrange(10**6):,}.{draw.randrange(1000)}",
            lambda: f"{draw.randint(1, 31)}/{draw.randint(1, 12)}/{draw.randint(1900, 2100)}",
            lambda: f"{draw.randint(0, 23)}:{draw.randint(0, 59):02}",
            lambda: f"+{draw.randint(1, 99)} {draw.randint(100, 999)} {draw.randint(1000000, 9999999)}",
            lambda: f"${draw.randint(0, 10**5)}.{draw.randint(0, 99):02} or {draw.randint(-50, 50)}°C",
            lambda: f"{draw.randint(1, 99)}/{draw.randint(2, 99)} and {draw.randint(1, 9)}e{draw.randint(1, 30)}",
            lambda: f"{draw.randint(1, 9)}次",
        ]
    )()


def _code(draw: random.Random) -> str:
    return draw.choice(CODE).format(a=draw.randrange(100), b=draw.randrange(100))


def _url(draw: random.Random) -> str:
    host = "".join(draw.choices(string.ascii_lowercase, k=draw.randint(3, 12)))
    path = _words(draw, 1, 3).replace(" ", "-")
    return draw.choice([f"https://www.{host}.com/{path}?q={draw.randrange(999)}#top", f"{host}@{host[::-1]}.org"])


def _noise(draw: random.Random) -> str:
    rare = [0, 7, 0x200B, 0xFEFF, 0xD800, 0x301, 0x202E]
    return "".join(chr(draw.choice([*rare, draw.randrange(32, 0x3000)])) for _ in range(draw.randint(1, 40)))


_KINDS: tuple[Callable[[random.Random], str], ...] = (
    _number,
    lambda draw: f"{_words(draw)} {_number(draw)} {_words(draw)}.",
    lambda draw: " ".join([draw.choice(["ha", "no", "very", "ho ho", "bla", "1", "la la"])] * draw.randint(3, 60)),
    lambda draw: f"{draw.choice(WORDS)} " * draw.randint(5, 80),
    lambda draw: draw.choice(string.ascii_letters),
    lambda draw: " ".join(draw.choices(string.ascii_uppercase, k=draw.randint(2, 20))),
    lambda draw: ".".join(draw.choices(string.ascii_uppercase, k=draw.randint(2, 6))) + ".",
    _code,
    lambda draw: "\n".join(_code(draw) for _ in range(draw.randint(2, 5))),
    _url,
    lambda draw: f"see {_url(draw)} or {_url(draw)}",
    lambda draw: " ".join(draw.choice([_words(draw, 1, 3), draw.choice(SCRIPTS)]) for _ in range(draw.randint(2, 6))),
    lambda draw: draw.choice(SCRIPTS) + draw.choice(["", "!", " 12", "。"]),
    lambda draw: _words(draw, 60, 120),  # no punctuation
    lambda draw: _words(draw).upper() + draw.choice(["!!!", "?!?!", ""]),
    lambda draw: "".join(draw.choices(string.ascii_lowercase, k=draw.randint(20, 400))),  # one word
    lambda draw: "".join(draw.choices(SIGNS, k=draw.randint(1, 20))),
    lambda draw: "".join(draw.choice([_words(draw, 1, 2), draw.choice(SIGNS)]) for _ in range(draw.randint(2, 8))),
    lambda draw: draw.choice(["...", "", " ", "\n\n", "!?", "-", "'", "[pause:1s]"]) + draw.choice(["", " ok", " a", " 7"]),
    lambda draw: f"{draw.choice(WORDS)}{draw.choice('.,;:!?')}" * draw.randint(1, 40),
    lambda draw: f"# {_words(draw)}\n\n- {_words(draw)}\n- **{_words(draw)}**\n\n| a | b |\n|---|---|\n| {draw.randrange(99)} | x |",
    lambda draw: f"{draw.choice(WORDS)}{draw.choice('aeiou') * draw.randint(5, 60)}!",
    lambda draw: f"<b>{_words(draw)}</b> &amp; {_words(draw)} &#39; [{_words(draw)}](http://x.y)",
    _noise,
)

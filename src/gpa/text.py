"""Text on its way to speech and back: what will be said, cut into pieces a model can say. Pure functions, linear in time.

normalise      digits, symbols and abbreviations -> words; leaves letters and ' . , ? ! - ; : (and pause marks)
split          text -> sentences and pauses; no word is lost
sentence_case  recognised lower-case text -> text as one writes it
A pause mark is [pause:1s], [pause:0.3s] or [pause:500ms]; anything else in brackets is plain text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpa.errors import TextError

LANGUAGES = ("en", "zh")
MAX_PAUSE = 10.0  # seconds
MAX_CHARS = 300  # of one piece: about 20 s of speech; a third of it in wide scripts
_MIN_BYTES = 16  # of UTF-8; shorter sentences join a neighbour: a model says very short texts badly
_WIDE = 3  # a Chinese, Japanese or Korean character takes as long to say as so many Latin letters
_ROUNDS = 4  # one is enough for nearly every text; the rest make normalise(normalise(x)) == normalise(x)

_PAUSE = re.compile(r"\[pause: ?(\d{1,6}(?:\.\d{1,3})?) ?(ms|s)\]", re.IGNORECASE)
_ENDS = ".!?。！？｡؟۔।॥…։።፧"  # terminators of the scripts we know of
_GLUED_ENDS = "。！？｡"  # end a sentence without a space after them
_CLOSERS = "\"'”’»)\\]」』）】》〉"
_BOUNDARY = re.compile(rf"(?<![{_ENDS}])(?:[{_ENDS}]+[{_CLOSERS}]*(?=\s|$)|[{_ENDS}]*[{_GLUED_ENDS}]+[{_CLOSERS}]*)|\n[ \t\r]*\n")
_CLAUSE = re.compile(r"[,;:](?=\s)|[，；：、،؛—–]|[.!?](?=\s)|[。！？]")
_ABBREVIATIONS = (  # a full stop after these ends no sentence
    " mr mrs ms dr prof gen col sgt capt lt gov sen rep rev hon pres st mt ft no nos fig vol ch sec eq p pp ext ca c tel vs etc e.g i.e "
    "jan feb mar apr jun jul aug sep sept oct nov dec approx dept est inc ltd co jr sr al "
)


@dataclass(frozen=True)
class Piece:
    """One thing to say (`text`), or a silence of `pause` seconds (then `text` is empty)."""

    text: str
    pause: float = 0.0


def normalise(text: str, language: str = "en") -> str:
    """What will be spoken, in words: normalise(normalise(x)) == normalise(x). Case and pause marks are kept.

    The result is empty when nothing can be said (only emoji or punctuation). Raises TextError: unknown language.
    """
    spell_out, finish = _rules(language)
    for _ in range(_ROUNDS):
        before, text = text, _once(text, spell_out, finish)
        if text == before:
            break
    return text


def speakable(text: str) -> bool:
    """Whether a text holds anything to say: a letter or a digit outside the pause marks."""
    return any(char.isalnum() for char in _PAUSE.sub("", text))


def split(text: str, max_chars: int = MAX_CHARS) -> list[Piece]:
    """Sentences of at most `max_chars` characters, cut at clauses or words where they are longer, and pauses.

    The pieces joined hold every character of the text but white space and pause marks. Raises TextError: a pause
    longer than MAX_PAUSE.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars is {max_chars} (legal: at least 1)")
    pieces: list[Piece] = []
    start = 0
    for mark in _PAUSE.finditer(text):
        pieces += _sentences(text[start : mark.start()], max_chars)
        seconds = float(mark[1]) / (1000 if mark[2].lower() == "ms" else 1)
        if seconds > MAX_PAUSE:
            raise TextError(f"found {mark[0]} (legal: pauses up to {MAX_PAUSE:g} s)")
        pieces.append(Piece("", seconds))
        start = mark.end()
    return pieces + _sentences(text[start:], max_chars)


def sentence_ends(text: str) -> Iterator[int]:
    """Where sentences end that others may follow: behind the terminator and what closes it, or an empty line."""
    return (match.end() for match in _BOUNDARY.finditer(text) if _is_end(text, match))


def sentence_case(text: str) -> str:
    """Upper case for the first letter, the letters after . ! ? and the pronoun I; nothing is made lower case."""
    text = re.sub(r"(?<![\w'])i(?=$|[^\w.]|\.(?!\w))", "I", text)
    return re.sub(r"(^|[.!?][\"')\]]{0,3}\s{1,9})([\"'(\[]{0,3})([^\W\d_])", _capital, text)


def _capital(match: re.Match[str]) -> str:
    before = re.search(r"([\w.]{1,8})$", match.string[max(0, match.start() - 8) : match.start()])
    abbreviated = match[1].startswith(".") and before and _abbreviated(before[1])
    return match[0] if abbreviated else match[1] + match[2] + match[3].upper()


def _abbreviated(word: str) -> bool:
    return f" {word.lower()} " in _ABBREVIATIONS


# ---- sentences ----


def _sentences(text: str, max_chars: int) -> list[Piece]:
    spans: list[tuple[int, int]] = []
    for start, end in _merged(_spans(text), text, max_chars):
        spans += _cut(text, start, end, max_chars)
    return [Piece(said) for start, end in spans if (said := text[start:end].strip())]


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each sentence; together they cover the text."""
    start = 0
    for end in sentence_ends(text):
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)


def _is_end(text: str, match: re.Match[str]) -> bool:
    """Whether a terminator ends its sentence: not after an abbreviation or initial, not before a small letter."""
    mark = match[0]
    if not mark.strip() or any(char in _GLUED_ENDS for char in mark):
        return True
    follows = text[match.end() : match.end() + 8].lstrip()
    if follows[:1].islower():
        return False
    before = re.search(r"[\w.]+$", text[max(0, match.start() - 12) : match.start()])
    word = before[0] if before else ""
    initial = len(word) == 1 and word.isupper() and word != "I"
    return not (mark == "." and follows and (initial or _abbreviated(word)))


def _merged(spans: Iterator[tuple[int, int]], text: str, max_chars: int) -> list[tuple[int, int]]:
    """Neighbours of very short sentences joined where the limit allows."""
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged:
            first, middle = merged[-1]
            short = min(len(text[a:b].strip().encode(errors="replace")) for a, b in ((first, middle), (start, end))) < _MIN_BYTES
            if short and end - first <= max_chars and "\n" not in text[middle - 1 : middle]:
                merged[-1] = (first, end)
                continue
        merged.append((start, end))
    return merged


def _cut(text: str, start: int, end: int, max_chars: int) -> Iterator[tuple[int, int]]:
    """A span -> spans of at most `max_chars`, at the last clause mark, else white space, else anywhere."""
    wide = sum(char > "\u2e7f" for char in text[start:end])
    max_chars = max(1, max_chars // _WIDE) if 2 * wide > end - start else max_chars
    while end - start > max_chars:
        window = text[start : start + max_chars + 1]
        clauses = [mark.end() for mark in _CLAUSE.finditer(window, max_chars // 3) if mark.end() <= max_chars]
        place = clauses[-1] if clauses else max(window.rfind(" "), window.rfind("\n"), window.rfind("\t"))
        if place <= 0:
            letters = (i for i in range(max_chars, max(0, max_chars - 16), -1) if not unicodedata.combining(text[start + i]))
            place = next(letters, max_chars)  # an accent stays with its letter
        yield start, start + place
        start += place
    yield start, end


# ---- normalisation: clean, spell out (a language's own file), tidy ----

_BEFORE_NFKC = str.maketrans(
    {
        **{
            "½": " 1/2",
            "⅓": " 1/3",
            "⅔": " 2/3",
            "¼": " 1/4",
            "¾": " 3/4",
            "⅕": " 1/5",
            "⅛": " 1/8",
            "⅜": " 3/8",
            "⅝": " 5/8",
            "⅞": " 7/8",
        },
        **{"²": "^2", "³": "^3", "™": " ", "®": " ", "©": " ", "№": "No. ", "℃": "°C", "℉": "°F"},
    }
)
_SYMBOLS = "&+=/@%#$€£¥₹₩₽₿°×÷±≈≤≥≠‰§^*~<>|_–"  # kept for the rules of a language, gone afterwards
_KEPT = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,?!;:'-()" + _SYMBOLS)
_CHARS = {
    **dict.fromkeys("‘’‛′´ʼ`", "'"),
    **dict.fromkeys("‐‑−﹣⁃", "-"),
    **dict.fromkeys("—―⸺", " -- "),
    **dict.fromkeys("[]{}【】〔〕《》「」『』", ", "),
    **dict.fromkeys("。｡։።।॥۔", ". "),
    **dict.fromkeys("、،•", ", "),
    **{"؟": "? ", "፧": "? ", "؛": "; ", "→": " to ", "⇒": " to ", "⁄": "/", "∕": "/", "⋅": "×"},
}
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": " ", "apos": "'", "nbsp": " ", "#39": "'"}
_MARKUP: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"&(amp|lt|gt|quot|apos|nbsp|#39);"), lambda match: _ENTITIES[match[1]]),
    (re.compile(r"\[([^\[\]]{1,200})\]\([^()\s]{1,400}\)"), r"\1"),  # a Markdown link
    (re.compile(r"</?[A-Za-z][^<>]{0,200}>"), " "),
    (re.compile(r"(?<!\w)[:;]'?-?[()DPp3](?!\w)"), " "),  # emoticons
)
_CLEAN = (
    (re.compile(r"\s+"), " "),
    (re.compile(r"([-=*_#~+])\1{3,}"), " "),  # rulers
    (re.compile(r"[-=]>"), " to "),
    (re.compile(r" ?-{2,3} ?"), ", "),
    (re.compile(r"(?<=\d) ?– ?(?=\d)"), "-"),
    (re.compile(r" ?– ?|(?<!\d) - | - (?!\d)"), ", "),
    (re.compile(r"(?<=\w)\(s\)"), "s"),
    (re.compile(r" {2,}"), " "),
)
_TIDY = (
    (re.compile(rf"[{re.escape(_SYMBOLS)}\d]"), " "),
    (re.compile(r"[()]"), ", "),
    (re.compile(r"'{2,}|(?<!\w)'(?!(?i:tis|twas|em|til|cause|n|bout|cos)\b)|(?<=[^\Ws])'(?!\w)"), " "),
    (re.compile(r"(?<!\w)-+|-+(?!\w)"), " "),
    (re.compile(r"\s+"), " "),
    (re.compile(r" ?([,;:.?!][ ,;:.?!]*)"), lambda match: _punctuation(match[1])),
)
_BULLET = re.compile(r"(?:[-*•‣▪>]|(#{1,6}))\s+")


class _Table(dict[int, str]):
    """Character -> what stands for it, worked out once a character."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if char in _CHARS:
            said = _CHARS[char]
        elif char in _KEPT or (category[0] in "LM" and category != "Me" and not 0xFE00 <= code <= 0xFE0F):
            said = char
        elif category == "Nd":
            said = str(unicodedata.decimal(char))
        else:
            said = "" if category == "Cf" or category[0] == "M" else " "  # invisible signs join, emoji and quotes part
        self[code] = said
        return said


_TABLE = _Table()


def _rules(language: str) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """(spell out, finish) of a language; "en-US" is "en"."""
    code = language.lower().replace("_", "-").partition("-")[0]
    if code == "en":
        from gpa import text_en

        return text_en.spell_out, str
    if code == "zh":
        from gpa import text_zh

        return text_zh.spell_out, text_zh.finish
    raise TextError(f"unknown language {language!r} (legal: {', '.join(LANGUAGES)})")


def _once(text: str, spell_out: Callable[[str], str], finish: Callable[[str], str]) -> str:
    """One round over the text between the pause marks."""
    parts = _PAUSE.split(text)  # text, number, unit, text, number, unit, ..., text
    said = [finish(_tidy(spell_out(_clean(part)))) for part in parts[::3]]
    marks = [f"[pause:{number}{unit.lower()}]" for number, unit in zip(parts[1::3], parts[2::3], strict=True)]
    return " ".join(part for pair in zip(said, [*marks, ""], strict=True) for part in pair if part)


def _clean(text: str) -> str:
    """Markup and lines resolved, every character a letter, an ASCII digit or a known symbol, single spaces."""
    for pattern, said in _MARKUP:
        text = pattern.sub(said, text)
    text = unicodedata.normalize("NFKC", _one_line(text).translate(_BEFORE_NFKC)).translate(_TABLE)
    for pattern, gap in _CLEAN:
        text = pattern.sub(gap, text)
    return text.strip()


def _one_line(text: str) -> str:
    """Paragraphs, headings and list items end with a full stop; other line breaks are spaces."""
    lines: list[str] = []
    apart = False
    for line in map(str.strip, text.splitlines()):
        bullet = _BULLET.match(line)
        if lines and (bullet or apart or not line) and lines[-1][-1:] not in _ENDS + ",;:，；：":
            lines[-1] += "."
        apart = bool(bullet and bullet[1])
        line = line[bullet.end() :] if bullet else line
        if line:
            lines.append(line)
    return " ".join(lines)


def _tidy(text: str) -> str:
    for pattern, said in _TIDY:
        text = pattern.sub(said, text)
    return text.lstrip(" ,;:.?!-").rstrip(" -")


def _punctuation(run: str) -> str:
    """One mark, and a space, for a run of them."""
    ends = "".join(mark for mark in ("?", "!") if mark in run)
    if "..." in run and not ends:
        ends = "..."
    return (ends or ("." if "." in run else run[0])) + " "

"""gpa.text: what is spoken, in linear time and idempotent; sentences that lose no word."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpa.errors import TextError
from gpa.text import MAX_CHARS, Piece, normalise, sentence_case, speakable, split
from gpa.text_numbers import cardinal, cardinal_zh, ordinal, roman, say_zh, year
from gpa.vocab import CHARACTERS

ENGLISH = {
    # numbers
    "I have 3 cats, 21 dogs and 1,234,567 ants.": "I have three cats, twenty-one dogs and one million two hundred thirty-four thousand "
    "five hundred sixty-seven ants.",
    "pi is 3.14, not -5 or .5": "pi is three point one four, not minus five or point five",
    "5 apples. 6 pears": "Five apples. Six pears",
    "the 1st, 2nd, 11th, 22nd and 100th": "the first, second, eleventh, twenty-second and one hundredth",
    "1/2 cup, 3/4, 2 1/2, 5/8, 3½, 1/1000": "One half cup, three quarters, two and a half, five eighths, three and "
    "a half, one over one thousand",
    "pages 10-12, agent 007": "pages ten to twelve, agent zero zero seven",
    "card 12345678901234567890": "card one two three four five six seven eight nine zero one two three four five six seven eight nine zero",
    "version 1.2.3 at 192.168.0.1": "version one point two point three at one hundred ninety-two dot one "
    "hundred sixty-eight dot zero dot one",
    "in 1984, 1905, 2000, 2007 and 2024": "in nineteen eighty-four, nineteen oh five, two thousand, two thousand "
    "seven and twenty twenty-four",
    "1939-1945, the 1990s, the '80s": "Nineteen thirty-nine to nineteen forty-five, the nineteen nineties, the eighties",
    "Henry VIII, World War II, Chapter IV": "Henry the eighth, World War two, Chapter four",
    "Part I think, I am Ivan I": "Part I think, I am Ivan I",
    "٣ and ４２": "Three and forty-two",
    # money
    "$5.50, $1, €3, £0.99": "Five dollars and fifty cents, one dollar, three euros, ninety-nine pence",
    "$1.5 million, $2bn, $5k, 10€, US$20": "One point five million dollars, two billion dollars, five thousand dollars, ten euros, "
    "twenty U S dollars",
    "$5/hour, $10-20, 20 USD, -$5": "Five dollars per hour, ten to twenty dollars, twenty U S dollars, minus five dollars",
    # dates and times
    "on March 15, 2024": "on March fifteenth, twenty twenty-four",
    "the 15 March 2024": "the fifteenth of March, twenty twenty-four",
    "2024-03-15, 3/15/2024, 15.03.2024": "March fifteenth, twenty twenty-four, March fifteenth, twenty twenty-four, "
    "March fifteenth, twenty twenty-four",
    "Jan. 5, Sept 2021, May 5-10": "January fifth, September twenty twenty-one, May fifth to tenth",
    "at 3:45 pm, 9:00, 7:05, 15:30, 3pm": "at three forty-five P M, nine o'clock, seven oh five, fifteen thirty, three P M",
    "We left at 3 a.m. Then we slept.": "We left at three A M. Then we slept.",
    # percent, units
    "50% or 3.5%, 5-10%": "Fifty percent or three point five percent, five to ten percent",
    "5 km, 1 kg, 60 mph, 3GB, 100 km/h": "Five kilometers, one kilogram, sixty miles per hour, three gigabytes, "
    "one hundred kilometers per hour",
    "-5°C, 98.6 °F, 25 m²": "Minus five degrees Celsius, ninety-eight point six degrees Fahrenheit, twenty-five square meters",
    "he is 5'10\"": "he is five foot ten",
    # telephone
    "call +1 (555) 123-4567 or 555-1234": "call plus one, five five five, one two three, four five six seven or "
    "five five five, one two three four",
    # abbreviations, acronyms
    "Dr. Smith met Mr. and Mrs. Jones on Elm Dr. in St. Louis": "Doctor Smith met Mister and Missus Jones on Elm Drive in Saint Louis",
    "on Main St. He ran": "on Main Street. He ran",
    "e.g. this, i.e. that, etc. The end": "for example this, that is that, et cetera. The end",
    "cats vs. dogs, No. 5, Fig. 3, pp. 3-5": "cats versus dogs, number five, figure three, pages three to five",
    "the FBI, NASA, the U.S. Army, AT&T, DVDs": "the F B I, NASA, the U S Army, A T and T, D V D's",
    "MP3, COVID-19, H2O": "M P three, COVID-nineteen, H two O",
    "WHY DO THEY SHOUT IN THE USA": "WHY DO THEY SHOUT IN THE USA",
    # addresses
    "john.doe@example.com": "john dot doe at example dot com",
    "see https://www.example.com/a-b?x=1.": "see w w w dot example dot com slash a dash b question mark x equals one.",
    "visit example.org, open main.py": "visit example dot org, open main dot py",
    # symbols
    "salt & pepper, 2+2=4, me @ home, a/b, #1, #tag": "salt and pepper, two plus two equals four, me at home, a slash b, "
    "number one, hashtag tag",
    "5 × 3, 1920x1080, 16:9, ~5, x^2": "Five times three, nineteen twenty by one thousand eighty, sixteen to nine, about five, x squared",
    # quotes, dashes, emoji, markup
    "“quoted” — ‘text’… it’s": "quoted, text... it's",
    "Hello 😀 world 👩‍👩‍👧 ❤️!": "Hello world!",
    "# Title\n\nOne\nparagraph\n\n- item\n- [link](http://x.org)\n": "Title. One paragraph. item. link",
    "<b>bold</b> &amp; **strong** (aside)": "bold and strong, aside,",
    "naïve café": "naïve café",
    "😀🎉 ... !!!": "",
}  # fmt: skip
CHINESE = {
    "今天是2024年3月15日，气温-5°C，增长50%": "今天是二零二四年三月十五日，气温负五摄氏度，增长百分之五十",
    "2个人, 12个苹果, 22个, 第3名, 3/4": "两个人，十二个苹果，二十二个，第三名，四分之三",
    "共1,234个，价格¥12.5，约3.14": "共一千二百三十四个，价格十二点五元，约三点一四",
    "10005和100000，1亿": "一万零五和十万，一亿",
    "15:30, 13812345678, 2024-03-15": "十五点三十分，幺三八幺二三四五六七八，二零二四年三月十五日",
    "5-10公里, 5km, $5": "五到十公里，五公里，五美元",
    "你好！“引号”…": "你好！引号…",
}
# What random texts are made of: everything a rule looks for, and letters of other scripts.
SCRAPS = [
    *(
        "Dr.",
        "St.",
        "No.",
        "e.g.",
        "i.e.",
        "vs.",
        "etc.",
        "U.S.",
        "p.m.",
        "3pm",
        "3:45",
        "12:30:15",
        "$5",
        "$1.5m",
        "€3",
        "10€",
        "50%",
        "1/2",
    ),
    *(
        "3.14",
        "-5",
        "5-10",
        "2024",
        "1990s",
        "'90s",
        "1,234",
        "1st",
        "2024-03-15",
        "3/4/2021",
        "May",
        "Jan.",
        "XIV",
        "Chapter",
        "King",
        "V",
    ),
    *("km", "/h", "°C", "a@b.com", "http://x.org/a?b=1", "FBI", "OK", "AT&T", "C++", "<b>", "[pause:1s]", "[pause:x]", "555-1234", "007"),
    *(
        "1.2.3",
        "w/",
        "it's",
        "I",
        "i",
        "--",
        "...",
        "中文",
        "é",
        "ñ",
        "Ж",
        "４２",
        "\u200b",
        "\n",
        "\n\n",
        "\u0301",
        "😀",
        "½",
        "²",
        "①",
        "٣",
    ),
    *"#@+=/\\&*~^<>()[]“”‘’'\"—–-…?!,;:._|§±×",
]
texts = st.lists(st.one_of(st.sampled_from([*SCRAPS, " ", ""]), st.text(max_size=6)), max_size=12).map("".join)


@pytest.mark.parametrize("text", ENGLISH)
def test_english(text: str) -> None:
    assert normalise(text) == ENGLISH[text]


@pytest.mark.parametrize("text", CHINESE)
def test_chinese(text: str) -> None:
    assert normalise(text, "zh") == CHINESE[text]


def test_words_of_numbers() -> None:
    assert [cardinal(n) for n in (0, 13, 40, 101, 10**6, 10**12 + 5)] == [
        *("zero", "thirteen", "forty", "one hundred one", "one million", "one trillion five")
    ]
    assert [ordinal(n) for n in (1, 12, 20, 21, 40, 1000)] == [
        "first",
        "twelfth",
        "twentieth",
        "twenty-first",
        "fortieth",
        "one thousandth",
    ]
    assert [year(n) for n in (1066, 1900, 2010)] == ["ten sixty-six", "nineteen hundred", "twenty ten"]
    assert [roman(letters) for letters in ("I", "XIV", "XLII", "IIX", "VX")] == [1, 14, 42, 0, 0]
    assert [cardinal_zh(n) for n in (10, 112, 1010, 10**8 + 1)] == ["十", "一百一十二", "一千零一十", "一亿零一"]
    assert say_zh("007.5") == "零零七点五"


def test_plain_text_is_left_alone() -> None:
    text = "Well, I don't know; it's a well-known fact: \"no\" isn't yes! Is it? Rockin' dogs' tails... 'Tis."
    assert normalise(text) == text.replace('"', "").replace("Rockin'", "Rockin")
    assert normalise("", "en") == ""


@settings(max_examples=150, deadline=None)
@given(texts, st.sampled_from(["en", "zh"]))
def test_normalise_is_idempotent(text: str, language: str) -> None:
    once = normalise(text, language)
    assert normalise(once, language) == once


@settings(max_examples=150, deadline=None)
@given(texts)
def test_english_leaves_only_what_a_character_model_can_say(text: str) -> None:
    legal = set(CHARACTERS + CHARACTERS.upper())
    normal = normalise(text)
    assert normal == re.sub(r"\s+", " ", normal).strip()
    said = re.sub(r"\[pause:[\d.]+m?s\]", "", normal)
    assert [char for char in said if char not in legal and unicodedata.category(char)[0] not in "LM"] == []


@pytest.mark.parametrize("language", ["en-US", "EN", "zh_CN"])
def test_language_codes(language: str) -> None:
    assert normalise("2 x", language)


def test_unknown_language_names_the_legal_ones() -> None:
    with pytest.raises(TextError, match=r"'fr' .legal: en, zh"):
        normalise("bonjour", "fr")


@pytest.mark.parametrize(
    ("text", "can"), [("a", True), ("7", True), ("好", True), ("", False), ("😀 ... ?!", False), ("[pause:1s]", False)]
)
def test_speakable(text: str, can: bool) -> None:
    assert speakable(text) is can
    assert bool(normalise(text).replace("[pause:1s]", "")) is can


# ---- time ----

NASTY = [
    "a",
    "1",
    "1,111,",
    "a.",
    "a@",
    "1-",
    "$1",
    "1/",
    "1:",
    "1%",
    " ",
    "\n",
    "\n ",
    "<a",
    "[pause:",
    "(",
    "'",
    ".",
    "!?",
    "http://",
    "No. ",
]
NASTY += ["May ", "1 000 ", "5 km/", "&amp", "A. ", "King X", "\u0301", "😀", "中", "。", "i. ", "- ", "[a](", "٣"]


@pytest.mark.parametrize("unit", NASTY)
def test_time_is_linear(unit: str) -> None:
    def seconds(size: int) -> float:
        text = (unit * size)[:size]
        start = time.thread_time()
        normalise(text)
        assert all(len(piece.text) <= MAX_CHARS for piece in split(text))
        sentence_case(text)
        return time.thread_time() - start

    small, large = (min(seconds(size) for _ in range(3)) for size in (1_000, 4_000))  # a garbage collection may fall into one of them
    assert large < 9 * max(small, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("unit", NASTY)
def test_a_hundred_thousand_characters(unit: str) -> None:
    text = (unit * 100_000)[:100_000]
    start = time.process_time()
    normalise(text)
    assert time.process_time() - start < 2
    start = time.process_time()
    split(text)
    sentence_case(text)
    assert time.process_time() - start < 2


# ---- pieces ----


def words(text: str) -> str:
    return re.sub(r"\s+", "", re.sub(r"\[pause: ?\d+(\.\d+)? ?m?s\]", "", text))


@settings(max_examples=150, deadline=None)
@given(texts, st.integers(8, 80))
def test_split_loses_nothing_and_keeps_the_limit(text: str, limit: int) -> None:
    pieces = split(text, limit)
    assert words("".join(piece.text for piece in pieces)) == words(text)
    assert all(len(piece.text) <= limit and piece.text == piece.text.strip() for piece in pieces)
    assert all((piece.pause > 0) != bool(piece.text) for piece in pieces if piece.pause or piece.text)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("First sentence here. Second sentence here! Third sentence here?", 3),
        ("Dr. Smith paid $3.50 to Mr. J. K. Rowling, e.g. for vol. 2 of it.", 1),
        ("He shouted Yahoo! and then he left the room at once.", 1),
        ("这是第一个很长很长的中文句子，好不好。这是第二个很长很长的中文句子！这是第三个很长很长的中文句子？", 3),
        ("यह पहला बहुत लंबा वाक्य है। यह दूसरा बहुत लंबा वाक्य है।", 2),
        ("هل هذا سؤال طويل جدا الآن؟ نعم هذا سؤال طويل جدا الآن۔", 2),
        ("Yes. No. Well. Maybe.", 1),  # very short ones stay together
        ("A first paragraph without a stop\n\nA second paragraph without a stop", 2),
        ("", 0),
        ("   \n ", 0),
    ],
)
def test_sentences(text: str, pieces: int) -> None:
    assert len(split(text)) == pieces


def test_long_text_without_punctuation() -> None:
    text = "word " * 20_000
    pieces = split(text)
    assert all(len(piece.text) <= MAX_CHARS for piece in pieces)
    assert len(pieces) < 20_000 * 5 / MAX_CHARS * 1.2
    assert {word for piece in pieces for word in piece.text.split()} == {"word"}  # cut between words


def test_long_sentence_is_cut_at_a_clause() -> None:
    pieces = split("The first clause of a long sentence, and the second clause of it which runs on", 60)
    assert pieces[0].text == "The first clause of a long sentence,"


def test_pauses() -> None:
    assert split("One thing here.[pause:1s] Two. [PAUSE:250ms][pause: 0.5 s]") == [
        *(Piece("One thing here."), Piece("", 1.0), Piece("Two."), Piece("", 0.25), Piece("", 0.5))
    ]
    assert normalise("Wait [pause:1s] 2 [pause:500MS]") == "Wait [pause:1s] Two [pause:500ms]"
    with pytest.raises(TextError, match=r"\[pause:11s\] .legal: pauses up to 10 s"):
        split("a [pause:11s]")
    for malformed in ("[pause]", "[pause:]", "[pause:-1s]", "[pause:1h]", "[pause:one s]"):
        assert split(malformed) == [Piece(malformed)]  # plain text
        assert "[" not in normalise(malformed)


def test_illegal_limit() -> None:
    with pytest.raises(ValueError, match="legal: at least 1"):
        split("a", 0)


def test_sentence_case() -> None:
    said = "hello there. i think i'm right, i'll go! is it 5 i.e. five? dr. who knows mr. smith. yes"
    assert sentence_case(said) == "Hello there. I think I'm right, I'll go! Is it 5 i.e. five? Dr. who knows mr. smith. Yes"
    assert sentence_case("") == ""
    assert sentence_case("it is NASA") == "It is NASA"
    assert sentence_case("éa. 'so' it is") == "Éa. 'So' it is"


def test_import_is_cheap() -> None:
    code = "import sys, gpa.text; print([name for name in ('numpy', 'av', 'torch', 'gpa.text_zh', 'gpa.text_en') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

"""Numbers -> words, in English (American: no "and") and Mandarin. Pure functions of ints and digit strings."""

from __future__ import annotations

import re

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"}
_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


def cardinal(number: int) -> str:
    """0 <= number < 10**15; 123 -> "one hundred twenty-three"."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")
    size, name = next(entry for entry in _SCALES if entry[0] <= number)
    rest = f" {cardinal(number % size)}" if number % size else ""
    return f"{cardinal(number // size)} {name}{rest}"


def ordinal(number: int) -> str:
    """21 -> "twenty-first"."""
    words = cardinal(number)
    start = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[start:]
    return words[:start] + (_ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"))


def year(number: int) -> str:
    """1984 -> "nineteen eighty-four", 1905 -> "nineteen oh five", 2007 -> "two thousand seven"."""
    century, rest = divmod(number, 100)
    if number < 1000 or (century % 10 == 0 and rest < 10):
        return cardinal(number)
    tail = "hundred" if rest == 0 else f"oh {cardinal(rest)}" if rest < 10 else cardinal(rest)
    return f"{cardinal(century)} {tail}"


def digits(text: str) -> str:
    """The digits of a string one by one; "007" -> "zero zero seven"."""
    return " ".join(_ONES[int(digit)] for digit in text if digit in "0123456789")


def say(number: str) -> str:
    """Digits with "," groups and a "." fraction; "1,234.5" -> "one thousand two hundred thirty-four point five".

    A leading zero is read digit by digit, and so is a number of more than 15 digits."""
    whole, _, fraction = number.replace(",", "").partition(".")
    one_by_one = len(whole) > 15 or (len(whole) > 1 and whole[0] == "0")
    words = digits(whole) if one_by_one else cardinal(int(whole or 0))
    return words + (f" point {digits(fraction)}" if fraction else "")


def roman(letters: str) -> int:
    """ "XIV" -> 14; 0 when the letters are not the usual spelling of a number below 90."""
    if not re.fullmatch(r"(?:L|XL|X{0,3})(?:X{0,3})(?:IX|IV|V?I{0,3})", letters):
        return 0
    values = [_ROMAN[letter] for letter in letters]
    return sum(-value if value < after else value for value, after in zip(values, [*values[1:], 0], strict=True))


_ZH_DIGITS = "零一二三四五六七八九"
_ZH_SCALES = ((10**12, "万亿"), (10**8, "亿"), (10**4, "万"), (1000, "千"), (100, "百"), (10, "十"))


def digits_zh(text: str, one: str = "一") -> str:
    """The digits of a string one by one; telephone numbers say `one` as 幺."""
    return "".join(_ZH_DIGITS[int(digit)] for digit in text if digit in "0123456789").replace("一", one)


def cardinal_zh(number: int) -> str:
    """0 <= number < 10**15; 10005 -> 一万零五, 12 -> 十二, 112 -> 一百一十二."""
    words = _cardinal_zh(number)
    return words[1:] if words.startswith("一十") else words


def _cardinal_zh(number: int) -> str:
    if number < 10:
        return _ZH_DIGITS[number]
    size, name = next(entry for entry in _ZH_SCALES if entry[0] <= number)
    rest = number % size
    gap = "零" if rest and rest * 10 < size else ""  # a skipped place is said
    return f"{_cardinal_zh(number // size)}{name}{gap}{_cardinal_zh(rest) if rest else ''}"


def say_zh(number: str) -> str:
    """Digits with "," groups and a "." fraction; "3.14" -> 三点一四; a leading zero is read digit by digit."""
    whole, _, fraction = number.replace(",", "").partition(".")
    one_by_one = len(whole) > 15 or (len(whole) > 1 and whole[0] == "0")
    words = digits_zh(whole) if one_by_one else cardinal_zh(int(whole or 0))
    return words + (f"点{digits_zh(fraction)}" if fraction else "")

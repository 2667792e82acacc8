"""Mandarin: digits and symbols -> the characters that are spoken.

`spell_out` takes a line cleaned by `gpa.text` and leaves letters of any script and ' . , ? ! - ; : only; marks beside
Chinese become Chinese marks. Latin words stay as they are. Every pattern is bounded: the time stays linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from gpa.text_numbers import cardinal_zh, digits_zh, say_zh

Match = re.Match[str]
Said = Callable[[Match], str] | str


def _table(text: str) -> dict[str, str]:
    """ "km 公里, m 米" -> a dict."""
    return {key: value for key, _, value in (entry.strip().partition(" ") for entry in text.split(","))}


_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,4}(?!\d)|\d{1,15})(?:\.\d{1,15})?"
_AMOUNT = rf"(?<![\d.,])({_NUMBER})(?:[-~]({_NUMBER}))?"
_CURRENCY = _table("$ 美元,€ 欧元,£ 英镑,¥ 元,₹ 卢比,₩ 韩元,₽ 卢布,₿ 比特币")
_UNITS = _table(
    "km 公里,m 米,cm 厘米,mm 毫米,nm 纳米,kg 公斤,g 克,mg 毫克,t 吨,l 升,L 升,ml 毫升,mL 毫升,h 小时,min 分钟,s 秒,ms 毫秒,"
    "km/h 公里每小时,m/s 米每秒,KB K B,MB 兆,GB G B,TB T B,kW 千瓦,W 瓦,kWh 千瓦时,V 伏,A 安,Hz 赫兹,kHz 千赫,MHz 兆赫,GHz 吉赫,"
    "dB 分贝,ha 公顷,°C 摄氏度,°F 华氏度,° 度,m^2 平方米,km^2 平方公里,m^3 立方米"
)
_MEASURES = "个位只条张本名次件辆台层间家座岁点天年斤两米元块句种支把头双对份首"  # after them 2 is 两; 二 stays in dates and 两两
_SYMBOLS = _table(
    "& 和,+ 加,= 等于,@ at,% 百分号,# 井号,/ 斜杠,× 乘,÷ 除以,± 正负,≈ 约等于,≤ 小于等于,≥ 大于等于,≠ 不等于,° 度,< 小于,> 大于,~ 到,§ 第"
)
_SYMBOLS |= _CURRENCY
_MARKS = {",": "，", ".": "。", "?": "？", "!": "！", ";": "；", ":": "：", "...": "…"}
_HAN = "\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff"


def spell_out(text: str) -> str:
    """One cleaned line -> what is said; spacing and punctuation are tidied by the caller."""
    for pattern, said in _rules():
        text = pattern.sub(said, text)
    return text


def finish(text: str) -> str:
    """After tidying: Chinese marks after Chinese characters, no spaces between them."""
    text = re.sub(rf"(?<=[{_HAN}])(\.\.\.|[,.?!;:]) ?|([,?!;:]) ?(?=[{_HAN}])", lambda match: _MARKS[match[1] or match[2]], text)
    return re.sub(rf"(?<=[{_HAN}，。？！；：…]) (?=[{_HAN}])", "", text)


def _range(match: Match) -> str:
    return say_zh(match[1]) + (f"到{say_zh(match[2])}" if match[2] else "")


def _date(match: Match, number: str, month: str, day: str) -> str:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return match[0]
    return f"{digits_zh(number)}年{cardinal_zh(int(month))}月{cardinal_zh(int(day))}日"


def _clock(match: Match) -> str:
    hour, minute, second = int(match[1]), int(match[2]), match[3]
    if hour > 24 or minute > 59:
        return match[0]
    minutes = f"{'零' if minute < 10 else ''}{cardinal_zh(minute)}分" if minute else "" if second else "整"
    return f"{'两' if hour == 2 else cardinal_zh(hour)}点{minutes}" + (f"{cardinal_zh(int(second))}秒" if second else "")


def _phone(match: Match) -> str:
    groups = re.findall(r"\d+", match[0])
    return ("加" if match[0].startswith("+") else "") + "，".join(digits_zh(group, "幺") for group in groups)


def _measured(match: Match) -> str:
    """两个, 二十二个."""
    return "两" if match[1] == "2" and not match[2] else _range(match)


@cache
def _rules() -> tuple[tuple[re.Pattern[str], Said], ...]:
    """In the order they apply; compiled on first use."""
    symbols = "".join(_CURRENCY)
    units = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
    rules: list[tuple[str, Said]] = [
        (r"(?<=\d)\.(\d{16,})", lambda m: f"点{digits_zh(m[1])}"),
        (r"\d{16,}", lambda m: digits_zh(m[0])),
        (rf"(?<![A-Za-z0-9.,)-])-(?=[{symbols}]?\.?\d)", "负"),
        (r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)(?:T(?=\d))?", lambda m: _date(m, m[1], m[2], m[3])),
        (r"(?<!\d)(\d{4})[-~](\d{4}) ?年", lambda m: f"{digits_zh(m[1])}到{digits_zh(m[2])}年"),
        (r"(?<!\d)(\d{4}) ?年", lambda m: f"{digits_zh(m[1])}年"),
        (r"(?<![\d:.])(\d{1,2}):(\d\d)(?::(\d\d))?(?![\d:])", _clock),
        (rf"([{symbols}]) ?({_NUMBER}) ?([万亿千百]{{0,2}})", lambda m: say_zh(m[2]) + m[3] + _CURRENCY[m[1]]),
        (rf"{_AMOUNT} ?([{symbols}])(?!\d)", lambda m: _range(m) + _CURRENCY[m[3]]),
        (r"\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,6}(?!\d)", _phone),
        (r"(?<![\d.,-])(?:1[3-9]\d{9}|\d{1,6}(?:-\d{1,6}){2,6}|0\d{2,3}[- ]\d{7,8}|\d{3}[ -]\d{4}[ -]\d{4})(?!\d)", _phone),
        (rf"{_AMOUNT} ?%", lambda m: f"百分之{say_zh(m[1])}" + (f"到百分之{say_zh(m[2])}" if m[2] else "")),
        (rf"{_AMOUNT} ?‰", lambda m: f"千分之{say_zh(m[1])}"),
        (rf"{_AMOUNT} ?({units})(?![A-Za-z0-9°])", lambda m: f"{_measured(m)}{_UNITS[m[3]]}"),
        (r"(?<![\d./])(\d{1,6})/(\d{1,6})(?![\d/])", lambda m: f"{cardinal_zh(int(m[2]))}分之{cardinal_zh(int(m[1]))}"),
        (r"第 ?(\d{1,15})", lambda m: f"第{cardinal_zh(int(m[1]))}"),
        (rf"{_AMOUNT} ?(?=[{_MEASURES}])", _measured),
        (r"(?<![\d.])\d{1,5}(?:\.\d{1,5}){2,5}(?!\d)", lambda m: "点".join(map(say_zh, m[0].split(".")))),
        (r"(?<=\d):(?=\d)", "比"),
        (r"(?<=\d) ?[x*] ?(?=\d)", "乘"),
        (r"(?<=\d) - (?=\d)", "减"),
        (r"(?<!\d)\.(?=\d)", "零点"),
        (_AMOUNT, _range),
        (_NUMBER, lambda m: say_zh(m[0])),
        (r"\^2", "的平方"),
        (r"/{2,}|[*^|_]", " "),
        (rf"[{''.join(map(re.escape, _SYMBOLS))}]", lambda m: f" {_SYMBOLS[m[0]]} "),
    ]
    return tuple((re.compile(pattern), said) for pattern, said in rules)

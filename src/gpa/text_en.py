"""English: digits, symbols and abbreviations -> the words that are spoken.

`spell_out` takes a line cleaned by `gpa.text` (ASCII digits, known symbols, single spaces) and leaves letters and
' . , ? ! - ; : only. Case is kept. Every pattern is bounded or anchored: the time stays linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from gpa.text_numbers import cardinal, digits, ordinal, roman, say, year

Match = re.Match[str]
Said = Callable[[Match], str] | str
Rule = tuple[str, Said]


def _table(text: str) -> dict[str, str]:
    """ "km kilometer, m meter" -> a dict."""
    return {key: value for key, _, value in (entry.strip().partition(" ") for entry in text.split(","))}


def _list(text: str) -> list[str]:
    return text.split()


# At most 15 digits: longer runs are read digit by digit before anything else looks at them.
_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,4}(?!\d)|\d{1,15})(?:\.\d{1,15})?"
_DIGIT = re.compile(r"\d")
_AMOUNT = rf"(?<![\d.,])({_NUMBER})(?:-({_NUMBER}))?"  # a number or a range: two groups
_MONTHS = _list("January February March April May June July August September October November December")
_MONTH = rf"\b({'|'.join(_MONTHS)}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
_HALF = r" ?([AaPp])(?:\.[Mm]\b\.?|[Mm]\b)"  # of the day
_SCALE = _table("k thousand, K thousand, m million, M million, mn million, bn billion, B billion, T trillion")
_SCALE |= {word: word for word in ("thousand", "million", "billion", "trillion")}
_CURRENCY = {  # symbol -> one, many, a hundredth, hundredths
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "", ""),
    "₽": ("ruble", "rubles", "kopeck", "kopecks"),
    "₿": ("bitcoin", "bitcoins", "", ""),
}
_ISO = _table("USD U S dollars, EUR euros, GBP pounds, JPY yen, CNY yuan, CHF Swiss francs, INR rupees")
_NATION = _table("US U S, C Canadian, CA Canadian, A Australian, AU Australian, NZ New Zealand, HK Hong Kong")
_UNITS = _table(
    "km kilometer, m meter, cm centimeter, mm millimeter, nm nanometer, μm micrometer, mi mile, yd yard, ft foot, kg kilogram, g gram,"
    "mg milligram, μg microgram, oz ounce, lb pound, lbs pound, l liter, L liter, ml milliliter, mL milliliter, cl centiliter, h hour,"
    "hr hour, hrs hour, min minute, mins minute, sec second, secs second, s second, ms millisecond, μs microsecond, ns nanosecond,"
    "KB kilobyte, kB kilobyte, MB megabyte, GB gigabyte, TB terabyte, PB petabyte, MiB mebibyte, GiB gibibyte, V volt, kV kilovolt,"
    "mA milliamp, W watt, kW kilowatt, MW megawatt, GW gigawatt, kWh kilowatt hour, mAh milliamp hour, kJ kilojoule, kcal kilocalorie,"
    "Pa pascal, hPa hectopascal, kPa kilopascal, dB decibel, ha hectare, px pixel, gal gallon, tsp teaspoon, tbsp tablespoon, yr year,"
    "yrs year, Hz hertz, kHz kilohertz, MHz megahertz, GHz gigahertz, mph mile per hour, kph kilometer per hour, bps bit per second,"
    "kbps kilobit per second, Mbps megabit per second, Gbps gigabit per second, rpm revolution per minute, fps frame per second,"
    "° degree, °C degree Celsius, °F degree Fahrenheit"
)
_TITLES = _table(  # before a name
    "Mr Mister, Mrs Missus, Ms Miz, Dr Doctor, Prof Professor, Gen General, Col Colonel, Sgt Sergeant, Capt Captain, Lt Lieutenant,"
    "Gov Governor, Sen Senator, Rep Representative, Rev Reverend, Hon Honorable, Pres President, St Saint, Mt Mount, Ft Fort"
)
_COUNTED = _table(  # before a number
    "No number, Nos numbers, no number, Fig figure, fig figure, Vol volume, vol volume, Ch chapter, ch chapter, Sec section, Eq equation,"
    "p page, pp pages, Ext extension, ext extension, ca circa, c circa, tel telephone, Tel telephone, Art article, Tab table"
)
_ANYWHERE = _table(  # may end a sentence
    "etc et cetera, Inc Incorporated, Ltd Limited, Corp Corporation, Co Company, Bros Brothers, Ave Avenue, Blvd Boulevard, Rd Road,"
    "Jr Junior, Sr Senior, vs versus, approx approximately, dept department, Dept Department, govt government, al al, St Street, Dr Drive"
)
_PHRASES = _table("e.g. for example, i.e. that is, a.k.a. also known as, Ph.D. P H D, w/o without, w/ with, OK okay, and/or and or")
_PHRASES |= _table("24/7 twenty-four seven, 9/11 nine eleven, 50/50 fifty fifty, C++ C plus plus, C# C sharp, N/A not applicable")
_KINGS = (  # names whose roman numeral is an ordinal
    "King|Queen|Pope|Emperor|Tsar|Henry|Louis|George|Edward|Charles|James|William|Richard|Elizabeth|Napoleon|Pius|Benedict|Paul|Francis|"
    "Philip|Catherine|Nicholas|Alexander|Frederick|Ivan|Peter|Leo|Innocent|Gregory|Clement|Ferdinand|Leopold|Otto|Wilhelm|Gustav|Harald"
)
_PARTS = (  # words whose roman numeral is a cardinal
    "[Cc]hapter|[Pp]art|[Vv]olume|Book|Act|Scene|[Ss]ection|Article|Phase|Type|Level|Stage|Season|Episode|War|Appendix|Title|[Ff]igure|"
    "[Tt]able|Bowl|Mark|Grade"
)
_LETTERS = _list(  # said letter by letter though they hold vowels
    "AAA ABC ACLU ADHD AI AKA AMD AM AOL API APR ATM AWS BAC BBQ BCE BMI CBO CEO CFO CIA CIO COO CPI CPU CTO DEA DIY DNA DOE DOJ DUI ECG "
    "EEG EKG EMT EPA ESPN ETA EU EV FAA FAQ FBI FDA GDP GNU GOP GPA GPU GUI HIV IBM ICU ID IDE IEEE IMF IO IP IPA IPO IQ IRA IRS ISBN ISO "
    "ISP KGB LED LGBTQ LLM MBA MIA MRI NAACP NBA NGO NIH NSA OCD OCR OECD OEM OS PA PDA PTA QA RNA ROI RSVP SDK SEO SUV TSA UAE UFO UI UK "
    "UN UPS URI URL US USA USB USD USSR UTC UV UX VIP VPN WWI WWII XML YMCA"
)
_NO_LETTERS = _list("HMM HM SHH PSST BRR GRR TSK NTH PFFT MR MRS DR ST MS ZZ ZZZ")  # no vowel, yet no letters
_SMALL_WORDS = _list("In At The From To On Of And For Near With By Mister Missus Doctor Is Was")
_URL_WORDS = _table(". dot,/ slash,- dash,_ underscore,@ at,: colon,? question mark,= equals,& and,% percent,# hash,~ tilde,+ plus")
_SYMBOLS = _table("& and,+ plus,= equals,@ at,% percent,# hash,/ slash,× times,÷ divided by,± plus or minus,≈ approximately,° degrees")
_SYMBOLS |= _table("≤ less than or equal to,≥ greater than or equal to,≠ not equal to,‰ per mille,§ section")
_SYMBOLS |= {symbol: names[0] for symbol, names in _CURRENCY.items()}
_TLDS = r"com|org|net|edu|gov|io|ai|dev|app|info|co\.uk|uk|de|fr"
_FILES = r"py|js|ts|txt|pdf|csv|json|html?|css|md|mp3|mp4|wav|png|jpe?g|gif|exe|zip|docx?|xlsx?|cpp|java|rs|sh|ya?ml|xml"


def spell_out(text: str) -> str:
    """One cleaned line -> what is said; spacing and punctuation are tidied by the caller."""
    for pattern, said in _rules():
        if r"\d" not in pattern.pattern or _DIGIT.search(text):  # most rules are about digits, most texts have none left
            text = pattern.sub(said, text)
    words = re.findall(r"\b[A-Za-z]{2,}", text)
    shouted = sum(word.isupper() for word in words)
    if shouted < 3 or 2 * shouted <= len(words):  # a shouted text holds no acronyms
        text = re.sub(r"(?<![\w'])([A-Z]{2,6})('s|s)?(?![\w'])", _acronym, text)
    return text


# ---- what stands around a match ----


def _word_before(match: Match) -> str:
    """The word that ends where the match begins, over one space; at most 30 characters of it."""
    found = re.search(r"([\w'-]+) ?$", match.string[max(0, match.start() - 30) : match.start()])
    return found[1] if found else ""


def _stop(match: Match) -> str:
    """The full stop that an abbreviation's own dot also is, where a sentence ends."""
    ends = match[0].endswith(".") and re.compile(r" ?(?:$|[A-Z])").match(match.string, match.end())
    return "." if ends else ""


def _range(match: Match, said: Callable[[str], str] = say) -> str:
    return said(match[1]) + (f" to {said(match[2])}" if match[2] else "")


def _many(word: str) -> str:
    """The plural of a unit: "mile per hour" -> "miles per hour"."""
    head, per, tail = word.partition(" per ")
    first, _, rest = head.partition(" ") if head.startswith("degree") else (head, "", "")
    plural = {"foot": "feet"}.get(first) or (first if first.endswith("hertz") else f"{first}s")
    return f"{plural}{' ' + rest if rest else ''}{per}{tail}"


# ---- one function a rule ----


def _url(match: Match) -> str:
    address = match[0].rstrip(".,;:!?'/-")
    tail = match[0][len(address) :].strip("'/-")
    words = re.sub(r"^https?://", "", address)
    words = re.sub(r"\W|_", lambda found: f" {_URL_WORDS.get(found[0], '')} ", re.sub(r"^www(?=\.)", "w w w", words))
    return f" {re.sub(r'[0-9]{5,}', lambda found: digits(found[0]), words)}{tail} "


def _date(match: Match, month: int, day: int, number: str | None) -> str:
    """ "March fifteenth, twenty twenty-four"; an impossible date stays as it was."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    return f"{_MONTHS[month - 1]} {ordinal(day)}" + (f", {year(int(number))}" if number else "")


def _month(name: str) -> int:
    return next(i for i, month in enumerate(_MONTHS, 1) if month[:3] == name[:3])


def _slash_date(match: Match) -> str:
    first, second, number = int(match[1]), int(match[2]), match[3]
    full = number if len(number) == 4 else f"{20 if int(number) < 70 else 19}{number}"
    return _date(match, second, first, full) if first > 12 else _date(match, first, second, full)


def _month_day(match: Match) -> str:
    said = _date(match, _month(match[1]), int(match[2]), None)
    if said == match[0]:
        return said
    return said + (f" to {ordinal(int(match[3]))}" if match[3] else "") + (f", {year(int(match[4]))}" if match[4] else "")


def _day_month(match: Match) -> str:
    if not 1 <= int(match[1]) <= 31:
        return match[0]
    article = "" if _word_before(match).lower() == "the" else "the "
    return f"{article}{ordinal(int(match[1]))} of {_MONTHS[_month(match[2]) - 1]}" + (f", {year(int(match[3]))}" if match[3] else "")


def _clock(match: Match) -> str:
    hour, minute, second, half = int(match[1]), int(match[2]), match[3], match[4]
    if hour > 24 or minute > 59:
        return match[0]
    minutes = f" oh {cardinal(minute)}" if 0 < minute < 10 else f" {cardinal(minute)}" if minute else "" if half else " o'clock"
    seconds = f" and {cardinal(int(second))} seconds" if second else ""
    return cardinal(hour) + minutes + seconds + (f" {half.upper()} M{_stop(match)}" if half else "")


def _abbreviation(match: Match) -> str:
    """A word and its dot: a title, a thing that is counted, or one that may end a sentence."""
    word, name_follows, number_follows = match[1], match[2] is not None, match[3] is not None
    before = _word_before(match)
    after_name = before[:1].isupper() and before not in _SMALL_WORDS  # "Elm Dr. Smith" is rare, "Elm Dr." is not
    if word in _TITLES and name_follows and not (word in ("St", "Dr") and after_name):
        return _TITLES[word]
    if word in _COUNTED and number_follows:
        return _COUNTED[word]
    if word in _ANYWHERE and (word != "Dr" or after_name):
        return _ANYWHERE[word] + _stop(match)
    return _TITLES.get(word, match[0])


def _capital(said: Said) -> Callable[[Match], str]:
    """A rule that keeps the look of a sentence: what stands for a digit or symbol at its beginning gets a capital."""

    def capitalised(match: Match) -> str:
        words = said if isinstance(said, str) else said(match)
        before = match.string[max(0, match.start() - 2) : match.start()].rstrip()
        begins = (not before if match.start() < 3 else before[-1:] in (".", "!", "?")) and not match[0].lstrip()[:1].isalpha()
        place = len(words) - len(words.lstrip())
        return words[:place] + words[place : place + 1].upper() + words[place + 1 :] if begins else words

    return capitalised


def _phrase(match: Match) -> str:
    return f" {_PHRASES[match[0]]}{'.' if match[0].endswith('.') and match.end() == len(match.string) else ''} "


def _initials(match: Match) -> str:
    return " ".join(match[0].replace(".", " ").split()) + ("." if match.end() == len(match.string) else "")


def _money(match: Match) -> str:
    nation, symbol, number, upper, scale, per = match.groups()
    one, many, cent, cents = _CURRENCY[symbol]
    nation = f"{_NATION[nation]} " if nation else ""
    rate = f" per {_UNITS.get(per, per)}" if per else ""
    if upper or scale or not cent or not re.search(r"\.\d\d$", number):
        amount = say(number) + (f" to {say(upper)}" if upper else "") + (f" {_SCALE[scale]}" if scale else "")
        return f"{amount} {nation}{one if number == '1' and not (scale or upper) else many}{rate} "
    whole, fraction = number.replace(",", "").split(".")
    parts = [f"{say(whole)} {nation}{one if whole == '1' else many}"] if int(whole) or not int(fraction) else []
    parts += [f"{cardinal(int(fraction))} {cent if fraction == '01' else cents}"] if int(fraction) else []
    return " and ".join(parts) + rate + " "


def _money_after(match: Match) -> str:
    scale = f"{_SCALE[match[3]]} " if match[3] else ""
    one, many, *_ = _CURRENCY[match[4]]
    rate = f" per {_UNITS.get(match[5], match[5])}" if match[5] else ""
    return f"{_range(match)} {scale}{one if match[1] == '1' and not (match[2] or scale) else many}{rate} "


def _phone(match: Match) -> str:
    plus = "plus " if match[0].startswith("+") else ""
    return plus + ", ".join(digits(group) for group in re.findall(r"\d+", match[0]))


def _unit(match: Match) -> str:
    word = {"2": "square ", "3": "cubic ", None: ""}[match[4]] + _UNITS[match[3].replace(" ", "")]
    rate = f" per {_UNITS.get(match[5], match[5])}" if match[5] else ""
    return f"{_range(match)} {word if match[1] == '1' and not match[2] else _many(word)}{rate}"


def _fraction(match: Match) -> str:
    whole, top, bottom = match[1], int(match[2]), int(match[3])
    lead = f"{say(whole)} and " if whole else ""
    if not 2 <= bottom <= 100:
        return f"{lead}{cardinal(top)} over {cardinal(bottom)}"
    name = {2: "half", 4: "quarter"}.get(bottom) or ordinal(bottom)
    name = name if top == 1 else "halves" if bottom == 2 else f"{name}s"
    return f"{lead}{'a' if whole and top == 1 else cardinal(top)} {name}"


def _dotted(match: Match) -> str:
    """A version, or an address when there are four numbers."""
    numbers = match[0].split(".")
    return (" dot " if len(numbers) == 4 else " point ").join(map(say, numbers))


def _decade(match: Match) -> str:
    words = year(int(match[1]))
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"


def _part(match: Match) -> str:
    number = roman(match[2])
    return f"{match[1]} {cardinal(number)}" if number else match[0]


def _king(match: Match) -> str:
    number = roman(match[2])
    return f"{match[1]} the {ordinal(number)}" if number > 1 else match[0]


def _bare(match: Match) -> str:
    """A number or range that no other rule took; four digits are read as a year."""
    return _range(match, lambda text: year(int(text)) if re.fullmatch(r"1[1-9]\d\d|20\d\d", text) else say(text))


def _acronym(match: Match) -> str:
    word, vowels = match[1], any(letter in "AEIOUY" for letter in match[1])
    if word in _LETTERS or not (vowels or word in _NO_LETTERS):
        return " ".join(word) + ("'s" if match[2] else "")
    return match[0]


@cache
def _rules() -> tuple[tuple[re.Pattern[str], Callable[[Match], str]], ...]:
    """In the order they apply; compiled on first use, so that importing this file is cheap."""
    rules = [*_addresses(), *_days(), *_names(), *_amounts(), *_signs()]
    return tuple((re.compile(pattern), _capital(said)) for pattern, said in rules)


def _addresses() -> list[Rule]:
    """Addresses, digit runs, signs."""
    symbols = "".join(_CURRENCY)
    return [
        (r"(?<![\w@.])(?:https?://|www\.)[^\s<>()]{1,400}", _url),
        (r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}", _url),
        (rf"(?<![\w@.-])[A-Za-z0-9-]{{1,63}}(?:\.[a-z0-9-]{{1,63}}){{0,3}}\.(?:{_TLDS})\b(?:/[^\s<>()]{{0,200}})?", _url),
        (rf"(?<=\w)\.(?=(?:{_FILES})\b)", " dot "),
        (r"(?<=\d)\.(\d{16,})", lambda m: f" point {digits(m[1])} "),
        (r"\d{16,}", lambda m: f" {digits(m[0])} "),
        (rf"(?<![^ (=<>~,:;])-(?=[{symbols}]?\.?\d)", " minus "),
        (rf"(?<=\d)-(?=\d{{1,2}}(?::\d\d|{_HALF}))", " to "),
    ]


def _days() -> list[Rule]:
    """Dates and times of the day."""
    symbols = "".join(_CURRENCY)
    return [
        (r"(?<!\d)(\d{4})-(\d\d)-(\d\d)(?!\d)(?:T(?=\d))?", lambda m: _date(m, int(m[2]), int(m[3]), m[1]) + " "),
        (r"(?<![\d/])(\d{1,2})/(\d{1,2})/(\d{4}|\d\d)(?![\d/])", _slash_date),
        (r"(?<![\d.])(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\d)", lambda m: _date(m, int(m[2]), int(m[1]), m[3])),
        (rf"{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?(?:-(\d{{1,2}}))?(?![\d:.,]*\d|[A-Za-z/%])(?:,? (\d{{4}})(?!\d))?", _month_day),
        (rf"(?<![\d.,:/-])(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH}(?:,? (\d{{4}})(?!\d))?", _day_month),
        (rf"{_MONTH} (?=\d{{4}}(?!\d))", lambda m: f"{_MONTHS[_month(m[1]) - 1]} "),
        (rf"(?<![\d:.])(\d{{1,2}}):(\d\d)(?::(\d\d))?(?![\d:])(?:{_HALF})?", _clock),
        (rf"(?<![\d:.,{symbols}])(\d{{1,2}}){_HALF}", lambda m: f"{cardinal(int(m[1]))} {m[2].upper()} M{_stop(m)}"),
    ]


def _names() -> list[Rule]:
    """Abbreviations, initials, roman numerals."""
    words = "|".join(sorted({*_TITLES, *_COUNTED, *_ANYWHERE}, key=len, reverse=True))
    phrases = "|".join(map(re.escape, _PHRASES))
    return [
        (rf"(?<![\w.])(?:{phrases})(?![\w+#])", _phrase),
        (rf"(?<![\w.'])({words})\.(?:(?= ?[A-Z]())|(?= ?[0-9]())|)", _abbreviation),
        (r"\bvs\b", "versus"),
        (r"(?<!\w)([A-Z]{1,3})&([A-Z]{1,3})(?!\w)", lambda m: f"{' '.join(m[1])} and {' '.join(m[2])}"),
        (r"(?<![\w.])(Mr|Mrs|Ms|Dr|Prof)(?= [A-Z])", lambda m: _TITLES[m[1]]),
        (r"(?<![\w.])(?:[A-Za-z]\. ?){1,7}[A-Za-z]\.(?!\w)", _initials),
        (rf"\b({_KINGS}) ([IVXL]{{1,7}})\b", _king),
        (rf"\b({_PARTS}) ([IVXL]{{1,7}})\b(?! [a-z]|')", _part),
    ]


def _amounts() -> list[Rule]:
    """Money, telephones, percent, units, ordinals, fractions."""
    symbols, nations = "".join(_CURRENCY), "|".join(_NATION)
    scale = rf" ?({'|'.join(sorted(_SCALE, key=len, reverse=True))})\b"
    units = "|".join(sorted(map(re.escape, [*_UNITS, "° C", "° F"]), key=len, reverse=True))
    return [
        (rf"(?:\b({nations}))?([{symbols}]) ?({_NUMBER})(?:-[{symbols}]?({_NUMBER}))?(?:{scale})?(?: ?/ ?([a-z]{{1,12}}))?", _money),
        (rf"{_AMOUNT}(?:{scale})? ?([{symbols}])(?!\d)(?: ?/ ?([a-z]{{1,12}}))?", _money_after),
        (rf"\b({'|'.join(_ISO)}) ?({_NUMBER})", lambda m: f"{say(m[2])} {_ISO[m[1]]} "),
        (rf"({_NUMBER}) ?({'|'.join(_ISO)})\b", lambda m: f"{say(m[1])} {_ISO[m[2]]}"),
        (r"\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,6}(?!\d)", _phone),
        (r"(?<![\d.-])(?:1[ .-])?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)", _phone),
        (r"(?<![\d.,-])\d{3}-\d{4}(?![\d-])", _phone),
        (r"(?<![\d.,-])\d{1,6}(?:-\d{1,6}){2,6}(?!\d)", _phone),
        (r"(?<![\d.,])0\d{1,4}(?: \d{2,4}){1,4}(?!\d)", _phone),
        (rf"{_AMOUNT} ?%", lambda m: f"{_range(m)} percent "),
        (r"(?<!\d)(1[1-9]\d0|20\d0)'?s\b", _decade),
        (r"(?:(?<=the )|(?<=early )|(?<=late )|(?<=mid-)|(?<=mid )|(?<=his )|(?<=her )|(?<=their )|(?<=my )|')(?=\d)([2-9]0)s\b", _decade),
        (rf"{_AMOUNT}[ -]?({units})(?:\^?([23]))?(?: ?/ ?([a-zμ]{{1,12}}))?(?![\w°])", _unit),
        (r"(?<!\w)(\d{1,2})'(\d{1,2})(?!\w)", lambda m: f"{cardinal(int(m[1]))} foot {cardinal(int(m[2]))}"),
        (r"(?<![\d.,])(\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:st|nd|rd|th|ST|ND|RD|TH)\b", lambda m: ordinal(int(m[1].replace(",", "")))),
        (r"(?<![\d./])(?:(\d{1,4}) )?(\d{1,4})/(\d{1,4})(?![\d/])", _fraction),
        (r"(?<![\d.])\d{1,5}(?:\.\d{1,5}){2,5}(?!\d)", _dotted),
    ]


def _signs() -> list[Rule]:
    """Signs between and before numbers, the numbers left, the symbols left."""
    return [
        (r"(?<=\d) ?x ?(?=\d)", " by "),
        (r"(?<=\d) - (?=\d)", " minus "),
        (r"(?<=\d) ?\* ?(?=\d)", " times "),
        (r"(?<=\d):(?=\d)", " to "),
        (r"#(?=\d)", " number "),
        (r"(?<!\w)#(?=[A-Za-z])", " hashtag "),
        (r"~ ?(?=\d)", " about "),
        (r"(?<=\w)\^2(?!\w)", " squared "),
        (r"(?<=\w)\^3(?!\w)", " cubed "),
        (r"(?<=\w)\^(?=[\w(])", " to the power of "),
        (r"(?<=\w) ?<=? ?(?=\w)", " less than "),
        (r"(?<=\w) ?>=? ?(?=\w)", " greater than "),
        (r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", " "),  # "MP3": a letter beside a digit
        (r"(?<!\d)\.(\d{1,15})", lambda m: f" point {digits(m[1])} "),
        (_AMOUNT, _bare),
        (_NUMBER, lambda m: f" {say(m[0])} "),
        (r"/{2,}|[*~^<>\\`_|\"{}]", " "),
        (rf"[{''.join(map(re.escape, _SYMBOLS))}]", lambda m: f" {_SYMBOLS[m[0]]} "),
    ]

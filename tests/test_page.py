# ruff: noqa: E402  (the extra `server` may be missing)
"""The page: what can be read off the file by default; driven in a real browser, with a microphone that plays a file, as `slow`."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import fakes
from chromium import SPEECH, axe, browser, convert, microphone, record, saved, violations, visit
from gpa import audio
from gpa.server.access import hashed
from gpa.server.app import ROUTERS, create_app
from gpa.server.page import policy
from gpa.server.settings import Settings

HTML = (files("gpa.server") / "static" / "index.html").read_text(encoding="utf-8")
SCRIPT = re.findall(r"<script[^>]*>(.*?)</script>", HTML, re.DOTALL)[0]
VOID = {"meta", "link", "input", "hr", "br", "path", "rect"}


class Reader(HTMLParser):
    """Every element with its attributes, those around it, and the text in it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []
        self.feed(HTML)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "text": "", "around": [one["tag"] for one in self.open], **dict(attributes)}
        self.found.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append({"tag": tag, "text": "", "around": [], **dict(attributes)})

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()["tag"] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data


PAGE = Reader()
IDS = [element["id"] for element in PAGE.found if "id" in element]


def test_one_file_that_loads_nothing() -> None:
    assert len(HTML.encode()) < 65_000
    assert not PAGE.open, "an element is not closed"
    assert set(re.findall(r"https?://[\w.:/-]+", HTML)) == {"http://www.w3.org/2000/svg"}  # the name of a namespace
    for element in PAGE.found:
        assert "src" not in element, element
        assert "style" not in element, "the policy lets no style attribute through"
        assert not [name for name in element if name.startswith("on")], "nor a handler written in HTML"
        assert element["tag"] not in ("iframe", "object", "embed", "img", "base"), element
    assert [element["href"][:5] for element in PAGE.found if element["tag"] == "link"] == ["data:"]
    assert not re.search(r"url\(|@import|@font-face", HTML)
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert sink not in SCRIPT


def test_asks_only_for_routes_that_are_there() -> None:
    known = {re.sub(r"/{.*", "", route.path) for router in ROUTERS for route in router.routes}  # type: ignore[attr-defined]
    asked = {path.split("?")[0].split("/$")[0] for path in re.findall(r"['`](/(?:v1|ws|health)/[^'`]*)['`]", SCRIPT)}
    assert len(asked) >= 9
    assert asked <= known, asked - known


def test_every_control_has_a_name() -> None:
    labels = [element for element in PAGE.found if element["tag"] == "label"]
    controls = [element for element in PAGE.found if element["tag"] in ("button", "input", "select", "textarea")]
    assert len(controls) > 25
    for control in controls:
        named = control.get("aria-label") or control["text"].strip() or "label" in control["around"]
        named = named or control.get("aria-labelledby") in IDS or any(label.get("for") == control.get("id") for label in labels)
        assert named, control
    for element in PAGE.found:
        if element["tag"] == "svg" or element["tag"] == "canvas":
            assert element.get("aria-hidden") == "true"
        if element.get("role") in ("log", "slider", "tablist", "group"):
            assert element.get("aria-label"), element


def test_a_screen_reader_is_told() -> None:
    assert len(IDS) == len(set(IDS))
    by_id = {element["id"]: element for element in PAGE.found if "id" in element}
    for name in ("aria-controls", "aria-labelledby", "aria-describedby", "for"):
        for element in PAGE.found:
            assert element.get(name) is None or element[name] in IDS, element
    tabs = [element for element in PAGE.found if element.get("role") == "tab"]
    assert [tab["text"] for tab in tabs] == ["Speak", "Listen", "Convert", "Voices"]
    for tab in tabs:
        panel = by_id[tab["aria-controls"]]
        assert (panel["role"], panel["aria-labelledby"]) == ("tabpanel", tab["id"])
        name = tab["id"].removeprefix("tab-")
        assert by_id[f"{name}-note"]["role"] == "alert"
        assert by_id[f"{name}-stats"]["role"] == "status"
    assert by_id["transcript"]["aria-live"] == "polite"
    assert set(re.findall(r"\$\('([\w-]+)'\)", SCRIPT)) - {"track", "source"} <= set(IDS)
    assert by_id["text"]["placeholder"].endswith(".")  # the example that an empty field speaks


def test_looks_follow_the_reader() -> None:
    style = re.findall(r"<style>(.*?)</style>", HTML, re.DOTALL)[0]
    for rule in ("prefers-reduced-motion: reduce", ":focus-visible", "light-dark(", "max-width: 520px", "color-scheme: light dark"):
        assert rule in style
    assert "outline: none" not in style
    pairs = (("ink", "paper"), ("soft", "paper"), ("soft", "card"), ("accent", "paper"), ("bad", "bad-tint"), ("on-accent", "accent"))
    for mode in (0, 1):
        for front, back in pairs:
            assert contrast(colour(style, front, mode), colour(style, back, mode)) >= 4.5, (front, back, mode)
        assert contrast(colour(style, "edge", mode), colour(style, "paper", mode)) >= 3  # a control's outline


def colour(style: str, name: str, mode: int) -> list[float]:
    both = re.findall(rf"--{name}: light-dark\((#\w+), (#\w+)\)", style)[0]
    code = both[mode][1:] if len(both[mode]) == 7 else "".join(digit * 2 for digit in both[mode][1:])
    return [int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG 2.2, relative luminance."""
    linear = [[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in both] for both in (one, other)]
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_its_policy_fits_it(tmp_path: Path) -> None:
    app = create_app(fakes.model(tmp_path / "fake"), Settings(voices=tmp_path, key_hashes=frozenset({hashed("secret" * 4)})))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/")  # without a key: the page is what asks for one
        assert answer.status_code == 200
        assert answer.text == HTML
        rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
        digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == f"'sha256-{digest}' blob:"
        assert rules["connect-src"] == "'self'"
        assert not re.search(r"unsafe|\*|https?:", answer.headers["content-security-policy"])
        assert answer.headers["permissions-policy"].startswith("microphone=(self)")
        again = await client.get("/", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert (await client.head("/")).headers["etag"] == answer.headers["etag"]


def test_a_page_with_two_scripts_has_no_policy() -> None:
    with pytest.raises(ValueError, match="too many values"):
        policy("<script>1</script><script>2</script><style></style>")


# ---- in a browser ----


@pytest.fixture
def mic(tmp_path: Path) -> Path:
    return microphone(tmp_path)


@pytest.mark.slow
def test_every_panel_in_a_browser(tmp_path: Path, mic: Path) -> None:
    from live import served

    with browser(mic) as chromium, served(fakes.model(tmp_path / "fake"), tmp_path / "voices") as server:
        page, wrong = visit(chromium, server.url, viewport={"width": 360, "height": 740})
        speaks(page)
        listens(page)
        converts(page)
        makes_a_voice(page)
        for name in ("speak", "listen", "convert", "voices"):
            page.click(f"#tab-{name}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than a phone"
        assert not wrong


def speaks(page: Any) -> None:
    page.locator("#speak-voice option").first.wait_for(state="attached")
    assert [option.strip() for option in page.locator("#speak-voice option").all_inner_texts()] == ["Amy", "Bob"]
    page.click("#say")  # empty: the example is spoken
    page.locator("#speak-stats b").nth(1).wait_for()
    assert re.search(r"First sound after [\d.]+ m?s · [\d.]+ s made in", page.inner_text("#speak-stats"))
    wav = audio.decode(saved(page, "#speak-save"), 24_000)
    assert len(wav) / 24_000 == pytest.approx(len(page.input_value("#text")) / 25, abs=0.2)


def listens(page: Any) -> None:
    page.click("#tab-listen")
    record(page, "listen", 4)
    page.locator("#transcript p:not(.partial) .stamp").first.wait_for()
    assert "Hello there." in page.inner_text("#transcript")
    page.set_input_files("#listen-source input", SPEECH)
    page.locator("#listen-stats", has_text="all of it").wait_for()
    assert page.inner_text("#transcript") == "Hello there."
    assert saved(page, "#save-srt").startswith(b"1\n00:00:00,000 --> 00:00:03,")
    assert saved(page, "#save-vtt").startswith(b"WEBVTT\n\n00:00:00.000 --> 00:00:03.")


def converts(page: Any) -> None:
    page.click("#tab-convert")
    page.set_input_files("#convert-source input", SPEECH)
    page.locator("#convert-source .track").wait_for()
    convert(page)
    assert len(audio.decode(saved(page, "#convert-save"), 24_000)) / 24_000 == pytest.approx(3.6, abs=0.1)
    page.click("#live")
    page.locator("#convert-stats", has_text="behind yours").wait_for()
    page.wait_for_timeout(3000)
    page.click("#live")
    page.locator("#compare").wait_for()
    assert len(audio.decode(saved(page, "#convert-save"), 24_000)) > 24_000


def makes_a_voice(page: Any) -> None:
    page.click("#tab-voices")
    page.locator("#phrase", has_text="I agree.").wait_for()
    page.click("#make")
    assert "no name" in page.inner_text("#voices-note")
    page.fill("#voice-name", "Kathleen")
    record(page, "voice", 4)
    page.click("#make")
    page.locator("li.made .hear.on", has_text="Kathleen").wait_for()  # it introduces itself
    page.locator("#hear-stats b").nth(1).wait_for()
    page.locator(".hear.on").wait_for(state="detached")
    page.click(".hear >> nth=1")
    page.locator(".hear.on >> nth=0").wait_for()
    page.click(".hear.on")  # again: stop
    page.locator(".hear.on").wait_for(state="detached")
    page.click("li.made .danger")
    page.click("li.made .danger")
    page.locator("li.made").wait_for(state="detached")


@pytest.mark.slow
def test_axe_finds_nothing_in_a_browser(tmp_path: Path, mic: Path) -> None:
    from live import served

    source = axe(tmp_path)
    with browser(mic) as chromium, served(fakes.model(tmp_path / "fake"), tmp_path / "voices") as server:
        for scheme in ("light", "dark"):
            page, _ = visit(chromium, server.url, color_scheme=scheme, reduced_motion="reduce")
            page.evaluate(source)  # the page's own policy lets no other script in
            assert not violations(page)
            speaks(page)
            assert not violations(page)
            listens(page)
            assert not violations(page)
            page.click("#tab-convert")
            page.click("#convert")  # of nothing: a note
            page.locator("#convert-note b").wait_for()
            assert not violations(page)
            page.click("#tab-voices")
            page.locator("#phrase", has_text="I agree.").wait_for()
            page.locator(".hear >> nth=0").click()
            page.locator("#hear-stats b").nth(1).wait_for()
            assert not violations(page)


@pytest.mark.slow
def test_a_keyboard_and_a_key_in_a_browser(tmp_path: Path, mic: Path) -> None:
    from live import served

    key = "secret" * 4
    settings = {"key_hashes": frozenset({hashed(key)})}
    with browser(mic) as chromium, served(fakes.model(tmp_path / "fake"), tmp_path / "voices", **settings) as server:
        page, _ = visit(chromium, server.url, color_scheme="dark", reduced_motion="reduce")
        page.locator("#keybar").wait_for()
        page.keyboard.type("wrong" * 4)  # the field has the focus
        page.keyboard.press("Enter")
        page.locator("#key-why", has_text="does not know this key").wait_for()
        page.fill("#key", key)
        page.keyboard.press("Enter")
        page.locator("#model", has_text="fake").wait_for()
        page.focus("#theme")
        seen = []
        for _ in range(12):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert [name for name in seen if name in IDS][:5] == ["tab-speak", "text", "speak-voice", "speed", "say"]
        page.focus("#tab-speak")
        page.keyboard.press("ArrowRight")
        assert page.is_visible("#panel-listen")
        assert page.evaluate("document.activeElement.id") == "tab-listen"
        page.keyboard.press("ArrowLeft")
        page.focus("#text")
        page.keyboard.type("Hello.")
        page.keyboard.press("Control+Enter")
        page.locator("#speak-save").wait_for()
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.focus("#theme")
        page.keyboard.press("Space")  # light, in a dark room
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before

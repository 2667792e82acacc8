"""Chromium for the page's tests: a microphone that plays a file, what went wrong on a page, and what axe-core says of it.

Debian's `chromium` with Python's playwright; no browser of playwright's own is needed. axe-core comes from npm, once a session.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpa import audio

SPEECH = Path(__file__).parent / "data" / "speech.opus"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@contextmanager
def browser(mic: Path) -> Iterator[Any]:
    """Started, and closed afterwards. Skips where playwright or a Chromium is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed: chromium of Debian will do")
    args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    args += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={mic}"]
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=program, args=args)
        try:
            yield found
        finally:
            found.close()


def microphone(folder: Path) -> Path:
    """What it hears, over and over: a spoken sentence and a second of silence."""
    wav = audio.decode(SPEECH.read_bytes(), 48_000)
    audio.save(folder / "mic.wav", np.concatenate([wav, np.zeros(48_000, np.float32)]), 48_000)
    return folder / "mic.wav"


def visit(chromium: Any, url: str, patience: int = 60_000, **context: Any) -> tuple[Any, list[str]]:
    """The page at `url`, with a microphone, and what goes wrong on it (`watched`). `patience` in ms; `context`: of playwright."""
    page = chromium.new_context(**{"permissions": ["microphone"], **context}).new_page()
    page.set_default_timeout(patience)
    wrong = watched(page, url)
    page.goto(url)
    return page, wrong


def watched(page: Any, url: str) -> list[str]:
    """What should not be: errors, and every request that goes to somebody else than `url`. Fills while the page lives."""
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: request.url.startswith((url, "blob:", "data:")) or wrong.append(request.url))
    page.on("websocket", lambda socket: socket.url.startswith(url.replace("http", "ws")) or wrong.append(socket.url))
    return wrong


def saved(page: Any, button: str) -> bytes:
    """The file that a button gives."""
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


def record(page: Any, panel: str, seconds: float) -> None:
    """Press record, wait, press stop."""
    page.click(f"#{panel}-source .record")
    page.wait_for_timeout(1000 * seconds)
    page.click(f"#{panel}-source .record")


def convert(page: Any) -> None:
    """Convert what was recorded or chosen, and hear both at the same place."""
    page.click("#convert")
    page.locator("#compare").wait_for()
    for on, off in (("#play-a", "#play-b"), ("#play-b", "#play-a")):
        page.click(on)
        assert (page.get_attribute(on, "aria-pressed"), page.get_attribute(off, "aria-pressed")) == ("true", "false")


def axe(folder: Path) -> str:
    """The source of axe-core. Skips where npm cannot give it."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: axe-core comes from it")
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "axe-core"], cwd=folder, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("npm cannot install axe-core here")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Any) -> list[str]:
    """Of WCAG 2.2 AA and axe's best practices, where axe was evaluated in the page."""
    found = page.evaluate("tags => axe.run(document, {runOnly: tags})", RULES)
    assert len(found["passes"]) > 20, "axe looked at nothing"
    return [f"{rule['id']}: {node['html'][:120]}" for rule in found["violations"] for node in rule["nodes"]]

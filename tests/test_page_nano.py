"""The page with the embedded model behind it, in a real browser: heard, understood, converted, and a voice made with consent."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

import gpa
from chromium import SPEECH, browser, convert, microphone, record, saved, visit
from gpa import audio, watermark
from gpa.errors import CheckpointError
from gpa.evaluation.metrics import cer
from live import Live, served

pytestmark = pytest.mark.slow
SAID = "He turned sharply and faced Gregson across the table."
RATE = 24_000
PATIENCE = 180_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def model() -> Iterator[gpa.GPA]:
    try:
        found = gpa.load()
    except CheckpointError as error:
        pytest.skip(f"no embedded checkpoint: {error}")
    with found:
        yield found


@pytest.fixture(scope="module")
def server(model: gpa.GPA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with served(model, tmp_path_factory.mktemp("voices"), consent=True) as found:
        yield found


@pytest.fixture(scope="module")
def page(server: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(microphone(tmp_path_factory.mktemp("mic"))) as chromium:
        found, wrong = visit(chromium, server.url, PATIENCE)
        found.locator("#speak-voice option").first.wait_for(state="attached")
        yield found
        assert not [one for one in wrong if "403" not in one], "403 is what a wrong consent must get"


def test_speech_plays_while_it_comes_and_is_marked(page: Any) -> None:
    page.fill("#text", "The sun came out after three days of rain, and the whole street smelled of bread. Somebody laughed.")
    page.click("#say")
    page.locator("#speak-stats b").first.wait_for()  # the first sound was heard ...
    early = re.search(r"made in", page.inner_text("#speak-stats")) is None  # ... and mostly before the last was made
    page.locator("#speak-stats b").nth(1).wait_for()
    told = re.search(r"First sound after ([\d.]+) (m?s) · ([\d.]+) s made in ([\d.]+) (m?s)", page.inner_text("#speak-stats"))
    assert told
    first, whole = (float(told[i]) / (1000 if told[i + 1] == "ms" else 1) for i in (1, 4))
    assert early or first < whole
    sound = saved(page, "#speak-save")
    wav = audio.decode(sound, RATE)
    assert len(wav) / RATE == pytest.approx(float(told[3]), abs=0.1)
    assert len(wav) / RATE > 3
    assert np.abs(wav).max() > 0.05
    assert watermark.detect(wav, RATE).marked
    page.keyboard.press("Escape")


def test_a_file_is_written_down(page: Any) -> None:
    page.click("#tab-listen")
    page.set_input_files("#listen-source input", SPEECH)
    page.locator("#listen-stats", has_text="all of it after").wait_for()
    assert cer([SAID], [page.inner_text("#transcript")]).value < 50
    assert b"-->" in saved(page, "#save-srt")


def test_text_comes_while_somebody_speaks(page: Any) -> None:
    page.click("#tab-listen")
    page.click("#listen-source .record")
    page.locator("#transcript p:not(.empty)").first.wait_for()
    assert "Stop" in page.inner_text("#listen-source .record")  # still recording
    page.locator("#transcript p:not(.partial):not(.empty) .stamp").first.wait_for()
    page.click("#listen-source .record")
    page.locator("#listen-stats", has_text="after your last word").wait_for()
    heard = page.locator("#transcript p span").first.inner_text()
    assert cer([SAID], [heard]).value < 60, heard


def test_a_recording_in_another_voice(page: Any) -> None:
    page.click("#tab-convert")
    record(page, "convert", 4)
    page.select_option("#convert-voice", index=2)
    convert(page)
    wav = audio.decode(saved(page, "#convert-save"), RATE)
    assert 3 < len(wav) / RATE < 12
    assert np.abs(wav).max() > 0.05
    page.keyboard.press("Escape")


def test_a_voice_is_made_of_somebody_who_agrees(page: Any, model: gpa.GPA, tmp_path: Path) -> None:
    who = sorted(model.voices)[0]

    def read(text: str, name: str) -> Path:
        model.tts(text, who).save(tmp_path / name)
        return tmp_path / name

    page.click("#tab-voices")
    page.locator("#phrase", has_text="I agree.").wait_for()
    page.fill("#voice-name", "Robin")
    page.set_input_files("#voice-source input", read("The harbour was quiet that morning, and a boat came in slowly.", "sample.wav"))
    page.click("#make")
    assert "no recorded consent" in page.inner_text("#voices-note")
    page.set_input_files("#consent-source input", tmp_path / "sample.wav")  # not the phrase
    page.click("#make")
    page.locator("#voices-note", has_text="could not be understood").wait_for()
    for attempt in range(4):  # of the readings of a synthetic voice about one in five is not understood
        phrase = settled(page)
        page.set_input_files("#consent-source input", read(phrase, f"consent{attempt}.wav"))
        page.click("#make")
        page.locator("#voices-stats b, #voices-note:not([hidden])").first.wait_for()
        if page.is_visible("#voices-stats b"):
            break
    page.locator("li.made", has_text="Robin").wait_for()
    page.locator("#hear-stats b").nth(1).wait_for()  # it introduces itself


def settled(page: Any) -> str:
    """The phrase of now: after a failure the page asks for another."""
    before, until = "", time.monotonic() + 60
    while time.monotonic() < until:
        page.wait_for_timeout(1500)
        if page.inner_text("#phrase") == before and page.is_enabled("#make"):
            break
        before = page.inner_text("#phrase")
    return before

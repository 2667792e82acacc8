"""The blocks of docs/realtime.md and docs/wyoming.md run, against a server with stand-ins for the nets."""

from __future__ import annotations

import io
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")

import fakes
import live
from gpa import audio

DOCS = Path(__file__).parent.parent / "docs"
SPEECH = audio.decode(Path(__file__).parent / "data" / "speech.opus", 24_000)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[live.Live]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        wyoming = free.getsockname()[1]
    sound = np.concatenate([SPEECH, np.zeros(24_000, np.float32)])
    (tmp_path / "speech.pcm").write_bytes(audio.encode(sound, 24_000, "pcm"))
    monkeypatch.chdir(tmp_path)
    with live.served(fakes.model(tmp_path / "fake"), tmp_path / "voices", wyoming=wyoming) as found:
        yield found


def run(page: str, number: int, server: live.Live) -> str:
    """What the block printed."""
    code = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[number]
    port = server.app.state.desk.settings.wyoming
    code = code.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}").replace('"127.0.0.1", 10300', f'"127.0.0.1", {port}')
    with redirect_stdout(io.StringIO()) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clients: an open file, websockets 17, audioop
        exec(compile(code, page, "exec"), {})
    return out.getvalue()


def test_the_sdk(server: live.Live) -> None:
    pytest.importorskip("openai")
    assert run("realtime.md", 0, server).endswith("\nHello there.\n")


def test_speech(server: live.Live, tmp_path: Path) -> None:
    pytest.importorskip("websockets")
    assert '"type": "done"' in run("realtime.md", 1, server)
    assert len(audio.decode(tmp_path / "story.mp3", 24_000)) > 24_000


def test_conversion(server: live.Live, tmp_path: Path) -> None:
    pytest.importorskip("websockets")
    assert '"text": "Hello there."' in run("realtime.md", 2, server)
    assert (tmp_path / "other.pcm").stat().st_size == pytest.approx((tmp_path / "speech.pcm").stat().st_size, abs=4)


def test_home_assistant(server: live.Live) -> None:
    pytest.importorskip("wyoming")
    assert run("wyoming.md", 0, server).startswith("['amy', 'bob']\n")

"""Every block of the server's pages runs, against a server with stand-ins for the nets: docs/clients, server, realtime and wyoming.

tests/clients.py says where clients are looked for that are no packages of this interpreter."""

from __future__ import annotations

import io
import re
import shlex
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import clients
import fakes
import live
from gpa import audio
from gpa.cli import app as cli
from gpa.server import main
from gpa.server.settings import Settings
from test_server_live import HTTP, Slow

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("server.md", "realtime.md", "wyoming.md", *sorted(f"clients/{page.name}" for page in (DOCS / "clients").glob("*.md")))
SPEECH = audio.decode(Path(__file__).parent / "data" / "speech.opus", 24_000)
SAID = "Hello there."
PRINTED = {  # of a block, where its success does not show in its status alone
    "clients/curl.md bash 0": f'"text": "{SAID}"',
    "clients/curl.md bash 1": "data: [DONE]",
    "clients/livekit.md python 0": SAID,
    "clients/livekit.md python 1": SAID,
    "clients/open-webui.md bash 0": f'"text": "{SAID}"',
    "clients/openai-javascript.md javascript 0": f"{SAID}\n",
    "clients/openai-javascript.md javascript 1": "transcript.text.done",
    "clients/openai-python.md python 0": "transcript.text.done",
    "clients/openai-python.md python 1": " bytes\n",
    "clients/openai-python.md python 2": "unknown voice 'nobody'",
    "clients/pipecat.md python 0": SAID,
    "clients/websocket.md javascript 0": '"done"',
    "realtime.md python 0": f"\n{SAID}\n",
    "realtime.md python 1": '"type": "done"',
    "realtime.md python 2": f'"text": "{SAID}"',
    "server.md python 0": "consent_not_understood",  # the fake recogniser hears something else
    "wyoming.md python 0": "['amy', 'bob'",
}
WRITTEN = {  # sounds, and what they hold at least in seconds
    "clients/curl.md bash 0": ("hello.mp3", 0.4),
    "clients/curl.md bash 1": ("swapped.wav", 1.0),
    "clients/openai-javascript.md javascript 0": ("hello.mp3", 0.4),
    "clients/openai-python.md python 0": ("story.wav", 1.0),
    "clients/sillytavern.md bash 0": ("message.mp3", 0.5),
    "realtime.md python 1": ("story.mp3", 1.0),
}


def blocks() -> Iterator[tuple[str, str, str]]:
    """Name, kind and text of each."""
    for page in PAGES:
        count = dict[str, int]()
        for kind, text in re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            number = count[kind] = count.get(kind, -1) + 1
            yield f"{page} {kind} {number}", kind, text


BLOCKS = {name: (kind, text) for name, kind, text in blocks()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    folder = tmp_path_factory.mktemp("docs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        wyoming = free.getsockname()[1]
    with live.served(fakes.model(folder / "fake"), folder / "voices", wyoming=wyoming) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the pages speak of."""
    sound = np.concatenate([SPEECH, np.zeros(24_000, np.float32)])
    (tmp_path / "speech.pcm").write_bytes(audio.encode(sound, 24_000, "pcm"))
    audio.save(tmp_path / "me.wav", SPEECH, 24_000)
    (tmp_path / "keys").write_text("a key of sixteen and more\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", BLOCKS)
def test_block(name: str, server: live.Live, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, text = BLOCKS[name]
    assert kind in KINDS, f"a block of the kind {kind!r} is run by nothing (legal: {', '.join(KINDS)})"
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    text = text.replace('"127.0.0.1", 10300', f'"127.0.0.1", {server.app.state.desk.settings.wyoming}')
    printed = KINDS[kind](text, name, monkeypatch)
    assert PRINTED.get(name, "") in printed, printed
    if name in WRITTEN:
        file, seconds = WRITTEN[name]
        assert len(audio.decode(folder / file, 24_000)) / 24_000 > seconds


def test_the_expectations_are_of_blocks_that_are_there() -> None:
    assert PRINTED.keys() | WRITTEN.keys() <= BLOCKS.keys()
    pages = (DOCS / "server.md").read_text(encoding="utf-8")
    assert all(f"({page})" in pages for page in PAGES if page.startswith("clients/")), "docs/server.md links every client's page"


def python(text: str, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for package in ("livekit.plugins.openai", "pipecat.services.openai"):
        if f" {package.partition('.')[0]}." in text:
            return clients.python(text, Path.cwd(), package)
    for package in ("openai", "websockets", "wyoming"):
        if re.search(rf"^(import|from) {package}\b", text, re.MULTILINE):
            pytest.importorskip(package)
    with redirect_stdout(io.StringIO()) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clients: an open file, websockets 17, audioop
        exec(compile(text, name, "exec"), {})
    return out.getvalue()


def console(text: str, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lines for a terminal: `gpa serve` is read to its last option, of other programs only the name."""
    for line in text.splitlines():
        words = shlex.split(line)
        if words[:2] == ["gpa", "serve"]:
            settings_of(words, monkeypatch)
        else:
            assert words[0] in ("pip", "docker") or words == ["gpa", "bench", "serve"], line
    return ""


KINDS: dict[str, Callable[[str, str, pytest.MonkeyPatch], str]] = {
    "python": python,
    "bash": lambda text, *_: clients.shell(text, Path.cwd()),
    "javascript": lambda text, *_: clients.node(text, Path.cwd()),
    "console": console,
}


def settings_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the command line asks for."""
    found: list[Settings] = []
    monkeypatch.setattr(main, "run", lambda model, settings, *_: found.append(settings))
    cli(words[1:], standalone_mode=False)
    return found[0]


def test_open_webui_hears_every_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the page's `--queue` and `--burst`; with the defaults, sentences are missing."""
    _, text = BLOCKS["clients/open-webui.md console 0"]
    advised = settings_of(shlex.split(text), monkeypatch)
    assert (advised.queue, advised.burst_seconds) == (64, 60)
    for queue, refused in ((advised.queue, False), (Settings().queue, True)):
        model = fakes.model(tmp_path / f"fake-{queue}")
        model.engine = Slow(model.engine.answer)  # type: ignore[attr-defined]
        model.engine.pause = 0.01  # type: ignore[attr-defined]
        together = threading.Barrier(40)

        def ask(url: str, number: int, together: threading.Barrier = together) -> int:
            together.wait()
            body = {"model": "tts-1", "voice": "alloy", "input": f"This is sentence {number}."}
            return int(HTTP.post(f"{url}/v1/audio/speech", json=body).status_code)

        with live.served(model, tmp_path / "voices", queue=queue) as found, ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(ask, [found.url] * 40, range(40)))
        assert set(answers) == ({200, 429} if refused else {200})

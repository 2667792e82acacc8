"""Every block of the README runs, and the docs name only what is there."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from gpa import audio, hub
from gpa.errors import CheckpointError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RATE = 16_000


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """The embedded checkpoint, else one with random weights."""
    try:
        return hub.resolve().folder
    except CheckpointError:
        return Path(request.getfixturevalue("nano_checkpoint"))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the README speaks of."""
    clip = audio.decode(hub.embedded() / "demo.opus", RATE)
    audio.save(tmp_path / "me.wav", clip, RATE)
    audio.save(tmp_path / "friend.wav", audio.as_wav(clip, RATE, RATE)[::-1].copy(), RATE)
    meeting = np.concatenate([clip, np.zeros(RATE, np.float32), clip])
    (tmp_path / "meeting.m4a").write_bytes(audio.encode(meeting, RATE, "aac"))
    (tmp_path / "story.txt").write_text("Once there was a small model.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(block: str, checkpoint: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "embedded", lambda: checkpoint)
    with redirect_stdout(io.StringIO()):
        exec(compile(block, "README.md", "exec"), {})
    if "friend.json" in block:
        assert (desk / "hello.mp3").stat().st_size > 0
        assert (desk / "friend.json").stat().st_size < 1000


@pytest.mark.skipif(sys.platform == "win32", reason="the shell of the README")
def test_shell_block_runs(checkpoint: Path, desk: Path) -> None:
    code = "import sys; from pathlib import Path; import gpa.hub; from gpa.cli import main; "
    code += f"gpa.hub.embedded = lambda: Path({str(checkpoint)!r}); main()"
    shim = f'gpa() {{ {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"; }}\n'
    (block,) = blocks("bash")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shim + block], capture_output=True, text=True, check=False, env=dict(os.environ), timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert {"hello.wav", "later.mp3", "swapped.flac", "friend.json"} <= {path.name for path in desk.iterdir()}
    assert "hello.wav: " in done.stdout
    assert '"file": "-"' in done.stdout


def test_ci_runs_the_second_command() -> None:
    (block,) = blocks("sh")
    first, second = block.splitlines()
    assert first == "pip install . && gpa demo"
    assert f"\n{second}\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


DOCS = sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", "CHANGELOG.md", "recipes/nano/README.md", *DOCS]


@pytest.mark.parametrize("page", PAGES)
def test_what_the_docs_name_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if not link.startswith("http"):
            target = (ROOT / page).parent / link if link else ROOT / page
            assert target.exists(), f"{page} links to {link}"
            assert not heading or heading in anchors(target), f"{page} links to {link}#{heading}"
    for path in re.findall(r"\b(?:src/gpa|tests|docs|recipes|\.ci)/[\w./-]*\w", text):
        assert (ROOT / path).exists(), f"{page} names {path}"


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_licence_is_the_whole_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text

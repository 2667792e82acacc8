"""The house rules that a program can see: who imports whom, the public face, sizes, and what stands nowhere else.

Two hops lead from the public call to the maths, and arrows only point downward. LEVELS is the map; docs/design.md explains it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import gpa

SRC = Path(gpa.__file__).parent

# A file may import from its own level and from those below. A folder stands for its files; the longest match counts.
LEVELS = {
    "gpa": 6,  # the face
    "gpa.__main__": 6,
    "gpa.cli": 5,
    "gpa.server": 4,
    "gpa.training": 4,
    "gpa.evaluation.run": 3,
    "gpa.data": 3,
    "gpa.convert": 3,
    "gpa.bench": 3,
    "gpa.pipeline": 2,
    "gpa.compat": 2,
    "gpa.speaking": 2,
    "gpa.listening": 2,
    "gpa.converting": 2,
    "gpa.parts": 2,
    "gpa.sounds": 2,
    "gpa.prompt": 1,
    "gpa.tokenizers": 1,
    "gpa.segment": 1,
    "gpa.stretch": 1,
    "gpa.results": 1,
    "gpa.passages": 1,
    "gpa.crowd": 1,
    "gpa.align": 1,
    "gpa.ngrams": 1,
    "gpa.voice": 1,
    "gpa.watermark": 1,
    "gpa.hub": 1,
    "gpa.evaluation": 0,  # metrics, speaker, dnsmos, judge
    "gpa.nets": 0,
    "gpa.engines": 0,
    "gpa.audio": 0,
    "gpa.vocab": 0,
    "gpa.text": 0,
    "gpa.text_en": 0,
    "gpa.text_zh": 0,
    "gpa.text_numbers": 0,
    "gpa.bounds": 0,
    "gpa.strict": 0,
    "gpa.errors": 0,
}

# Rooms that may import nothing of gpa but these (and their own folder).
ONLY = {
    "gpa.engines": {"gpa.engines", "gpa.errors"},  # an engine sees no text, no audio, no vocabulary
    "gpa.tokenizers": {"gpa.tokenizers", "gpa.nets.net", "gpa.audio", "gpa.errors", "gpa.strict"},  # a tokenizer sees no ids
    "gpa.segment": {"gpa.audio", "gpa.nets.net", "gpa.errors"},
    "gpa.prompt": {"gpa.engines.base", "gpa.vocab", "gpa.errors"},
    "gpa.vocab": {"gpa.errors"},
    "gpa.audio": {"gpa.audio", "gpa.errors"},
    "gpa.text": {"gpa.text_en", "gpa.text_zh", "gpa.text_numbers", "gpa.errors"},
    "gpa.errors": set(),
}

# Running the model needs no torch: of what `gpa.pipeline` can reach, only these may name it.
TORCH_ROOMS = {"gpa.engines.transformers", "gpa.engines.vllm", "gpa.nets", "gpa.training"}
TORCH_FREE = {"gpa.nets.net", "gpa.nets.export_lm", "gpa.nets.compress", "gpa.nets.weights"}  # at import

MAX_FILE, MAX_FUNCTION = 400, 60  # lines
TABLES = {"gpa.text_en._rules"}  # functions that are tables, one row a rule: they may be longer
WAVE = {"gpa.data.teachers"}  # reads the samples that flite prints
PICKLES = {"gpa.evaluation.speaker", "gpa.nets.folders"}  # published weights, read as tensors only; and training states


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module."""
    names = {}
    for path in sorted(SRC.rglob("*.py")):
        parts = ["gpa", *path.relative_to(SRC).with_suffix("").parts]
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()
BUSY = {name: path for name, path in MODULES.items() if path.stat().st_size}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(name: str) -> set[str]:
    """Every module imported anywhere in a file, in functions and for types too, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = whole & MODULES.keys()
            found |= inner
            if inner != whole:
                found.add(str(node.module))
    return found


def ours(name: str) -> set[str]:
    return {found for found in imports(name) if found == "gpa" or found.startswith("gpa.")}


def longest(name: str, table: dict[str, int] | dict[str, set[str]] | set[str]) -> str | None:
    """The entry of `table` that is `name` or the folder it lies in."""
    parts = name.split(".")
    return next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in table), None)


def level(name: str) -> int:
    entry = longest(name, LEVELS)
    assert entry is not None
    assert name == "gpa" or entry != "gpa", f"{name} stands on no level: give it one in LEVELS"
    return LEVELS[entry]


@pytest.mark.parametrize("name", BUSY)
def test_imports_point_downward(name: str) -> None:
    upward = {other for other in ours(name) - {"gpa"} if level(other) > level(name)}
    assert not upward, f"{name} (level {level(name)}) imports from above: {upward}"
    face_users = ("gpa", "gpa.cli", "gpa.server")  # whoever else asks the face for anything looks upward
    assert "gpa" not in ours(name) or name.startswith(face_users[1:]), f"{name} imports the face"


@pytest.mark.parametrize("name", [name for name in BUSY if longest(name, ONLY)])
def test_rooms_that_know_little(name: str) -> None:
    legal = ONLY[str(longest(name, ONLY))]
    beyond = {other for other in ours(name) if longest(other, legal) is None}
    assert not beyond, f"{name} may import {sorted(legal)}, found {beyond}"


def test_torch_nets_are_for_training_export_and_torch_engines() -> None:
    for name in BUSY:
        if not name.startswith(("gpa.nets", "gpa.training", "gpa.convert", "gpa.cli.dev", "gpa.engines.transformers", "gpa.engines.vllm")):
            nets = {other for other in ours(name) if other.startswith("gpa.nets.")} - {"gpa.nets.net"}
            assert not nets, f"{name} imports {nets}: running needs no torch, gpa.nets.net is the door"


def reachable(start: str) -> set[str]:
    found, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name in MODULES and name not in found:
            found.add(name)
            todo += ours(name)
    return found


def test_running_names_no_torch() -> None:
    for name in reachable("gpa.pipeline"):
        if longest(name, TORCH_ROOMS) is None or name == "gpa.nets.net":
            at_import = {alias for node in tree(name).body for alias in ast.walk(node) if isinstance(alias, (ast.Import, ast.ImportFrom))}
            top = {node for node in tree(name).body if node in at_import}
            heavy = [ast.unparse(node) for node in top if re.search(r"\b(torch|transformers|onnx)\b", ast.unparse(node))]
            assert not heavy, f"{name} imports {heavy} when imported"


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_the_face_costs_nothing() -> None:
    assert not {"numpy", "av", "tokenizers", "openvino", "torch", "typer"} & loaded_by("import gpa")


def test_the_pipeline_loads_no_torch_and_no_runtime() -> None:
    assert not {"torch", "transformers", "onnx", "huggingface_hub", "openvino"} & loaded_by("import gpa.pipeline")


def test_openvino_reports_to_nobody() -> None:
    found = loaded_by("import gpa; import openvino; found = sys.modules.get('openvino_telemetry'); assert found is None")
    assert "openvino" in found
    assert not {"multiprocessing.process", "urllib.request", "http.client"} & found


def test_the_cli_loads_no_numbers_before_a_verb() -> None:
    assert not {"numpy", "rich", "gpa.pipeline"} & loaded_by("import gpa.cli")


def test_the_public_face() -> None:
    assert sorted(gpa.__all__) == ["GPA", "GPAError", "Sampling", "Speech", "Transcript", "Voice", "__version__", "load"]
    assert dir(gpa) == sorted(gpa.__all__)
    for name in gpa.__all__:
        assert getattr(gpa, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gpa.nothing
    assert (SRC / "py.typed").is_file()


@pytest.mark.parametrize("name", BUSY)
def test_sizes(name: str) -> None:
    lines = MODULES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE, f"{name} has {lines} lines (legal: {MAX_FILE})"
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and f"{name}.{node.name}" not in TABLES:
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            assert size <= MAX_FUNCTION, f"{name}.{node.name} has {size} lines (legal: {MAX_FUNCTION})"


def test_one_folder_level_and_no_drawers() -> None:
    for name, path in MODULES.items():
        assert len(path.relative_to(SRC).parts) <= 2, f"{name} lies deeper than one folder"
        assert path.stem not in ("utils", "util", "common", "helpers", "misc"), f"{name}: name it after what it holds"


@pytest.mark.parametrize("name", BUSY)
def test_what_stands_nowhere(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name}:{node.lineno}: bare except"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec"), f"{name}:{node.lineno}: {node.func.id}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("sys", "path"), f"{name}:{node.lineno}: sys.path"
    if name not in ("gpa.vocab", "gpa.prompt"):
        assert not re.search(r"<\|[a-z_0-9]+\|>", text), f"{name}: special tokens are written in gpa.vocab and gpa.prompt alone"
    if name != "gpa.vocab":  # the published offsets and sizes of the vocabulary; they are read from the tokenizer
        assert not re.search(r"\b(1516\d\d|151_6\d\d|1517\d\d|168_?11\d|172_?20\d|180_?445)\b", text), f"{name}: a vocabulary number"


def test_only_audio_opens_audio_and_only_hub_asks_the_network() -> None:
    for name in BUSY:
        found = imports(name)
        if longest(name, {"gpa.audio"}) is None:
            opened = {"av", "soundfile", "wave"} & {other.split(".")[0] for other in found}
            assert not opened or name in WAVE, f"{name} opens audio with {opened}"
        if name != "gpa.hub":
            network = {"huggingface_hub", "urllib", "requests", "httpx", "socket"} & {other.split(".")[0] for other in found}
            assert not network or name.startswith("gpa.server"), f"{name} uses the network: {network}"


def test_no_pickle_is_opened_but_by_training() -> None:
    for name in BUSY:
        assert "pickle" not in imports(name), name
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                place = f"{name}:{node.lineno}"
                assert name.startswith("gpa.training") or name in PICKLES, f"{place}: a checkpoint is safetensors, onnx or gguf"
                assert any(key.arg == "weights_only" for key in node.keywords), f"{place}: torch.load of any object"

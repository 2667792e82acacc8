"""The command's help as a page: `python docs/write_cli.py` writes docs/cli.md. A test compares the two.

It reads the verbs' signatures, not the help text, whose layout changes with typer's version and the terminal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from gpa.cli import app

HEAD = """# The command `gpa`

Written by `python docs/write_cli.py` from the program's own help; do not edit.

Results go to stdout; progress and errors go to stderr. `-` stands for standard input or output. Exit codes: 0 done, 1 an
error (one line says which), 2 wrong usage, 130 interrupted, 141 the reader of the pipe is gone.
Shell completion: `gpa --install-completion`. Version: `gpa --version`.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(sections("gpa", app))


def sections(name: str, group: typer.Typer) -> Iterator[str]:
    """The verbs of a group, then those of its groups."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield section(f"{name} {command.name}", command.callback)
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from sections(f"{name} {inner.name}", inner.typer_instance)


def section(name: str, verb: Callable[..., Any]) -> str:
    """One verb: what it does, its arguments, its options."""
    hints = get_type_hints(verb, include_extras=True)
    rows, usage = [], [name]
    for parameter in inspect.signature(verb).parameters.values():
        hint = hints[parameter.name]
        assert get_origin(hint) is Annotated
        kind, info = get_args(hint)
        required = parameter.default is inspect.Parameter.empty
        names = ", ".join(flags := _flags(info) or [f"--{parameter.name.replace('_', '-')}"])  # typer's own choice
        if isinstance(info, typer.models.ArgumentInfo):
            names = parameter.name.upper()
            usage.append(f"{names} ..." if get_origin(kind) is list else names)
        elif required:
            usage.append(f"{flags[0]} {parameter.name.upper()}")
        rows.append(f"- `{names}`: {info.help}{_legal(kind)}{'' if required else _usual(parameter.default)}\n")
    return f"\n## {' '.join(usage)}\n\n{inspect.getdoc(verb)}\n\n{''.join(rows)}"


def _flags(info: Any) -> list[str]:
    """-o, --out. Inside Annotated, typer keeps the first of them as the default."""
    return [flag for flag in (*reversed(info.param_decls or ()), info.default) if isinstance(flag, str) and flag.startswith("-")]


def _legal(kind: Any) -> str:
    return f" One of {', '.join(item.value for item in kind)}." if isinstance(kind, type) and issubclass(kind, Enum) else ""


def _usual(default: Any) -> str:
    default = default.value if isinstance(default, Enum) else default
    return "" if default in (None, "", False) else f" Default: {'on' if default is True else default}."


if __name__ == "__main__":
    (Path(__file__).parent / "cli.md").write_text(page(), encoding="utf-8")

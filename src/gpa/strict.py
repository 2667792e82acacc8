"""JSON objects of our own formats -> frozen dataclasses, refusing what they do not know.

A typing mistake in a file is an error with the file's name, what was found and what is legal, never a silent default.
For files that others publish, read the keys you need instead.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from gpa.errors import GPAError

T = TypeVar("T")


def load(cls: type[T], path: Path, error: type[GPAError] = GPAError) -> T:
    """Read a JSON file as the dataclass `cls`. Raises `error`."""
    return parse(cls, load_json(path, error), str(path), error)


def load_json(path: Path, error: type[GPAError] = GPAError) -> dict[str, Any]:
    """Read a JSON object of any keys. Raises `error`: missing, unreadable, no JSON object."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror or reason}") from reason
    except (ValueError, RecursionError) as reason:
        raise error(f"{path} is damaged: {reason}") from reason
    if not isinstance(raw, dict):
        raise error(f"{path} holds a {type(raw).__name__} (legal: a JSON object)")
    return raw


def parse(cls: type[T], raw: Any, where: str, error: type[GPAError] = GPAError) -> T:
    """A parsed JSON object -> `cls`; `where` names it in messages. Raises `error`: unknown or missing keys, wrong types."""
    if not isinstance(raw, Mapping):
        raise error(f"{where}: found a {type(raw).__name__} (legal: an object)")
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]  # a dataclass, by contract
    unknown = sorted(set(raw) - set(known))
    missing = [name for name, field in known.items() if name not in raw and field.default is MISSING and field.default_factory is MISSING]
    if unknown or missing:
        raise error(f"{where}: unknown keys {unknown}, missing keys {missing} (legal: {', '.join(known)})")
    values = {name: _value(hints[name], value, f"{where}: {name}", error) for name, value in raw.items()}
    try:
        return cls(**values)
    except ValueError as reason:  # the dataclass's own check
        raise error(f"{where}: {reason}") from reason


def _value(hint: Any, value: Any, where: str, error: type[GPAError]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # X | None is the only union of our formats
        return None if value is None else _value(next(arg for arg in args if arg is not type(None)), value, where, error)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(args[0], item, f"{where}[{i}]", error) for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _value(args[1], item, f"{where}.{key}", error) for key, item in value.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return parse(hint, value, where, error)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = "list" if origin is tuple else getattr(origin or hint, "__name__", str(hint))
    raise error(f"{where} is {value!r} (legal: {name})")

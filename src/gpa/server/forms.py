"""Multipart forms as OpenAI's clients write them: arrays as `name[]`, objects as `name[key]`, booleans as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from gpa.server.failures import Refusal

MAX_FILES, MAX_FIELDS, MAX_FIELD = 4, 100, 64 << 10  # of one form; the last in bytes
_NAME = re.compile(r"(\w{1,64})(?:\[(\w{0,64})\])?")

Model = TypeVar("Model", bound=BaseModel)


async def read(request: Request, model: type[Model], file: str) -> tuple[Model, bytes]:
    """A form as a model and the bytes of its file. Raises Refusal, RequestValidationError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refusal(400, f"found a body of type {kind[:80]!r} (legal: multipart/form-data)", code="invalid_content_type")
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD) as form:
        upload = form.get(file)
        if not isinstance(upload, UploadFile):
            raise Refusal(400, f"{file} is missing: the sound, as a file of the form", file, "missing")
        texts = ((name, value) for name, value in form.multi_items() if isinstance(value, str))
        found = parse(model, fields(texts))
        return found, await upload.read()


def parse(model: type[Model], values: dict[str, Any]) -> Model:
    """Raises RequestValidationError, which is answered as every other bad request."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error


def fields(items: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """(name, text) pairs -> values. `a[]` and `a[0]` are lists, `a[b]` objects; a name that comes twice is a list, too.

    Where kinds mix under one name the later one counts. Names of any other form are left out."""
    values: dict[str, Any] = {}
    for name, text in items:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        key, inner = match.groups()
        old = values.get(key)
        if inner is None:
            values[key] = [*old, text] if isinstance(old, list) else [old, text] if isinstance(old, str) else text
        elif inner == "" or inner.isdecimal():
            values[key] = [*old, text] if isinstance(old, list) else [text]
        else:
            values[key] = {**old, inner: text} if isinstance(old, dict) else {inner: text}
    return values


def listed(value: Any) -> Any:
    """A single text where a list is meant, as some clients send it: a JSON list, or one entry."""
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
        return found if isinstance(found, list) else [value]
    return value

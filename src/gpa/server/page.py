"""GET /: the page. One file, sent under a policy that lets run what stands in it, lets it ask this server, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

router = APIRouter()

# The player and the microphone are an AudioWorklet, which a page without further files can only load from a Blob URL.
_POLICY = (
    "default-src 'none'; script-src {script} blob:; style-src {style}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page(request: Request) -> Response:
    """The page, or 304 where the browser has it."""
    body, headers = _page()
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(None, 304, headers)
    return Response(body, 200, headers, "text/html")


@cache
def _page() -> tuple[bytes, dict[str, str]]:
    """The file and its headers."""
    body = (files("gpa.server") / "static" / "index.html").read_bytes()
    return (
        body,
        {
            "content-security-policy": policy(body.decode()),
            "permissions-policy": "microphone=(self), camera=(), geolocation=()",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cache-control": "no-cache",  # asks each time whether it has changed
            "etag": f'"{hashlib.sha256(body).hexdigest()[:24]}"',
        },
    )


def policy(html: str) -> str:
    """The content security policy of a page: its one script and its one style by their SHA-256."""
    script, style = (_hash(html, tag) for tag in ("script", "style"))
    return _POLICY.format(script=script, style=style)


def _hash(html: str, tag: str) -> str:
    (text,) = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

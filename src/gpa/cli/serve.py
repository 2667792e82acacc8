"""gpa serve: the model behind HTTP, as OpenAI's clients speak to it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from gpa.cli.options import EngineName
from gpa.errors import GPAError, MissingExtra

_LATER = {"websockets": ("websockets",), "python-multipart": ("python_multipart", "multipart")}  # missed by nobody before a request


def serve(
    model: Annotated[str, typer.Option("--model", "-m", help="nano, a checkpoint folder, or a published id.")] = "nano",
    engine: EngineName = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, or (transformers only) any device of torch, such as cuda.")] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of HTTP and WebSockets; 0 takes a free one.")] = 8000,
    wyoming: Annotated[
        int | None, typer.Option("--wyoming", min=1, max=65535, help="Port of the Wyoming protocol, usually 10300; default: off.")
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File of API keys or their SHA-256, one a line; default: none asked.")] = None,
    cors: Annotated[list[str] | None, typer.Option(help="Origin whose pages may call (https://example.org); repeat for more.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at the model at once.")] = 4,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; the next one is refused with 429.")] = 16,
    burst: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which a line that stands is overload: from then on one request a slot may wait.")
    ] = 5.0,
    per_key: Annotated[int, typer.Option(min=0, help="Requests of one key or address at once; 0: no limit.")] = 0,
    sockets: Annotated[int, typer.Option(min=1, help="WebSockets open at once, and as many connections of Wyoming.")] = 64,
    sockets_per_key: Annotated[int, typer.Option(min=0, help="Of them, of one key or address; 0: no limit.")] = 16,
    max_mb: Annotated[int, typer.Option(min=1, help="Size of a request, in MiB.")] = 25,
    max_text: Annotated[int, typer.Option(min=1, help="Characters of a text to be spoken.")] = 4096,
    max_seconds: Annotated[float, typer.Option(min=1, help="Length of a sound that comes in.")] = 600,
    voices: Annotated[Path | None, typer.Option(help="Folder of the voices that clients make.")] = None,
    consent: Annotated[
        bool | None, typer.Option("--consent/--no-consent", help="Ask for a spoken phrase before a voice is made; default: off loopback.")
    ] = None,
    watermark: Annotated[bool, typer.Option("--watermark/--no-watermark", help="Mark what is made, so that gpa detect finds it.")] = True,
) -> None:
    """Serve the model over HTTP: OpenAI's audio API, and a page at /."""
    try:
        from gpa.server import main, settings
    except ImportError as error:
        raise MissingExtra(error.name or "fastapi", "server") from error
    for package, modules in _LATER.items():
        if not any(map(find_spec, modules)):
            raise MissingExtra(package, "server")
    found = settings.Settings(
        host=host,
        port=port,
        wyoming=wyoming,
        key_hashes=_keys(api_key_file),
        cors=tuple(cors or ()),
        concurrency=concurrency,
        queue=queue,
        burst_seconds=burst,
        per_key=per_key,
        sockets=sockets,
        sockets_per_key=sockets_per_key,
        max_body=max_mb << 20,
        max_text=max_text,
        max_seconds=max_seconds,
        voices=voices or settings.voices_folder(),
        consent=consent,
        watermark=watermark,
    )
    main.run(model, found, engine, device)


def _keys(path: Path | None) -> frozenset[str]:
    """Hashes of the keys in a file: a line is a key, or already the SHA-256 of one in hexadecimal. Raises GPAError."""
    if path is None:
        return frozenset()
    from gpa.server.access import read_keys

    try:
        keys = read_keys(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise GPAError(f"{path} cannot be read: {error}") from error
    if not keys:
        raise GPAError(f"{path} holds no key (legal: one a line, of 16 characters and more)")
    return keys

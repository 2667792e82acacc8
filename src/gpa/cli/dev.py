"""gpa dev: what those who work on gpa need."""

from __future__ import annotations

from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from gpa.cli.options import note
from gpa.errors import MissingExtra


class Size(str, Enum):
    """Of a made-up checkpoint."""

    tiny = "tiny"
    full = "full"


def fake_checkpoint(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    size: Annotated[Size, typer.Option("--size", help="tiny, or full: the published 0.3B, 4 GB on disk.")] = Size.tiny,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same weights.")] = 0,
) -> None:
    """Write a checkpoint of random weights in the published layout: it speaks noise, and loads like a real one. Needs gpa[train]."""
    if find_spec("torch") is None:
        raise MissingExtra("torch", "train")
    from gpa.nets.fake_published import write_published_checkpoint

    vocab = write_published_checkpoint(out, size.value, seed)
    megabytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    note(f"{out}: {vocab.size} ids, {megabytes:.0f} MB; next, gpa convert {out}")

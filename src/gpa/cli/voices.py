"""gpa voice create | list | info, and gpa info: what there is to speak with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gpa.cli.options import Checkpoint, EngineName, Json, note, open_model, print_json, sound_from


def create(
    clip: Annotated[str, typer.Argument(help="3 to 10 seconds of one person speaking; - reads standard input.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Voice file to write (.json).")],
    name: Annotated[str, typer.Option("--name", help="Name inside the file; default: the name of the file.")] = "",
    checkpoint: Checkpoint = "nano",
    engine: EngineName = "auto",
) -> None:
    """Make a voice file from a clip, to be used with --voice."""
    from dataclasses import replace

    with sound_from(clip) as sound, open_model(checkpoint, engine) as model:
        replace(model.voice(sound), name=name or out.stem).save(out)
    note(f"{out}: use it with --voice {out}")


def list_(checkpoint: Checkpoint = "nano", json: Json = False) -> None:
    """List the voices of a checkpoint."""
    from gpa.hub import resolve

    found = resolve(checkpoint)
    if json:
        print_json({"voices": list(found.voices), "default": found.default_voice})
        return
    for name in found.voices:
        typer.echo(f"{name} (default)" if name == found.default_voice else name)


def describe(
    voice: Annotated[str, typer.Argument(help="Name of a voice, or a voice file.")], checkpoint: Checkpoint = "nano", json: Json = False
) -> None:
    """Show what is in a voice."""
    from gpa.hub import resolve
    from gpa.voice import Voice

    shipped = resolve(checkpoint).voices.get(voice)
    found = Voice.load(shipped or voice)
    if json:
        print_json(asdict(found))
        return
    facts = {"name": found.name, "file": shipped or voice, "codebook": found.codebook_size, "codes": " ".join(map(str, found.codes))}
    facts |= {"tone": " ".join(map(str, found.tone)) or "none", "pitch": f"{found.pitch:+d} cents"}
    for key, value in facts.items():
        typer.echo(f"{key:10}{value}")


def info(checkpoint: Checkpoint = "nano", json: Json = False) -> None:
    """Show a checkpoint: size, voices, licence, training sources, scores."""
    from gpa.hub import resolve

    found = resolve(checkpoint)
    size = sum(path.stat().st_size for path in found.folder.rglob("*") if path.is_file())
    facts: dict[str, Any] = {"name": found.name, "folder": str(found.folder), "megabytes": round(size / 1e6, 1)}
    facts |= {key: found.config.get(key) for key in ("vocab_size", "hidden_size", "num_hidden_layers")}
    facts |= {"voices": list(found.voices), "default_voice": found.default_voice}
    card = asdict(found.card) if found.card else {}
    if json:
        print_json({**facts, "card": card or None})
        return
    scores, sources = card.pop("scores", ()), card.pop("sources", ())
    for key, value in {**card, **facts}.items():
        typer.echo(f"{key:18} {', '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}")
    for source in sources:
        typer.echo(f"trained on         {source['hours']:.2f} h of {source['source']} ({source['license']}) {source['attribution']}")
    for score in scores:
        typer.echo(f"measured           {score['task']} {score['set']} {score['metric']} {score['value']:.4g}")

"""gpa eval: a checkpoint and test sets in, one report out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from gpa.cli.options import Checkpoint, EngineName, note, open_model
from gpa.errors import GPAError

if TYPE_CHECKING:
    from gpa.audio import Wav
    from gpa.evaluation.run import Clip, Judges
    from gpa.pipeline import GPA


def evaluate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Report to write (.json).")],
    clips: Annotated[list[str] | None, typer.Option("--clips", help="NAME=MANIFEST to test codec, asr and vc on; repeatable.")] = None,
    text: Annotated[Path | None, typer.Option("--text", "-t", help="Sentences to speak, one a line.")] = None,
    voices: Annotated[str, typer.Option("--voices", help="Voices to speak them in, separated by commas; default: the default voice.")] = "",
    strangers: Annotated[
        list[str] | None,
        typer.Option("--strangers", help="NAME=MANIFEST of clips in whose voices --text is spoken, each one sentence; repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=2, help="Most clips of a set, and most sentences.")] = 100,
    similarity: Annotated[bool, typer.Option("--similarity/--no-similarity", help="Judge voices (needs resemblyzer and torch).")] = True,
    dnsmos: Annotated[bool, typer.Option("--dnsmos/--no-dnsmos", help="Judge how good it sounds.")] = True,
    packed: Annotated[bool, typer.Option("--packed/--one-by-one", help="Several utterances in a window of the judge: faster.")] = True,
    cache: Annotated[Path, typer.Option("--cache", help="Folder for the judge's joined weights.")] = Path("~/.cache/gpa"),
    checkpoint: Checkpoint = "nano",
    engine: EngineName = "auto",
) -> None:
    """Measure a checkpoint: word errors, similarity, quality, each beside what the judges say of the untouched clips. Needs gpa[eval]."""
    from gpa.data.manifest import read_list
    from gpa.evaluation import run

    if strangers and text is None:
        raise typer.BadParameter("--strangers have nothing to say: give --text FILE")
    if not clips and text is None:
        raise typer.BadParameter("nothing to measure: give --clips NAME=MANIFEST, --text FILE or both")
    judges = _judges(cache.expanduser(), similarity, dnsmos, packed)
    sets = dict(_clips("--clips", named, limit) for named in clips or ())
    unseen = dict(_clips("--strangers", named, limit) for named in strangers or ())
    sentences = read_list(text)[:limit] if text is not None else []
    with open_model(checkpoint, engine) as model:
        asked = voices.split(",") if voices or not unseen else []
        names = [model.voice(name or None).name for name in asked] if sentences else []
        tasks = run.tasks_of(cast("run.Model", model), _reconstruct(model))  # its arguments have other names
        report = run.evaluate(model.checkpoint.name, tasks, judges, sets, sentences, dict.fromkeys(names), unseen)
    report.save(out)
    typer.echo(report.table())
    note(f"{out}: written")


def _judges(cache: Path, similarity: bool, dnsmos: bool, packed: bool) -> Judges:
    from gpa.evaluation.dnsmos import Dnsmos
    from gpa.evaluation.judge import Judge
    from gpa.evaluation.run import Judges
    from gpa.evaluation.speaker import SpeakerEncoder

    return Judges(Judge(cache), SpeakerEncoder() if similarity else None, Dnsmos() if dnsmos else None, packed)


def _clips(option: str, named: str, limit: int) -> tuple[str, Sequence[Clip]]:
    """NAME=MANIFEST -> its name and at most `limit` of its rows, evenly spread. Raises GPAError."""
    from gpa.data import manifest
    from gpa.evaluation.run import SAMPLE_RATE, Clip

    name, _, place = named.partition("=")
    path = Path(place)
    if not place or not path.exists():
        raise GPAError(f"{option} {named} (legal: NAME=MANIFEST, an existing .jsonl file or a folder of them)")
    rows = manifest.read(path)
    rows = [rows[i * len(rows) // limit] for i in range(limit)] if len(rows) > limit else rows
    root = path if path.is_dir() else path.parent
    return name, [Clip(manifest.load_wav(row, root, SAMPLE_RATE), row.text, row.speaker) for row in rows]


def _reconstruct(model: GPA) -> Callable[[Wav], Wav]:
    """Through the codec and back, in the clip's own voice."""

    def reconstruct(wav: Wav) -> Wav:
        codes, voice = model.semantic_codes(wav), model.bicodec.voice(wav)
        return model.bicodec.decode(codes, voice, fit=model.bicodec.fit(wav, codes, voice))

    return reconstruct

"""gpa data | train | convert: from text and recordings to a checkpoint. recipes/nano shows them in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from gpa.cli.options import note
from gpa.errors import MissingExtra

Work: TypeAlias = Annotated[Path, typer.Option("--work", "-w", help="Folder that the paths in the recipe start from.")]
Job: TypeAlias = Annotated[Path, typer.Argument(help="Recipe file (.yaml); recipes/nano holds those of the embedded checkpoint.")]
OutFolder: TypeAlias = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")]
Packs: TypeAlias = Annotated[list[Path], typer.Argument(help="Manifests of packs (NAME.jsonl beside NAME.pcm).")]


class Part(str, Enum):
    """The two tokenizers."""

    codec = "codec"
    linguistic = "linguistic"


class Stored(str, Enum):
    """How weights are stored in an export."""

    f32 = "f32"
    f16 = "f16"
    int8 = "int8"


class StoredLM(str, Enum):
    """How the language model's weights are stored in an export."""

    f32 = "f32"
    f16 = "f16"
    int8 = "int8"
    int4 = "int4"


class ComputedIn(str, Enum):
    """What a wave generator is run in."""

    f32 = "f32"
    bf16 = "bf16"


class Exported(str, Enum):
    """The engines that run from an export."""

    openvino = "openvino"
    llama = "llama"


def convert(
    folder: Annotated[str, typer.Argument(help="Checkpoint folder with weights, as published; or a published id.")],
    out: Annotated[Path | None, typer.Argument(help="Folder to write, which then runs by itself; default: beside the weights.")] = None,
    lm: Annotated[StoredLM, typer.Option("--lm", help="Stored weights of the language model.")] = StoredLM.int8,
    nets: Annotated[Stored, typer.Option("--nets", help="Stored weights of the tokenizers.")] = Stored.f16,
    engine: Annotated[Exported, typer.Option("--engine", help="What shall run the language model; llama writes GGUF.")] = Exported.openvino,
    decoder: Annotated[
        ComputedIn, typer.Option("--decoder", help="What published codecs decode speech in; bf16 is faster on processors that have it.")
    ] = ComputedIn.f32,
) -> None:
    """Write what a checkpoint runs from: ONNX for the tokenizers, OpenVINO IR or GGUF for the language model. Needs gpa[train].

    Prints of each net how close its export comes to torch, its size and its speed."""
    from gpa.bench.engines import once
    from gpa.convert import convert as export

    for written in export(folder, out, lm.value, nets.value, engine.value, decoder=decoder.value):
        typer.echo(written)
    note(once(written.path, engine.value))


def synth(
    out: OutFolder,
    text: Annotated[Path, typer.Option("--text", "-t", help="Sentences, one a line; .gz is read too. The last 1000 are never used.")],
    kind: Annotated[str, typer.Option("--kind", help="pair (each sentence in two voices), heart, joe, flite-rms ...")] = "pair",
    packs: Annotated[int, typer.Option("--packs", min=1, help="How many packs.")] = 1,
    first: Annotated[int, typer.Option("--first", min=0, help="Number of the first pack.")] = 0,
    size: Annotated[int, typer.Option("--size", min=1, help="Sentences in a pack.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same packs.")] = 1,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
) -> None:
    """Let teachers speak sentences: packs of training speech. Goes on where it was stopped. Needs gpa[data]."""
    from gpa.data.synth import Job as Packing
    from gpa.data.synth import synthesise_with_progress, training_sentences

    job = Packing(kind, seed, first, packs, size)
    for pack in synthesise_with_progress(out, training_sentences(text), job, workers):
        typer.echo(f"{pack.path} {pack.utterances} utterances, {pack.hours:.2f} h, {pack.skipped} skipped")


def render(
    out: OutFolder,
    text: Annotated[Path, typer.Option("--text", "-t", help="Sentences, one a line.")],
    voices: Annotated[str, typer.Option("--voices", help="Teachers, separated by commas; default: those of the nano recipe.")] = "",
) -> None:
    """Let teachers speak the sentences of a test. Needs gpa[data]."""
    from gpa.data.manifest import read_list
    from gpa.data.synth import TEST_VOICES, render_test_set

    rows = render_test_set(out, read_list(text), voices.split(",") if voices else TEST_VOICES)
    typer.echo(f"{out} {len(rows)} utterances")


def pack(
    manifest: Annotated[Path, typer.Argument(help="Manifest of recordings (.jsonl), or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Pack to write: OUT.pcm and OUT.jsonl.")],
    without: Annotated[Path | None, typer.Option("--without", help="List of speakers to leave out.")] = None,
    only: Annotated[Path | None, typer.Option("--only", help="List of speakers to take.")] = None,
    not_license: Annotated[str, typer.Option("--not-license", help="Leave out rows whose licence contains this.")] = "",
) -> None:
    """Bring recordings to one level, rate and file, for training."""
    from gpa.data import manifest as manifests
    from gpa.data.pack import write_pack

    rows = manifests.read(manifest)
    if without is not None:
        rows, _ = manifests.split(rows, manifests.read_list(without))
    if only is not None:
        _, rows = manifests.split(rows, manifests.read_list(only))
    rows = [row for row in rows if not not_license or not_license not in row.license]
    out.parent.mkdir(parents=True, exist_ok=True)
    written = write_pack(rows, manifest if manifest.is_dir() else manifest.parent, out)
    typer.echo(f"{out}.jsonl {len(written)} utterances")


def disturb(
    manifest: Annotated[Path, typer.Argument(help="Manifest of speech (.jsonl), or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Pack to write: OUT.pcm and OUT.jsonl.")],
    count: Annotated[int | None, typer.Option("--count", min=1, help="How many rows to draw; default: all.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same pack.")] = 0,
) -> None:
    """Let speech be heard badly: noise, rooms, telephones, lossy files. Training listens to such rows and never speaks them."""
    from gpa.data.disturb import write_disturbed

    typer.echo(f"{out}.jsonl {len(write_disturbed(manifest, out, count, seed))} utterances")


def shift(
    manifest: Annotated[Path, typer.Argument(help="Manifest of speech (.jsonl), or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Pack to write: OUT.pcm and OUT.jsonl.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same second voices.")] = 0,
) -> None:
    """Say everything in a second voice too: pitch and formants moved, timing kept. Pairs, from which conversion is learned."""
    from gpa.data.shift import write_shifted

    typer.echo(f"{out}.jsonl {len(write_shifted(manifest, out, seed))} utterances")


def noise(
    out: Annotated[Path, typer.Option("--out", "-o", help="Pack to write: OUT.pcm and OUT.jsonl.")],
    count: Annotated[int, typer.Option("--count", min=1, help="How many rows.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same pack.")] = 0,
    babble: Annotated[Path | None, typer.Option("--babble", help="Manifest of speech whose voices make a crowd too.")] = None,
) -> None:
    """Make sound in which nothing is said: silence, noise, hum, beeps, clicks, music. Training answers it with no text."""
    from gpa.data import manifest as manifests
    from gpa.data.noise import Crowd, write_noise

    crowd = Crowd(manifests.read(babble), babble if babble.is_dir() else babble.parent) if babble else None
    typer.echo(f"{out}.jsonl {len(write_noise(out, count, seed, crowd))} utterances")


def ngrams(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write (.npz).")],
    text: Annotated[Path, typer.Option("--text", "-t", help="Sentences, one a line; .gz is read too. The last 1000 are never used.")],
    without: Annotated[list[Path] | None, typer.Option("--without", help="Tests: sentences (.txt) or manifests; can be repeated.")] = None,
) -> None:
    """Count which words follow each other: what is likely to be said. Sentences that share five words in a row with a test are left out."""
    from gpa.data.ngrams import apart, count, test_sentences
    from gpa.data.synth import training_sentences

    tests = [sentence for path in without or () for sentence in test_sentences(path)]
    sentences = training_sentences(text)
    kept = apart(sentences, tests)
    counts = count(kept)
    out.parent.mkdir(parents=True, exist_ok=True)
    counts.save(out)
    found = f"{len(counts.words)} words, {len(counts.pair)} pairs, {len(counts.triple)} triples"
    typer.echo(f"{out} {found} of {len(kept)} sentences; {len(sentences) - len(kept)} left out")


def features(
    packs: Packs,
    codec: Annotated[Path, typer.Option("--codec", help="Configuration of the codec (.yaml).")],
    glm: Annotated[Path, typer.Option("--glm", help="Configuration of the linguistic tokenizer (.json).")],
) -> None:
    """Write speech features and pitch beside packs, for tokenizer training. Needs gpa[train,data]."""
    _require_torch()
    from gpa.training.jobs import prepare_features

    for done in prepare_features(codec, glm, packs):
        typer.echo(done)


def tokenize(
    packs: Packs,
    codec: Annotated[Path, typer.Option("--codec", help="Recipe of the trained codec.")],
    glm: Annotated[Path, typer.Option("--glm", help="Recipe of the trained linguistic tokenizer.")],
    work: Work,
    out: OutFolder,
) -> None:
    """Turn packs into shards of codes, for training the language model. Needs gpa[train,data]."""
    _require_torch()
    from gpa.training.jobs import tokenise

    for shard, count in tokenise(codec, glm, work, packs, out):
        typer.echo(f"{shard} {count} utterances")


def tokenizer(
    part: Annotated[Part, typer.Argument(help="Which of the two tokenizers.")],
    job: Job,
    work: Work,
) -> None:
    """Train a tokenizer; resumes where it was stopped. Several processes: torchrun -m gpa train tokenizer ..."""
    _require_torch()
    from gpa.training import jobs

    _report((jobs.train_codec if part is Part.codec else jobs.train_linguistic)(job, work))


def verifier(job: Job, work: Work) -> None:
    """Train a net that tells speakers apart, for recipe.identity of the codec; resumes where it was stopped."""
    _require_torch()
    from gpa.training import jobs

    _report(jobs.train_verifier(job, work))


def lm(job: Job, work: Work) -> None:
    """Train the language model; resumes where it was stopped. Several processes: torchrun -m gpa train lm ..."""
    _require_torch()
    from gpa.training import jobs

    _report(jobs.train_lm(job, work))


def assemble(
    job: Job,
    work: Work,
    out: OutFolder,
    recipe: Annotated[str, typer.Option("--recipe", help="Commit of the recipe, for the card.")] = "",
) -> None:
    """Put trained parts together to a checkpoint with voices and card; then run gpa convert on it."""
    _require_torch()
    from gpa.training.assemble import assemble as put_together

    put_together(job, work, out, recipe)
    note(f"{out}: next, gpa convert {out}")


def restore(
    folder: Annotated[str, typer.Argument(help="Checkpoint: a folder, a published id, or nano, the embedded one.")],
    out: OutFolder,
) -> None:
    """Write the weights of a checkpoint that holds exports alone, to train on from it: `init` in a recipe takes such folders."""
    _require_torch()
    from gpa import hub
    from gpa.training.restore import restore as write

    anew = write(hub.resolve(folder).folder, out)
    note(f"{out}: not in the exports, and so at start values: {len(anew)} tensors of the codec's postnet, which only training reads")


def _require_torch() -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise MissingExtra("torch", "train")


def _report(rows: Iterable[Mapping[str, float]]) -> None:
    for row in rows:
        typer.echo("  ".join(f"{name} {value:.4g}" for name, value in row.items()))

"""A checkpoint's weights -> the exports that it runs from, beside them: ONNX for the tokenizers, OpenVINO IR or GGUF for the LM.

Needs torch; running the result does not. Exports are written anew, weights are never touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpa import hub, prompt
from gpa.engines.choose import open_engine
from gpa.errors import CheckpointError, MissingExtra
from gpa.nets.compress import Computed, Precision
from gpa.prompt import Prompt
from gpa.vocab import Vocab

if TYPE_CHECKING:
    from gpa.nets.export import Job

_SMALL = (".json", ".yaml", ".txt", ".jinja")

LMPrecision = Literal["f32", "f16", "int8", "int4"]
LMEngine = Literal["openvino", "llama"]


@dataclass(frozen=True)
class Written:
    """A file that was written, and what was measured of it."""

    path: Path
    note: str = ""

    def __str__(self) -> str:
        return f"{self.path} {self.note}".rstrip()


def convert(
    name: str | Path,
    out: Path | None = None,
    lm: LMPrecision = "int8",
    nets: Precision = "f16",
    engine: LMEngine = "openvino",
    allow_download: bool | None = None,
    decoder: Computed = "f32",
) -> Iterator[Written]:
    """Export every net of a checkpoint (a folder or a published id), the language model for `engine`; yields file by file.

    out: the folder to write, with the small files beside the exports: it runs by itself, and needs no torch. None: beside the
    weights, where a published pickle becomes safetensors first. decoder: what speech is decoded in, by a wave generator; bf16 only
    where the processor has it, else f32. Raises CheckpointError, MissingExtra."""
    try:
        from gpa.nets.folders import check_lm, convert_pickle
        from gpa.nets.parity import compared, compared_lm
    except ImportError as error:
        raise MissingExtra("torch", "train") from error
    checkpoint = hub.resolve(name, allow_download)
    folder = checkpoint.folder
    vocab = hub.checked_vocab(checkpoint)
    check_lm(folder)
    if decoder != "f32" and hub.codec_config(checkpoint)["audio_tokenizer"]["decoder"].get("kind") == "source_filter":
        raise CheckpointError(f"{folder}: its decoder is a source and a filter, which bfloat16 would put out of tune (legal: decoder f32)")
    if out is None:
        pickle = convert_pickle(checkpoint.wav2vec2) if checkpoint.wav2vec2.is_dir() else None
        yield from [Written(pickle, "converted once, from the pickle beside it")] if pickle else []
    else:
        _copy_small_files(folder, Path(out))
    for place, job in _jobs(checkpoint):
        path = job.write((out or folder) / place, nets, decoder if job.heard else "f32")
        yield Written(path, compared(job, path))
        del job  # one net at a time in memory
    path = convert_lm(folder, out or folder, engine, lm, vocab)
    try:
        with closing(open_engine(path.parent, engine)) as opened:
            yield Written(path, compared_lm(folder, opened, _spoken_and_heard(vocab)))
    except MissingExtra as error:
        yield Written(path, f"not compared: {error}")


def _spoken_and_heard(vocab: Vocab) -> list[Prompt]:
    """Short prompts of speech and of text."""
    return [prompt.tts(vocab, range(8), "hello there"), prompt.asr(vocab, range(8), range(16))]


def _jobs(checkpoint: hub.Checkpoint) -> Iterator[tuple[Path, Job]]:
    """(Folder inside the checkpoint, export) of every tokenizer net, each read when its turn comes."""
    from gpa.nets.export import bicodec_jobs, glm_job, wav2vec2_job
    from gpa.nets.folders import read_bicodec, read_glm, read_wav2vec2

    root = checkpoint.folder
    config = hub.codec_config(checkpoint)
    yield checkpoint.glm.relative_to(root), glm_job(read_glm(checkpoint.glm), config.get("feature_layers", ()))
    if config.get("features", "wav2vec2") == "wav2vec2":
        yield checkpoint.wav2vec2.relative_to(root), wav2vec2_job(read_wav2vec2(checkpoint.wav2vec2))
    for job in bicodec_jobs(read_bicodec(checkpoint.bicodec)):
        yield checkpoint.bicodec.relative_to(root), job


def _copy_small_files(folder: Path, out: Path) -> None:
    """All that a checkpoint runs from beside its nets: configurations, tokenizer, voices, card."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in _SMALL and not path.name.startswith("openvino_"):
            target = out / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or not target.samefile(path):
                shutil.copyfile(path, target)


def convert_lm(folder: Path, out: Path, engine: LMEngine = "openvino", stored: LMPrecision = "int8", vocab: Vocab | None = None) -> Path:
    """Export the language model of FOLDER for `engine` into OUT; needs no torch.

    Returns the file. Raises CheckpointError, MissingExtra."""
    heads = tasks(vocab or Vocab.load(folder))
    if engine == "llama":
        from gpa.nets.export_gguf import export_gguf

        return export_gguf(folder, out, stored, heads)
    from gpa.nets.export_lm import export_openvino

    return export_openvino(folder, out, stored, heads)


def tasks(vocab: Vocab) -> list[Prompt]:
    """One prompt of each task: what an exported language model can be asked for."""
    return [prompt.asr(vocab, [], []), prompt.tts(vocab, [], ""), prompt.vc(vocab, [], [])]

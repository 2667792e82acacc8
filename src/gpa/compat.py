"""compat="reference": a GPA that hears, prompts and speaks as the published inference code does, its faults included.

For comparing numbers with it; docs/compatibility.md says what differs, and why the default is another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np

from gpa import audio, prompt, sounds
from gpa.audio import Source, Wav
from gpa.converting import convert_live
from gpa.engines.base import Sampling
from gpa.errors import AudioError
from gpa.listening import Hearing, hear
from gpa.parts import Outcome, Stream
from gpa.pipeline import GPA, Text
from gpa.prompt import Prompt
from gpa.results import Segment, Speech
from gpa.sounds import Sound
from gpa.speaking import Manner
from gpa.stretch import Stretcher
from gpa.voice import Voice

MAX_NEW_IDS = 512  # of speech: 10.24 s, where the published code stops
GLM_SECONDS = 30.0  # of a sound that the linguistic tokenizer hears; the rest is dropped
MAX_SECONDS = 600.0  # of a sound: all of it is one prompt


class ReferenceGPA(GPA):
    """One prompt a call: no sentences, no normalised text, no search for speech, no bounds but MAX_NEW_IDS."""

    def encode(self, wav: Wav) -> tuple[list[int], list[int]]:
        """(codes of the first 30 s, semantic codes of all) of a sound."""
        return self.glm.encode(wav[: round(GLM_SECONDS * self.sample_rate)]).tolist(), super().encode(wav)[1]

    def _asr(self, sound: Sound, hearing: Hearing, partials: bool) -> Iterator[Segment]:
        """The whole sound as one segment; `partials` is ignored."""
        yield hear(self, 0.0, self._whole(sound), hearing)

    def _tts(self, text: Text, manner: Manner, language: str | None, outcome: Outcome, longest: int | None = None) -> Stream:
        said = text if isinstance(text, str) else "".join(text)
        voice = manner.voice
        asked = prompt.tts(self.vocab, voice.codes, said, None, voice.transcript, voice.semantic)
        return self._spoken(asked, voice, manner.sampling, outcome, manner.speed)

    def _vc(
        self, sound: Sound, voice: Voice | Sound, drawn: Sampling, window: float | None, outcome: Outcome, longest: float | None = None
    ) -> Stream:
        target = self.voice(voice)
        if window is not None:
            return convert_live(self, sound, target, drawn, outcome, window, longest)
        wav = self._first_channel(sound) if isinstance(sound, (str, os.PathLike)) else self._whole(sound)
        return self._spoken(prompt.vc(self.vocab, target.codes, self.semantic_codes(wav)), target, drawn, outcome)

    def _spoken(self, asked: Prompt, voice: Voice, sampling: Sampling, outcome: Outcome, speed: float = 1.0) -> Stream:
        decoder, stretcher = self.bicodec.stream(voice.codes, sampling.seed, fit=voice.fit), Stretcher(speed, self.sample_rate)
        for code in self.semantic(asked, replace(sampling, max_new_ids=MAX_NEW_IDS, min_new_ids=0), outcome):
            yield stretcher.push(decoder.push([code]))
        yield stretcher.push(decoder.flush())
        yield stretcher.flush()

    def _voice_of(self, sound: Sound, name: str, transcript: str = "") -> Voice:
        """A file: its first channel, by the published volume rule. Anything else: the mean, its peak brought to 0.9."""
        of_file = isinstance(sound, (str, os.PathLike))
        clip = self._first_channel(sound) if of_file else self._whole(sound)
        return self._voice_from(clip, self.bicodec.voice(clip, "" if of_file else "peak"), name, transcript)

    def _first_channel(self, sound: Sound) -> Wav:
        blocks = audio.blocks(cast("Source", sound), self.sample_rate, sounds.BLOCK, MAX_SECONDS, first=True)
        return np.concatenate(list(blocks))

    def _whole(self, sound: Sound) -> Wav:
        parts = list(sounds.blocks(sound, self.sample_rate, sounds.BLOCK, MAX_SECONDS))
        if not parts:
            raise AudioError("the sound has no samples (legal: at least one)")
        return np.concatenate(parts)

    def _speech(self, stream: Iterator[Wav], outcome: Outcome) -> Speech:
        """The published code takes the mean off what it writes."""
        speech = super()._speech(stream, outcome)
        return replace(speech, wav=speech.wav - speech.wav.mean()) if len(speech.wav) else speech

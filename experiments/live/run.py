"""Live conversion, part by part, and first partial results: python experiments/live/run.py [CLIP ...]

Processor time of one thread, which is the wall clock of a machine that does nothing else; waits are added as what they are.
Also how far the codes of a window agree with those of the whole clip, which is what the look-ahead costs or saves.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpa
from gpa import audio, converting, hub


def timed(spent: dict[str, list[float]], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, its processor time noted under `name`."""

    def run(*args: Any, **rest: Any) -> Any:
        begun = time.process_time()
        try:
            return call(*args, **rest)
        finally:
            spent[name].append(time.process_time() - begun)

    return run


def conversion(model: gpa.GPA, wav: np.ndarray, window: float) -> str:
    """One line: milliseconds a window of each part, and mouth to ear."""
    spent: dict[str, list[float]] = defaultdict(list)
    encode, semantic = model.encode, model.semantic
    utterance = converting._Utterance
    given = utterance._given
    push = type(model.bicodec.stream(model.voice().codes)).push
    stream = type(model.bicodec.stream(model.voice().codes))
    model.encode = timed(spent, "encode", encode)
    model.semantic = timed(spent, "model", lambda *args: iter(list(semantic(*args))))
    stream.push = timed(spent, "decode", push)
    try:
        begun = time.process_time()
        speech = model.vc(wav, model.voices[-1], window=window)
        whole = time.process_time() - begun
    finally:
        del model.encode, model.semantic
        stream.push, utterance._given = push, given
    work = {name: 1000 * float(np.median(values)) for name, values in spent.items()}
    held = 1000 * (model.bicodec.field.after / model.bicodec.frame_rate)  # and up to 0.12 s more until a stretch is full
    ear = 1000 * (window + converting.LOOKAHEAD) + sum(work.values()) + held + 40
    parts = ", ".join(f"{name} {value:.0f}" for name, value in work.items())
    return (
        f"window {window:.2f} s: {parts} ms; mouth to ear {ear:.0f} to {ear + 120:.0f} ms; real-time factor {whole / speech.duration:.2f}\n"
    )


def agreement(model: gpa.GPA, wav: np.ndarray, window: float, ahead: float) -> float:
    """Share of a clip's codes that windows with a look-ahead give too."""
    hop = round(model.sample_rate / model.bicodec.frame_rate)
    whole = np.array(model.encode(wav)[1])
    size, behind, context = round(window * model.sample_rate), round(ahead * model.sample_rate), round(3.04 * model.sample_rate)
    same = []
    for start in range(0, len(wav) - size - behind, size):
        first = max(0, start - context)
        codes = model.encode(wav[first : start + size + behind])[1]
        a, b = (start - first) // hop, size // hop
        same += [x == y for x, y in zip(codes[a : a + b], whole[start // hop :][:b], strict=False)]
    return float(np.mean(same))


def first_partial(model: gpa.GPA, wav: np.ndarray) -> tuple[float, float]:
    """(seconds of sound, seconds of work) from the beginning of speech to the first partial result."""
    taken = 0

    def microphone() -> Any:
        nonlocal taken
        for start in range(0, len(wav), 320):
            taken += 320
            yield wav[start : start + 320]

    onset = np.flatnonzero(np.abs(wav) > 0.1 * np.abs(wav).max())[0] / model.sample_rate
    begun = time.process_time()
    for _ in model.stream_asr(microphone(), partials=True):
        break
    return taken / model.sample_rate - onset, time.process_time() - begun


if __name__ == "__main__":
    sources = sys.argv[1:] or [str(Path(hub.embedded()) / "demo.opus")]
    with gpa.load() as model:
        for source in sources:
            wav = audio.decode(source, model.sample_rate)
            model.vc(wav[: 2 * model.sample_rate], model.voices[-1], window=0.32)  # shapes are compiled
            for window in (0.16, 0.32, 0.48, 0.96):
                model.vc(wav, model.voices[-1], window=window)
                sys.stdout.write(conversion(model, wav, window))
            for ahead in (0.0, 0.08, 0.16, 0.32):
                sys.stdout.write(f"look-ahead {ahead:.2f} s: {agreement(model, wav, 0.32, ahead):.0%} of the codes as of the whole clip\n")
            quiet = np.concatenate([1e-4 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32), wav])
            first_partial(model, quiet)
            heard, work = first_partial(model, quiet)
            sys.stdout.write(f"first partial result after {heard:.2f} s of speech and {work:.2f} s of work\n")

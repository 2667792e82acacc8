"""When each word of a known text is spoken: a sound and its text -> word times, monotone by construction.

A small hidden Markov model of letters: every spelling unit ("th", "ee", "a") has two states, and between words there may be
silence; each state is a mixture of Gaussians over mel cepstra and their slopes, 10 ms a frame (Rabiner, 1989). The best path
through the text (Viterbi) gives the times. It knows no checkpoint: what a recogniser wrote, it finds. `gpa.training.aligner` learns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpa.audio import Wav
from gpa.audio.mel import mel_corners, triangles
from gpa.errors import AudioError
from gpa.text import normalise

RATE = 16_000  # Hz
HOP = 160  # samples of a frame
WINDOW = 400
BANDS, CEPSTRA = 40, 13
SILENCE = "_"
OTHER = "?"  # a letter of a script that was not learned: any speech
_PAIRS = (
    "augh eigh ough tion igh tch dge ch sh th ph wh ck ng qu kn wr gh ee ea oo ou ow oi oy ai ay oa ie ei ey au aw ew ue er ir ur ar or"
    " bb cc dd ff gg ll mm nn pp rr ss tt zz"
)
_UNITS = sorted(_PAIRS.split(), key=len, reverse=True)
LETTERS = (*"abcdefghijklmnopqrstuvwxyz", "e$", *_UNITS)  # e$: an e that ends a word of three letters and more, mostly silent
_SKIP = -4.0  # what it costs, in nats, to hear nothing of a unit
_NEVER = -1e30
_EVEN = 10.0  # of the first cepstrum, loud frames less soft ones: 5 dB (hums have at most 5.5, short words 18 and more)
_ALIKE, _LIVELY = 9.0, 11.0  # dB: one voice under noise or before a crowd has more of the one, or less of the other
_ROW = 7  # frames (70 ms) that a band is averaged over
_JUMPS = 5  # 0 stay, 1 go on, 2 leave the silence out, 3 a unit, 4 both

Array = NDArray[np.float64]


class Time(NamedTuple):
    """From `start` to `end` in seconds."""

    start: float
    end: float


@dataclass(frozen=True)
class Acoustics:
    """What each state sounds like: `units` (two states each; silence has two equal ones), and for every state K Gaussians."""

    units: tuple[str, ...]
    means: Array  # (2 * units, K, D)
    variances: Array
    weights: Array  # (2 * units, K), log

    @classmethod
    def load(cls, path: Path) -> Acoustics:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            units = tuple(bytes(file["units"]).decode().split())
            return cls(units, *(file[name].astype(np.float64) for name in ("means", "variances", "weights")))

    def save(self, path: Path) -> None:
        """Write in half precision: 0.1 MB."""
        arrays = {name: getattr(self, name).astype(np.float16) for name in ("means", "variances", "weights")}
        np.savez_compressed(path, units=np.frombuffer(" ".join(self.units).encode(), np.uint8), **arrays)

    def scores(self, frames: Array, states: Sequence[int]) -> Array:
        """Frames (T, D) -> log-likelihood of each of `states` (T, len(states))."""
        used, where = np.unique(states, return_inverse=True)
        means, precision = self.means[used], 1 / self.variances[used]  # (S, K, D)
        constant = self.weights[used] + 0.5 * (np.log(precision).sum(-1) - (means**2 * precision).sum(-1))
        S, K, D = means.shape
        out = frames @ (means * precision).reshape(-1, D).T - 0.5 * frames**2 @ precision.reshape(-1, D).T
        return np.asarray((out.reshape(-1, S, K) + constant).max(-1)[:, where])  # the likeliest Gaussian, close to their sum


def words(wav: Wav, sample_rate: int, said: Sequence[str]) -> list[Time]:
    """(T,) and the words said in it -> a time each, in order, within the sound. Raises AudioError: another rate than 16 kHz."""
    if sample_rate != RATE:
        raise AudioError(f"words are timed at {RATE} Hz, found {sample_rate}")
    spelled = [spell(word) for word in said]
    if not said or not len(wav):
        return [Time(0.0, 0.0) for _ in said]
    found = align(_acoustics(), features(wav), spelled)
    return [Time(min(a * HOP, len(wav)) / RATE, min(b * HOP, len(wav)) / RATE) for a, b in found]


def likeness(wav: Wav) -> float:
    """How much (T,) at RATE sounds like letters at all: log-likelihood a frame, each frame as the letter that it is most like.

    Speech of good recordings has -9 to -21, of others down to -31; buzzers, bells and sirens have -22 and less. What is always
    equally loud, as a hum is, is no speech at all (-1e30): the mean of its cepstra is taken out, and what is left looks like nothing."""
    frames, acoustics = features(wav), _acoustics()
    if np.subtract(*np.quantile(frames[:, 0], (0.9, 0.1))) < _EVEN:
        return _NEVER
    return float(acoustics.scores(frames, range(len(acoustics.means))).max(1).mean())


def many(wav: Wav) -> bool:
    """Whether (T,) at RATE is many voices over each other and none of them near: as a whole it is nearly as even as a hum is (from its
    softest to its loudest tenth less than 9 dB), while what is heard in each band comes and goes as in speech (11 dB and more
    in half of the bands), which it does not under a noise."""
    power = _mel(np.asarray(wav, np.float64)) + 1e-10
    whole = 10 * np.log10(power.sum(1))
    sums, row = np.cumsum(np.pad(power, ((1, 0), (0, 0))), axis=0), min(_ROW, len(power))
    smooth = 10 * np.log10((sums[row:] - sums[:-row]) / row)
    bands = np.subtract(*np.quantile(smooth, (0.95, 0.1), axis=0))
    return bool(np.subtract(*np.quantile(whole, (0.9, 0.1))) < _ALIKE and np.median(bands) > _LIVELY)


def spell(word: str) -> list[str]:
    """A word -> its units; digits are read, letters of other scripts are OTHER, at least one unit."""
    read = (normalise(word) if any(map(str.isdigit, word)) else word).lower()
    units: list[str] = []
    for part in "".join(char if char.isalpha() else " " for char in read.replace("'", "")).split():
        at = 0
        while at < len(part):
            unit = next((unit for unit in _UNITS if part.startswith(unit, at)), part[at])
            if unit == "e" and at == len(part) - 1 and at > 1:
                unit = "e$"
            units.append(unit if unit in LETTERS else OTHER)
            at += len(unit.rstrip("$"))
    return units or [OTHER]


def features(wav: Wav) -> Array:
    """(T,) at 16 kHz -> cepstra and their slopes (frames, 26), one frame 10 ms, centred, without the mean of the sound."""
    mel = _mel(np.asarray(wav, np.float64), 0.97)
    cepstra = np.log(mel + 1e-4 * mel.mean() + 1e-10) @ _cosines()
    cepstra -= cepstra.mean(0)
    edged = np.pad(cepstra, ((2, 2), (0, 0)), mode="edge")
    slopes = (2 * (edged[4:] - edged[:-4]) + edged[3:-1] - edged[1:-3]) / 10
    return np.concatenate([cepstra, 2 * slopes], axis=1)


def _mel(wav: Array, emphasis: float = 0.0) -> Array:
    """(T,) -> power (frames, BANDS)."""
    count = max(1, -(-len(wav) // HOP))
    padded = np.pad(wav, (WINDOW // 2, WINDOW // 2 + count * HOP - len(wav)))
    padded = padded[1:] - emphasis * padded[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count]
    return np.asarray(np.abs(np.fft.rfft(frames * np.hanning(WINDOW), 512)) ** 2 @ _filters())


def align(acoustics: Acoustics, frames: Array, spelled: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Frames (T, D) and the units of each word -> (first frame, end) of each word, ascending and apart."""
    chain = Chain(acoustics.units, spelled)
    path = best_path(acoustics.scores(frames, chain.states), chain.costs)
    return chain.spans(path)


class Chain:
    """The states of a text in order (silence, word, silence, word, ..., silence) and which may follow which."""

    def __init__(self, units: Sequence[str], spelled: Sequence[Sequence[str]]) -> None:
        number = {unit: i for i, unit in enumerate(units)}
        silence = 2 * number[SILENCE]
        self.states = [silence]
        self.owner = [-1]  # the word of each state
        self.costs = costs = np.full((_JUMPS, sum(1 + 2 * len(word) for word in spelled) + 1), _NEVER)
        costs[:2] = 0.0
        for w, word in enumerate(spelled):
            for u, unit in enumerate(word):
                at = len(self.states)
                self.states += [2 * number[unit], 2 * number[unit] + 1]
                self.owner += [w, w]
                if u == 0 and w:
                    costs[2, at] = 0.0
                if u == 1 and w:
                    costs[4, at] = _SKIP
                if u:
                    costs[3, at] = _SKIP
            self.states.append(silence)
            self.owner.append(-1)
            if len(word) > 1:
                costs[3, len(self.states) - 1] = _SKIP
                if w + 1 < len(spelled):
                    costs[4, len(self.states)] = _SKIP

    def spans(self, path: NDArray[np.int64]) -> list[tuple[int, int]]:
        """A state each frame -> (first frame, end) of each word; a word that got none stands empty between its neighbours."""
        owner = np.array(self.owner)[path]
        found: list[tuple[int, int]] = []
        for w in range(max(self.owner) + 1):
            frames = np.flatnonzero(owner == w)
            end = found[-1][1] if found else 0
            found.append((int(frames[0]), int(frames[-1]) + 1) if len(frames) else (end, end))
        return found


def best_path(scores: Array, costs: Array) -> NDArray[np.int64]:
    """Log-likelihoods (T, S) and the cost of entering each state by each jump (jumps, S) -> the likeliest state each frame (T,).

    Starts in the first two states; ends in the last two where the sound is long enough to get there."""
    T, S = scores.shape
    before = len(costs) - 1
    came = np.zeros((T, S), np.int8)
    padded = np.full(S + before, _NEVER)
    padded[before:][:2] = scores[0, :2]
    windows = np.lib.stride_tricks.sliding_window_view(padded, S)[::-1]  # row j: the score of the state j before
    for t in range(1, T):
        entered = windows + costs
        came[t] = entered.argmax(0)
        padded[before:] = entered.max(0) + scores[t]
    last = padded[before:]
    ends = max(0, S - 2)
    state = int(ends + last[ends:].argmax()) if last[ends:].max() > _NEVER / 2 else int(last.argmax())
    path = np.zeros(T, np.int64)
    for t in range(T - 1, -1, -1):
        path[t] = state
        state -= int(came[t, state])
    return path


@cache
def _acoustics() -> Acoustics:
    return Acoustics.load(Path(__file__).parent / "nano" / "letters.npz")


@cache
def _filters() -> Array:
    """Triangles on the mel scale, 60 to 7600 Hz (257, BANDS)."""
    return triangles(mel_corners(60, 7600, BANDS), np.arange(257) * RATE / 512).T


@cache
def _cosines() -> Array:
    angles = np.pi / BANDS * (np.arange(BANDS)[:, None] + 0.5) * np.arange(CEPSTRA)
    return np.asarray(np.cos(angles) * np.sqrt(2 / BANDS))

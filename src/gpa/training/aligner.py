"""The letters' acoustics of `gpa.align`, learned from utterances and their texts alone, from a flat start, by Viterbi training.

    python -m gpa.training.aligner OUT.npz PACK.jsonl ...

Hard assignment: align, then means and variances of what each state was given; Gaussians are split twice on the way.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpa.align import LETTERS, OTHER, SILENCE, Acoustics, Array, Chain, best_path, features, spell
from gpa.data import manifest

UNITS = (SILENCE, OTHER, *LETTERS)
ROUNDS = (4, 3, 3)  # alignments with 1, 2 and 4 Gaussians a state
PRIOR = 20.0  # frames of all speech that every Gaussian's variance starts from


def fit(utterances: Iterable[tuple[Array, Sequence[Sequence[str]]]], rounds: Sequence[int] = ROUNDS) -> Acoustics:
    """(features (T, D), units of each word) of each utterance -> Acoustics."""
    heard = [(frames, Chain(UNITS, spelled)) for frames, spelled in utterances]
    everything = np.concatenate([frames for frames, _ in heard])
    spread = everything.var(0)
    states = np.concatenate([_flat(frames, chain) for frames, chain in heard])
    acoustics = _means(everything, states, spread, None)
    for number, count in enumerate(rounds):
        acoustics = _split(acoustics) if number else acoustics
        for _ in range(count):
            states = np.concatenate([_aligned(acoustics, frames, chain) for frames, chain in heard])
            acoustics = _means(everything, states, spread, acoustics)
    return acoustics


def _aligned(acoustics: Acoustics, frames: Array, chain: Chain) -> NDArray[np.int64]:
    return np.array(chain.states)[best_path(acoustics.scores(frames, chain.states), chain.costs)]


def _flat(frames: Array, chain: Chain) -> NDArray[np.int64]:
    """Quiet frames are silence; the others are shared out evenly among the letters."""
    silence = UNITS.index(SILENCE) * 2
    spoken = np.array([state for state in chain.states if state != silence])
    loudness = frames[:, 0]
    loud = loudness > np.quantile(loudness, 0.95) - 0.35 * (np.quantile(loudness, 0.95) - loudness.min())
    places = (np.cumsum(loud) - 1).clip(0) * len(spoken) // max(1, int(loud.sum()))
    return np.where(loud, spoken[places.clip(0, len(spoken) - 1)], silence)


def _means(everything: Array, states: NDArray[np.int64], spread: Array, before: Acoustics | None) -> Acoustics:
    """What each state was given -> its Gaussians; OTHER is all speech, and a state that got little is drawn towards it."""
    K = before.means.shape[1] if before else 1
    D = everything.shape[1]
    means, variances, weights = np.zeros((2 * len(UNITS), K, D)), np.zeros((2 * len(UNITS), K, D)), np.zeros((2 * len(UNITS), K))
    silence, other = 2 * UNITS.index(SILENCE), 2 * UNITS.index(OTHER)
    for state in range(2 * len(UNITS)):
        if state // 2 == other // 2:
            frames = everything[(states != silence)][state % 2 :: 7]
        else:
            frames = everything[states == (silence if state // 2 == silence // 2 else state)]
        which = _nearest(before, state, frames) if before and len(frames) else np.zeros(len(frames), np.int64)
        for k in range(K):
            given = frames[which == k]
            old = before.means[state, k] if before else np.zeros(D)
            mean = (given.sum(0) + 2.0 * old) / (len(given) + 2.0)
            means[state, k] = mean
            variances[state, k] = (((given - mean) ** 2).sum(0) + PRIOR * 0.5 * spread) / (len(given) + PRIOR)
            weights[state, k] = np.log((len(given) + 1) / (len(frames) + K))
    return Acoustics(UNITS, means, variances, weights)


def _nearest(acoustics: Acoustics, state: int, frames: Array) -> NDArray[np.int64]:
    distance = (frames[:, None] - acoustics.means[state]) ** 2 / acoustics.variances[state] + np.log(acoustics.variances[state])
    return np.asarray((acoustics.weights[state] - 0.5 * distance.sum(-1)).argmax(1))


def _split(acoustics: Acoustics) -> Acoustics:
    """Every Gaussian twice, a fifth of its deviation apart."""
    step = 0.2 * np.sqrt(acoustics.variances)
    means = np.concatenate([acoustics.means - step, acoustics.means + step], 1)
    return Acoustics(
        acoustics.units,
        means,
        np.concatenate([acoustics.variances] * 2, 1),
        np.concatenate([acoustics.weights - np.log(2)] * 2, 1),
    )


def read_pack(path: Path, limit: int) -> list[tuple[Array, list[list[str]]]]:
    """Features and units of up to `limit` utterances of a pack, spread over it. Raises GPAError."""
    rows = manifest.read(path)
    rows = rows[:: max(1, len(rows) // limit)][:limit]
    return [(features(manifest.load_wav(row, path.parent)), [spell(word) for word in row.text.split()]) for row in rows]


def main(out: Path, packs: Sequence[Path], limit: int = 40) -> None:
    """Learn from up to `limit` utterances of each pack and write the acoustics. Raises GPAError."""
    fit([utterance for pack in packs for utterance in read_pack(pack, limit)]).save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])

"""How much a conversion should keep to its source: `prior_weight` of the sampling, one value after the other.

    python experiments/vc_prior/run.py HUMAN.jsonl CACHE WEIGHT... [--first N]

HUMAN.jsonl is a manifest of clips of people that were not trained on, of which 100, evenly spread, are converted into each other's
voices as `gpa eval` does; with --first, those that stand N rows behind these. CACHE keeps the judge (Whisper-base). Needs gpa[eval].
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import gpa
from gpa.data import manifest
from gpa.evaluation import metrics
from gpa.evaluation.judge import Judge
from gpa.evaluation.run import SAMPLE_RATE, Clip, conversions
from gpa.evaluation.speaker import SpeakerEncoder

COUNT = 100


def clips_of(path: Path, first: int) -> list[Clip]:
    """COUNT clips of a manifest, evenly spread, from row `first` on and round again."""
    rows = manifest.read(path)
    chosen = [rows[(i * len(rows) // COUNT + first) % len(rows)] for i in range(COUNT)]
    return [Clip(manifest.load_wav(row, path.parent, SAMPLE_RATE), row.text, row.speaker) for row in chosen]


def main() -> None:
    """Write a line for each weight."""
    parser = argparse.ArgumentParser()
    parser.add_argument("human", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("weights", type=float, nargs="+")
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    model, judge, encoder = gpa.load("nano", watermark=False), Judge(asked.cache), SpeakerEncoder()
    clips = clips_of(asked.human, asked.first)
    pairs = conversions(clips)
    voices = {id(clip): model.voice(clip.wav) for clip in clips}
    whose = {id(clip): encoder.embed(clip.wav) for clip in clips}
    for weight in asked.weights:
        sampling = replace(model.sampling("vc", None, 0), prior_weight=weight)
        made = [model.vc(source.wav, voices[id(target)], sampling=sampling).wav for source, target in pairs]
        heard = judge.hear_all(made, [source.text for source, _ in pairs])
        ours = [encoder.embed(wav) for wav in made]
        to = np.array([[one @ whose[id(clip)] for clip in pair] for one, pair in zip(ours, pairs, strict=True)])  # source, target
        closer, likeness = metrics.mean((100.0 * (to[:, 1] > to[:, 0])).tolist()), metrics.mean(to[:, 1].tolist())
        sys.stdout.write(f"{weight:g}: WER {metrics.wer(*zip(*heard, strict=True))}, to target {likeness}, closer {closer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""What fewer semantic codes would spare the language model, told without training anything.

    python experiments/fewer_codes/run.py RECIPE.yaml CODEC_STATE LM_STATE HELD [--batches 3]

The codes of a trained codec are merged by k-means on the sphere they lie on (weighted by use), and the language model's
probabilities of merged codes are added up: its nats for "one of these", which is what is left to be said. A model trained on
fewer codes would also see less in its context, so this flatters them. How far merged codes lie apart tells what is lost.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gpa.nets.lm import LM
from gpa.prompt import IGNORED
from gpa.training.jobs import LMJob, read_job
from gpa.training.lm import Scorer
from gpa.training.lm_data import LMBatch, LMData, Rows
from gpa.vocab import Vocab

SIZES = (4096, 3072, 2048, 1024, 512)


def merged(codes: Tensor, use: Tensor, size: int, rounds: int = 10) -> tuple[Tensor, float]:
    """Unit vectors (N, dim), how often each is used (N,) -> cluster of each (N,), and the mean cosine to its centre."""
    centres = codes[use.argsort(descending=True)[:size]]
    for _ in range(rounds):
        cluster = (codes @ centres.T).argmax(1)
        sums = torch.zeros(size, codes.shape[1]).index_add_(0, cluster, codes * (use + 1e-3)[:, None])
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=1), centres)
    closeness = (codes * centres[cluster]).sum(1)
    return cluster, float((closeness * use).sum() / use.sum())


@torch.inference_mode()
def log_scores(scorer: Scorer, batch: LMBatch) -> tuple[Tensor, Tensor]:
    """Log probabilities (M, legal) of the batch's target ids, and which of the legal ones each is (M,)."""
    with torch.autocast("cpu", torch.bfloat16):
        rows, index = scorer.legal(batch.task, batch.prompts[0])
        keep = batch.labels != IGNORED
        scores = scorer.lm.head(scorer.lm(batch.ids)[keep], rows).float()
    return scores.log_softmax(-1), index[batch.labels[keep]]


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("codec", type=Path)
    parser.add_argument("lm", type=Path)
    parser.add_argument("held", type=Path)
    parser.add_argument("--batches", type=int, default=3, help="of 6000 ids, a task")
    given = parser.parse_args()
    started = time.process_time()
    job, vocab = read_job(given.recipe, LMJob), Vocab.load(given.lm.parent)
    book = torch.load(given.codec, weights_only=True, mmap=True)["average"]["codec.quantizer.codebook.weight"]
    lm = LM(job.shape.config(vocab.size)).eval()
    lm.load_state_dict(torch.load(given.lm, weights_only=True, mmap=True)["average"])
    rows = Rows(sorted(given.held.glob("*.npz")))
    use = torch.from_numpy(np.bincount(np.concatenate([row.semantic for row in rows.rows]), minlength=len(book))).float()
    data, scorer = LMData(rows, vocab, job.recipe.mix.plain, 6000), Scorer(lm, vocab)
    found = {task: [log_scores(scorer, data.batch(1, draw, task)) for draw in range(given.batches)] for task in ("tts", "vc")}
    ids = scorer.legal("tts", data.batch(1, 0, "tts").prompts[0])[0]
    of_code = ids - vocab.bicodec_semantic.first  # (legal,): a code, or the stop
    sys.stdout.write("| codes | cosine to the centre | unigram | tts | vc |\n|---|---|---|---|---|\n")
    for size in SIZES:
        cluster, closeness = merged(F.normalize(book.float(), dim=1), use, size)
        places = torch.where((of_code >= 0) & (of_code < len(book)), cluster[of_code.clamp(0, len(book) - 1)], torch.tensor(size))
        share = torch.bincount(cluster, use, size) / use.sum()
        unigram = float(-(share[share > 0] * share[share > 0].log()).sum())
        nats = []
        for parts in found.values():
            losses = []
            for scores, target in parts:
                sums = torch.zeros(len(scores), size + 1).index_add_(1, places, scores.exp())
                losses.append(-sums.gather(1, places[target][:, None]).clamp(min=1e-9).log().mean())
            nats.append(float(torch.stack(losses).mean()))
        sys.stdout.write(f"| {size} | {closeness:.3f} | {unigram:.2f} nats | {nats[0]:.3f} | {nats[1]:.3f} |\n")
    sys.stdout.write(f"\n{time.process_time() - started:.0f} CPU-s\n")


if __name__ == "__main__":
    main()

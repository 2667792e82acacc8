"""Whether the linguistic codes spell better when the last layer of the Whisper-tiny encoder is trained with them.

    python experiments/last_layer/run.py CONFIG TOKENIZER PACKS HELD OUT --arm frozen|trained [--reader 400] [--seconds 500]

CONFIG is recipes/nano/glm.json and TOKENIZER the folder of its weights. First a CTC reader learns to read the codes as they are
(OUT/reader.pt, once for both arms); then pooling, adapter, codebook and reader are trained on, with the last layer as it came or
trained too, for equal processor time. Layers 3 and 4 are computed from the packs' features of layer 2 in both arms, and on held-out
clips too. Prints the character error rate of greedy readings of 48 held-out clips, by codes and by what stands before the codebook.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gpa.evaluation.metrics import edits
from gpa.nets.whisper import WhisperVQConfig
from gpa.training.codec_data import HOP, LETTERS, CodecData, UtteranceBatch
from gpa.training.jobs import averaged
from gpa.training.linguistic import LinguisticTrainer, spelled
from gpa.training.losses import Codebook, straight_through

CLIPS, LONGEST, ROWS = 48, 450, 24
SHARES = {"hibari-tts": 0.35, "flite": 0.1, "human": 0.55}


class Tuned(LinguisticTrainer):
    """The tokenizer from the states of its encoder's second layer on."""

    def heard(self, features: Tensor, lengths: Tensor, last: bool) -> Tensor:
        """Features (B, T, 2 d_model), lengths (B,) -> states of the last layer, through which gradients go if `last`."""
        width = features.shape[-1] // 2
        mask = self.net._mask(features.shape[1], lengths, features)
        x = features[..., :width]
        with torch.no_grad():
            x = self.net.layers[2](x, mask)
        with torch.set_grad_enabled(last and torch.is_grad_enabled()):
            out: Tensor = self.net.layer_norm(self.net.layers[3](x, mask))
        return out

    def loss(self, batch: UtteranceBatch, last: bool, book: Codebook | None) -> Tensor:
        """CTC, and of the codebook where it is trained."""
        k = self.up
        positions = batch.lengths // k
        with torch.set_grad_enabled(book is not None):
            pooled = self.net.pooled(self.heard(batch.features, batch.lengths, last))
            keep = torch.arange(pooled.shape[1])[None] < positions[:, None]
            q = straight_through(self.net.quantizer, pooled, keep)
        spelling = batch.spelling
        sizes = torch.tensor([len(letters) for letters in spelling])
        ctc = F.ctc_loss(self.read(q.vectors).transpose(0, 1), torch.cat(spelling), k * positions, sizes, zero_infinity=True)
        self.last = q.codes[keep], q.latents.detach()[keep]
        return ctc + 0.5 * q.loss if book is not None else ctc


def tell(line: str) -> None:
    """A line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def batches(data: CodecData, first: int) -> Iterator[UtteranceBatch]:
    """Rows of like length, by SHARES."""
    weights = data.weights(SHARES)
    for step in count(first):
        yield data.utterances(1, step, ROWS, weights)


@torch.no_grad()
def errors(net: Tuned, held: CodecData) -> dict[str, float]:
    """Character error rates of the held-out clips."""
    net.eval()
    rows = [i for i, row in enumerate(held.rows) if (row.samples or 0) // HOP <= LONGEST][:CLIPS]
    rates = {}
    for name in ("codes", "latents"):
        wrong = letters = 0
        for i in rows:
            frames = (held.rows[i].samples or 0) // HOP
            features = torch.from_numpy(held._features(i, 0, frames))[None]
            pooled = net.net.pooled(net.heard(features, torch.tensor([frames]), last=False))
            q = straight_through(net.net.quantizer, pooled, torch.ones(pooled.shape[:2], dtype=torch.bool), quantise=name == "codes")
            said = "".join(c for c in held.rows[i].text.lower() if c in LETTERS)
            wrong += edits(said, spelled(net.read(q.vectors)[0][: frames // net.up * net.up]))
            letters += len(said)
        rates[name] = wrong / letters
    net.train()
    return rates


def train(net: Tuned, data: CodecData, arm: str, rate: float, seconds: float, steps: int) -> None:
    """Until `steps` or `seconds` of processor time are spent; the rate falls over the last half. `arm` reader: the reader alone."""
    last = arm == "trained"
    reader = [p for name, p in net.named_parameters() if not name.startswith("net.")]
    tokenizer = [p for name, p in net.named_parameters() if name.startswith("net.") and p in set(net.trained())] if arm != "reader" else []
    layer = [p for part in (net.net.layers[3], net.net.layer_norm) for p in part.parameters()] if last else []
    groups = [{"params": reader, "of": rate}, {"params": tokenizer, "of": rate / 2}, {"params": layer, "of": rate / 4}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), weight_decay=0.02)
    book = Codebook(net.net.quantizer, 0) if arm != "reader" else None
    began = time.process_time()
    for step, batch in enumerate(batches(data, 0 if arm == "reader" else 10_000), 1):
        spent = max((step - 1) / steps, (time.process_time() - began) / seconds)
        if spent >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = group["of"] * min(1.0, step / 50, 2 * (1 - spent) + 0.02)
        with torch.autocast("cpu", torch.bfloat16):
            loss = net.loss(batch, last, book)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
        optimiser.step()
        if book is not None:
            book.update(step, *net.last)
        if step % 50 == 0:
            tell(f"{arm}: step {step}, loss {loss.item():.3f}, {(time.process_time() - began) / step:.2f} CPU-s a step")


def main() -> None:
    """One arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("config", "tokenizer", "packs", "held", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--arm", choices=("frozen", "trained"), required=True)
    parser.add_argument("--reader", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=500.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = Tuned(WhisperVQConfig.of(json.loads(given.config.read_text())))
    net.net.load_state_dict({name: value.float() for name, value in averaged(given.tokenizer).items()})
    net.net.requires_grad_(True)
    data, held = CodecData(given.packs), CodecData(given.held)
    start = given.out / "reader.pt"
    if not start.exists():
        train(net, data, "reader", 2e-3, float("inf"), given.reader)
        given.out.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), start)
    net.load_state_dict(torch.load(start))
    tell(f"before: {errors(net, held)}")
    train(net, data, given.arm, 5e-4, given.seconds, 10**9)
    tell(f"{given.arm}: {errors(net, held)}")


if __name__ == "__main__":
    main()

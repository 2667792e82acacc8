"""Whether speech is learned faster from the teacher's own phonemes than from letters.

    python experiments/phonemes/run.py LM SHARDS HELD OUT [--updates 600] [--rate 5e-4]

LM, the folder of a trained language model, is trained on with speech alone, once from letters and once from phonemes (hibari's g2p,
one symbol an id). In both arms a symbol's embedding starts anew: it takes the place of a linguistic code's, which speech is not made
from. Only rows that hibari spoke. Prints the held-out nats of both arms.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from hibari import Hibari

from gpa.data.shards import TokenisedUtterance, read_shard, write_shard
from gpa.nets.lm_config import LMShape
from gpa.training.jobs import averaged
from gpa.training.lm import LMRecipe, LMRun
from gpa.vocab import Vocab

SHAPE = LMShape(320, 896, 8, 5, 5, 64)  # as in recipes/nano/lm.yaml


class Spelled(Vocab):
    """A vocabulary whose text is symbols in the places of the first linguistic codes."""

    symbols: str = ""

    def encode(self, text: str) -> list[int]:
        """Text -> ids; a symbol that is not known is left out."""
        return [self.glm.first + self.symbols.index(symbol) for symbol in text if symbol in self.symbols]


@cache
def phonemes(text: str) -> str:
    """What hibari reads; phrase marks and stresses are symbols too."""
    return str(engine().g2p(text))


@cache
def engine() -> Hibari:
    """hibari."""
    return Hibari()


def respelled(shards: Iterable[Path], folder: Path, arm: str) -> list[Path]:
    """Shards of the rows that hibari spoke, with their text as `arm` spells it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for shard in shards:
        rows = [row for row in read_shard(shard) if row.source == "hibari-tts" and not row.listen_only]
        write_shard(folder / shard.name, [_spelled(row, arm) for row in rows])
        made.append(folder / shard.name)
    return made


def _spelled(row: TokenisedUtterance, arm: str) -> TokenisedUtterance:
    return replace(row, pair=-1, text=phonemes(row.text) if arm == "phonemes" else row.text.lower())


def main() -> None:
    """Both arms."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("lm", "shards", "held", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--rate", type=float, default=5e-4)
    given = parser.parse_args()
    recipe = LMRecipe(
        **{"steps": given.updates, "rate": given.rate, "warmup": 30, "decay": 0.9, "budget": 1300},
        **{"guide": 0.0, "guide_share": 0.0, "short_steps": 0, "tts": 1.0, "asr": 0.0, "vc": 0.0, "tts_human": 0.0},
    )
    for arm in ("letters", "phonemes"):
        shards, held = (respelled(sorted(of.glob("*.npz")), given.out / arm / of.name, arm) for of in (given.shards, given.held))
        vocab = Spelled.load(given.lm)
        vocab.symbols = "".join(sorted({symbol for shard in shards for row in read_shard(shard) for symbol in row.text}))
        weights, started = averaged(given.lm), time.process_time()
        table = weights["model.embed_tokens.weight"]
        places = slice(vocab.glm.first, vocab.glm.first + len(vocab.symbols))
        table[places] = torch.randn(table[places].shape, generator=torch.Generator().manual_seed(0)) * table.std()
        run = LMRun(SHAPE.config(vocab.size), vocab, shards, held, given.out / arm / "run", recipe, weights)
        for row in run.run(every=given.updates // 6):
            sys.stdout.write(f"{arm} {len(vocab.symbols)} symbols, update {row['step']}: tts {row['tts_nats']:.3f} nats, ")
            sys.stdout.write(f"{time.process_time() - started:.0f} CPU-s\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

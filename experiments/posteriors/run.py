"""Whether recognition learns more from Whisper-base's posteriors than from its words, on speech of people that nobody wrote down.

    python experiments/posteriors/run.py hear PACK CACHE OUT.npz [--count 1200]
    python experiments/posteriors/run.py train CHECKPOINT SHARD HELD OUT.npz --arm labels|heard|posteriors [--steps 400]

hear: utterances of a pack (evenly spread), transcribed greedily; the probabilities of the tokens that might follow each are summed by the
letter they go on with, within a token among those that begin as it does. Marks are left out, transcripts with digits are dropped.
train: the language model of CHECKPOINT (safetensors: `gpa train restore`) goes on with the same rows of the pack's SHARD, by what people
wrote (labels), by what Whisper wrote (heard), or half by that and half by its distribution over the next letter (posteriors). Prints nats
a letter and letters guessed right of 200 held-out rows, before, between and after, and the word error rate of greedy readings of 50.
Needs gpa[train,eval].
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from gpa import prompt
from gpa.data import manifest
from gpa.data.shards import TokenisedUtterance, read_shard
from gpa.evaluation import metrics
from gpa.evaluation.judge import join_halves
from gpa.nets.lm import LM
from gpa.nets.lm_config import LMConfig
from gpa.vocab import Vocab

LETTERS = "abcdefghijklmnopqrstuvwxyz' "
RATE, WARMUP, BUDGET, SOFT, HELD, READ = 5e-5, 40, 2600, 0.5, 200, 50
PRESENT = 1e-4  # of the probability of what a token began with, below which nothing is known of how it goes on


class Ear:
    """Whisper-base: wav -> what it writes, letter by letter, and how likely each letter was to follow."""

    def __init__(self, cache: Path) -> None:
        import faster_whisper
        from faster_whisper.tokenizer import Tokenizer

        self.model = faster_whisper.WhisperModel(str(join_halves(cache / "whisper-base")), compute_type="int8", cpu_threads=1)
        self.tokenizer = Tokenizer(self.model.hf_tokenizer, True, task="transcribe", language="en")
        self.written = [self.tokenizer.decode([id]).lower() for id in range(self.tokenizer.eot)]
        self._begun: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def next_letter(self, log_probs: np.ndarray, begun: str) -> np.ndarray:
        """How a token that begins with `begun` goes on: (letters,), zeros where little speaks for such a token."""
        if begun not in self._begun:
            found = [
                (id, LETTERS.index(text[len(begun)]))
                for id, text in enumerate(self.written)
                if len(text) > len(begun) and text.startswith(begun) and text[len(begun)] in LETTERS
            ]
            self._begun[begun] = np.array([id for id, _ in found], int), np.array([letter for _, letter in found], int)
        ids, letters = self._begun[begun]
        mass = np.bincount(letters, np.exp(log_probs[ids]), len(LETTERS))
        return mass / mass.sum() if mass.sum() > PRESENT else np.zeros(len(LETTERS))

    def hear(self, wav: np.ndarray) -> tuple[str, np.ndarray]:
        """(T,) -> text of LETTERS, how each letter might have been another (letters of it, LETTERS)."""
        from faster_whisper.audio import pad_or_trim

        encoded = self.model.encode(pad_or_trim(self.model.feature_extractor(wav)))
        asked = [*self.tokenizer.sot_sequence, self.tokenizer.no_timestamps]
        how = {"beam_size": 1, "sampling_topk": 1, "return_logits_vocab": True, "suppress_tokens": [], "suppress_blank": False}
        said = self.model.model.generate(encoded, [asked], max_length=len(asked) + 80, **how)[0]
        text, rows = "", list[np.ndarray]()
        for token, logits in zip(said.sequences_ids[0], said.logits[0], strict=False):
            log_probs = torch.from_numpy(np.array(logits, np.float32)).log_softmax(-1).numpy()
            written = self.written[token] if token < len(self.written) else ""
            for place, letter in enumerate(written):
                if letter in LETTERS and not (letter == " " and (not text or text.endswith(" "))):
                    text += letter
                    rows.append(self.next_letter(log_probs, written[:place]))
                elif letter.isdigit():
                    return "", np.zeros((0, len(LETTERS)))
        return text, np.array(rows).reshape(-1, len(LETTERS))


def hear(pack: Path, cache: Path, out: Path, count: int) -> None:
    """Write `rows` (their places in the pack), `texts` and `letters`, all utterances end to end."""
    ear, rows = Ear(cache), manifest.read(pack)
    places, texts, letters = list[int](), list[str](), list[np.ndarray]()
    for place in range(0, len(rows), max(1, len(rows) // count)):
        text, soft = ear.hear(manifest.load_wav(rows[place], pack.parent, 16_000))  # packs are levelled
        if text.strip():
            places.append(place)
            texts.append(text)
            letters.append(soft.astype(np.float16))
        if place % 100 == 0:
            sys.stdout.write(f"{place} of {len(rows)}: {text} / {rows[place].text}\n")
            sys.stdout.flush()
    errors = metrics.wer([rows[place].text for place in places], texts)
    soft = np.concatenate(letters).astype(np.float32)
    known = soft[soft.sum(1) > 0]
    sys.stdout.write(f"{len(places)} kept, word errors {errors}, mean of the likeliest {known.max(1).mean():.3f}\n")
    np.savez_compressed(out, rows=places, texts=np.array(texts), letters=np.concatenate(letters))


class Student:
    """A language model that reads codes."""

    def __init__(self, folder: Path) -> None:
        self.vocab, config = Vocab.load(folder), LMConfig.load(folder)
        self.lm = LM(config)
        self.lm.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
        self.legal = torch.tensor(sorted({*(id for ids in self.vocab.text for id in ids), *prompt.asr(self.vocab, [], []).stop}))
        self.place = {int(id): i for i, id in enumerate(self.legal)}
        self.letters = torch.tensor([self.place[self.vocab.encode(letter)[0]] for letter in LETTERS])

    def scores(self, asked: prompt.Prompt) -> tuple[Tensor, Tensor]:
        """-> scores of every target id (N, legal), places of the right ones (N,)."""
        ids = torch.tensor([*asked.context, *asked.target[:-2]])[None]
        hidden = self.lm(ids)[0, len(asked.context) - 1 :]
        return self.lm.head(hidden, self.legal).float(), torch.tensor([self.place[id] for id in asked.target[:-1]])

    def loss(self, row: TokenisedUtterance, soft: np.ndarray | None) -> Tensor:
        """Nats of a row's letters, summed; `soft` (letters, LETTERS): half of them by that."""
        scores, right = self.scores(prompt.asr(self.vocab, row.glm, row.semantic, row.text))
        hard = F.cross_entropy(scores, right, reduction="none")
        if soft is None:
            return hard.sum()
        wanted = torch.from_numpy(soft.astype(np.float32))
        known = wanted.sum(1) > 0
        spread = -(wanted * scores[: len(wanted)].log_softmax(-1)[:, self.letters]).sum(1)
        given = torch.where(known, SOFT * spread + (1 - SOFT) * hard[: len(wanted)], hard[: len(wanted)])
        return given.sum() + hard[len(wanted) :].sum()

    @torch.inference_mode()
    def read(self, row: TokenisedUtterance) -> str:
        """The likeliest letters, one after another."""
        asked = prompt.asr(self.vocab, row.glm, row.semantic)
        ids = list(asked.context)
        for _ in range(200):
            best = int(self.legal[self.lm.head(self.lm(torch.tensor(ids)[None])[0, -1:], self.legal)[0].argmax()])
            if best in asked.stop:
                break
            ids.append(best)
        return self.vocab.decode(ids[len(asked.context) :])

    @torch.inference_mode()
    def judged(self, rows: list[TokenisedUtterance]) -> str:
        """What it knows of held-out rows."""
        asked = [self.scores(prompt.asr(self.vocab, row.glm, row.semantic, row.text)) for row in rows]
        scores, right = (torch.cat(part) for part in zip(*asked, strict=True))
        nats, hit = F.cross_entropy(scores, right), (scores.argmax(-1) == right).float().mean()
        some = rows[:: len(rows) // READ]
        words = metrics.wer([row.text for row in some], [self.read(row) for row in some])
        return f"{nats:.4f} nats a letter, {hit:.4f} right, words {words}"


def train(student: Student, rows: list[TokenisedUtterance], soft: list[np.ndarray | None], steps: int, told: Callable[[int], None]) -> None:
    """Batches of BUDGET codes at random; the rate falls to nothing."""
    optimiser = torch.optim.AdamW(student.lm.parameters(), RATE, weight_decay=0.05, betas=(0.9, 0.95))
    rng = np.random.default_rng(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min((step + 1) / WARMUP, 1 - step / steps)
        total, letters, room = torch.zeros(()), 0, BUDGET
        optimiser.zero_grad()
        while room > 0:
            i = int(rng.integers(len(rows)))
            with torch.autocast("cpu", torch.bfloat16):
                loss = student.loss(rows[i], soft[i])
            (loss / 400).backward()
            room -= len(rows[i].semantic) + len(rows[i].glm) + len(rows[i].text)
            total, letters = total + loss.detach(), letters + len(rows[i].text) + 1
        torch.nn.utils.clip_grad_norm_(student.lm.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 100 == 0:
            sys.stdout.write(f"step {step + 1}: {total / letters:.4f} nats a letter in training\n")
        if (step + 1) % (steps // 2) == 0:
            told(step + 1)


def taught(shard: Path, heard: Path, arm: str) -> tuple[list[TokenisedUtterance], list[np.ndarray | None]]:
    """Rows with the texts of an arm, and how their letters might have been others."""
    found, rows = np.load(heard), read_shard(shard)
    rows = [rows[i] for i in found["rows"]]
    if arm != "labels":
        rows = [replace(row, text=str(text)) for row, text in zip(rows, found["texts"], strict=True)]
    if arm == "posteriors":
        return rows, list(np.split(found["letters"], np.cumsum([len(row.text) for row in rows])[:-1]))
    return rows, [None] * len(rows)


def main() -> None:
    """Hear or train."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    heard = verbs.add_parser("hear")
    for name in ("pack", "cache", "out"):
        heard.add_argument(name, type=Path)
    heard.add_argument("--count", type=int, default=1200)
    trained = verbs.add_parser("train")
    for name in ("checkpoint", "shard", "held", "heard"):
        trained.add_argument(name, type=Path)
    trained.add_argument("--arm", choices=("labels", "heard", "posteriors"), required=True)
    trained.add_argument("--steps", type=int, default=400)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.verb == "hear":
        hear(asked.pack, asked.cache, asked.out, asked.count)
    else:
        student, held = Student(asked.checkpoint), read_shard(asked.held)
        held = [held[i * len(held) // HELD] for i in range(HELD)]

        def told(step: int) -> None:
            sys.stdout.write(f"{asked.arm}, {step}: {student.judged(held)}\n")
            sys.stdout.flush()

        told(0)
        train(student, *taught(asked.shard, asked.heard, asked.arm), asked.steps, told)


if __name__ == "__main__":
    main()

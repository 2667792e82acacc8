"""Trains the language model on ASR, TTS and VC rows together.

Scores are taken over the ids a task may generate (they are all that decoding ever chooses from).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gpa.nets.lm import LM
from gpa.nets.lm_config import LMConfig
from gpa.prompt import IGNORED, Prompt
from gpa.training.guide import GUIDED_LAYERS, guided_attention
from gpa.training.lm_data import LMBatch, LMData, Mix, Rows
from gpa.training.loop import Loop, Losses, Schedule
from gpa.training.workers import Workers
from gpa.vocab import Vocab


@dataclass(frozen=True)
class LMRecipe:
    """Numbers of one run."""

    steps: int = 20_000
    rate: float = 2e-3
    warmup: int = 200
    decay: float = 1 / 3  # share of the steps, the last ones, over which the rate falls
    budget: int = 2600  # ids a batch and worker
    seed: int = 0
    guide: float = 0.5
    guide_share: float = 0.8  # of the steps
    short_steps: int = 1000  # the first steps see short rows only
    short_codes: int = 75  # 3 s
    weight_decay: float = 0.05
    compile: bool = True
    meet: int = 16  # steps after which workers average their weights
    loaders: int = 0  # processes a worker that prepare its batches; 0: the worker itself (a GPU wants about 8)
    tts: float = 0.4  # share of the batches, as asr and vc
    asr: float = 0.4
    vc: float = 0.2
    asr_human: float = 0.3  # share of ASR rows that are human speech, as tts_human and vc_human
    tts_human: float = 0.15
    vc_human: float = 0.1
    semantic_only: float = 0.25  # share of ASR batches without the linguistic codes
    glm_only: float = 0.05  # share of ASR batches without the semantic codes
    disturbed: float = 0.25  # share of ASR rows that are only listened to, with words
    empty: float = 0.02  # share of ASR rows that are only listened to, without
    reference: float = 0.0  # share of TTS batches whose rows have a reference with its transcript
    voices: dict[str, float] = field(default_factory=dict)  # shares of teachers' TTS rows for speakers whose names begin so

    @property
    def mix(self) -> Mix:
        """How rows and forms are drawn."""
        forms = {"both": 1 - self.semantic_only - self.glm_only, "semantic": self.semantic_only, "glm": self.glm_only}
        human = {"tts": self.tts_human, "asr": self.asr_human, "vc": self.vc_human}
        tasks = {"tts": self.tts, "asr": self.asr, "vc": self.vc}
        return Mix(tasks, human, forms, self.disturbed, self.empty, self.reference, self.voices)


class Scorer:
    """Prompts -> loss over the legal ids."""

    def __init__(self, lm: LM, vocab: Vocab, compile: bool = False) -> None:
        self.lm, self.vocab = lm, vocab
        if compile:  # layer by layer: eight layers share what one of them took to compile
            for layer in lm.model.layers:
                layer.compile(dynamic=True)
        self._legal: dict[str, tuple[Tensor, Tensor]] = {}

    def legal(self, task: str, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """Rows of the head a task may choose, and the index of every id among them (-1: illegal)."""
        if task not in self._legal:
            rows = torch.tensor(sorted({id for part in prompt.allowed for id in part} | set(prompt.stop)))
            index = torch.full((self.vocab.size,), -1)
            index[rows] = torch.arange(len(rows))
            device = self.lm.model.embed_tokens.weight.device
            self._legal[task] = rows.to(device), index.to(device)
        return self._legal[task]

    def __call__(self, batch: LMBatch, guide: bool) -> tuple[Tensor, Tensor, Tensor]:
        """-> nats per target id, share of ids guessed right, guided-attention cost."""
        watched: list[Tensor] | None = [] if guide else None
        hidden = self.lm(batch.ids, watched, GUIDED_LAYERS if guide else ())
        rows, index = self.legal(batch.task, batch.prompts[0])
        keep = batch.labels != IGNORED
        scores = self.lm.head(hidden[keep], rows).float()
        target = index[batch.labels[keep]]
        right = (scores.argmax(-1) == target).float().mean()
        cost = guided_attention(watched, batch.prompts, batch.courses) if watched else scores.new_zeros(())
        return F.cross_entropy(scores, target), right, cost


class Steps(Dataset[LMBatch]):
    """Batch of each step of one worker, for a loader: a pure function of the step."""

    def __init__(self, data: LMData, recipe: LMRecipe, workers: Workers) -> None:
        self.data, self.recipe, self.workers = data, recipe, workers

    def __getitem__(self, step: int) -> LMBatch:
        """The batch of `step`."""
        r = self.recipe
        draw = step * self.workers.count + self.workers.rank
        return self.data.batch(r.seed, draw, longest_codes=r.short_codes if step < r.short_steps else None)


class LMRun:
    """One training run on disk: OUT/state.pt. `init`: weights that a new run starts from."""

    def __init__(
        self,
        config: LMConfig,
        vocab: Vocab,
        shards: Sequence[Path],
        held: Sequence[Path],
        out: Path,
        recipe: LMRecipe,
        init: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.recipe = recipe
        self.data = LMData(Rows(shards), vocab, recipe.mix, recipe.budget)
        self.held = LMData(Rows(held), vocab, recipe.mix.plain, 6000) if held else None
        torch.manual_seed(recipe.seed)
        self.lm = LM(config)
        if init is not None:
            self.lm.load_state_dict(init)
        self.scorer = Scorer(self.lm, vocab, recipe.compile)
        schedule = Schedule(
            recipe.steps,
            recipe.rate,
            recipe.warmup,
            recipe.decay,
            clip=1.0,
            seed=recipe.seed,
            weight_decay=recipe.weight_decay,
            meet=recipe.meet,
        )
        self.loop = Loop(self.lm, out, schedule)
        self._batches: Iterator[LMBatch] = iter(())
        self.seen = {"tts": 0, "asr": 0, "vc": 0}

    def run(self, every: int = 100) -> Iterator[dict[str, float]]:
        """Train or resume; yields mean losses, sequences seen by task, and held-out nats and accuracy."""
        self.seen.update(self.loop.resume())
        r = self.recipe
        steps = Steps(self.data, r, self.loop.workers)
        left = range(self.loop.step, r.steps)
        self._batches = iter(DataLoader(steps, batch_size=None, sampler=left, num_workers=r.loaders))
        for row in self.loop.run(self._losses, {"lm": 1.0, "guide": self.recipe.guide}, extra=lambda: dict(self.seen), every=every):
            yield {**row, **{f"seen_{task}": count for task, count in self.seen.items()}, **self._held_out()}

    def _losses(self, draw: int) -> tuple[Losses, Losses]:
        batch = next(self._batches).to(self.loop.device)
        self.seen[batch.task] += len(batch.prompts) * self.loop.workers.count
        loss, right, cost = self.scorer(batch, guide=self.loop.step < self.recipe.guide_share * self.recipe.steps)
        return {"lm": loss, "guide": cost}, {"accuracy": right}

    @torch.no_grad()
    def _held_out(self) -> dict[str, float]:
        if self.held is None:
            return {}
        self.lm.eval()
        figures: dict[str, float] = {}
        with torch.autocast(self.loop.device.type, torch.bfloat16):
            for task in (task for task, share in self.recipe.mix.tasks.items() if share):
                loss, right, _ = self.scorer(self.held.batch(1, 0, task).to(self.loop.device), guide=False)
                figures |= {f"{task}_nats": float(loss), f"{task}_right": float(right)}
        return figures

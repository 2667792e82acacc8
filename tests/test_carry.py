"""A language model carried over to renamed codes knows all that it knew."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gpa.data.shards import TokenisedUtterance, write_shard
from gpa.errors import GPAError
from gpa.nets.lm import LM
from gpa.nets.lm_config import LMConfig
from gpa.training.carry import carry_over
from gpa.training.lm import Scorer
from gpa.training.lm_data import LMData, Rows
from gpa.vocab import write_character_tokenizer

SIZES = {"glm": 12, "bicodec_global": 16, "bicodec_semantic": 20}


@pytest.fixture
def rows() -> list[TokenisedUtterance]:
    rng = np.random.default_rng(0)

    def codes(size: int, count: int):
        return np.concatenate([np.arange(size), rng.integers(0, size, count)]).astype(np.uint16)  # every code is met

    return [
        TokenisedUtterance(f"line {'abcdefghij'[i]}", f"h{i % 3}", "hibari-tts", codes(20, 4), codes(12, 0), codes(16, 0))
        for i in range(10)
    ]


def test_permuted_codes_leave_every_score_as_it_was(rows, tmp_path: Path):
    rng = np.random.default_rng(1)
    semantic, glm, voice = (rng.permutation(size).astype(np.uint16) for size in (20, 12, 16))
    renamed = [replace(r, semantic=semantic[r.semantic], glm=glm[r.glm], voice=voice[r.voice]) for r in rows]
    (tmp_path / "new").mkdir()
    old, new = tmp_path / "a.npz", tmp_path / "new" / "a.npz"
    write_shard(old, rows)
    write_shard(new, renamed)
    vocab = write_character_tokenizer(tmp_path, **SIZES)
    torch.manual_seed(0)
    before, after = (LM(LMConfig(16, 32, 2, 2, 1, 8, vocab.size)) for _ in range(2))
    after.load_state_dict(carry_over(before.state_dict(), vocab, [old], [new]))
    for task in ("asr", "tts", "vc"):
        losses = [
            Scorer(lm, vocab)(LMData(Rows([path]), vocab).batch(0, 0, task), guide=False)[0] for lm, path in ((before, old), (after, new))
        ]
        torch.testing.assert_close(losses[0], losses[1])


def test_other_utterances_or_rates_are_refused(rows, tmp_path: Path):
    (tmp_path / "new").mkdir()
    old, new, stranger = tmp_path / "a.npz", tmp_path / "new" / "a.npz", tmp_path / "new" / "b.npz"
    write_shard(old, rows)
    vocab = write_character_tokenizer(tmp_path, **SIZES)
    state = {"model.embed_tokens.weight": torch.zeros(vocab.size, 4)}
    write_shard(new, rows[1:])
    with pytest.raises(GPAError, match="different utterances"):
        carry_over(state, vocab, [old], [new])
    write_shard(new, [replace(row, semantic=row.semantic[::2]) for row in rows])
    with pytest.raises(GPAError, match="24 old and 12 new"):
        carry_over(state, vocab, [old], [new])
    write_shard(stranger, rows)
    with pytest.raises(GPAError, match="no shard"):
        carry_over(state, vocab, [old], [stranger])

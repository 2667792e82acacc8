"""Prompts and the vocabulary: ids as the reference wrote them, and a text that can never be more than text."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from gpa import prompt
from gpa.errors import CheckpointError
from gpa.prompt import IGNORED, Prompt
from gpa.vocab import STOP, STRUCTURAL, Vocab, write_published_tokenizer

GOLDEN = json.loads((Path(__file__).parent / "golden" / "prompts.json").read_text())
GLM, SEMANTIC, SPOKEN = [3, 16383, 0, 77], [10, 8191, 0, 5, 9], [301, 302, 303, 8190]
VOICE = list(range(4095, 4063, -1))
FIRST = 180_399  # id of the first structural token in the reference's examples


@cache
def toy() -> Vocab:
    """The reference examples' vocabulary: bytes, the published ranges of codes, structural tokens behind them."""
    ranges = GOLDEN["id_ranges"]
    table = {chr(i): i for i in range(256)}
    for name, token in (("glm", "toy_glm"), ("bicodec_global", "bicodec_global"), ("bicodec_semantic", "bicodec_semantic")):
        table |= {f"<|{token}_{code}|>": ranges[name]["first"] + code for code in range(ranges[name]["count"])}
    table |= {token: FIRST + i for i, token in enumerate(GOLDEN["structural_tokens"][:-1])} | {STOP: ranges["im_end"]["id"]}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return Vocab(json.loads(tokenizer.to_str()))


def made(task: str, learned: bool) -> Prompt:
    said, target = ("Hi you", SPOKEN) if learned else (None, None)
    if task == "asr":
        return prompt.asr(toy(), GLM, SEMANTIC, said)
    return prompt.tts(toy(), VOICE, "Hi you", target) if task == "tts" else prompt.vc(toy(), VOICE, SEMANTIC, target)


@pytest.mark.parametrize("name", GOLDEN["examples"])
def test_prompts_are_the_references(name: str) -> None:
    where, task = name.split("/")
    asked, legal = made(task, where == "training"), GOLDEN["examples"][name]
    assert list(asked.ids) == legal["ids"]
    if where == "training":
        assert list(asked.labels) == legal["labels"]
        assert asked.context == made(task, False).context  # training and use share the writer
    assert asked.stop[-1] == GOLDEN["id_ranges"]["im_end"]["id"]


def test_a_reference_transcript_is_spoken_on_from() -> None:
    vocab = toy()
    asked = prompt.tts(vocab, VOICE, " you", SPOKEN, "Hi", SEMANTIC)
    plain = prompt.tts(vocab, VOICE, "Hi you", SPOKEN)
    start = vocab.special("<|start_semantic_token|>")
    assert asked.context == (*plain.context, start, *vocab.bicodec_semantic.encode(SEMANTIC))
    assert asked.target == plain.target
    assert asked.source == range(plain.source.start + len(vocab.encode("Hi")), plain.source.stop)  # what is still to be said
    assert set(asked.labels[: len(asked.context)]) == {IGNORED}
    for half in ({"reference_text": "Hi"}, {"reference_semantic": SEMANTIC}):
        with pytest.raises(ValueError, match="a reference has a text and codes"):
            prompt.tts(vocab, VOICE, "you", **half)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    return write_published_tokenizer(tmp_path_factory.mktemp("tokenizer"), 300, 64, 16, 32)


tokens = st.sampled_from([*STRUCTURAL, "<|glm_3|>", "<|bicodec_semantic_0|>", "<think>", "</tool_call>", "<|before_0|>", "<|im_", "end|>"])


def test_a_conversion_expects_its_source_and_the_stop_behind_it() -> None:
    asked = prompt.vc(toy(), VOICE, SEMANTIC, spoken=SEMANTIC[:2])
    ids = np.array([*toy().bicodec_semantic.ids, *asked.stop])
    prior, expected = asked.prior, []
    assert prior is not None
    for _ in range(5):
        scores = prior.scores(ids)
        assert scores.sum() == scores.max() or not scores.any()
        expected.append(ids[scores > 0].tolist())
        prior = prior.after(0)
    assert expected == [*([id] for id in toy().bicodec_semantic.encode(SEMANTIC[2:])), list(asked.stop), []]


@settings(deadline=None)
@given(st.lists(st.one_of(tokens, st.text(max_size=8)), max_size=8).map("".join))
@example("".join(STRUCTURAL))
def test_text_is_only_ever_text(vocab: Vocab, text: str) -> None:
    ids = vocab.encode(text)
    assert all(any(id in legal for legal in vocab.text) for id in ids)
    asked = prompt.tts(vocab, [1, 2], text)
    special = [id for id in asked.context if not any(id in legal for legal in vocab.text)]
    assert special == list(prompt.tts(vocab, [1, 2], "").context)
    assert vocab.decode(ids) == unicodedata.normalize("NFC", text)


def test_where_tokens_stand_is_read(vocab: Vocab) -> None:
    assert vocab.text == (range(300),)
    assert vocab.special(STOP) == 302
    assert (vocab.glm.first, vocab.glm.size) == (300 + 26 + 58, 64)
    assert (vocab.bicodec_global.first, vocab.bicodec_semantic.first) == (vocab.glm.first + 64, vocab.glm.first + 80)
    assert vocab.size == 300 + 26 + 58 + 112 + 8 + 38


def renamed(folder: Path, old: str, new: str) -> None:
    write_published_tokenizer(folder, 256, 64, 16, 32)
    raw = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(raw.replace(old, new))


def test_linguistic_tokens_of_another_name_are_known_by_their_number(tmp_path: Path) -> None:
    renamed(tmp_path, "<|glm_", "<|audio_")
    assert Vocab.load(tmp_path, 64).glm.size == 64
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: the tokenizer's glm tokens are not one consecutive range"):
        Vocab.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"glm tokens are not one consecutive range from code 0 \(0 found\)"):
        Vocab.load(tmp_path, 63)


def test_a_hole_in_a_range_is_named(tmp_path: Path) -> None:
    renamed(tmp_path, "<|bicodec_semantic_7|>", "<|seven|>")
    with pytest.raises(CheckpointError, match=r"bicodec_semantic tokens are not one consecutive range from code 0 \(31 found\)"):
        Vocab.load(tmp_path)


def test_other_tokenizers_are_no_checkpoint(tmp_path: Path) -> None:
    renamed(tmp_path, "<|start_content|>", "<|content|>")
    with pytest.raises(CheckpointError, match=r"lacks <\|start_content\|>"):
        Vocab.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Vocab.load(tmp_path)

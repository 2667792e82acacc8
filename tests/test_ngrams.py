"""N-grams: their probabilities are probabilities, they know what was counted, and a search heeds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from engine_suite import write_checkpoint
from gpa import hub
from gpa.cli import app
from gpa.data.manifest import read_list
from gpa.data.ngrams import SHARED, apart, count, words_of
from gpa.engines.base import Sampling
from gpa.engines.search import Search
from gpa.errors import CheckpointError, GPAError
from gpa.ngrams import ALL_EXPECTED, EXPECTED, LETTERS, Counts, NGrams, Said, names, spellings
from gpa.vocab import STRUCTURAL, Vocab

SENTENCES = (
    "The old man saw the sea.",
    "The old man saw the ship; the ship saw nobody.",
    "Don't they see the old ship?",
    "An old hand mans the ship.",
)


@pytest.fixture(scope="module")
def ngrams() -> NGrams:
    return NGrams(count([words_of(sentence) for sentence in SENTENCES]))


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    return Vocab.load(folder)


def written(said: Said, vocab: Vocab, text: str) -> Said:
    for id in vocab.encode(text):
        said = said.after(id)
    return said


def score(said: Said, vocab: Vocab, text: str) -> float:
    """Of a text that is written further."""
    total = 0.0
    for id in vocab.encode(text):
        total += float(said.scores(np.array([id]))[0])
        said = said.after(id)
    return total


texts = st.lists(st.one_of(st.sampled_from(sorted({w for s in SENTENCES for w in words_of(s)})), st.text(LETTERS, max_size=5)), max_size=5)


@given(words=texts, spelled=st.text(LETTERS, max_size=6))
def test_what_may_follow_sums_to_one(ngrams: NGrams, vocab: Vocab, words: list[str], spelled: str) -> None:
    """Whatever was written before, known or not."""
    said = written(Said.nothing(ngrams, vocab), vocab, " ".join([*words, spelled]))
    logs = ngrams.next(said.before, said.spelled, said.odds)
    assert logs.shape == (len(LETTERS) + 1,)
    assert np.exp(logs).sum() == pytest.approx(1)
    assert np.isfinite(logs).all()


def test_a_text_without_end(ngrams: NGrams, vocab: Vocab) -> None:
    said = written(Said.nothing(ngrams, vocab), vocab, "x" * 900)
    logs = said.scores(np.array(vocab.encode("x ")))
    assert np.isfinite(logs).all()


def test_probabilities_of_words_are_those_of_their_letters(ngrams: NGrams, vocab: Vocab) -> None:
    """Absolute discounting by hand: ship follows "the old" never, "old" in one of four, and is four of 28 words."""
    said = written(Said.nothing(ngrams, vocab), vocab, "the old ")
    single = 4 / 28
    pair = (1 - 0.75) / 4 + 0.75 * 3 / 4 * single  # old: man twice, ship, hand
    triple = 1 - (2 - 0.75) / 3  # "the old" was said three times, and "the old man", twice, alone was kept
    known = triple * pair
    assert np.exp(score(said, vocab, "ship ")) == pytest.approx(0.99 * known, rel=1e-3)  # 0.01: unknown words


def test_what_was_said_is_likelier(ngrams: NGrams, vocab: Vocab) -> None:
    start = Said.nothing(ngrams, vocab)
    assert score(start, vocab, "the old man.") > score(start, vocab, "the old mam.") + 3
    assert score(start, vocab, "old ") < score(start, vocab, "the ")  # no sentence begins with it
    after = written(start, vocab, "the old man ")
    assert score(after, vocab, "saw ") > score(after, vocab, "sea ")


def test_punctuation_is_free_and_ends_words(ngrams: NGrams, vocab: Vocab) -> None:
    said = written(Said.nothing(ngrams, vocab), vocab, "old")
    assert said.after(vocab.encode(",")[0]) == said.after(vocab.encode(" ")[0])
    between = said.after(vocab.encode(",")[0])
    ids = np.array([vocab.encode(" ")[0], vocab.special("<|im_end|>"), vocab.special("<|end_content|>")])
    assert (between.scores(ids) == 0).all()
    assert (said.scores(ids) == said.scores(ids)[0]).all()
    assert said.scores(ids)[0] < 0
    assert between.after(int(ids[0])) is between


def test_a_sentence_ends_once(ngrams: NGrams, vocab: Vocab) -> None:
    start = Said.nothing(ngrams, vocab)
    for text, legal in ((" old.", True), ("old, .", True), (" ...", False), (" old..", False), (" old. ?", False), ("old. man.", True)):
        before, last = written(start, vocab, text[:-1]), text[-1]
        assert (score(before, vocab, last) > -50) == legal, text


@given(counted=st.lists(st.text(LETTERS + " .", min_size=1, max_size=30), min_size=1, max_size=12))
def test_files_hold_what_was_counted(tmp_path_factory: pytest.TempPathFactory, counted: list[str]) -> None:
    sentences = [words_of(one) for one in counted]
    if not any(sentences):
        with pytest.raises(GPAError, match="no words are left"):
            count(sentences)
        return
    counts = count(sentences)
    path = tmp_path_factory.mktemp("counts") / "ngrams.npz"
    counts.save(path)
    again = Counts.load(path)
    assert again.words == counts.words == tuple(sorted({word for words in sentences for word in words}))
    for name in vars(counts).keys() - {"words"}:
        assert (getattr(again, name) == getattr(counts, name)).all()
    start = len(counts.words)
    assert sum(counts.pair[counts.pair_from[start] : counts.pair_from[start + 1]]) == sum(bool(words) for words in sentences)


def test_sentences_of_tests_are_left_out() -> None:
    tests = ["One two three four five six.", "Short one."]
    sentences = ["Zero, two three four five six!", "two three four five", "Short one?", "A short one it is.", "..."]
    assert SHARED == 5
    assert apart(sentences, tests) == [("two", "three", "four", "five"), ("a", "short", "one", "it", "is")]


class Asked:
    def __init__(self, vocab: Vocab, prior: Said | None) -> None:
        self.context, self.prefix, self.prior = (0,), 0, prior
        self.allowed, self.stop = vocab.text, (vocab.special("<|im_end|>"),)


def searched(vocab: Vocab, prior: Said | None, weight: float) -> tuple[str, list[float]]:
    """By a model that hears "the old men", and "man" nearly as well: its text, and how sure it is of each letter."""
    asked, heard = Asked(vocab, prior), vocab.encode("the old men")
    legal = tuple(sorted((*asked.allowed, range(asked.stop[0], asked.stop[0] + 1)), key=lambda ids: ids.start))
    ids = [id for some in legal for id in some]
    search = Search(asked, Sampling(beams=4, prior_weight=weight, max_new_ids=len(heard)), legal)
    rows = np.zeros((len(heard), len(ids)), np.float32)
    rows[range(len(heard)), [ids.index(id) for id in heard]] = 9
    rows[9, ids.index(vocab.encode("a")[0])] = 8.5
    rows[:, ids.index(asked.stop[0])] = -50
    count = 1
    for row in rows:
        count = len(search.step([row] * count))
    return vocab.decode([token.id for token in search.best]), [token.logprob for token in search.best]


def test_a_search_writes_what_is_likely(ngrams: NGrams, vocab: Vocab) -> None:
    prior = Said.nothing(ngrams, vocab)
    text, sure = searched(vocab, prior, 0.3)
    assert text == "the old man"
    assert sure[9] == pytest.approx(np.log(1 / (1 + np.exp(0.5))), abs=0.01)  # as the model alone has it
    assert searched(vocab, prior, 0.0) == searched(vocab, None, 0.3)
    assert searched(vocab, prior, 0.0)[0] == "the old men"


def test_keywords_are_likelier(ngrams: NGrams, vocab: Vocab) -> None:
    """A hundredth of all words each, whatever comes before; not more than a fifth together."""
    start = written(Said.nothing(ngrams, vocab), vocab, "the old ")
    for many in (1, 50):
        words = ("hibari", *(f"x{'y' * i}" for i in range(many - 1)))
        expecting = replace(start, expected=words)
        share = np.exp(score(expecting, vocab, "hibari "))
        assert share == pytest.approx(min(EXPECTED, ALL_EXPECTED / many), rel=0.01)
        rest = 1 - min(EXPECTED * many, ALL_EXPECTED)
        assert score(expecting, vocab, "ship ") == pytest.approx(score(start, vocab, "ship ") + np.log(rest), abs=1e-3)


def test_keywords_are_spelled_as_the_checkpoint_writes() -> None:
    found = spellings(["Hibari, O'Brien", "GPT-4", "Müller's", "東京", "42", "Digique Plus"])
    assert found == {
        "hibari": "Hibari", "o'brien": "O'Brien", "gpt": "GPT", "muller's": "Müller's", "digique": "Digique", "plus": "Plus",
    }  # fmt: skip


def test_names_of_a_prompt(ngrams: NGrams) -> None:
    prompt = "The old man saw the Ship. See Hibari? They saw: ZyntriQix, an Old"
    assert names(prompt, ngrams) == ["Ship", "Hibari", "ZyntriQix", "Old"]


def test_a_vocabulary_of_whole_words_is_refused(ngrams: NGrams) -> None:
    added = [*STRUCTURAL]
    added += [f"<|{family}_{code}|>" for family in ("glm", "bicodec_global", "bicodec_semantic") for code in range(2)]
    model = {"type": "WordLevel", "vocab": {"man": 0, "a": 1}, "unk_token": "a"}
    tokens = [{"content": token, "id": 2 + i} for i, token in enumerate(added)]
    raw = {"version": "1.0", "model": model, "added_tokens": tokens}
    with pytest.raises(CheckpointError, match=r"letter by letter \(found a token 'man'\)"):
        Said.nothing(ngrams, Vocab(raw))


def test_damaged_files(tmp_path: Path, ngrams: NGrams) -> None:
    path = tmp_path / "ngrams.npz"
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError, match=r"ngrams.npz cannot be read"):
        Counts.load(path)
    np.savez(path, words=np.zeros(3, np.uint8))
    with pytest.raises(CheckpointError, match="cannot be read"):
        Counts.load(path)
    counts = count([("a", "b"), ("b", "a")])
    Counts(**{**vars(counts), "pair": counts.pair[:1]}).save(path)
    with pytest.raises(CheckpointError, match=r"ngrams.npz: arrays of \[2, 4, .* for 2 words \(legal"):
        Counts.load(path)


def test_the_command(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(["The sea is old.", "See the five old ships at sea.", *(f"x {'y' * i}" for i in range(1000))]) + "\n")
    test = tmp_path / "test.txt"
    test.write_text("# left out\nThe five old ships at sea!\n")
    done = CliRunner().invoke(app, ["data", "ngrams", "-t", str(text), "--without", str(test), "-o", str(tmp_path / "out" / "n.npz")])
    assert done.exit_code == 0, done.output
    assert "4 words, 4 pairs, 0 triples of 1 sentences; 1 left out" in done.output
    assert Counts.load(tmp_path / "out" / "n.npz").words == ("is", "old", "sea", "the")


def test_the_embedded_counts_hold_no_test() -> None:
    """Of a sentence that was counted every pair of words is known; of those that nano is tested with, few."""
    counts = Counts.load(hub.resolve().ngrams)
    index = {word: i for i, word in enumerate([*counts.words, ""])}

    def known(first: str, second: str) -> bool:
        rows = slice(*counts.pair_from[index[first] : index[first] + 2])
        return index.get(second, -1) in counts.pair_word[rows]

    tests = [words_of(sentence) for sentence in read_list(Path(__file__).parent.parent / "recipes/nano/heldout_text.txt")]
    whole = [words for words in tests if all(word in index for word in words) and all(map(known, ["", *words], words))]
    assert len(counts.words) > 30_000
    assert len(whole) < 0.5 * len(tests)

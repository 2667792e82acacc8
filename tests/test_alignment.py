"""Times of letters: the CTC path finds labels where they are, and fits shards."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpa.data.shards import TokenisedUtterance, read_shard, write_shard
from gpa.nets.quantize import FactorizedVQ
from gpa.training.alignment import UNKNOWN, Aligner, ctc_path, letters, read_times
from gpa.training.codec import Reader


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=150))
@settings(max_examples=80, deadline=None)
def test_path_finds_labels_where_they_are_loud(said):
    """Each label sounds for a while, with blanks after it."""
    loud, middles, labels = [], [], []
    for label, length, pause in said:
        middles.append(len(loud) + (length - 1) // 2)
        labels.append(label)
        loud += [label] * length + [0] * pause
    scores = np.full((len(loud), 5), -8.0, np.float32)
    scores[np.arange(len(loud)), loud] = -0.01
    assert ctc_path(scores, np.array(labels)).tolist() == middles


def test_text_that_does_not_fit_has_no_path():
    scores = np.log(np.full((3, 4), 0.25, np.float32))
    assert ctc_path(scores, np.array([1, 1])).tolist() == [0, 2]  # equal neighbours need the blank between them
    assert ctc_path(scores, np.array([1, 1, 2])) is None
    assert ctc_path(scores, np.zeros(0, np.int64)).tolist() == []


def test_letters_leave_out_what_the_reader_cannot_spell():
    assert letters("Café, 7 o'clock!") == "cafe  o'clock"


def test_times_of_a_shard_belong_to_its_rows(tmp_path):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    aligner = Aligner(FactorizedVQ(16, 32, 4), Reader(16))
    texts = ["hello there", "no, never!", "", "far too long a text for three codes"]
    sizes = [20, 12, 4, 3]
    rows = [
        TokenisedUtterance(
            text, "h000", "hibari-tts", rng.integers(0, 32, n).astype(np.uint16), np.zeros(2, np.uint16), np.zeros(4, np.uint16)
        )
        for text, n in zip(texts, sizes, strict=True)
    ]
    write_shard(tmp_path / "a.npz", rows)
    assert read_times(tmp_path / "a.npz", rows) == [None] * 4
    assert aligner.align_shard(tmp_path / "a.npz") == 4
    hello, never, empty, long = read_times(tmp_path / "a.npz", read_shard(tmp_path / "a.npz"))
    assert empty is None
    assert long is None
    assert aligner.times(rows[3].semantic, texts[3]).tolist() == [UNKNOWN] * len(letters(texts[3]))
    for times, text, n in ((hello, texts[0], 20), (never, texts[1], 12)):
        assert len(times) == len(letters(text))
        assert (np.diff(times.astype(int)) >= 0).all()
        assert times.max() < n

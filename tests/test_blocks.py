"""Blocks of a cache: each belongs to one, and what is only kept stands in nobody's way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gpa.engines import blocks
from gpa.engines.blocks import Blocks


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 12), st.lists(st.tuples(st.sampled_from("tgk"), st.integers(0, 20), st.integers(1, 5)), max_size=60))
def test_no_block_belongs_to_two(count: int, moves: list[tuple[str, int, int]]) -> None:
    pool, held = Blocks(count), []
    for move, which, size in moves:
        if move == "t":
            enough = pool.spare >= size
            taken = pool.take(size)
            assert len(taken) == (size if enough else 0)
            held += [taken] if taken else []
        elif move == "g" and held:
            pool.give(held.pop(which % len(held)))
        elif move == "k":
            known, room = pool.kept((which,)), len(pool._free)
            made = pool.keep((which,), size)
            assert not (known and made)
            assert made or known or room < size
            assert pool.kept((which,)) == (known or made)
        owned = [block for some in [*held, *pool._kept.values(), pool._free] for block in some]
        assert sorted(owned) == list(range(count))
        assert pool.spare == count - sum(map(len, held))
        assert len(pool._kept) <= blocks.KEPT


def test_what_was_used_last_is_kept_longest() -> None:
    pool = Blocks(40)
    for voice in range(blocks.KEPT):
        assert pool.keep((voice,), 2)
    assert pool.kept((0,))
    pool.keep((99,), 2)
    assert pool.kept((0,))
    assert not pool.kept((1,))
    assert len(pool.take(10)) == 10  # the eight that are free, and the oldest beginning's
    assert pool.kept((99,))
    assert not pool.kept((2,))

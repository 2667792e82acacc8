"""Draws of one row: they follow from a seed and a name, whatever rows stand around it."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, name: str, *more: int) -> np.random.Generator:
    """The generator of a row, a speaker or a text called `name`; `more` tells its pieces apart."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), *more])

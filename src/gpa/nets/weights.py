"""Read `.safetensors` with numpy alone: running a model needs neither torch nor the safetensors package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpa.errors import CheckpointError

_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_DTYPES = _FLOATS | {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


class Weights(Mapping[str, NDArray[Any]]):
    """The tensors of one file, memory-mapped and read when asked for. bfloat16 comes out as float32."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"{self.path} is missing")
        self._bytes = np.memmap(self.path, dtype=np.uint8, mode="r") if self.path.stat().st_size else np.zeros(0, np.uint8)
        try:
            length = int.from_bytes(self._bytes[:8].tobytes(), "little")
            self._table = {k: v for k, v in json.loads(self._bytes[8 : 8 + length].tobytes()).items() if k != "__metadata__"}
            ends = [int(entry["data_offsets"][1]) for entry in self._table.values()]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{self.path} is not a safetensors file: {error}") from error
        self._start = 8 + length
        if ends and self._start + max(ends) > self._bytes.size:
            raise CheckpointError(f"{self.path} is cut short: {self._bytes.size} bytes found, {self._start + max(ends)} expected")

    def __getitem__(self, name: str) -> NDArray[Any]:
        """One tensor. Raises CheckpointError when the file lacks it."""
        if name not in self._table:
            raise CheckpointError(f"{self.path} lacks the tensor {name} (it holds {len(self)}, such as {', '.join(list(self)[:3])})")
        entry = self._table[name]
        if entry["dtype"] not in _DTYPES:
            raise CheckpointError(f"{self.path}: {name} has dtype {entry['dtype']}; legal: {', '.join(_DTYPES)}")
        first, last = entry["data_offsets"]
        flat = self._bytes[self._start + first : self._start + last].view(_DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(flat).reshape(entry["shape"])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor."""
        return {name: tuple(entry["shape"]) for name, entry in self._table.items()}

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

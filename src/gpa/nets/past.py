"""Past: what the convolutions of a decoder have heard of a stream, so that each of its frames is computed once.

A convolution needs frames on either side. Where all are at hand, zeros stand at both ends (`Whole`). Of a stream, each convolution
keeps the end of its input for the next piece (`Past`): it gives out what is settled, and zeros stand only where the stream begins
and ends. What it gives is what it would give of the whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Whole:
    """All frames are here."""

    def around(self, x: Tensor, before: int, after: int) -> tuple[Tensor, Tensor]:
        """x (B, C, T) -> what a convolution reads that needs so many frames `before` and `after` each; and the frames it gives."""
        return self.behind(x, before, after), x

    def behind(self, x: Tensor, before: int, zeros: int) -> Tensor:
        """x (B, C, T) -> what a convolution reads that needs so many frames before each, and so many zeros after the last."""
        return F.pad(x, (before, zeros))

    def cut(self, x: Tensor, before: int, after: int) -> Tensor:
        """Take what a transposed convolution gives for no frame off the beginning and the end of (B, C, T)."""
        return x[..., before : x.shape[-1] - after]


WHOLE = Whole()


class Past(Whole):
    """A piece of a stream, of one batch row: the first must be longer than all that its convolutions look ahead."""

    def __init__(self, ends: Tensor, held: Tensor) -> None:
        """ends (2,): 1 where the stream begins with this piece, and where it ends, else 0. held (1, S): `kept` of the piece before,
        and (1, 0) of the first."""
        self._begins, self._ends, self._held = ends[0], ends[1], held
        self._at = 0  # of `held`
        self._keeps: list[Tensor] = []

    def around(self, x: Tensor, before: int, after: int) -> tuple[Tensor, Tensor]:
        """See `Whole`; the second has as many frames as a convolution gives of the first."""
        whole = self._joined(x, before, after, before + after)
        return whole, whole[..., before:-after] if after else whole[..., before:]

    def behind(self, x: Tensor, before: int, zeros: int) -> Tensor:
        """See `Whole`."""
        return self._joined(x, before, zeros, before)

    def _joined(self, x: Tensor, before: int, after: int, kept: int) -> Tensor:
        """x with the `kept` frames before it, or the zeros that stand at the ends in their place."""
        channels = int(x.shape[1])
        start, self._at = self._at, self._at + channels * kept
        goes_on = 1 - self._begins
        held = self._held[:, start * goes_on : self._at * goes_on].reshape(1, channels, -1)
        zeros = torch.zeros((1, channels, max(before, after)), dtype=x.dtype, device=x.device)
        whole = torch.cat([zeros[..., : before * self._begins], held, x, zeros[..., : after * self._ends]], -1)
        self._keeps.append(whole[..., -kept:].flatten(1))
        return whole

    def cut(self, x: Tensor, before: int, after: int) -> Tensor:
        """See `Whole`: only where the stream begins, and ends.

        Zeros come behind the other pieces, so that as much is always cut: where a length is asked for here, ONNX's exporter writes
        that of the example."""
        if after:
            zeros = torch.zeros((1, int(x.shape[1]), after), dtype=x.dtype, device=x.device)
            x = torch.cat([x, zeros[..., : after * (1 - self._ends)]], -1)[..., :-after]
        return x[..., before * self._begins :]

    def kept(self) -> Tensor:
        """(1, S): what the next piece needs."""
        return torch.cat(self._keeps, 1)

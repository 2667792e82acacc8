"""Which codes a stretch of decoded speech depends on, and in which stretches a stream is decoded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

KERNEL = 7  # of every convolution in a Vocos backbone and in a wave generator's residual units
FIRST_SECONDS = 0.16  # of speech decoded first, for an early start
GROWTH = 1.5  # of each next stretch: no gap as long as speech is made 1.5 times as fast as it is played
MOST_SECONDS = 4.0  # of speech decoded at once


class Field(NamedTuple):
    """What a code's speech depends on."""

    before: int  # codes
    after: int
    head_before: int  # frames, of what the wave head reads
    head_after: int
    frames_per_code: int


def receptive_field(config: dict[str, Any]) -> Field:
    """What a code's decoded samples (of a source-filter head: its rows, whose synthesis has its own state) depend on,
    from the parsed BiCodec/config.yaml.

    Worked out backwards, from what is given out for code 0 to the codes that are needed for it."""
    c = config["audio_tokenizer"]
    prenet, decoder = c["prenet"], dict(c["decoder"])
    ratios = prenet.get("sample_ratios", [1, 1])
    if decoder.get("kind") == "source_filter":
        upsample = decoder.get("upsample", 2)
        span = -int(decoder.get("smoothing", 0) > 0), math.prod(ratios) * upsample - 1
        span = _backbone(span, decoder["layers"], decoder.get("lookahead"))
        span = span[0] // upsample, span[1] // upsample
    else:
        span = _wave_generator((0, math.prod(ratios) * math.prod(decoder["rates"]) - 1), decoder)
    frames = math.prod(ratios)
    head = -span[0], span[1] - (frames - 1)
    lookahead = prenet.get("lookahead")
    span = _backbone(span, prenet["vocos_num_layers"], lookahead)
    for ratio in reversed(ratios):
        span = _backbone(span, 2, None if lookahead is None else 0)
        if ratio > 1:
            span = _transposed(span, 2 * ratio, ratio, ratio // 2 + ratio % 2)
    return Field(-span[0], span[1], *head, frames)


def samples_per_code(config: dict[str, Any]) -> int:
    """Samples that the decoder of a parsed BiCodec/config.yaml makes of one code."""
    c = config["audio_tokenizer"]
    frames, decoder = math.prod(c["prenet"].get("sample_ratios", [1, 1])), c["decoder"]
    if decoder.get("kind") == "source_filter":
        return int(frames * decoder.get("upsample", 2) * decoder.get("hop_length", 160))
    return int(frames * math.prod(decoder["rates"]))


def stretches(frame_rate: float, longest: float = MOST_SECONDS, given: float = 0.0, first: float = FIRST_SECONDS) -> Iterator[int]:
    """Numbers of codes to decode, one stretch after the other, without end; none of more than `longest` seconds.

    `given`: seconds that the listener was given before them, `first` of them at first. Stretch k + 1 may be heard when stretch k
    is over, if speech is made GROWTH times as fast as it is played: what was given before a stretch, but for the first, takes
    GROWTH - 1 times as long to play as was needed to make it; a stretch is that long, and as much longer as the first was (at
    most FIRST_SECONDS)."""
    size, most = min(longest, min(first, FIRST_SECONDS) + (GROWTH - 1) * given) * frame_rate, longest * frame_rate
    while True:
        yield max(1, round(size))
        size = min(most, size * GROWTH)


def _backbone(span: tuple[int, int], layers: int, lookahead: int | None) -> tuple[int, int]:
    """Embedding convolution and `layers` blocks; the first of them spend the look-ahead (see gpa.nets.vocos)."""
    convolutions, side = layers + 1, KERNEL // 2
    right = side * convolutions if lookahead is None else min(lookahead, side * convolutions)
    return span[0] - ((KERNEL - 1) * convolutions - right), span[1] + right


def _transposed(span: tuple[int, int], kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """Output o of a transposed convolution reads inputs i with 0 <= o + padding - i * stride < kernel."""
    return -((kernel - 1 - padding - span[0]) // stride), (span[1] + padding) // stride


def _wave_generator(span: tuple[int, int], decoder: dict[str, Any]) -> tuple[int, int]:
    """Samples -> frames: last convolution, blocks from the last to the first, first convolution."""
    side = KERNEL // 2
    span = span[0] - side, span[1] + side
    for rate, kernel in zip(reversed(decoder["rates"]), reversed(decoder["kernel_sizes"]), strict=True):
        units = side * (1 + 3 + 9)  # three residual units of these dilations
        span = _transposed((span[0] - units, span[1] + units), kernel, rate, (kernel - rate) // 2)
    return span[0] - side, span[1] + side

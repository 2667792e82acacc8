"""Tone and pitch: what a voice keeps of its sound beside its codes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpa import audio, hub, load
from gpa.audio import Wav
from gpa.errors import CheckpointError
from gpa.tokenizers import pitch
from gpa.tokenizers.excitation import Rows, SourceFilterSynthesis
from gpa.tokenizers.fit import Fit, with_fit
from gpa.tokenizers.fit import fit as fit_voice
from gpa.tokenizers.tone import STEP, fit, with_tone

BANDS = 8
synthesis = partial(SourceFilterSynthesis, 640, 160, 16_000)


def spoken(count: int = 240) -> Rows:
    """Rows of a steady murmur, voiced in turns of 0.4 s."""
    voiced = np.where(np.arange(count) // 40 % 2, 1.0, -1.0)
    slope = -np.linspace(4.5, 6.5, 321)[None].repeat(count, 0)
    silent = np.full((count, 321), -14.5)
    pulses, hiss = np.where(voiced[:, None] > 0, slope, silent), np.where(voiced[:, None] > 0, silent, slope + 4)  # as loud as the pulses
    rows = np.full(count, 140.0), voiced, pulses, np.zeros((count, 321)), hiss
    return Rows(*(x.astype(np.float32) for x in rows))


def said(rows: Rows) -> Wav:
    return synthesis(seed=9).whole(rows).astype(np.float32)


gains = st.lists(st.integers(-16, 16), min_size=2 * BANDS, max_size=2 * BANDS)


@given(gains)
@settings(max_examples=15, deadline=None)
def test_what_a_clip_has_more_than_its_rendering_is_found(tone: list[int]) -> None:
    """A clip that is its rendering with a tone: rendered with what is found it is nearly as loud in every band."""
    rows = spoken()
    clip = said(with_tone(rows, tone, 16_000))
    found = fit(rows, clip, synthesis, BANDS)
    before, after = (levels(said(with_tone(rows, x, 16_000))) - levels(clip) for x in ([], found))
    assert np.abs(after).mean() < max(1.0, 0.3 * np.abs(before).mean())  # dB


def levels(wav: Wav) -> np.ndarray:
    """Decibels in 16 bands, of each stretch of 0.4 s but its ends (6, 16)."""
    inner = wav.reshape(6, -1)[:, 1200:-1200]
    power = np.abs(np.fft.rfft(inner * np.hanning(inner.shape[1]))) ** 2
    return np.stack([10 * np.log10(part.mean(1)) for part in np.array_split(power, 16, axis=1)], 1)


def test_an_exact_rendering_has_no_tone() -> None:
    rows = spoken()
    assert np.abs(fit(rows, said(rows), synthesis, BANDS)).max() * STEP <= 1.0


@given(st.integers(-40, 40), st.integers(-40, 40))
def test_a_tone_moves_every_row_of_a_kind_alike(unvoiced: int, voiced: int) -> None:
    rows = spoken(80)
    toned = with_tone(rows, [unvoiced] * BANDS + [voiced] * BANDS, 16_000)
    expected = np.where(rows.voiced > 0, voiced, unvoiced)[:, None] * STEP * math.log(10) / 20
    for name in ("harmonic", "noise"):
        np.testing.assert_allclose(getattr(toned, name) - getattr(rows, name), np.broadcast_to(expected, (80, 321)), atol=1e-5)
    for name in ("f0", "voiced", "phase"):
        assert getattr(toned, name) is getattr(rows, name)


def test_a_silent_clip_and_a_short_one_have_no_tone() -> None:
    rows = spoken()
    for clip in (np.zeros(len(said(rows)), np.float32), np.zeros(100, np.float32)):
        assert np.isfinite(fit(rows, clip, synthesis, BANDS)).all()
    assert np.abs(fit(spoken(1), said(spoken(1)), synthesis, BANDS)).max() <= 4  # two frames are hardly believed


@given(gains, st.floats(0.1, 8))
@settings(max_examples=15, deadline=None)
def test_a_clip_is_rendered_without_peaks_that_no_file_holds(tone: list[int], loudness: float) -> None:
    rows = spoken()
    clip = said(with_tone(rows, tone, 16_000))
    clip *= loudness / np.abs(clip).max()
    found = fit(rows, clip, synthesis, BANDS)
    peak = np.abs(synthesis().whole(with_tone(rows, found, 16_000))).max()
    assert peak < 1
    assert loudness > 0.9 or peak > 0.6 * loudness  # and not made fainter without need


def test_an_odd_tone_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"3 gains \(legal"):
        with_tone(spoken(4), [1, 2, 3], 16_000)
    assert with_tone(rows := spoken(4), [], 16_000) is rows


@given(st.integers(-390, 390), gains)
@settings(max_examples=15, deadline=None)
def test_a_voice_is_found_to_be_higher_or_lower(cents: int, tone: list[int]) -> None:
    rows = spoken()
    clip = said(with_fit(rows, Fit(tuple(tone), cents), 16_000))
    assert abs(pitch.fit(rows, clip, 160, 16_000) - cents) <= 3
    assert fit_voice(rows, clip, synthesis, BANDS).pitch == pitch.fit(rows, clip, 160, 16_000)


@pytest.mark.parametrize("cents", [-440, -410, -400, 400, 405, 410, 440])
def test_a_voice_at_the_end_of_the_range_keeps_a_legal_pitch(cents: int) -> None:
    rows = spoken()
    clip = said(rows._replace(f0=rows.f0 * np.float32(pitch.factor(cents))))
    assert abs(pitch.fit(rows, clip, 160, 16_000)) <= pitch.MOST


def test_what_has_no_period_has_no_pitch() -> None:
    rows, noise = spoken(), np.random.default_rng(0).standard_normal(38_400).astype(np.float32)
    for clip in (noise, np.zeros(38_400, np.float32), said(rows)[:2_000], np.zeros(0, np.float32)):
        assert pitch.fit(rows, clip, 160, 16_000) == 0
    assert pitch.fit(rows.part(0, 0), noise, 160, 16_000) == 0


def test_an_octave_is_no_pitch_of_a_voice() -> None:
    """Half of the period that is looked for is another's: what is found stays within the range."""
    rows = spoken()
    clip = said(rows._replace(f0=2 * rows.f0))
    assert abs(pitch.fit(rows, clip, 160, 16_000)) <= 3  # twice the period is a period too


def test_a_clip_comes_back_nearer_with_its_tone() -> None:
    """With the checkpoint in the package, on the recording that the demo converts: the long-term spectrum, in 16 bands."""
    clip = audio.decode((hub.embedded() / "demo.opus").read_bytes(), 16_000)[: 6 * 16_000]
    with load("nano") as model:
        voice, codes = model.voice(clip), model.semantic_codes(clip)
        assert len(voice.tone) == 2 * model.bicodec.tone_bands
        far, near = (
            np.abs(spectrum(model.bicodec.decode(codes, voice.codes, fit=Fit(tone))) - spectrum(clip)).mean() for tone in ((), voice.tone)
        )
        assert near < 0.7 * far
        assert not np.array_equal(*(model.tts("Yes.", replace(voice, tone=tone), seed=3).wav for tone in ((), voice.tone)))


def spectrum(wav: Wav) -> np.ndarray:
    """Decibels in 16 bands (16,) of the frames that are heard, on average."""
    frames = np.lib.stride_tricks.sliding_window_view(wav, 512)[::256]
    power = np.abs(np.fft.rfft(frames * np.hanning(512)))[:, 1:] ** 2
    loudness = power.sum(1)
    bands = np.array([part.mean(1) for part in np.array_split(power[loudness > 1e-3 * np.quantile(loudness, 0.95)], 16, axis=1)])
    decibels = (10 * np.log10(bands)).mean(1)
    return decibels - decibels.mean()

"""Second voices of recordings: pitch moves, timing stays, and every row finds its pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpa.data import manifest
from gpa.data.manifest import PACK_RATE, Utterance
from gpa.data.pack import ALIGNMENT
from gpa.data.shift import RATIO, ratio_of, shifted, write_shifted
from test_cli import CLIP, run

ratios = st.one_of(st.floats(*RATIO), st.floats(1 / RATIO[1], 1 / RATIO[0]))


@settings(max_examples=20, deadline=None)
@given(ratios, st.integers(PACK_RATE, 3 * PACK_RATE), st.floats(110, 300))
def test_pitch_moves_and_length_stays(ratio, count, hertz):
    wav = (0.2 * np.sin(2 * np.pi * hertz * np.arange(count) / PACK_RATE)).astype(np.float32)
    moved = shifted(wav, ratio)
    assert moved.shape == wav.shape
    assert moved.dtype == np.float32
    middle = moved[count // 4 : -count // 4] * np.hanning(len(moved[count // 4 : -count // 4]))
    spectrum = np.abs(np.fft.rfft(middle, 1 << 17))
    assert abs(spectrum.argmax() * PACK_RATE / (1 << 17) / hertz / ratio - 1) < 0.02


@settings(max_examples=20, deadline=None)
@given(ratios, st.floats(0.6, 1.4))
def test_timing_stays(ratio, at):
    """A burst is heard where it was, to within 40 ms: one semantic code."""
    count = 2 * PACK_RATE
    time = np.arange(count) / PACK_RATE
    wav = (np.sin(2 * np.pi * 220 * time) * np.exp(-(((time - at) / 0.06) ** 2))).astype(np.float32)
    power = shifted(wav, ratio).astype(np.float64) ** 2
    assert abs((power * time).sum() / power.sum() - at) < 0.04


def test_a_speaker_has_one_second_voice():
    found = [ratio_of(f"speaker {i}", seed=0) for i in range(200)]
    assert found == [ratio_of(f"speaker {i}", seed=0) for i in range(200)]
    assert found != [ratio_of(f"speaker {i}", seed=1) for i in range(200)]
    away = [max(ratio, 1 / ratio) for ratio in found]
    assert RATIO[0] <= min(away)
    assert max(away) <= RATIO[1]
    assert 60 < sum(ratio > 1 for ratio in found) < 140


def test_rows_are_paired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.opus").write_bytes(Path(CLIP).read_bytes())
    rows = [Utterance(i, f"text {i}", who, "clip.opus", "mine", "CC0 1.0") for i, who in (("a", "ann"), ("b", "bob"), ("c", "ann"))]
    muffled = Utterance("d", "heard badly", "ann", "clip.opus", "mine", "CC0 1.0", listen_only=True)
    manifest.write(tmp_path / "m.jsonl", [*rows, muffled])
    assert run("data", "shift", "m.jsonl", "-o", "out/p") == (0, "out/p.jsonl 6 utterances\n", "")
    written = manifest.read(tmp_path / "out" / "p.jsonl")
    by_id = {row.id: row for row in written}
    for row in written:
        pair = by_id[row.pair]
        assert by_id[pair.pair] is row
        assert (pair.text, pair.samples, pair.license) == (row.text, row.samples, row.license)
        assert pair.speaker != row.speaker
    assert {row.speaker for row in written if "@" in row.speaker} == {f"{who}@{ratio_of(who, 0):.2f}" for who in ("ann", "bob")}
    first, second = (manifest.load_wav(by_id[i], tmp_path / "out") for i in ("a", "a~shifted"))
    assert len(first) % ALIGNMENT == 0
    assert not np.allclose(first, second, atol=0.01)
    again = write_shifted(tmp_path / "m.jsonl", tmp_path / "again")
    assert [row.samples for row in again] == [row.samples for row in written]
    assert (tmp_path / "again.pcm").read_bytes() == (tmp_path / "out" / "p.pcm").read_bytes()


def test_a_row_too_long_for_a_pack_leaves_no_half_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from gpa import audio

    wav = np.random.default_rng(0).standard_normal(29 * PACK_RATE).astype(np.float32) * 0.1
    audio.save(tmp_path / "long.wav", wav, PACK_RATE)
    audio.save(tmp_path / "short.wav", wav[:PACK_RATE], PACK_RATE)
    rows = [Utterance(name, name, "ann", f"{name}.wav", "mine", "CC0 1.0") for name in ("long", "short")]
    manifest.write(tmp_path / "m.jsonl", rows)
    written = write_shifted(tmp_path / "m.jsonl", tmp_path / "p")
    assert [(row.id, row.pair) for row in written] == [("short", "short~shifted"), ("short~shifted", "short")]

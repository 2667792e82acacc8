"""Voice files: small, strict, and the same after a round trip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpa.errors import GPAError
from gpa.voice import MAX_NAME, Voice


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.integers(0, 4095), min_size=1, max_size=32), st.text(max_size=MAX_NAME))
def test_round_trip_in_less_than_a_kilobyte(tmp_path: Path, codes: list[int], name: str) -> None:
    name = name.encode("utf-8", "ignore").decode()  # no lone surrogates: they are no text
    voice = Voice(tuple(codes), 4096, name)
    voice.save(tmp_path / "v.json")
    assert Voice.load(tmp_path / "v.json") == voice
    assert (tmp_path / "v.json").stat().st_size <= 1000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.integers(-40, 40), min_size=64, max_size=64), st.integers(-400, 400))
def test_a_tone_and_a_pitch_find_room_in_the_kilobyte(tmp_path: Path, tone: list[int], pitch: int) -> None:
    voice = Voice((4095,) * 8, 4096, "ü" * MAX_NAME, tone=tuple(tone), pitch=pitch)
    voice.save(tmp_path / "v.json")
    assert Voice.load(tmp_path / "v.json") == voice
    assert (tmp_path / "v.json").stat().st_size <= 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "gpa-voice-9"}, "legal: 'gpa-voice-1'"),
        ({"speed": 1}, r"unknown keys \['speed'\]"),
        ({"codes": [1, 2, 99]}, r"legal: one or more in 0\.\.15"),
        ({"codes": []}, "one or more"),
        ({"codes": [1, True]}, r"codes\[1\] is True \(legal: int\)"),
        ({"codes": "1 2 3"}, "legal: list"),
        ({"codebook_size": None}, "codebook_size is None"),
        ({"name": "x" * 81}, "legal: up to 80"),
        ({"pitch": -401}, r"the pitch -401 \(legal: -400\.\.400 cents\)"),
        ({"pitch": 1.5}, r"pitch is 1.5 \(legal: int\)"),
        ({"tone": [1, 2, 3]}, r"legal: an even count of gains in -40\.\.40"),
        ({"tone": [0, 41]}, "legal: an even count"),
        ({"tone": [0, 0.5]}, r"tone\[1\] is 0\.5 \(legal: int\)"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = tmp_path / "v.json"
    file.write_text(json.dumps({"format": "gpa-voice-1", "codes": [1, 2, 3], "codebook_size": 16, "name": "amy", **change}))
    with pytest.raises(GPAError, match=message):
        Voice.load(file)


def test_missing_key_and_unreadable_files(tmp_path: Path) -> None:
    file = tmp_path / "v.json"
    file.write_text('{"format": "gpa-voice-1", "codes": [1]}')
    with pytest.raises(GPAError, match=r"missing keys \['codebook_size'\]"):
        Voice.load(file)
    for content in (b"", b"[1]", b"\xff\xfe", b"{", b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(GPAError, match=r"v\.json"):
            Voice.load(file)
    with pytest.raises(GPAError, match="cannot be read"):
        Voice.load(tmp_path)
    with pytest.raises(GPAError, match="cannot be written"):
        Voice((1,), 16).save(tmp_path / "no" / "v.json")

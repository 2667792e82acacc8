# ruff: noqa: E402  (the extra `server` may be missing)
"""What comes from outside, made up by Hypothesis and by a saboteur of sound files: every answer is one that a client can read."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import fakes
from gpa import audio, hub
from gpa.errors import GPAError, LimitError
from gpa.server import consent, forms
from gpa.server.access import hashed, read_keys
from gpa.server.app import create_app
from gpa.server.metrics import Metrics
from gpa.server.settings import Settings
from gpa.server.shelf import Consent, Made, Shelf, new_id, now
from gpa.server.transcription import TranscriptionRequest
from gpa.voice import Voice

CLIP = audio.decode(hub.embedded() / "demo.opus", 16_000)[:24_000]
NAMES = st.one_of(st.from_regex(r"\A\w{0,5}(\[\w{0,3}\])?\Z"), st.text(max_size=12))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KINDS = ("application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain", "", "é")
FIELDS = ("model", "input", "voice", "instructions", "response_format", "speed", "stream_format")


class Asked:
    """One app, asked from plain tests."""

    def __init__(self, folder: Path) -> None:
        self.app = create_app(fakes.model(folder / "fake"), Settings(voices=folder / "voices", max_text=200))

    def __call__(self, method: str, path: str, **request: object) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test") as client:
                return await client.request(method, path, **request)  # type: ignore[arg-type]

        return anyio.run(ask)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return Asked(tmp_path_factory.mktemp("asked"))


def readable(answer: httpx.Response) -> None:
    """A success, or a refusal in OpenAI's shape that blames the client."""
    if answer.status_code != 200:
        assert 400 <= answer.status_code < 500, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert len(error["message"]) < 1000


# ---- forms and bodies ----


@given(st.lists(st.tuples(NAMES, st.text(max_size=8)), max_size=12))
def test_fields_of_any_form(items: list[tuple[str, str]]) -> None:
    values = forms.fields(items)
    for value in values.values():
        assert isinstance(value, (str, list, dict))
    texts = [text for _, text in items]
    for value in values.values():
        for text in [value] if isinstance(value, str) else value if isinstance(value, list) else value.values():
            assert text in texts


def test_fields_as_openai_writes_them() -> None:
    items = [
        ("model", "x"),
        ("include[]", "logprobs"),
        ("t[]", "word"),
        ("t[]", "segment"),
        ("c[type]", "server_vad"),
        ("c[threshold]", "0.5"),
    ]
    expected = {"model": "x", "include": ["logprobs"], "t": ["word", "segment"], "c": {"type": "server_vad", "threshold": "0.5"}}
    assert forms.fields(items) == expected
    assert forms.fields([("t", "word"), ("t", "segment")]) == {"t": ["word", "segment"]}
    assert forms.listed('["word"]') == ["word"]
    assert forms.listed("word") == ["word"]
    assert forms.listed("[" * 100_000) == ["[" * 100_000]
    parsed = forms.parse(TranscriptionRequest, {"stream": "true", "timestamp_granularities": '["word", "segment"]', "temperature": "0"})
    assert parsed.stream
    assert parsed.timestamp_granularities == ["word", "segment"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=6))
def test_speech_of_any_body(asked: Asked, body: dict[str, object]) -> None:
    readable(asked("POST", "/v1/audio/speech", content=json.dumps(body), headers={"content-type": "application/json"}))


@settings(max_examples=30, deadline=None)
@given(change=st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)), text=st.text(max_size=40))
def test_speech_of_nearly_right_bodies(asked: Asked, change: dict[str, object], text: str) -> None:
    body = {"model": "tts-1", "input": text, "voice": "amy", "response_format": "pcm"} | change
    readable(asked("POST", "/v1/audio/speech", content=json.dumps(body), headers={"content-type": "application/json"}))


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=200), kind=st.sampled_from(KINDS))
def test_any_bytes_as_a_body(asked: Asked, content: bytes, kind: str) -> None:
    for path in ("speech", "transcriptions", "conversions", "voices", "voice_consents"):
        for body in (content, b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + content + b"\r\n--x--\r\n"):
            readable(asked("POST", f"/v1/audio/{path}", content=body, headers={"content-type": kind.encode()}))


@settings(max_examples=30, deadline=None)
@given(form=st.dictionaries(NAMES.filter(bool), st.text(max_size=10), max_size=5), language=st.text(max_size=8))
def test_transcriptions_of_any_form(asked: Asked, form: dict[str, str], language: str) -> None:
    form = {"language": language} | form | {"model": "whisper-1"}
    readable(asked("POST", "/v1/audio/transcriptions", data=form, files={"file": ("a.wav", b"RIFF")}))


@settings(max_examples=40, deadline=None)
@given(id=st.text(min_size=1, max_size=30))
@example(id="/")
def test_any_id(asked: Asked, id: str) -> None:
    for path in ("voices", "voice_consents"):
        for method in ("GET", "DELETE"):
            answer = asked(method, f"/v1/audio/{path}/{quote(id, safe='')}")
            assert 400 <= answer.status_code < 500 or id in ("phrases", ".", "..")


# ---- keys, names, files ----


@given(st.text())
def test_key_files_of_any_text(text: str) -> None:
    assert all(re.fullmatch(r"[0-9a-f]{64}", key) for key in read_keys(text))


@given(st.text(alphabet=st.characters(exclude_categories=("Z", "C")), min_size=1).filter(lambda key: not key.startswith("#")))
def test_a_key_is_found_in_its_file(key: str) -> None:
    assert hashed(key) in read_keys(f"# keys\n{key}\n") or re.fullmatch(r"[0-9a-fA-F]{64}", key)


@given(st.lists(st.tuples(st.text(max_size=10), st.integers(100, 599)), max_size=5))
def test_metrics_of_any_label_stay_lines(rows: list[tuple[str, int]]) -> None:
    metrics = Metrics()
    for route, status in rows:
        metrics.answered(route, status)
    page = metrics.text()
    assert page.count("gpa_requests_total{") == len(set(rows))
    assert re.fullmatch(r'(?:# TYPE \w+ \w+\n|\w+(\{(?:\w+="(?:[^"\\\n]|\\.)*",?)*\})? \S+\n)*', page)


def test_the_shelf(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "voices", 2)
    voice = Voice((1, 2, 3, 4), 16, "x")
    entries = [Made(new_id(Made), name, now() + n, "", "", voice) for n, name in enumerate(("../../a\0b", "日本", "third"))]
    for entry in entries[:2]:
        shelf.put(entry)
    with pytest.raises(LimitError, match="keeps 2"):
        shelf.put(entries[2])
    with pytest.raises(GPAError, match="81 characters"):
        shelf.put(replace(entries[0], name="x" * 81))
    shelf.put(Consent(new_id(Consent), "c", "en", now(), "", voice))
    assert {path.parent for path in (tmp_path / "voices").rglob("*")} == {tmp_path / "voices"}
    again = Shelf(tmp_path / "voices", 2)
    assert again.all(Made) == entries[:2]
    again.drop(entries[0].id)
    assert Shelf(tmp_path / "voices", 2).all(Made) == entries[1:2]
    (tmp_path / "voices" / "voice_x.json").write_text("{")
    with pytest.raises(GPAError, match="voice_x"):
        Shelf(tmp_path / "voices", 2)


# ---- consent ----

CODES = st.lists(st.integers(0, 4095), min_size=8, max_size=8)


@given(CODES, CODES)
def test_likeness(one: list[int], other: list[int]) -> None:
    first, second = Voice(tuple(one), 4096), Voice(tuple(other), 4096)
    assert consent.likeness(first, first) == pytest.approx(1)
    assert consent.likeness(first, second) == pytest.approx(consent.likeness(second, first))
    assert -1 - 1e-9 <= consent.likeness(first, second) <= 1 + 1e-9


def test_voices_of_other_codebooks_are_not_alike() -> None:
    assert consent.likeness(Voice((1,) * 8, 4096), Voice((1,) * 32, 4096)) == 0


def test_phrases_serve_once_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    phrases = consent.Phrases()
    one, two = phrases.new("me"), phrases.new("me")
    assert one.text != two.text
    assert phrases.take(one.id, "you") is None
    assert phrases.take(one.id, "me") == one
    assert phrases.take(one.id, "me") is None
    monkeypatch.setattr(consent, "LIFE", -1.0)
    old = phrases.new("me")
    assert phrases.take(old.id, "me") is None
    monkeypatch.setattr(consent, "MOST", 2)
    kept = [phrases.new("me") for _ in range(3)]
    assert kept[0].id not in phrases._open


def test_another_phrase_is_no_consent() -> None:
    texts = [consent.phrase(random.Random(seed)) for seed in range(600)]
    assert consent.misheard(texts[0], texts[0].lower()) == 0
    assert consent.misheard(texts[0], "") == 100
    replayed = [consent.misheard(one, other) for one, other in pairwise(texts)]
    assert sum(cer <= consent.WRONG for cer in replayed) < 0.01 * len(replayed)


# ---- damaged sounds ----


def damaged(draw: random.Random) -> bytes:
    """One file of any format, hurt in one of the usual ways."""
    data = bytearray(WHOLE[draw.choice(sorted(WHOLE))])
    match draw.randrange(5):
        case 0:
            del data[draw.randrange(len(data)) :]
        case 1:
            for _ in range(draw.randrange(1, 40)):
                data[draw.randrange(len(data))] = draw.randrange(256)
        case 2:
            for _ in range(draw.randrange(1, 8)):  # where the headers are
                data[draw.randrange(min(96, len(data)))] = draw.randrange(256)
        case 3:
            start = draw.randrange(len(data))
            del data[start : start + draw.randrange(200)]
        case _:
            other = WHOLE[draw.choice(sorted(WHOLE))]
            data = data[: draw.randrange(len(data))] + other[draw.randrange(len(other)) :]
    return bytes(data)


WHOLE = {format: audio.encode(CLIP, 16_000, format) for format in audio.FORMATS if format != "pcm"}


@pytest.mark.parametrize("count", [60, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_sounds(asked: Asked, count: int) -> None:
    draw = random.Random(count)
    form = {"model": "whisper-1"}
    for _ in range(count):
        readable(asked("POST", "/v1/audio/transcriptions", data=form, files={"file": ("a.wav", damaged(draw))}))
    assert asked("POST", "/v1/audio/transcriptions", data=form, files={"file": WHOLE["wav"]}).status_code == 200

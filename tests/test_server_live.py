# ruff: noqa: E402  (the extra `server` may be missing)
"""The server over a socket, on stand-ins: who may call, what happens under load, and to clients that go away, stall or shout."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import fakes
from gpa import audio, hub
from gpa.engines.base import Context, Sampling, Token
from gpa.pipeline import GPA
from gpa.server.access import hashed, read_keys
from gpa.server.desk import Desk
from live import Live, served, until

HTTP = httpx.Client(verify=False, timeout=30.0)  # one for all: each new one reads the certificates of the machine
JSON = b"content-type: application/json\r\n"
KEY, OTHER = "sk-a-key-of-the-tests", "sk-another-key"
CLIP = audio.encode(audio.decode(hub.embedded() / "demo.opus", 16_000), 16_000, "wav")
LONG = "Hello there, everybody in this room. " * 20


class Slow(fakes.Engine):
    """One id every `pause` seconds."""

    pause = 0.02

    def _stream(self, prompt: Context, sampling: Sampling) -> Iterator[Token]:
        with closing(super()._stream(prompt, sampling)) as tokens:
            for token in tokens:
                time.sleep(self.pause)
                yield token


def made(folder: Path, slow: bool = False) -> GPA:
    model = fakes.model(folder)
    if slow:
        model.engine = Slow(model.engine.answer)  # type: ignore[attr-defined]
    return model


def say(text: str = "Hello.", voice: str = "amy", format: str = "pcm") -> dict[str, str]:
    return {"model": "tts-1", "input": text, "voice": voice, "response_format": format}


def desk(live: Live) -> Desk:
    found: Desk = live.app.state.desk
    return found


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    HTTP.close()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("slow")
    with served(made(folder / "fake", slow=True), folder / "voices", concurrency=1, queue=1, queue_seconds=10.0, max_text=100_000) as live:
        yield live


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("locked")
    settings = {"key_hashes": frozenset({hashed(KEY), hashed(OTHER)}), "cors": ("https://ours.example",), "consent": True}
    with served(made(folder / "fake"), folder / "voices", max_body=1 << 20, read_seconds=0.5, **settings) as live:
        yield live


def bearer(key: str = KEY) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# ---- who may call ----


def test_keys(locked: Live) -> None:
    for path in ("/v1/audio/voices", "/audio/voices", "/audio/models", "/health/live", "/health/ready"):
        assert HTTP.get(locked.url + path).status_code == 200, path
    for headers in ({}, bearer("sk-wrong"), {"authorization": "Basic x"}, {"authorization": "Bearer"}):
        for path in ("/v1/models", "/metrics", "/v1/audio/voice_consents", "/openapi.json", "/nothing"):
            answer = HTTP.get(locked.url + path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert HTTP.post(f"{locked.url}/v1/audio/voices", headers=headers).status_code == 401
    assert HTTP.get(f"{locked.url}/v1/models", headers=bearer()).status_code == 200
    assert HTTP.post(f"{locked.url}/v1/audio/speech", json=say(), headers=bearer(OTHER)).status_code == 200


def test_a_file_of_keys() -> None:
    assert read_keys(f"# ours\n\n{KEY}\n  {hashed(OTHER).upper()}  \n") == {hashed(KEY), hashed(OTHER)}


def test_foreign_pages_are_refused(locked: Live) -> None:
    foreign = bearer() | {"origin": "https://foreign.example"}
    assert HTTP.get(f"{locked.url}/v1/models", headers=foreign).status_code == 403
    assert HTTP.post(f"{locked.url}/v1/audio/speech", json=say(), headers=bearer() | {"origin": "null"}).status_code == 403
    rebound = bearer() | {"origin": f"http://evil.example:{locked.port}", "host": f"evil.example:{locked.port}"}
    assert HTTP.get(f"{locked.url}/v1/models", headers=rebound).status_code == 403
    assert HTTP.get(f"{locked.url}/v1/models", headers=bearer() | {"origin": "http://[::1"}).status_code == 403
    ours = HTTP.get(f"{locked.url}/v1/models", headers=bearer() | {"origin": "https://ours.example"})
    assert ours.headers["access-control-allow-origin"] == "https://ours.example"
    assert HTTP.get(f"{locked.url}/v1/models", headers=bearer() | {"origin": locked.url}).status_code == 200
    asked = {"origin": "https://ours.example", "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    assert HTTP.options(f"{locked.url}/v1/audio/speech", headers=asked).status_code == 200


def test_voices_belong_to_their_key(locked: Live) -> None:
    mine = consented(locked, KEY)
    assert mine in [row["id"] for row in HTTP.get(f"{locked.url}/v1/audio/voices", headers=bearer()).json()["voices"]]
    for headers in ({}, bearer(OTHER)):
        assert mine not in [row["id"] for row in HTTP.get(f"{locked.url}/v1/audio/voices", headers=headers).json()["voices"]]
    assert HTTP.post(f"{locked.url}/v1/audio/speech", json=say(voice=mine), headers=bearer(OTHER)).status_code == 400
    assert HTTP.post(f"{locked.url}/v1/audio/speech", json=say(voice=mine), headers=bearer()).status_code == 200
    assert HTTP.delete(f"{locked.url}/v1/audio/voices/{mine}", headers=bearer(OTHER)).status_code == 404
    assert HTTP.delete(f"{locked.url}/v1/audio/voices/{mine}", headers=bearer()).status_code == 200


# ---- consent ----


def consented(live: Live, key: str) -> str:
    """The id of a voice, made in the three steps; the fake recogniser always hears `hello there.`"""
    phrase = HTTP.post(f"{live.url}/v1/audio/voice_consents/phrases", headers=bearer(key)).json()
    phrases = desk(live).phrases._open
    phrases[phrase["id"]] = type(phrases[phrase["id"]])(phrase["id"], "Hello there!", hashed(key)[:12], time.monotonic() + 9)
    form = {"name": "me", "language": "en", "phrase": phrase["id"]}
    kept = HTTP.post(f"{live.url}/v1/audio/voice_consents", data=form, files={"recording": CLIP}, headers=bearer(key)).json()
    sample = {"name": "me", "consent": kept["id"]}
    return str(HTTP.post(f"{live.url}/v1/audio/voices", data=sample, files={"audio_sample": CLIP}, headers=bearer(key)).json()["id"])


def test_a_voice_needs_its_consent(locked: Live) -> None:
    def voice(**form: str) -> httpx.Response:
        return HTTP.post(f"{locked.url}/v1/audio/voices", data={"name": "x"} | form, files={"audio_sample": CLIP}, headers=bearer())

    def consent(**form: str) -> httpx.Response:
        data = {"name": "x", "language": "en"} | form
        return HTTP.post(f"{locked.url}/v1/audio/voice_consents", data=data, files={"recording": CLIP}, headers=bearer())

    assert voice().json()["error"]["code"] == "consent_required"
    assert consent().json()["error"]["param"] == "phrase"
    assert consent(phrase="phr_unknown").status_code == 400
    phrase = HTTP.post(f"{locked.url}/v1/audio/voice_consents/phrases", headers=bearer()).json()
    assert len(phrase["text"].split()) == 10
    assert consent(phrase=phrase["id"]).json()["error"]["code"] == "consent_not_understood"
    assert consent(phrase=phrase["id"]).json()["error"]["param"] == "phrase", "a phrase serves once"
    theirs = HTTP.post(f"{locked.url}/v1/audio/voice_consents/phrases", headers=bearer(OTHER)).json()
    assert consent(phrase=theirs["id"]).json()["error"]["param"] == "phrase"


def test_the_consent_is_of_the_same_voice(locked: Live) -> None:
    phrase = HTTP.post(f"{locked.url}/v1/audio/voice_consents/phrases", headers=bearer()).json()
    phrases = desk(locked).phrases._open
    phrases[phrase["id"]] = type(phrases[phrase["id"]])(phrase["id"], "Hello there.", hashed(KEY)[:12], time.monotonic() + 9)
    form = {"name": "me", "language": "en", "phrase": phrase["id"]}
    kept = HTTP.post(f"{locked.url}/v1/audio/voice_consents", data=form, files={"recording": CLIP}, headers=bearer()).json()
    wav = audio.decode(CLIP, 16_000)
    wav[:4] = 0.9  # what the fake codec makes a voice of
    other = audio.encode(wav, 16_000, "wav")
    sample = {"name": "me", "consent": kept["id"]}
    answer = HTTP.post(f"{locked.url}/v1/audio/voices", data=sample, files={"audio_sample": other}, headers=bearer())
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "consent_mismatch"


# ---- limits ----


def test_large_bodies(locked: Live) -> None:
    large = b"x" * (2 << 20)
    for content in (large, iter([large[: 1 << 19]] * 4)):  # with a length, and chunked
        try:
            answer = HTTP.post(f"{locked.url}/v1/audio/speech", content=content, headers=bearer())
        except httpx.WriteError:  # it may hang up before all is sent
            continue
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"


def test_slow_writers(locked: Live) -> None:
    with socket.create_connection(("127.0.0.1", locked.port)) as stalled:
        stalled.sendall(b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n")
        stalled.sendall(f"authorization: Bearer {KEY}\r\n\r\n{{".encode())
        stalled.settimeout(5)
        assert stalled.recv(1000).startswith(b"HTTP/1.1 408")
    with socket.create_connection(("127.0.0.1", locked.port)) as headless:
        headless.settimeout(5)
        headless.sendall(b"GET / HT")
        assert not hung_up(headless)
    with socket.create_connection(("127.0.0.1", locked.port)) as second:
        second.settimeout(5)
        second.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += second.recv(2000)
        second.sendall(b"GET /health/live HT")
        assert not hung_up(second)


def hung_up(connection: socket.socket) -> bytes:
    """What comes before the end."""
    try:
        return connection.recv(100)
    except ConnectionResetError:
        return b""


def test_long_sounds(tmp_path: Path) -> None:
    with served(made(tmp_path / "fake"), tmp_path / "voices", max_seconds=2.0, max_text=10) as live:
        answer = HTTP.post(f"{live.url}/v1/audio/transcriptions", data={"model": "x"}, files={"file": CLIP})
        assert answer.status_code == 413
        assert "longer than 2 s" in answer.json()["error"]["message"]
        assert HTTP.post(f"{live.url}/v1/audio/speech", json=say("x" * 11)).json()["error"]["code"] == "string_above_max_length"
    forged = bytearray(CLIP[:4000])
    forged[24:28] = (4000).to_bytes(4, "little")  # a low rate makes the same bytes longer
    with served(made(tmp_path / "again"), tmp_path / "voices", max_decoded=1 << 14) as live:
        answer = HTTP.post(f"{live.url}/v1/audio/transcriptions", data={"model": "x"}, files={"file": bytes(forged)})
        assert answer.status_code == 413


# ---- load, and clients that go away ----


def test_streaming_is_streaming(slow: Live) -> None:
    with HTTP.stream("POST", f"{slow.url}/v1/audio/speech", json=say(LONG[:150])) as answer:
        began = time.monotonic()
        chunks = answer.iter_raw()
        next(chunks)
        first = time.monotonic() - began
        rest = sum(len(chunk) for chunk in chunks)
        whole = time.monotonic() - began
    assert first < whole / 4
    assert rest > 100_000


def test_disconnect_frees_the_slot(slow: Live) -> None:
    engine = desk(slow).runner.house.model.engine._engine  # type: ignore[attr-defined]
    for read_some in (True, False):
        with HTTP.stream("POST", f"{slow.url}/v1/audio/speech", json=say(LONG)) as answer:
            chunks = answer.iter_raw()
            if read_some:
                next(chunks)
            assert engine.open == 1
        assert until(lambda: engine.open == 0) < 0.3
        assert until(lambda: desk(slow).runner.running == 0) < 0.3
    client = threading.Thread(target=post_and_hang_up, args=(slow,))
    client.start()  # goes away before the first byte of a transcription
    until(lambda: engine.open == 1)
    client.join()
    assert until(lambda: engine.open == 0) < 0.3


def test_a_step_that_cannot_be_interrupted_holds_no_slot(tmp_path: Path) -> None:
    model = made(tmp_path / "fake", slow=True)
    model.engine.pause = 1.0  # type: ignore[attr-defined]
    body = b'{"model": "x", "input": "Hello there.", "voice": "amy"}'
    with served(model, tmp_path / "voices", concurrency=1, queue=0) as live:
        runner, engine = desk(live).runner, model.engine._engine  # type: ignore[attr-defined]

        def ask_and_hang_up(running: int) -> float:
            with socket.create_connection(("127.0.0.1", live.port)) as connection:
                connection.sendall(b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (JSON, len(body), body))
                until(lambda: engine.open == running)
            return until(lambda: runner.running == 0)

        assert ask_and_hang_up(1) < 0.5
        assert (engine.open, runner.ending) == (1, 1)
        ask_and_hang_up(2)  # as many end as there are slots: this one keeps its own
        assert engine.open == 0
        until(lambda: runner.ending == 0)


def post_and_hang_up(live: Live) -> None:
    with pytest.raises(httpx.ReadTimeout):
        HTTP.post(f"{live.url}/v1/audio/transcriptions", data={"model": "x"}, files={"file": CLIP}, timeout=0.2)


def test_overload_is_refused(slow: Live) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: HTTP.post(f"{slow.url}/v1/audio/speech", json=say(LONG[:60])), range(8)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200, 200, 429, 429, 429, 429, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 'gpa_rejected_total{task="tts",reason="queue"} 6' in HTTP.get(f"{slow.url}/metrics").text
    assert HTTP.post(f"{slow.url}/v1/audio/speech", json=say()).status_code == 200


def test_a_key_has_its_share(tmp_path: Path) -> None:
    settings = {"per_key": 1, "key_hashes": frozenset({hashed(KEY), hashed(OTHER)})}
    with served(made(tmp_path / "fake", slow=True), tmp_path / "voices", **settings) as live:

        def ask(key: str) -> int:
            return HTTP.post(f"{live.url}/v1/audio/speech", json=say(LONG[:60]), headers=bearer(key)).status_code

        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(ask, KEY)
            until(lambda: desk(live).runner.running == 1)
            assert ask(KEY) == 429
            assert ask(OTHER) == 200
            assert first.result() == 200
            assert ask(KEY) == 200


def test_waiting_has_an_end(tmp_path: Path) -> None:
    with served(made(tmp_path / "fake", slow=True), tmp_path / "voices", concurrency=1, queue_seconds=0.05) as live:
        with HTTP.stream("POST", f"{live.url}/v1/audio/speech", json=say(LONG)) as answer:
            chunks = answer.iter_raw()
            next(chunks)
            late = HTTP.post(f"{live.url}/v1/audio/speech", json=say())
        assert late.status_code == 429
        assert "no slot was free" in late.json()["error"]["message"]


def test_slow_readers_are_given_up(tmp_path: Path) -> None:
    with served(made(tmp_path / "fake"), tmp_path / "voices", write_seconds=0.3, concurrency=1, ahead=10_000) as live:
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", live.port))
        with stalled:
            body = f'{{"model": "x", "input": "{LONG * 5}", "voice": "amy", "response_format": "pcm"}}'.encode()
            stalled.sendall(b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\n%b" % JSON)
            stalled.sendall(b"content-length: %d\r\n\r\n%b" % (len(body), body))
            until(lambda: desk(live).runner.running == 1)
            assert HTTP.get(f"{live.url}/health/live").status_code == 200
            until(lambda: desk(live).runner.running == 0, 60)
        assert HTTP.post(f"{live.url}/v1/audio/speech", json=say()).status_code == 200


def test_no_voice_is_mixed_up(tmp_path: Path) -> None:
    class Voiced(fakes.Codec):
        """Sounds like the voice's first code, whatever is said."""

        def stream(self, voice: Sequence[int], seed: int = 0, **how: object) -> fakes.Decoder:
            decoder = fakes.Decoder()
            decoder.push = lambda codes: np.full(fakes.HOP * len(codes), voice[0] / 20, np.float32)  # type: ignore[method-assign]
            decoder.flush = lambda: np.zeros(0, np.float32)  # type: ignore[method-assign]
            return decoder

    model = made(tmp_path / "fake")
    model.bicodec = Voiced()  # type: ignore[assignment]
    expected = {"amy": 1 / 20, "bob": 5 / 20}
    with served(model, tmp_path / "voices", queue=100) as live, ThreadPoolExecutor(8) as pool:

        def level(voice: str) -> float:
            pcm = HTTP.post(f"{live.url}/v1/audio/speech", json=say("Hello there, you two.", voice)).content
            return float(np.median(np.frombuffer(pcm, "<i2"))) / 32768

        voices = ["amy", "bob", "bob", "amy"] * 10
        for voice, found in zip(voices, pool.map(level, voices), strict=True):
            assert found == pytest.approx(expected[voice], abs=0.01)


def test_sentences_in_parallel_as_open_webui_sends_them(tmp_path: Path) -> None:
    with served(made(tmp_path / "fake"), tmp_path / "voices") as live, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: HTTP.post(f"{live.url}/v1/audio/speech", json=say(f"Sentence {n}.", format="mp3")), range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert all(len(audio.decode(answer.content, 16_000)) for answer in answers)


def test_going_down_lets_work_end(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool, served(made(tmp_path / "fake", slow=True), tmp_path / "voices") as live:
        running = pool.submit(HTTP.post, f"{live.url}/v1/audio/speech", json=say(LONG[:40]))
        until(lambda: desk(live).runner.running == 1)
        desk(live).runner.draining = True
        assert HTTP.get(f"{live.url}/health/ready").status_code == 503
        assert HTTP.post(f"{live.url}/v1/audio/speech", json=say()).status_code == 503
    assert running.result().status_code == 200

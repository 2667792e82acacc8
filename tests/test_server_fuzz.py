"""Damaged sounds of every container through HTTP: each is answered, in time, with success or a proper refusal; nothing dies.

Every input is made of its number alone. `pytest -m slow tests/test_server_fuzz.py` sends 20 blocks of 1000, `-k block7` one of them."""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache, partial
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("fastapi")

import fakes
from gpa.pipeline import GPA
from gpa.server.process import Process
from live import Live, served, until

BLOCK, BLOCKS = 1000, 20
HANGS = 30.0  # seconds after which an answer is late, on a busy machine
RATE = 16_000
CONTAINERS = [  # of FFmpeg: container, codec, sample format
    ("wav", "pcm_s16le", "s16"),
    ("wav", "pcm_u8", "u8"),
    ("wav", "pcm_f32le", "flt"),
    ("wav", "adpcm_ms", "s16"),
    ("mp3", "libmp3lame", "s16p"),
    ("flac", "flac", "s16"),
    ("ogg", "libopus", "s16"),
    ("adts", "aac", "fltp"),
    ("mp4", "aac", "fltp"),
    ("ipod", "alac", "s16p"),
    ("mov", "pcm_s16be", "s16"),
    ("webm", "libopus", "s16"),
    ("matroska", "libmp3lame", "s16p"),
    ("aiff", "pcm_s16be", "s16"),
    ("au", "pcm_mulaw", "s16"),
    ("caf", "pcm_alaw", "s16"),
    ("w64", "pcm_s16le", "s16"),
    ("avi", "pcm_s16le", "s16"),
    ("mpegts", "mp2", "s16"),
    ("nut", "pcm_s16le", "s16"),
]
FOREIGN = ("avi", "mpegts", "nut")  # no client's recordings: they may be refused


@cache
def whole(number: int) -> bytes:
    """Half a second of a sweep in one of CONTAINERS."""
    container, codec, kind = CONTAINERS[number]
    rate = 48_000 if codec == "libopus" else RATE
    moments = np.arange(rate // 2) / rate
    wav = (0.5 * np.sin(2 * np.pi * (200 + 400 * moments) * moments)).astype(np.float32)[None]
    file = io.BytesIO()
    with av.open(file, "w", container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono", format=kind)
        resampler = av.AudioResampler(kind, "mono", rate, frame_size=stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(wav, "fltp", "mono")
        frame.rate = rate
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return file.getvalue()


def damaged(seed: int) -> bytes:
    """One to three damages to a sound."""
    draw = random.Random(seed)
    data = bytearray(whole(draw.randrange(len(CONTAINERS))))
    for _ in range(draw.randint(1, 3)):
        draw.choice(DAMAGES)(data, draw)
    return bytes(data)


def _place(data: bytearray, draw: random.Random) -> int:
    """Mostly in the head, where the structure stands."""
    return draw.randrange(min(len(data), 200) if draw.random() < 0.6 else len(data)) if data else 0


def truncate(data: bytearray, draw: random.Random) -> None:
    del data[_place(data, draw) :]


def flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 4, 30))):
        if data:
            data[_place(data, draw)] ^= 1 << draw.randrange(8)


def overwrite(data: bytearray, draw: random.Random) -> None:
    at, size = _place(data, draw), draw.choice((1, 4, 16, 300))
    data[at : at + size] = draw.choice((draw.randbytes(size), bytes(size), b"\xff" * size))


def resize(data: bytearray, draw: random.Random) -> None:
    """A number of the structure becomes an extreme one."""
    at, width = _place(data, draw), draw.choice((2, 4, 8))
    number = draw.choice((0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, 2**16 - 1))
    data[at : at + width] = number.to_bytes(width, draw.choice(("big", "little")))


def cut(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    del data[at : at + draw.choice((1, 3, 100, 2000))]


def insert(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    data[at:at] = draw.randbytes(draw.choice((1, 5, 500)))


def repeat(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    data[at:at] = data[at : at + draw.choice((8, 64, 4000))] * draw.randint(1, 20)


def graft(data: bytearray, draw: random.Random) -> None:
    """Another container goes on where this one breaks off."""
    data[_place(data, draw) :] = whole(draw.randrange(len(CONTAINERS)))[draw.choice((0, 0, 20, 400)) :]


def reverse(data: bytearray, draw: random.Random) -> None:
    data.reverse()


def nothing_but_the_head(data: bytearray, draw: random.Random) -> None:
    data[draw.choice((4, 8, 12, 44)) :] = draw.randbytes(draw.choice((0, 10, 3000)))


DAMAGES = [truncate, flip, flip, overwrite, overwrite, resize, resize, cut, insert, repeat, graft, reverse, nothing_but_the_head]


def again(folder: Path) -> GPA:
    """In the model's process."""
    return fakes.model(folder / f"process-{os.getpid()}")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("fuzz")
    checkpoint = fakes.model(folder / "fake").checkpoint
    with served(Process(partial(again, folder)), folder / "voices", checkpoint, max_seconds=60.0, max_decoded=16 << 20) as found:
        until(lambda: found.app.state.desk.runner.house.ready, 180)
        yield found


class Sender:
    """Sends damaged sounds over kept connections, one a thread, and notes what is wrong with the answers."""

    def __init__(self, port: int) -> None:
        self.port, self.seen, self.wrong = port, Counter[int](), list[str]()
        self.slowest = 0.0
        self._own, self._all = threading.local(), list[http.client.HTTPConnection]()

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    def send(self, seed: int) -> None:
        path, name, fields = ("/v1/audio/transcriptions", "file", {"model": "x", "response_format": "verbose_json"})
        if seed % 8 == 0:
            path, fields = "/v1/audio/conversions", {"voice": "amy", "response_format": "wav"}
        elif seed % 40 == 1:
            path, name, fields = "/v1/audio/voices", "audio_sample", {"name": "x"}
        began = time.monotonic()
        status, body = self._post(path, fields, name, damaged(seed))
        took = time.monotonic() - began
        self.slowest = max(self.slowest, took)
        self.seen[status] += 1
        if (wrong := _improper(status, body)) or took > HANGS:
            self.wrong.append(f"{seed}: {took:.1f} s, {wrong}")

    def _post(self, path: str, fields: dict[str, str], name: str, data: bytes) -> tuple[int, bytes]:
        part = b'--x\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        form = b"".join(part % (field.encode(), value.encode()) for field, value in fields.items())
        form += b'--x\r\ncontent-disposition: form-data; name="%b"; filename="a"\r\n\r\n%b\r\n--x--\r\n' % (name.encode(), data)
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2 * HANGS)
            self._all.append(connection)
        try:
            connection.request("POST", path, form, {"content-type": "multipart/form-data; boundary=x"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:  # no answer at all, or a broken one
            connection.close()
            return 0, repr(error).encode()


def _improper(status: int, body: bytes) -> str:
    """What is wrong with an answer, if anything."""
    if status == 200:
        return "" if body else "nothing"
    error = json.loads(body)["error"] if body.startswith(b'{"error"') else {}
    proper = status in (400, 413) and set(error) == {"message", "type", "param", "code"} and error["message"]
    return "" if proper else f"{status} {body[:200]!r}"


def fuzz(live: Live, seeds: Sequence[int]) -> Sender:
    house = live.app.state.desk.runner.house
    process, sender = house._child.process.pid, Sender(live.port)
    with closing(sender), ThreadPoolExecutor(4) as pool:
        list(pool.map(sender.send, seeds))
    assert not sender.wrong, sender.wrong[:5]
    assert house._child.process.pid == process, "the model's process died"
    assert live.app.state.desk.runner.running == 0
    return sender


def test_whole_sounds_are_taken(live: Live) -> None:
    with closing(Sender(live.port)) as sender:
        for number, (container, _, _) in enumerate(CONTAINERS):
            status, body = sender._post("/v1/audio/transcriptions", {"model": "x"}, "file", whole(number))
            assert status == 200 or (status == 400 and container in FOREIGN), (container, body)


def test_some_damaged_sounds(live: Live) -> None:
    assert set(fuzz(live, range(100)).seen) >= {200, 400}


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, BLOCKS + 1), ids=lambda block: f"block{block}")
def test_damaged_sounds(live: Live, block: int, capsys: pytest.CaptureFixture[str]) -> None:
    sender = fuzz(live, range(block * BLOCK, (block + 1) * BLOCK))
    with capsys.disabled():
        sys.stderr.write(f" {dict(sender.seen)}, slowest {sender.slowest:.1f} s\n")

"""The command line: results on stdout, talk on stderr, exit codes, pipes, and help that the docs repeat."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fakes
from gpa import audio, hub
from gpa.cli import app, options
from gpa.pipeline import GPA
from gpa.results import Speech

CLIP = str(hub.embedded() / "demo.opus")
HERE = Path(__file__).parent
Result = subprocess.CompletedProcess[bytes]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GPA:
    """What every verb opens; the working folder is empty."""
    made = fakes.model(tmp_path / "fake")
    monkeypatch.setattr("gpa.pipeline.load", lambda *_, **__: made)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return made


def run(*words: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a verb, in this process."""
    result = CliRunner().invoke(app, list(words), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


# ---- tts ----


@pytest.mark.usefixtures("model")
def test_tts_writes_a_file_and_says_so_on_stderr() -> None:
    code, out, err = run("tts", "Hello there, all of you.", "-o", "hello.wav", "--voice", "bob", "--seed", "7")
    assert (code, out) == (0, "")
    assert err.startswith("hello.wav: 0.96 s of speech in ")
    assert len(audio.decode("hello.wav", 16_000)) == 0.96 * 16_000


@pytest.mark.usefixtures("model")
def test_tts_from_stdin_as_json() -> None:
    code, out, err = run("tts", "-", "-o", "x.mp3", "--speed", "2", "--json", stdin="Grüße, hello there!".encode())
    assert (code, err) == (0, "")
    row = json.loads(out)
    assert row["file"] == "x.mp3"
    assert row["sample_rate"] == 16_000
    assert row["seconds"] > 0.2
    assert row["truncated"] is row["looped"] is False


@pytest.mark.usefixtures("model")
def test_checked_tts_tells_what_was_read() -> None:
    code, out, _ = run("tts", "Hello there.", "-o", "x.wav", "--check", "--json")
    assert code == 0
    row = json.loads(out)
    assert (row["cer"], row["retried"]) == (0.0, 0)


@pytest.mark.usefixtures("model")
def test_tts_speaks_stdin_as_the_same_text() -> None:
    text = "This is the first sentence. And this is the second one, für alle."
    assert run("tts", "-", "-o", "a.wav", stdin=text.encode())[0] == 0
    assert run("tts", text, "-o", "b.wav")[0] == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    code, _, err = run("tts", "-", "-o", "c.wav", stdin=b" \n")
    assert (code, "nothing to say" in err) == (1, True)


def test_seed_and_voice_reach_the_engine(model: GPA) -> None:
    run("tts", "Hello there.", "-o", "x.wav", "--seed", "5", "-v", "bob")
    asked, sampling = model.engine.asked[-1]  # type: ignore[attr-defined]
    assert sampling.seed == 5
    assert asked.context[1:5] == tuple(model.vocab.bicodec_global.encode((5, 6, 7, 8)))


@pytest.mark.usefixtures("model")
def test_tts_to_stdout_is_nothing_but_sound() -> None:
    result = CliRunner().invoke(app, ["tts", "Hello there, all of you.", "-o", "-", "--format", "wav"])
    assert result.exit_code == 0
    assert len(audio.decode(result.stdout_bytes, 16_000)) == 0.96 * 16_000


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["tts", "hello"], 2, "Missing option '--out'"),
        (["tts", "hello", "-o", "x.wav", "--speed", "9"], 2, "--speed"),
        (["tts", "hello", "-o", "x.wav", "--seed", "-1"], 2, "--seed"),
        (["tts", "hello", "-o", "-", "--json"], 2, "both want stdout"),
        (["tts", "hello", "-o", "x.xyz"], 1, "gpa: x.xyz has the suffix '.xyz'"),
        (["tts", "hello", "-o", "x.wav", "-f", "xyz"], 1, "unknown audio format 'xyz' (legal: wav"),
        (["tts", "hello", "-o", "no/where/x.wav"], 1, "no/where is no folder"),
        (["tts", "hello", "-o", "x.wav", "-v", "zoe"], 1, "unknown voice 'zoe' (legal: amy, bob"),
        (["tts", "😀", "-o", "x.wav"], 1, "nothing to say"),
        (["tts", "hello", "-o", "x.wav", "--language", "xx"], 1, "unknown language 'xx' (legal: en, zh)"),
        (["vc", CLIP, "-o", "x.wav"], 2, "Missing option '--voice'"),
        (["vc", "none.wav", "-v", "amy", "-o", "x.wav"], 1, "none.wav cannot be opened"),
        (["asr"], 2, "Missing argument"),
        (["asr", "none.wav"], 1, "none.wav cannot be opened"),
        (["asr", CLIP, "--format", "xml"], 2, "xml"),
        (["asr", CLIP, CLIP, "--format", "srt"], 2, "--out DIR"),
        (["voice", "create", CLIP], 2, "Missing option '--out'"),
        (["nosuch"], 2, "No such command 'nosuch'"),
        (["tts", "hello", "-o", "x.wav", "--nosuch"], 2, "No such option"),
    ],
)
def test_wrong_words_give_one_clear_message(words: list[str], code: int, message: str) -> None:
    found, out, err = run(*words)
    assert (found, out) == (code, "")
    assert message in err.replace("\n", " ")
    if code == 1:
        assert err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write anywhere")
@pytest.mark.usefixtures("model")
def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = run("tts", "hello", "-o", str(tmp_path / "locked" / "x.wav"))
    assert code == 1
    assert "cannot be written" in err


@pytest.mark.usefixtures("model")
def test_a_folder_as_output(tmp_path: Path) -> None:
    (tmp_path / "cwd" / "x.wav").mkdir()
    code, _, err = run("tts", "hello", "-o", "x.wav")
    assert code == 1
    assert "x.wav cannot be written" in err


# ---- asr ----


@pytest.mark.usefixtures("model")
def test_asr_in_every_format() -> None:
    assert run("asr", CLIP) == (0, "Hello there.\n", "")
    row = json.loads(run("asr", CLIP, "--format", "json")[1])
    assert (row["file"], row["text"]) == (CLIP, "Hello there.")
    assert row["segments"][0]["end"] > 3
    assert json.loads(run("asr", CLIP, "--json")[1]) == row
    assert "words" not in row["segments"][0]
    timed = json.loads(run("asr", CLIP, "--json", "--words")[1])["segments"][0]["words"]
    assert [word["text"] for word in timed] == ["Hello", "there."]
    assert 0 <= timed[0]["start"] < timed[1]["start"] < timed[1]["end"] < 5
    assert run("asr", CLIP, "-f", "srt")[1].startswith("1\n00:00:00,")
    assert run("asr", CLIP, "-f", "vtt")[1].startswith("WEBVTT\n\n00:00:00.")


@pytest.mark.usefixtures("model")
def test_asr_of_stdin_silence_and_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for spool in (options.SPOOL, 1000):  # in memory, and as a temporary file
        monkeypatch.setattr(options, "SPOOL", spool)
        assert run("asr", "-", stdin=Path(CLIP).read_bytes()) == (0, "Hello there.\n", "")
    for name in ("a.wav", "b.wav"):
        Speech(np.zeros(16_000, np.float32), 16_000).save(name)
    assert run("asr", "a.wav") == (0, "\n", "")
    assert run("asr", "*.wav", CLIP) == (0, f"a.wav: \nb.wav: \n{CLIP}: Hello there.\n", "")
    code, out, err = run("asr", "a.wav", "none.wav", CLIP)
    assert (code, out) == (1, f"a.wav: \n{CLIP}: Hello there.\n")
    assert "gpa: none.wav: none.wav cannot be opened" in err
    assert err.endswith("gpa: 1 of 3 sounds failed\n")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(("format", "name"), [("text", "demo.txt"), ("srt", "demo.srt"), ("json", "demo.json")])
def test_asr_into_a_folder(format: str, name: str) -> None:
    assert run("asr", CLIP, "--format", format, "--out", "texts/here") == (0, "", "")
    assert "Hello there." in Path("texts/here", name).read_text()


# ---- vc, voices, info, demo ----


@pytest.mark.usefixtures("model")
def test_vc_from_a_file_and_from_stdin() -> None:
    assert run("vc", CLIP, "--voice", "bob", "-o", "a.wav")[0] == 0
    code, out, _ = run("vc", "-", "-v", "bob", "-o", "b.wav", "--json", stdin=Path(CLIP).read_bytes())
    assert code == 0
    assert json.loads(out)["seconds"] == pytest.approx(len(audio.decode(Path(CLIP), 16_000)) / 16_000, abs=0.3)
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


@pytest.mark.usefixtures("model")
def test_vc_by_windows_is_as_long_as_its_source() -> None:
    assert run("vc", CLIP, "-v", "bob", "-o", "x.wav", "--window", "0.32")[0] == 0
    assert len(audio.decode("x.wav", 16_000)) == len(audio.decode(CLIP, 16_000))
    code, _, err = run("vc", CLIP, "-v", "bob", "-o", "x.wav", "--window", "0.1")
    assert code == 2
    assert "legal: 0, or 0.16 to 4" in err.replace("\n", " ")


def test_voice_create_list_info(model: GPA) -> None:
    code, out, err = run("voice", "create", CLIP, "-o", "friend.json")
    assert (code, out) == (0, "")
    assert "--voice friend.json" in err
    assert model.voice("friend.json").name == "friend"
    folder = str(model.checkpoint.folder)
    assert run("voice", "list", "-c", folder) == (0, "amy (default)\nbob\n", "")
    assert json.loads(run("voice", "list", "-c", folder, "--json")[1]) == {"voices": ["amy", "bob"], "default": "amy"}
    assert "codes     1 2 3 4\n" in run("voice", "info", "amy", "-c", folder)[1]
    assert json.loads(run("voice", "info", "friend.json", "-c", folder, "--json")[1])["codebook_size"] == 16
    assert run("voice", "info", "zoe", "-c", folder)[0] == 1


def test_info(model: GPA) -> None:
    folder = model.checkpoint.folder
    credit = {"source": "LJ", "license": "public domain", "attribution": "Linda", "utterances": 2, "hours": 1.5}
    score = {"task": "tts", "set": "amy", "metric": "wer", "value": 9.5, "low": 8.0, "high": 11.0, "count": 100}
    card = {"name": "toy", "license": "Apache-2.0", "languages": ["en"], "sources": [credit], "scores": [score]}
    (folder / "card.json").write_text(json.dumps(card))
    code, out, _ = run("info", "-c", str(folder))
    assert code == 0
    assert "license            Apache-2.0\n" in out
    assert "trained on         1.50 h of LJ (public domain) Linda\n" in out
    assert "measured           tts amy wer 9.5\n" in out
    row = json.loads(run("info", "-c", str(folder), "--json")[1])
    assert row["card"]["scores"] == [score]
    assert row["voices"] == ["amy", "bob"]


def test_demo_does_everything_once(model: GPA) -> None:
    for name in ("demo.json", "demo.opus"):
        (model.checkpoint.folder / name).write_bytes((hub.embedded() / name).read_bytes())
    code, out, err = run("demo", "--out", "sounds")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["task", "what", "audio", "s", "taken", "s", "rtf", "WER", "%", "result"]
    assert [line.split()[0] for line in lines[1:]] == ["tts", "asr"] * 4 + ["asr", "vc", "asr"]
    assert sorted(path.name for path in Path("sounds").iterdir()) == [
        "amy-1.wav",
        "amy-2.wav",
        "bob-1.wav",
        "bob-2.wav",
        "converted-amy.wav",
    ]
    rows = [json.loads(line) for line in run("demo", "--out", "sounds", "--json")[1].splitlines()]
    assert [row["wer"] is None for row in rows] == [row["task"] != "asr" for row in rows]


# ---- the process: pipes, interrupts, speed ----


def gpa(*words: str, stdin: bytes | None = None, **options: object) -> Result:
    """The real program."""
    return subprocess.run(_command(*words), input=stdin, capture_output=True, timeout=120, check=False, **options)  # type: ignore[call-overload,no-any-return]


def _command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from gpa.cli import main; main()", *words]


def test_version_help_and_no_arguments() -> None:
    import gpa as package

    assert run("--version") == (0, f"{package.__version__}\n", "")
    assert run("-h")[0] == 0
    code, out, err = run()
    assert "Usage:" in out + err
    assert code in (0, 2)  # click changed its mind on this


def test_help_is_quick() -> None:
    times = []
    for _ in range(3):
        started = time.process_time(), os.times()
        assert gpa("--help").returncode == 0
        ended = os.times()
        times.append(ended.children_user + ended.children_system - started[1].children_user - started[1].children_system)
    assert min(times) < 0.4  # seconds of processor time: the wall's would depend on who else runs here


def test_shell_completion() -> None:
    environment = {**os.environ, "_GPA_COMPLETE": "complete_bash", "COMP_WORDS": "gpa v", "COMP_CWORD": "1"}
    code = "from gpa.cli import app; app(prog_name='gpa')"
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert {"vc", "voice"} <= set(found.stdout.split()), found
    assert "tts" not in found.stdout.split()


def test_a_whole_pipe(nano_checkpoint: Path) -> None:
    spoken = gpa("tts", "-", "-o", "-", "-c", str(nano_checkpoint), stdin=b"Hello there. How are you?")
    assert spoken.returncode == 0
    assert spoken.stdout.startswith(b"RIFF")
    assert spoken.stderr.startswith(b"-: ")
    heard = gpa("asr", "-", "-c", str(nano_checkpoint), "--json", stdin=spoken.stdout)
    assert heard.returncode == 0
    assert heard.stderr == b""
    assert json.loads(heard.stdout)["file"] == "-"
    swapped = gpa("vc", "-", "-v", "bob", "-o", "-", "-f", "flac", "-c", str(nano_checkpoint), stdin=spoken.stdout)
    assert swapped.returncode == 0
    assert swapped.stdout.startswith(b"fLaC")


def _started(*words: str) -> subprocess.Popen[bytes]:
    # the tests themselves may run where interrupts are ignored, which a child would inherit
    heed = None if sys.platform == "win32" else lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(_command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed)


def _long_text() -> Sequence[str]:
    return ["tts", "One more sentence of some length, to be spoken. " * 200, "-o", "-"]


def test_a_reader_that_goes_away_is_no_noise(nano_checkpoint: Path) -> None:
    with _started(*_long_text(), "-c", str(nano_checkpoint)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4) == b"RIFF"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child")
def test_an_interrupt_ends_quietly(nano_checkpoint: Path) -> None:
    with _started(*_long_text(), "-c", str(nano_checkpoint)) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"RIFF"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, b"")


# ---- the docs ----


def test_docs_hold_the_help() -> None:
    """`python docs/write_cli.py` writes docs/cli.md anew."""
    spec = importlib.util.spec_from_file_location("write_cli", HERE.parent / "docs" / "write_cli.py")
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert (HERE.parent / "docs" / "cli.md").read_text(encoding="utf-8") == writer.page()

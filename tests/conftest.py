"""Checkpoints with random weights, made once a session: tests may read them, never write into them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from gpa import prompt as prompts
from gpa.vocab import Vocab
from gpa.voice import Voice

# these compare with torch in nearly every test; others ask for a checkpoint, and are skipped without it
collect_ignore = [] if find_spec("torch") else ["test_golden.py", "test_nets.py", "test_restore.py", "test_stream.py", "test_tokenizers.py"]


def _make(folder: Path, flavour: str) -> Path:
    pytest.importorskip("torch")
    from gpa.nets.export_lm import export_openvino
    from gpa.nets.fake import tiny_bicodec, tiny_glm, write_random_checkpoint

    vocab = write_random_checkpoint(folder, glm=tiny_glm(flavour), bicodec=tiny_bicodec(flavour))
    export_openvino(folder, folder, "f32", tasks(vocab))
    count = tiny_bicodec(flavour)["audio_tokenizer"]["speaker_encoder"]["token_num"]
    (folder / "voices").mkdir()
    for i, name in enumerate(("amy", "bob")):
        Voice(tuple(range(i, i + count)), vocab.bicodec_global.size, name).save(folder / "voices" / f"{name}.json")
    return folder


def tasks(vocab: Vocab) -> list[prompts.Prompt]:
    """One prompt of each task, for the heads of an exported language model."""
    return [prompts.asr(vocab, [], []), prompts.tts(vocab, [], ""), prompts.vc(vocab, [], [])]


@pytest.fixture(scope="session")
def nano_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny whole checkpoint like the embedded one: GLM features, source-filter head, 25 codes a second; voices amy, bob."""
    return _make(tmp_path_factory.mktemp("nano"), "nano")


@pytest.fixture(scope="session")
def published_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny whole checkpoint like the published one: wav2vec2 features (no net of them), wave generator, 50 codes a second."""
    return _make(tmp_path_factory.mktemp("published"), "published")

"""Vocab: the language model's ids. Text and audio codes go in, ids come out, and back.

One id space holds text tokens, structural tokens and three ranges of audio codes. The ranges are READ from the
checkpoint's tokenizer.json, never assumed. Codes are raw codebook indices; ids are always offset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from gpa.errors import CheckpointError

STOP = "<|im_end|>"  # ends every generation; the eos_token_id of the published config.json is another id
STRUCTURAL = (
    "<|start_glm_token|>",
    "<|end_glm_token|>",
    "<|start_semantic_token|>",
    "<|end_semantic_token|>",
    "<|start_global_token|>",
    "<|end_global_token|>",
    "<|start_content|>",
    "<|end_content|>",
    STOP,
)
PAD = "<|endoftext|>"
CHARACTERS = " abcdefghijklmnopqrstuvwxyz'.,?!-;:"  # what a character-level checkpoint reads and writes

_CODE_TOKEN = re.compile(r"<\|(.*?)_?(\d+)\|>")  # a family's name and a code of it
_FAMILIES = ("glm", "bicodec_global", "bicodec_semantic")


@dataclass(frozen=True)
class CodeRange:
    """`size` consecutive ids that stand for the codes 0 .. size - 1 of one codebook."""

    name: str
    first: int
    size: int

    @property
    def ids(self) -> range:
        """All ids of the range."""
        return range(self.first, self.first + self.size)

    def encode(self, codes: Iterable[int]) -> list[int]:
        """Codes -> ids. Raises CheckpointError when a code lies outside the codebook."""
        out = [self.first + int(code) for code in codes]
        if out and not (min(out) >= self.first and max(out) < self.first + self.size):
            found = f"{min(out) - self.first}..{max(out) - self.first}"
            raise CheckpointError(f"{self.name} codes must lie in 0..{self.size - 1}, found {found}")
        return out

    def code(self, id: int) -> int:
        """Id -> code. Raises CheckpointError when the id is not of this range."""
        if id not in self.ids:
            raise CheckpointError(f"id {id} is no {self.name} code (legal: {self.ids.start}..{self.ids.stop - 1})")
        return id - self.first


class Vocab:
    """Codes and text <-> ids, read from `tokenizer.json`."""

    def __init__(self, raw: dict[str, Any], glm_codes: int | None = None) -> None:
        """`raw`: a parsed tokenizer.json. `glm_codes`: size of the linguistic codebook, by which its tokens are known if
        their name does not say it. Raises CheckpointError."""
        added = {entry["content"]: int(entry["id"]) for entry in raw.get("added_tokens", ())}
        # text meets a tokenizer that has never heard of the added tokens: none can be written into a prompt
        self.tokenizer = Tokenizer.from_str(json.dumps({**raw, "added_tokens": []}))
        written = self.tokenizer.get_vocab(with_added_tokens=False)
        table = {**written, **added}
        self.size = max(table.values()) + 1
        missing = [token for token in STRUCTURAL if token not in table]
        if missing:
            raise CheckpointError(f"the tokenizer lacks {', '.join(missing)}: this is not a GPA checkpoint")
        self._ids = {token: table[token] for token in (*STRUCTURAL, PAD) if token in table}
        ranges = _code_ranges(table, glm_codes)
        self.glm = ranges["glm"]
        self.bicodec_global = ranges["bicodec_global"]
        self.bicodec_semantic = ranges["bicodec_semantic"]
        special = {*self._ids.values(), *added.values(), *self.glm.ids, *self.bicodec_global.ids, *self.bicodec_semantic.ids}
        self._text = {id for id in written.values() if id not in special}

    @classmethod
    def load(cls, folder: Path, glm_codes: int | None = None) -> Vocab:
        """Read `folder/tokenizer.json`. Raises CheckpointError."""
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: a checkpoint needs its tokenizer.json")
        try:
            return cls(json.loads(path.read_text(encoding="utf-8")), glm_codes)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except Exception as error:  # the tokenizers library raises bare Exception on damaged files
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def special(self, token: str) -> int:
        """Id of a structural token."""
        return self._ids[token]

    @cached_property
    def text(self) -> tuple[range, ...]:
        """Ranges of the ids that stand for text."""
        ids = sorted(self._text)
        starts = [i for i, id in enumerate(ids) if i == 0 or id != ids[i - 1] + 1]
        ends = [*starts[1:], len(ids)]
        return tuple(range(ids[a], ids[b - 1] + 1) for a, b in zip(starts, ends, strict=True))

    def encode(self, text: str) -> list[int]:
        """Text -> ids of text tokens only: a special token written in `text` is text like any other."""
        return [id for id in self.tokenizer.encode(text, add_special_tokens=False).ids if id in self._text]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> text; special tokens and audio codes are left out."""
        return self.tokenizer.decode([id for id in ids if id in self._text], skip_special_tokens=True)


def _code_ranges(table: dict[str, int], glm_codes: int | None) -> dict[str, CodeRange]:
    """The three code ranges of a token table, checked to be complete and consecutive."""
    found: dict[str, dict[int, int]] = {}
    for token, id in table.items():
        match = _CODE_TOKEN.fullmatch(token)
        if match:
            found.setdefault(match[1], {})[int(match[2])] = id
    ranges = {}
    for name in _FAMILIES:
        codes = found.get(name, {})
        if name == "glm" and not codes:
            codes = _unnamed(found, glm_codes)
        first = codes.get(0, -1)
        if not codes or any(codes.get(code) != first + code for code in range(len(codes))):
            raise CheckpointError(f"the tokenizer's {name} tokens are not one consecutive range from code 0 ({len(codes)} found)")
        ranges[name] = CodeRange(name, first, len(codes))
    return ranges


def _unnamed(found: dict[str, dict[int, int]], size: int | None) -> dict[int, int]:
    """The linguistic codes' tokens under another name: one that contains glm, else the only ones of the codebook's size."""
    others = {name: codes for name, codes in found.items() if not name.startswith("bicodec")}
    likely = [codes for name, codes in others.items() if "glm" in name] or [c for c in others.values() if len(c) == size]
    if len(likely) > 1:
        raise CheckpointError(f"{len(likely)} kinds of tokens could be the linguistic codes, of {len(others)} found (legal: one)")
    return likely[0] if likely else {}


def write_character_tokenizer(folder: Path, glm: int, bicodec_global: int, bicodec_semantic: int) -> Vocab:
    """Write a `tokenizer.json` of single lower-case characters and three code ranges of the given sizes."""
    tokens = [PAD, *STRUCTURAL, *CHARACTERS]
    for name, size in (("glm", glm), ("bicodec_global", bicodec_global), ("bicodec_semantic", bicodec_semantic)):
        tokens += [f"<|{name}_{code}|>" for code in range(size)]
    # an unknown character becomes PAD, which `Vocab.encode` drops
    tokenizer = Tokenizer(models.WordLevel({token: id for id, token in enumerate(tokens)}, unk_token=PAD))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": STOP, "pad_token": PAD}, indent=1) + "\n"
    )
    return Vocab(json.loads(tokenizer.to_str()))


# The published tokenizer, as far as it is known: Qwen3's, and more added tokens. It keeps 58 and 46 tokens around the codes,
# among them the structural ones; which is where is not known, and read from the file.
_QWEN3 = (
    *(PAD, "<|im_start|>", STOP),
    *(f"<|{name}_{end}|>" for name in ("object_ref", "box", "quad", "vision") for end in ("start", "end")),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>"),
    *(f"<|{name}|>" for name in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")),
    *("<tool_response>", "</tool_response>", "<think>", "</think>"),
)
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PUBLISHED_TEXT = 151_643  # ids of text in the published vocabulary


def write_published_tokenizer(folder: Path, text: int, glm: int, bicodec_global: int, bicodec_semantic: int) -> Vocab:
    """Write tokenizer files in the published layout: byte-level BPE of `text` (256 or more) made-up ids, and code ranges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = ((a, b) for longer in (alphabet, (a + b for a in alphabet for b in alphabet)) for a in longer for b in alphabet)
    merges = [pair for pair, _ in zip(pairs, range(text - len(alphabet)), strict=False)]
    codes = [
        f"<|{name}_{code}|>" for name, size in zip(_FAMILIES, (glm, bicodec_global, bicodec_semantic), strict=True) for code in range(size)
    ]
    structural = [token for token in STRUCTURAL if token != STOP]
    added = [*_QWEN3, *(f"<|before_{i}|>" for i in range(58)), *codes, *structural, *(f"<|after_{i}|>" for i in range(38))]
    vocab = {token: id for id, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.normalizer = normalizers.NFC()
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_SPLIT), "isolated"), bytes_of])
    tokenizer.decoder = decoders.ByteLevel()
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    entries = {text + i: {"content": token, **plain, "special": "think" not in token} for i, token in enumerate(added)}
    raw = json.loads(tokenizer.to_str()) | {"added_tokens": [{"id": id, **entry} for id, entry in entries.items()]}
    files = {
        "tokenizer.json": raw,
        "tokenizer_config.json": {
            "added_tokens_decoder": {str(id): entry for id, entry in entries.items()},
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": STOP,
            "pad_token": PAD,
        },
        "vocab.json": vocab,
        "added_tokens.json": {entry["content"]: id for id, entry in entries.items()},
        "special_tokens_map.json": {"eos_token": STOP, "pad_token": PAD},
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    return Vocab.load(folder)

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

_CODE_TOKEN = re.compile(r"<\|([a-z_]+?)_(\d+)\|>")
_FAMILIES = {"glm": "glm", "bicodec_global": "bicodec_global", "bicodec_semantic": "bicodec_semantic"}


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

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        table = tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(table.values()) + 1
        missing = [token for token in STRUCTURAL if token not in table]
        if missing:
            raise CheckpointError(f"the tokenizer lacks {', '.join(missing)}: this is not a GPA checkpoint")
        self._ids = {token: table[token] for token in (*STRUCTURAL, PAD) if token in table}
        ranges = _code_ranges(table)
        self.glm = ranges["glm"]
        self.bicodec_global = ranges["bicodec_global"]
        self.bicodec_semantic = ranges["bicodec_semantic"]
        reserved = set(self._ids.values()).union(self.glm.ids, self.bicodec_global.ids, self.bicodec_semantic.ids)
        self._reserved = reserved

    @classmethod
    def load(cls, folder: Path) -> Vocab:
        """Read `folder/tokenizer.json`. Raises CheckpointError."""
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: a checkpoint needs its tokenizer.json")
        try:
            return cls(Tokenizer.from_file(str(path)))
        except CheckpointError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exception on damaged files
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def special(self, token: str) -> int:
        """Id of a structural token."""
        return self._ids[token]

    @cached_property
    def text(self) -> tuple[range, ...]:
        """Ranges of the ids that stand for text."""
        table = self.tokenizer.get_vocab(with_added_tokens=True)
        added = {int(id) for id in self.tokenizer.get_added_tokens_decoder()}
        ids = sorted(id for id in table.values() if id not in self._reserved and id not in added)
        starts = [i for i, id in enumerate(ids) if i == 0 or id != ids[i - 1] + 1]
        ends = [*starts[1:], len(ids)]
        return tuple(range(ids[a], ids[b - 1] + 1) for a, b in zip(starts, ends, strict=True))

    def encode(self, text: str) -> list[int]:
        """Text -> ids of text tokens only: a structural token written in `text` is never parsed as one."""
        ids: list[int] = []
        for piece in re.split(r"(<\|)", text):  # breaks every special-token string in two
            ids += self.tokenizer.encode(piece, add_special_tokens=False).ids if piece else []
        return [id for id in ids if id not in self._reserved]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> text; structural tokens and audio codes are left out."""
        return self.tokenizer.decode([id for id in ids if id not in self._reserved], skip_special_tokens=True)


def _code_ranges(table: dict[str, int]) -> dict[str, CodeRange]:
    """The three code ranges of a token table, checked to be complete and consecutive."""
    found: dict[str, dict[int, int]] = {}
    for token, id in table.items():
        match = _CODE_TOKEN.fullmatch(token)
        if match and match[1] in _FAMILIES:
            found.setdefault(match[1], {})[int(match[2])] = id
    ranges = {}
    for name in _FAMILIES:
        codes = found.get(name, {})
        first = codes.get(0, -1)
        if not codes or any(codes.get(code) != first + code for code in range(len(codes))):
            raise CheckpointError(f"the tokenizer's {name} tokens are not one consecutive range from code 0 ({len(codes)} found)")
        ranges[name] = CodeRange(name, first, len(codes))
    return ranges


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
    return Vocab(tokenizer)

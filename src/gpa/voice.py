"""Voice: the global codes of a speaker and the tone they leave out, as a file of less than 1 KB (with a transcript: 8 KB).

A voice is made from a clip by `GPA.voice`, once, and kept. The codes mean something only to checkpoints with the same
codebook: its size and the number of codes are part of the voice and are checked where it is used.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gpa import strict
from gpa.errors import GPAError
from gpa.tokenizers import pitch
from gpa.tokenizers.fit import Fit
from gpa.tokenizers.tone import MOST

FORMAT = "gpa-voice-1"
MAX_BYTES, MAX_BYTES_TRANSCRIBED = 1000, 8000  # of a voice file
MAX_NAME = 80  # characters
OPTIONAL = ("transcript", "semantic", "semantic_codebook", "tone", "pitch")  # not written where empty


@dataclass(frozen=True)
class Voice:
    """`codes` of one speaker, each in 0 .. codebook_size - 1.

    `transcript` and `semantic`, both or neither: what is said in the clip, and its semantic codes; speech goes on from them.
    `semantic_codebook`: whose codes these are, where the checkpoint's BiCodec/config.yaml says it.
    `tone`, `pitch`: how much stronger and higher the clip is than what is rendered of its codes (`gpa.tokenizers.tone`, `.pitch`);
    none for most checkpoints."""

    codes: tuple[int, ...]
    codebook_size: int
    name: str = ""
    transcript: str = ""
    semantic: tuple[int, ...] = ()
    tone: tuple[int, ...] = ()  # half decibels in mel bands: of unvoiced frames, then of voiced ones
    semantic_codebook: str = ""
    pitch: int = 0  # cents

    def __post_init__(self) -> None:
        if not self.codes or any(not 0 <= code < self.codebook_size for code in self.codes):
            raise ValueError(f"a voice has the codes {list(self.codes)} (legal: one or more in 0..{self.codebook_size - 1})")
        if bool(self.transcript) != bool(self.semantic):
            found = f"a transcript of {len(self.transcript)} characters and {len(self.semantic)} semantic codes"
            raise ValueError(f"the voice has {found} (legal: both or neither)")
        if len(self.tone) % 2 or any(abs(gain) > MOST for gain in self.tone):
            raise ValueError(f"the voice has the tone {list(self.tone)} (legal: an even count of gains in -{MOST}..{MOST})")
        if abs(self.pitch) > pitch.MOST:
            raise ValueError(f"the voice has the pitch {self.pitch} (legal: -{pitch.MOST}..{pitch.MOST} cents)")
        if len(self.name) > MAX_NAME:
            raise ValueError(f"the voice's name has {len(self.name)} characters (legal: up to {MAX_NAME})")

    @property
    def fit(self) -> Fit:
        """What is rendered besides its codes."""
        return Fit(self.tone, self.pitch)

    def save(self, path: str | Path) -> None:
        """Write as JSON. Raises GPAError: not writable."""
        facts = {key: value for key, value in asdict(self).items() if value or key not in OPTIONAL}
        text = json.dumps({"format": FORMAT, **facts}, ensure_ascii=False) + "\n"
        most = MAX_BYTES_TRANSCRIBED if self.transcript else MAX_BYTES
        if len(text.encode()) > most:
            raise GPAError(f"the voice takes {len(text.encode())} bytes (legal: up to {most})")
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise GPAError(f"{path} cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Voice:
        """Read what `save` wrote. Raises GPAError: unreadable, another format, unknown keys, illegal codes."""
        raw = strict.load_json(Path(path))
        found = raw.pop("format", None)
        if found != FORMAT:
            raise GPAError(f"{path} has the format {found!r} (legal: {FORMAT!r})")
        return strict.parse(cls, raw, str(path))

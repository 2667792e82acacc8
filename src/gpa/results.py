"""What the tasks give back: Speech for sound, Transcript for text."""

from __future__ import annotations

from dataclasses import dataclass

from gpa.audio import Target, Wav, save


@dataclass(frozen=True)
class Check:
    """What the model itself read in the codes of one sentence, before it was spoken."""

    text: str  # as it should be said
    heard: str
    cer: float  # character error rate, 0 .. 1 and above: edits per character of `text`
    tries: int  # generations that were made; the best of them was spoken


@dataclass(frozen=True, eq=False)
class Speech:
    """`wav` (T,) at `sample_rate` Hz, and whether a sentence of it had to be ended by force."""

    wav: Wav
    sample_rate: int
    truncated: bool = False  # a sentence reached twice its expected length
    looped: bool = False  # a sentence went round in circles and was stopped there
    checks: tuple[Check, ...] = ()  # one a sentence, where `check` was asked for

    @property
    def cer(self) -> float | None:
        """Character error rate over all checked sentences; None where nothing was checked."""
        characters = sum(len(check.text) for check in self.checks)
        return sum(check.cer * len(check.text) for check in self.checks) / characters if characters else None

    @property
    def retried(self) -> int:
        """Generations that were thrown away."""
        return sum(check.tries - 1 for check in self.checks)

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.wav) / self.sample_rate

    def save(self, target: Target, format: str | None = None, *, sample_rate: int | None = None) -> None:
        """Write to a path (its suffix names the format), to standard output ("-") or to a binary file; see `gpa.audio.save`.

        Raises AudioError."""
        save(target, self.wav, self.sample_rate, format, out_rate=sample_rate)


@dataclass(frozen=True)
class Word:
    """One word as the transcript writes it, from `start` to `end` in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Segment:
    """One stretch of speech: from `start` to `end` in seconds."""

    start: float
    end: float
    text: str
    confidence: float  # 0 .. 1: geometric mean of the probabilities of the ids behind the text
    truncated: bool = False
    looped: bool = False
    words: tuple[Word, ...] = ()  # where `words` was asked for
    partial: bool = False  # the speaker goes on: the same `start` comes again with more
    revised: bool = False  # the text does not go on from the partial before, it replaces it


@dataclass(frozen=True)
class Transcript:
    """What was said; `text` is empty where nobody spoke."""

    text: str
    segments: tuple[Segment, ...] = ()

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments, in order."""
        return tuple(word for segment in self.segments for word in segment.words)

    def srt(self) -> str:
        """SubRip subtitles, one entry a segment."""
        rows = (f"{i}\n{_clock(s.start, ',')} --> {_clock(s.end, ',')}\n{s.text}\n" for i, s in enumerate(self.segments, 1))
        return "\n".join(rows)

    def vtt(self) -> str:
        """WebVTT subtitles, one cue a segment."""
        rows = (f"\n{_clock(s.start, '.')} --> {_clock(s.end, '.')}\n{_escaped(s.text)}\n" for s in self.segments)
        return "".join(["WEBVTT\n", *rows])


def _clock(seconds: float, mark: str) -> str:
    """3723.5 -> 01:02:03,500."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

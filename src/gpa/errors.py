"""Every error this package raises on purpose. Each message says what was found and what is legal.

GPAError
├── AudioError        a sound that cannot be read, written or used
├── TextError         a text that cannot be spoken
├── CheckpointError   a model folder that is missing, damaged or of the wrong kind
├── EngineError       the language-model backend cannot do what was asked
├── MissingExtra      an optional dependency is not installed; the message holds the cure
└── LimitError        the input is legal but larger than what was allowed
"""


class GPAError(Exception):
    """Root of the tree: catch this to catch them all."""


class AudioError(GPAError):
    """A sound that cannot be read, written or used."""


class TextError(GPAError):
    """A text that cannot be spoken."""


class CheckpointError(GPAError):
    """A model folder that is missing, damaged or of the wrong kind."""


class EngineError(GPAError):
    """The language-model backend cannot do what was asked."""


class MissingExtra(GPAError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'gpa[{extra}]'")


class LimitError(GPAError):
    """The input is legal but larger than what was allowed."""

"""gpa: one autoregressive model that speaks, listens and converts voices."""

__version__ = "0.1.0.dev0"

"""The command `gpa`: one verb a task. A verb imports its room when it is called, so that --help stays quick.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 an error (one line says which), 2 wrong usage,
130 interrupted, 141 the reader of the pipe is gone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gpa.cli import bench, demo, detect, dev, judge, listen, make, serve, speak, voices
from gpa.errors import GPAError

INTERRUPTED = 130
PIPE_CLOSED = 141


class Verbs(TyperGroup):
    """Turns what a verb raises into an exit code and at most one line on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(INTERRUPTED) from interrupt
        except (GPAError, BrokenPipeError) as error:
            if isinstance(error, BrokenPipeError) or isinstance(error.__cause__, BrokenPipeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
                raise typer.Exit(PIPE_CLOSED) from error
            typer.echo(f"gpa: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from error


def _group(help: str) -> typer.Typer:
    # no rich in the help and no pretty tracebacks: they would cost a tenth of a second at every start
    return typer.Typer(
        help=help,
        cls=Verbs,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _version(wanted: bool) -> None:
    if wanted:
        from gpa import __version__

        typer.echo(__version__)
        raise typer.Exit


def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Speak, listen and convert voices with one language model."""


def main() -> None:
    """Entry point of the console script."""
    app()


def _verbs(group: typer.Typer, **verbs: Callable[..., None]) -> typer.Typer:
    for name, verb in verbs.items():
        group.command(name)(verb)
    return group


app = _group("Speak, listen and convert voices with one language model.")
app.callback()(_options)
_verbs(app, demo=demo.demo, tts=speak.tts, asr=listen.asr, vc=speak.vc, serve=serve.serve, info=voices.info)
_verbs(app, detect=detect.detect, eval=judge.evaluate, convert=make.convert)
_voice = _verbs(_group("Make and look at voices."), create=voices.create, list=voices.list_, info=voices.describe)
_data = _verbs(_group("Make training data."), synth=make.synth, pack=make.pack, shift=make.shift, disturb=make.disturb)
_verbs(_data, noise=make.noise, ngrams=make.ngrams, features=make.features, tokenize=make.tokenize, testset=make.render)
_bench = _verbs(_group("Measure speed and memory."), engines=bench.engines, speech=bench.speech, serve=bench.serve)
_dev = _verbs(_group("Tools for developers."))
_dev.command("fake-checkpoint")(dev.fake_checkpoint)
_train = _verbs(_group("Train the parts of a checkpoint."), tokenizer=make.tokenizer, verifier=make.verifier, lm=make.lm)
_verbs(_train, assemble=make.assemble, restore=make.restore)
app.add_typer(_voice, name="voice")
app.add_typer(_data, name="data")
app.add_typer(_train, name="train")
app.add_typer(_bench, name="bench")
app.add_typer(_dev, name="dev")

"""The command line. One file a group of commands; this one puts them together and turns errors into exit codes.

Exit codes: 0 good, 1 the work failed, 2 the input is wrong, 130 interrupted. Nothing here imports torch or pandas
before a command needs it: `finetricks --help` answers at once.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from finetricks import __version__
from finetricks.cli.cache import cache
from finetricks.cli.console import complain
from finetricks.cli.doctor import doctor
from finetricks.cli.extensions import COMMANDS, announced, load
from finetricks.cli.models import new_lstm
from finetricks.cli.plugins import new_plugin
from finetricks.cli.recipes import check, explain
from finetricks.cli.runs import predict, train
from finetricks.cli.tricks import list_tricks, schema, show
from finetricks.errors import FinetricksError, InputError

DEBUG = "FINETRICKS_DEBUG"
BUILT_IN: Mapping[str, Callable[..., None]] = {
    "list": list_tricks,
    "show": show,
    "check": check,
    "schema": schema,
    "explain": explain,
    "train": train,
    "predict": predict,
    "new-lstm": new_lstm,
    "doctor": doctor,
    "cache": cache,
    "new-plugin": new_plugin,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (those of the process by default) and give its exit code.

    Raises:
        SystemExit: with the exit code, where the command line's library ends the program itself (--help, usage).
    """
    try:
        application()(arguments)
    except InputError as error:
        _explain(error, [str(problem) for problem in error.problems])
        return 2
    except FinetricksError as error:
        _explain(error, [str(error)])
        return 1
    except Exception as error:
        _explain(error, [f"{type(error).__name__}: {error}", f"({DEBUG}=1 shows where)"])
        return 1
    return 0


def application() -> typer.Typer:
    """The commands: the core's, and those that installed distributions announce."""
    app = typer.Typer(
        name="finetricks",
        help="Fine-tune with tricks by name, and find out which of them help.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, command in BUILT_IN.items():
        app.command(name)(command)
    for name, point in announced(COMMANDS, taken=BUILT_IN).items():
        if (extension := load(point)) is not None:
            app.command(name)(extension)
    return app


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    pass


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"finetricks {__version__}")
        raise typer.Exit


def _explain(error: Exception, lines: Sequence[str]) -> None:
    notes: list[Any] = getattr(error, "__notes__", [])
    for line in [*lines, *notes]:
        complain(line)
    if os.environ.get(DEBUG):
        traceback.print_exception(error)

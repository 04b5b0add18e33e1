"""The command that examines the installation, and the training of a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from finetricks.cli.console import messages, output, print_json, quiet_libraries
from finetricks.cli.extensions import DOCTOR, announced
from finetricks.cli.extensions import load as load_extension
from finetricks.cli.options import AsJson, Plugins, Settings, Trust, catalog_with
from finetricks.cli.recipes import LOADING, load
from finetricks.errors import InputError, printable

if TYPE_CHECKING:
    from finetricks.doctor import Finding
    from finetricks.recipe import Recipe

    Say = Callable[[str], None]

STYLES = {"ok": "green", "look": "yellow", "wrong": "bold red"}


def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="RECIPE", help="A recipe, to look at its training too.", show_default=False),
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PICTURE", help="Draw the range test of rates: a .png, .svg or .pdf file."),
    ] = None,
    settings: Settings = None,
    plugins: Plugins = None,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Examine the installation and, with a recipe, its training: what is wrong, and what to do."""
    catalog = catalog_with(plugins)
    if recipe is None and (out is not None or settings):
        raise InputError("--out and --set are about a recipe's training; name a recipe")
    if out is not None:
        from finetricks.picture import check_format

        check_format(out)
    checked = None if recipe is None else _one(recipe, settings or (), catalog)
    if checked is not None and (checked.model is None or checked.data is None):
        raise InputError(f"{recipe} names no model or no data, so that there is no training to look at")
    found: list[dict[str, Any]] = []
    with _saying() as say:
        for check, finding in _findings(catalog, checked, out, trust_remote_code, say):
            found.append({"check": check, **asdict(finding)})
            if not as_json:
                _print(check, finding)
    counts = Counter(finding["level"] for finding in found)
    if as_json:
        print_json(found)
    else:
        wrong = f"{counts['wrong']} wrong" if counts["wrong"] else "nothing is wrong"
        output().print(f"{wrong}, {counts['look']} to look at")
    if counts["wrong"]:
        raise typer.Exit(1)


def _one(file: Path, settings: Sequence[str], catalog: Any) -> Recipe:
    """The recipe in a file. Raises `InputError` where there are several."""
    from finetricks.recipe import Recipe

    given = load(file, settings, catalog)
    if not isinstance(given, Recipe):
        raise InputError(f"{file} holds steps: `finetricks doctor` looks at one recipe; write the step's to a file")
    return given


def _findings(
    catalog: Any, recipe: Recipe | None, out: Path | None, trust: bool, say: Say
) -> Iterator[tuple[str, Finding]]:
    """The findings of every check, each with the check's name, as soon as they are there."""
    from finetricks.doctor import INSTALLATION, examine

    others = {name: load_extension(point) for name, point in announced(DOCTOR, taken=INSTALLATION).items()}
    yield from _of_all({**INSTALLATION, **others}.items(), examine, catalog, say)
    if recipe is None:
        return
    say(LOADING)
    from finetricks.doctor.case import Case
    from finetricks.doctor.training import TRAINING
    from finetricks.streams import kept

    quiet_libraries()
    name = ""
    with kept():
        case = Case(
            recipe,
            picture=out,
            trust_remote_code=trust,
            on_step=lambda done, of: say(f"{name}: step {done} of {of}"),
        )
        for name, check in TRAINING.items():
            yield from _of_all([(name, check)], examine, case, say)


def _of_all(checks: Iterable[tuple[str, Any]], examine: Any, subject: Any, say: Say) -> Iterator[tuple[str, Finding]]:
    for name, check in checks:
        if check is not None:  # one that does not load was warned of
            say(name)
            for finding in examine(check, subject):
                yield name, finding


def _print(check: str, finding: Finding) -> None:
    table = Table.grid(padding=(0, 2))
    for width in (5, 10):
        table.add_column(width=width)
    table.add_column(overflow="fold")
    table.add_row(Text(finding.level, STYLES[finding.level]), Text(check), Text(printable(finding.what)))
    if finding.do:
        table.add_row("", "", Text.assemble(("do: ", "bold"), printable(finding.do)))
    output().print(table)


@contextmanager
def _saying() -> Iterator[Say]:
    """Give what says, in a terminal, what is being done."""
    console = messages()
    if not console.is_terminal:
        yield lambda what: None
        return
    with console.status("") as status:
        yield status.update

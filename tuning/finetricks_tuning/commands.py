"""The commands that studies add to `finetricks`. Imports nothing heavy: `finetricks --help` reads this file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from finetricks_tuning.summary import Summary

AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")]


def sweep(
    study: Annotated[Path, typer.Argument(help="The study file.", metavar="STUDY")],
    *,
    out: Annotated[Path, typer.Option(help="The study's folder.", metavar="DIR")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in DIR.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the study in DIR.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: run cells again that failed.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: seeds=3, recipe.data.train=x.csv.")
    ] = None,
    plugins: Annotated[list[Path] | None, typer.Option("--plugin", help="A Python file with tricks.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster; this machine by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a study: which tricks help on this model and data?"""
    from rich.console import Console

    from finetricks.catalog import installed
    from finetricks_tuning.live import watching
    from finetricks_tuning.study import Study
    from finetricks_tuning.sweep import sweep as run_study

    catalog = installed()
    for plugin in plugins or []:
        catalog = catalog.with_file(plugin)
    checked = Study.load(study, settings or (), catalog)
    console = Console(stderr=True)
    for left_out in checked.left_out:
        console.print(f"left out: {left_out.name}: {left_out.reason}", style="yellow", markup=False, highlight=False)
    with watching(console) as show:
        summary = run_study(
            checked,
            out,
            resume=resume,
            overwrite=overwrite,
            retry_failed=retry_failed,
            address=address,
            on_update=show,
            command=_command(study, out, settings or [], plugins or []),
        )
    _tell(summary, out, as_json, Console())
    if not summary.complete:
        console.print(
            f"stopped before the end; `{_command(study, out, settings or [], plugins or [])} --resume` goes on"
        )
    if not summary.complete or not summary.counts.get("finished"):
        raise typer.Exit(1)


def report(
    folder: Annotated[Path, typer.Argument(help="A study's folder.", metavar="DIR")],
    as_json: AsJson = False,
) -> None:
    """Write a study's summary.json and report.html anew, finished or not."""
    from rich.console import Console

    from finetricks_tuning.sweep import write_results

    _tell(write_results(folder), folder, as_json, Console())


def _tell(summary: Summary, folder: Path, as_json: bool, console: Console) -> None:
    if as_json:
        typer.echo(json.dumps(summary.to_dict(), indent=2))
        return
    from finetricks_tuning.live import results_table

    console.print(results_table(summary))
    for warning in summary.warnings:
        console.print(f"note: {warning}", style="yellow", markup=False, highlight=False)
    lost = sum(summary.counts.get(status, 0) for status in ("failed", "diverged"))
    if lost:
        console.print(f"{lost} of {summary.counts['planned']} cells failed or diverged; the report says why")
    console.print(summary.answer, markup=False, highlight=False)
    console.print(f"report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def _command(study: Path, out: Path, settings: list[str], plugins: list[Path]) -> str:
    options = [word for setting in settings for word in ("--set", setting)]
    options += [word for plugin in plugins for word in ("--plugin", str(plugin))]
    return shlex.join(["finetricks", "sweep", str(study), "--out", str(out), *options])

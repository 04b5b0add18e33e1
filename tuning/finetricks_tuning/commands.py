"""The commands that studies add to the command line: `sweep` and `report`.

Imports nothing heavy: the command line reads this file for `finetricks --help`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetricks.cli.console import messages, output, print_json, quiet_libraries, warn, working
from finetricks.cli.options import AsJson, Plugins, Settings, catalog_with
from finetricks.errors import InputError

if TYPE_CHECKING:
    from finetricks_tuning.study import Study
    from finetricks_tuning.summary import Summary


def sweep(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study, a YAML file.", show_default=False)],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The study's folder; needed unless --dry-run.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells and what they would cost; run nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in DIR.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the study in DIR.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run cells again that failed.")] = False,
    add_seeds: Annotated[
        int, typer.Option("--add-seeds", metavar="N", help="Go on with the study in DIR, with N seeds more.")
    ] = 0,
    settings: Settings = None,
    plugins: Plugins = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="ADDRESS", help="A running Ray cluster's; this machine without.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a study: which tricks help on this model and data?"""
    from finetricks_tuning.study import Study

    if out is None and not dry_run:
        raise InputError("name the study's folder: --out DIR")
    checked = Study.load(study, settings or (), catalog_with(plugins))  # before the seconds that torch and Ray take
    if add_seeds:
        from finetricks_tuning.folder import with_more_seeds

        if out is None:
            raise InputError("--add-seeds extends the study in a folder; name it: --out DIR")
        checked, resume = with_more_seeds(checked, out, add_seeds), True
    for left_out in checked.left_out:
        warn(f"left out: {left_out.name}: {left_out.reason}")
    quiet_libraries()
    if out is None or dry_run:
        _tell_dry_run(checked, out, as_json, overwrite=overwrite, retry_failed=retry_failed, address=address)
        return
    from finetricks_tuning.live import watching
    from finetricks_tuning.sweep import sweep as run_study

    command = _command(study, out, settings or (), plugins or ())
    with watching(messages()) as show:
        summary = run_study(
            checked,
            out,
            resume=resume,
            overwrite=overwrite,
            retry_failed=retry_failed,
            address=address,
            on_update=show,
            command=command,
        )
    _tell(summary, out, as_json)
    if not summary.complete:
        messages().print(f"stopped before the end; this goes on: {command} --resume", markup=False, soft_wrap=True)
    if not (summary.complete and summary.counts.get("finished")):
        raise typer.Exit(1)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Write the report of a study anew, finished or not."""
    from finetricks_tuning.sweep import write_results

    _tell(write_results(folder), folder, as_json)


def _tell_dry_run(
    study: Study, out: Path | None, as_json: bool, *, overwrite: bool, retry_failed: bool, address: str | None
) -> None:
    from finetricks_tuning.dry_run import dry_run

    with working("timing a few steps ..."):
        found = dry_run(study, out, overwrite=overwrite, retry_failed=retry_failed, address=address)
    if as_json:
        print_json(found.to_dict())
        return
    from finetricks_tuning.live import dry_run_table
    from finetricks_tuning.report import duration

    console = output()
    console.print(dry_run_table(found))
    console.print(" ".join([f"{found.design.label}:", *found.design.notes]), markup=False)
    done = f" ({found.done} more have a result)" if found.done else ""
    at_once = f"{found.slots} at once" if found.slots > 1 else "one at a time"
    console.print(f"{len(found.cells)} cells to run{done}, {at_once}: about {duration(found.seconds)}", markup=False)


def _tell(summary: Summary, folder: Path, as_json: bool) -> None:
    if as_json:
        print_json(summary.to_dict())
        return
    from finetricks_tuning.live import results_table

    for warning in summary.warnings:
        warn(warning)
    if lost := sum(summary.counts.get(status, 0) for status in ("failed", "diverged")):
        warn(f"{lost} of {summary.counts['planned']} cells failed or diverged; the report says why")
    console = output()
    console.print(results_table(summary))
    console.print(summary.answer, markup=False)
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)


def _command(study: Path, out: Path, settings: Sequence[str], plugins: Sequence[Path]) -> str:
    options = [word for setting in settings for word in ("--set", setting)]
    options += [word for plugin in plugins for word in ("--plugin", str(plugin))]
    return shlex.join(["finetricks", "sweep", str(study), "--out", str(out), *options])

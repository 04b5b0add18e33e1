"""The commands that studies add to the command line.

Imports nothing heavy: the command line reads this file for `finetricks --help`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetricks.cli.console import messages, output, print_json, quiet_libraries, warn, working
from finetricks.cli.literal import echo
from finetricks.cli.options import AsJson, Plugins, Settings, Trust, catalog_with
from finetricks.errors import InputError


class Form(StrEnum):
    """What `report` can write."""

    html = "html"
    md = "md"
    json = "json"
    csv = "csv"
    card = "card"


if TYPE_CHECKING:
    from finetricks_tuning.across import Across
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
    loggers: Annotated[
        list[str] | None, typer.Option("--logger", metavar="NAME", help="Also log to tensorboard, mlflow or wandb.")
    ] = None,
    no_sharing: Annotated[
        bool, typer.Option("--no-sharing", help="Let each cell do all of its steps itself, also those it shares.")
    ] = False,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Run a study: which tricks help on this model and data?"""
    from finetricks_tuning.study import Study

    settings = [*(settings or ()), *([f"loggers=[{', '.join(loggers)}]"] if loggers else ())]
    settings += ["sharing=off"] if no_sharing else []
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
        how = {"overwrite": overwrite, "retry_failed": retry_failed, "trust_remote_code": trust_remote_code}
        _tell_dry_run(checked, out, as_json, address=address, **how)
        return
    from finetricks_tuning.live import watching
    from finetricks_tuning.sweep import sweep as run_study
    from finetricks_tuning.sweep_each import sweep_each

    command = _command(study, out, settings or (), plugins or ()) + " --trust-remote-code" * trust_remote_code
    with watching(messages()) as show:
        summary = (sweep_each if checked.data_sets else run_study)(
            checked,
            out,
            resume=resume,
            overwrite=overwrite,
            retry_failed=retry_failed,
            address=address,
            on_update=show,
            command=command,
            trust_remote_code=trust_remote_code,
        )
    _tell(summary, out, as_json)
    if not summary.complete:
        messages().print(f"stopped before the end; this goes on: {command} --resume", markup=False, soft_wrap=True)
        raise typer.Exit(130)
    if not summary.counts.get("finished"):
        raise typer.Exit(1)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.", show_default=False)],
    *,
    form: Annotated[
        Form, typer.Option("--format", help="html writes report.html into DIR; the others are printed.")
    ] = Form.html,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write to this file instead.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep report.html up to date while the study runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the report of a study anew, finished or not."""
    from finetricks_tuning.results import results_of, write_results

    if form is not Form.html:
        from finetricks.atomic import write_atomically
        from finetricks_tuning.formats import FORMATS

        if watch or as_json:
            raise InputError("--watch and --json are for the report as a page: leave --format out")
        text = FORMATS[form.value](results_of(folder), folder)
        if out is None:
            echo(text)
        else:
            write_atomically(out, text)
        return
    if out is not None:
        raise InputError(f"report.html is written into {folder}; --out is for the other formats")
    if watch:
        from finetricks_tuning.watch import EVERY
        from finetricks_tuning.watch import watch as watch_study

        with suppress(KeyboardInterrupt):
            messages().print(
                f"report: {folder / 'report.html'}; Ctrl-C ends the watching", markup=False, soft_wrap=True
            )
            watch_study(folder, lambda: write_results(folder, refresh=round(EVERY)).complete)
    _tell(write_results(folder), folder, as_json)


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="The studies' folders.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the joined study.")],
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Join studies that were run apart: the same comparison with other seeds or tricks."""
    from finetricks_tuning.merge import merge as join

    merged = join(folders, out, catalog=catalog_with(plugins))
    for note in merged.notes:
        warn(note)
    _tell(merged.summary, out, as_json)


def export_optuna(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.", show_default=False)],
    *,
    storage: Annotated[
        str, typer.Option("--storage", metavar="URL", help="Where Optuna keeps its studies: sqlite:///study.db.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="Of the Optuna study; DIR's by default.")] = None,
    plugins: Plugins = None,
) -> None:
    """Write a study into an Optuna storage, for its dashboard."""
    from finetricks_tuning.optuna_export import export_to_optuna

    name = name or folder.absolute().name
    written = export_to_optuna(folder, storage, name, catalog_with(plugins))
    output().print(f"{written} trials written to {storage} as {name}", markup=False, soft_wrap=True)


def _tell_dry_run(study: Study, out: Path | None, as_json: bool, *, address: str | None, **how: bool) -> None:
    from finetricks_tuning.data_sets import FOLDER
    from finetricks_tuning.dry_run import dry_run

    parts = study.data_sets or {"": study}
    with working("timing a few steps ..."):
        folders = {name: out / FOLDER / name if out and name else out for name in parts}
        found = {name: dry_run(one, folders[name], address=address, **how) for name, one in parts.items()}
    seconds = sum(one.seconds for one in found.values())
    if as_json:
        told = {name: one.to_dict() for name, one in found.items()}
        print_json({"data_sets": told, "seconds": seconds} if study.data_sets else told[""])
        return
    from finetricks_tuning.live import dry_run_table
    from finetricks_tuning.shared_steps import drawn
    from finetricks_tuning.text import duration

    console = output()
    for name, one in found.items():
        if name:
            console.print(name, markup=False)
        console.print(dry_run_table(one))
        done = f" ({one.done} more have a result)" if one.done else ""
        at_once = f"{one.slots} at once" if one.slots > 1 else "one at a time"
        most = "" if study.strategy.name == "full" else "at most "
        steps, saved = one.steps
        if saved:
            for line in drawn(one.parts, [cell for cell, _ in one.cells]):
                console.print(line, markup=False, soft_wrap=True)
            console.print(f"{saved} of {steps} steps of such cells are done by another ({saved / steps:.0%})")
        cost = f"{len(one.cells)} cells to run{done}, {at_once}: about {duration(one.seconds)}"
        console.print(f"{most}{cost}", markup=False)
        if groups := [len(group) for group in one.together if len(group) > 1]:
            sizes = ", ".join(map(str, groups))
            console.print(f"trained together: {sum(groups)} cells, in groups of {sizes}", markup=False)
        for reason in one.apart:
            console.print(reason, markup=False)
        if study.design.adaptive:
            console.print(f"{study.design.label}: others follow from the results of these", markup=False)
        if confirm := 2 * study.settings.confirm:
            console.print(f"{confirm} more compare what it recommends, if anything, with the baseline on fresh seeds")
    design = next(iter(found.values())).design
    console.print(" ".join([f"{design.label}:", *design.notes]), markup=False)
    if len(found) > 1:
        console.print(f"in all about {duration(seconds)}", markup=False)


def _tell(summary: Summary | Across, folder: Path, as_json: bool) -> None:
    if as_json:
        print_json(summary.to_dict())
        return
    from finetricks_tuning.across import Across
    from finetricks_tuning.live import results_table, seeds_table

    for warning in summary.warnings:
        warn(warning)
    if lost := sum(summary.counts.get(status, 0) for status in ("failed", "diverged")):
        warn(f"{lost} of {summary.counts['planned']} cells failed or diverged; the report says why")
    console = output()
    if isinstance(summary, Across) or not summary.seed_runs:
        console.print(results_table(summary))
    else:
        console.print(seeds_table(summary))
    console.print(summary.answer, markup=False)
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)


def _command(study: Path, out: Path, settings: Sequence[str], plugins: Sequence[Path]) -> str:
    options = [word for setting in settings for word in ("--set", setting)]
    options += [word for plugin in plugins for word in ("--plugin", str(plugin))]
    return shlex.join(["finetricks", "sweep", str(study), "--out", str(out), *options])

"""The commands that do the work: train a recipe, and label new rows with what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetricks.cli.console import logged, messages, new_table, output, print_json, quiet_libraries, working
from finetricks.cli.literal import echo
from finetricks.cli.options import AsJson, Plugins, Settings, Trust, catalog_with
from finetricks.cli.recipes import load
from finetricks.errors import Diverged, InputError

if TYPE_CHECKING:
    from finetricks.pipeline import Pipeline, PipelineStep
    from finetricks.recipe import Recipe
    from finetricks.runner import OnProgress, Result

    Results = Result | dict[str, Result]


def train(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A recipe, or several as steps, a YAML file.", show_default=False),
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="The run's folder, or that of the steps' folders.", show_default=False
        ),
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in DIR.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in DIR.")] = False,
    settings: Settings = None,
    plugins: Plugins = None,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Train a recipe, or its steps; on several GPUs: torchrun --nproc-per-node N -m finetricks train ..."""
    checked = load(recipe, settings or (), catalog_with(plugins))  # before the seconds that torch takes
    speaks = os.environ.get("RANK", "0") == "0"  # of torchrun's processes one is enough
    try:
        results = _run(checked, out, speaks, resume=resume, overwrite=overwrite, trust=trust_remote_code)
    except KeyboardInterrupt:
        messages().print("interrupted; the same command with --resume goes on from the last checkpoint")
        raise
    except Diverged as diverged:
        from finetricks.folder import RunFolder

        checkpoints = RunFolder(out).checkpoints
        if kept := checkpoints.steps():
            diverged.add_note(f"the checkpoint of step {kept[-1]} is kept: {checkpoints.folder}")
        raise
    if speaks:
        _tell(results, as_json)


def _run(checked: Recipe | Pipeline, out: Path, speaks: bool, *, resume: bool, overwrite: bool, trust: bool) -> Results:
    """What a recipe came to, or each step by its name."""
    from finetricks.recipe import Recipe

    def around(step: PipelineStep) -> AbstractContextManager[OnProgress | None]:
        if not speaks:
            return nullcontext()
        messages().print(f"step {step.name}", markup=False)
        return _progress()

    if isinstance(checked, Recipe):
        with _progress() if speaks else nullcontext() as on_progress:
            from finetricks.distributed import launched
            from finetricks.runner import run

            quiet_libraries()
            with launched():
                return run(
                    checked,
                    out,
                    resume=resume,
                    overwrite=overwrite,
                    on_progress=on_progress,
                    trust_remote_code=trust,
                )
    from finetricks.distributed import launched
    from finetricks.pipeline_run import run_pipeline

    quiet_libraries()
    with launched():
        return run_pipeline(checked, out, resume=resume, overwrite=overwrite, around=around, trust_remote_code=trust)


def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A finished run's folder.", show_default=False)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The rows to label.", show_default=False)],
    *,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write here instead of to stdout.")] = None,
    plugins: Plugins = None,
    trust_remote_code: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Records in JSON instead of CSV.")] = False,
) -> None:
    """Label new rows with the model of a finished run."""
    if out is not None and out.resolve() == file.resolve():
        raise InputError(f"--out {out} is the file to label; name another")
    with working("labelling"):
        from finetricks.saved import predict as label

        quiet_libraries()
        rows = label(folder, file, catalog=catalog_with(plugins), trust_remote_code=trust_remote_code)
    text = rows.to_json(orient="records", force_ascii=False) + "\n" if as_json else rows.to_csv(index=False)
    if out is None:
        echo(text)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8", newline="")
    typer.echo(f"{len(rows)} rows labelled: {out}")


def _tell(results: Results, as_json: bool) -> None:
    if as_json:
        print_json(
            {name: _as_json(one) for name, one in results.items()} if isinstance(results, dict) else _as_json(results)
        )
        return
    if not isinstance(results, dict):
        _tell_of(results)
        return
    for name, result in results.items():
        output().print(f"step {name}", markup=False)
        _tell_of(result)


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "valid": result.valid,
        "test": result.test,
        "seconds": result.seconds,
        "steps": result.steps,
        "notes": list(result.notes),
        "folder": str(result.folder),
    }


def _tell_of(result: Result) -> None:
    for note in result.notes:
        messages().print(f"note: {note}", markup=False, highlight=False)
    if not result.valid:
        typer.echo(f"the weights were made in {result.seconds:.1f} s; the run's folder: {_from_here(result.folder)}")
        return
    table = new_table("metric", "valid", *(["test"] if result.test else []))
    for name, value in result.valid.items():
        table.add_row(name, f"{value:.4f}", *([f"{result.test[name]:.4f}"] if result.test else []))
    output().print(table)
    typer.echo(f"{result.steps} steps in {result.seconds:.1f} s; the run's folder: {_from_here(result.folder)}")


def _from_here(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


@contextmanager
def _progress() -> Iterator[OnProgress | None]:
    """A progress bar on a terminal, and nothing elsewhere."""
    console = messages()
    if not console.is_terminal:
        with logged(console):
            yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar, logged(console):
        task = bar.add_task("loading", total=None, metrics="")

        def show(step: int, total: int, metrics: Mapping[str, float] | None) -> None:
            bar.update(task, description="training", completed=step, total=total)
            if metrics is not None:
                name, value = next(iter(metrics.items()))
                bar.update(task, metrics=f"{name} {value:.3f}")

        yield show

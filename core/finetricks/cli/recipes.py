"""The commands about a recipe that train nothing: is it right, and what would it do?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetricks.cli.console import output, print_json, print_pairs, quiet_libraries, warn, working
from finetricks.cli.extensions import checker_of
from finetricks.cli.options import AsJson, Plugins, RecipeFile, Settings, Trust, catalog_with
from finetricks.errors import InputError

if TYPE_CHECKING:
    from finetricks.catalog import Catalog
    from finetricks.plan import Plan
    from finetricks.recipe import Recipe
    from finetricks.tasks import Task

LOADING = "loading the model and the data"


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recipe, or a study.", show_default=False)],
    settings: Settings = None,
    plugins: Plugins = None,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Check a recipe or a study: all that is wrong at once."""
    try:
        summary, warnings = _checked(file, settings or (), catalog_with(plugins), trust_remote_code)
    except InputError as error:
        if not as_json:
            raise
        print_json({"ok": False, "problems": [vars(problem) for problem in error.problems]})
        raise typer.Exit(2) from error
    if as_json:
        print_json({"ok": True, "summary": summary, "warnings": warnings})
        return
    for warning in warnings:
        warn(warning)
    print_pairs({"ok": str(file), **summary})


def explain(
    recipe: RecipeFile,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PICTURE", help="Also draw it: a .png, .svg or .pdf file.")
    ] = None,
    settings: Settings = None,
    plugins: Plugins = None,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe would do to each layer, step by step."""
    if out is not None:
        from finetricks.picture import check_format

        check_format(out)
    with working(LOADING):
        _, plan = _compile(load_recipe(recipe, settings or (), catalog_with(plugins)), trust_remote_code)
    for warning in plan.warnings():
        warn(warning)
    if as_json:
        print_json(plan.to_dict())
    else:
        from finetricks.explain import groups_table, stages_table

        output().print(groups_table(plan), stages_table(plan))
    if out is not None:
        from finetricks.picture import save_picture

        save_picture(plan, out)
        typer.echo(f"picture: {out}", err=as_json)


def load_recipe(file: Path, settings: Sequence[str], catalog: Catalog) -> Recipe:
    """The recipe in a file. Raises `InputError` for one of another kind, a study say."""
    from finetricks.recipe import Recipe
    from finetricks.yaml_file import load_yaml

    if checker_of(load_yaml(file).data):
        raise InputError(f"{file} is no recipe but a study: `finetricks check` checks it, `finetricks sweep` runs it")
    return Recipe.load(file, settings, catalog)


def _checked(file: Path, settings: Sequence[str], catalog: Catalog, trust: bool) -> tuple[dict[str, str], list[str]]:
    """What a good file says, by name, and what its author may want to change."""
    from finetricks.recipe import Recipe
    from finetricks.yaml_file import load_yaml

    if checker := checker_of(load_yaml(file).data):
        return dict(checker(file, settings, catalog)), []
    recipe = Recipe.load(file, settings, catalog)
    training = recipe.training
    settings_in_words = {
        "tricks": ", ".join(name for name, _ in recipe.tricks) or "none",
        "training": f"{training.epochs:g} epochs, batches of {training.batch_size * training.accumulation}, "
        f"learning rate {training.learning_rate:g}, seed {training.seed}",
    }
    if recipe.model is None or recipe.data is None:
        return settings_in_words, ["it names no model or no data: it is one for a loop of your own"]
    with working(LOADING):
        task, plan = _compile(recipe, trust)
    labels = f" of {len(task.labels)} labels" if task.labels else ""
    splits = ", ".join(f"{len(rows)} {split}" for split, rows in task.splits.items())
    task_in_words = {
        "model": f"{recipe.model}, {len(plan.layers)} layers",
        "data": f"{task.kind.replace('_', '-')}{labels}; rows: {splits}",
    }
    steps = {"steps": f"{plan.total_steps}, {plan.steps_per_epoch} an epoch"}
    from finetricks.explain import replay_in_words

    replay = {"replay": words} if (words := replay_in_words(plan)) else {}
    return task_in_words | settings_in_words | steps | replay, [*task.notes, *plan.warnings()]


def _compile(recipe: Recipe, trust: bool) -> tuple[Task, Plan]:
    from finetricks.runner import plan_of, task_of

    quiet_libraries()
    task = task_of(recipe, trust)
    return task, plan_of(recipe, task)

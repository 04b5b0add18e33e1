"""The commands about a recipe that train nothing: is it right, and what would it do?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetricks.cli.console import output, print_json, print_pairs, quiet_libraries, warn, working
from finetricks.cli.extensions import checker_of
from finetricks.cli.options import AsJson, Plugins, RecipeFile, Settings, Trust, catalog_with
from finetricks.errors import InputError, shortened

if TYPE_CHECKING:
    from finetricks.catalog import Catalog
    from finetricks.pipeline import Pipeline
    from finetricks.plan import Plan
    from finetricks.recipe import Recipe
    from finetricks.tasks import Task

LOADING = "loading the model and the data"


def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A recipe, a file of steps, or a study.", show_default=False)
    ],
    settings: Settings = None,
    plugins: Plugins = None,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Check a recipe, a file of steps or a study: all that is wrong at once."""
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
    step: Annotated[
        str | None, typer.Option("--step", metavar="NAME", help="Of a file of steps: which one; the last by default.")
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
        plan = _planned(load(recipe, settings or (), catalog_with(plugins)), step, trust_remote_code)
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


def load(file: Path, settings: Sequence[str], catalog: Catalog) -> Recipe | Pipeline:
    """The recipe, or the steps, in a file. Raises `InputError` for one of another kind, a study say."""
    from finetricks.pipeline import Pipeline, holds_steps
    from finetricks.recipe import Recipe
    from finetricks.yaml_file import load_yaml

    content = load_yaml(file).data
    if holds_steps(content):
        return Pipeline.load(file, settings, catalog)
    if checker_of(content):
        raise InputError(f"{file} is no recipe but a study: `finetricks check` checks it, `finetricks sweep` runs it")
    return Recipe.load(file, settings, catalog)


def _planned(given: Recipe | Pipeline, step: str | None, trust: bool) -> Plan:
    """The plan of a recipe, or of one of several steps."""
    from finetricks.recipe import Recipe

    if isinstance(given, Recipe):
        if step is not None:
            raise InputError(f"--step {shortened(step)}: the file holds no steps but one recipe; leave it out")
        return _compile(given, trust)[1]
    trained = [name for name, recipe in given.recipes.items() if not recipe.only_pretrains]
    if not trained or (step is not None and step not in trained):
        there = f"those with data are {', '.join(trained) or 'none'}"
        raise InputError(f"--step {shortened(step or '')}: no step that trains on data has that name; {there}")
    quiet_libraries()
    with given.loadable() as recipes:
        return _compile(recipes[step or trained[-1]], trust)[1]


def _checked(file: Path, settings: Sequence[str], catalog: Catalog, trust: bool) -> tuple[dict[str, str], list[str]]:
    """What a good file says, by name, and what its author may want to change."""
    from finetricks.pipeline import holds_steps
    from finetricks.recipe import Recipe
    from finetricks.yaml_file import load_yaml

    content = load_yaml(file).data
    if not holds_steps(content) and (checker := checker_of(content)):
        return dict(checker(file, settings, catalog)), []
    given = load(file, settings, catalog)
    return _checked_recipe(given, trust) if isinstance(given, Recipe) else _checked_steps(given, trust)


def _checked_steps(pipeline: Pipeline, trust: bool) -> tuple[dict[str, str], list[str]]:
    """What each step says, the step's name before each line."""
    from finetricks.pipeline_run import naming

    quiet_libraries()
    summary: dict[str, str] = {}
    warnings: list[str] = []
    with pipeline.loadable() as recipes:
        for step in pipeline.steps:
            if step.name not in recipes:
                summary[f"{step.name}: model"] = "a new LSTM"
                continue
            with naming(step.name):
                told, doubts = _checked_recipe(recipes[step.name], trust)
            if step.after is not None:
                told["model"] = f"that of {step.after}{told['model'].removeprefix(str(recipes[step.name].model))}"
            summary |= {f"{step.name}: {name}": value for name, value in told.items()}
            warnings += [f"{step.name}: {doubt}" for doubt in doubts]
    return summary, warnings


def _checked_recipe(recipe: Recipe, trust: bool) -> tuple[dict[str, str], list[str]]:
    training = recipe.training
    settings_in_words = {
        "tricks": ", ".join(name for name, _ in recipe.tricks) or "none",
        "training": f"{training.epochs:g} epochs, batches of {training.batch_size * training.accumulation}, "
        f"learning rate {training.learning_rate:g}, seed {training.seed}",
    }
    if recipe.only_pretrains:
        from finetricks.pretraining import subject_of

        quiet_libraries()
        with working(LOADING):
            subject = subject_of(recipe, trust)
        model = f"{recipe.model}, {len(subject.layers.names)} layers"
        return {"model": model, "tricks": settings_in_words["tricks"], "training": "none: its weights are made"}, []
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

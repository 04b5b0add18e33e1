"""A study: factors over a recipe, a design, and paired seeds. What a user writes in study.yaml, or in Python."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from finetricks.catalog import Catalog, installed
from finetricks.errors import InputError, Problem, RecipeError, quoted
from finetricks.recipe import Recipe
from finetricks.settings import MOST_SEED, Settings
from finetricks.trick import Trick
from finetricks.validation import problems_of
from finetricks.yaml_file import Document, dump_yaml, load_yaml, override
from finetricks_tuning.budget import Budget
from finetricks_tuning.configurations import Configuration, LeftOut
from finetricks_tuning.data_sets import read_data_sets
from finetricks_tuning.designs import Design
from finetricks_tuning.designs.reader import FORMS as DESIGN_FORMS
from finetricks_tuning.designs.reader import check_design, read_design
from finetricks_tuning.factor_reader import FORMS, FactorReader
from finetricks_tuning.factors import Factor
from finetricks_tuning.strategies import Strategy
from finetricks_tuning.strategies.reader import FORMS as STRATEGY_FORMS
from finetricks_tuning.strategies.reader import read_strategy

MOST_SEEDS = 10_000
"""Seeds that a study may have. More are a slip: nobody trains them."""

STREAM_SEEDS = ("init_seed", "data_seed", "dropout_seed")

FRESH_SEEDS, TUNING_SEEDS = 20_000, 10_000
"""The first of the seeds that confirm a recommendation, and of those that tune a rate: far from the comparison's."""


class TuneLearningRate(Settings):
    """The rates that each configuration is tried at before it is compared, at equal cost for all."""

    values: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=2)
    seeds: int = Field(default=1, gt=0, le=MOST_SEEDS, description="How many runs at each rate, on seeds of their own.")


class StudySettings(Settings):
    """The schema of a study file."""

    recipe: Any = Field(description="a recipe file, or the recipe itself; what it holds is in every configuration")
    factors: Any = Field(default=(), description=f"a list of factors: {FORMS}")
    design: Any = Field(default="ablation", description=DESIGN_FORMS)
    strategy: Any = Field(default="full", description=f"Which cells of the design are run: {STRATEGY_FORMS}.")
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2, 3, 4), description="A number n for 0..n-1, or a list. Every configuration sees the same."
    )
    data_sets: Mapping[str, Any] | None = Field(
        default=None,
        description="The same study on each of several: {name: data}; keys of the recipe's `data` that differ.",
    )
    metric: str = Field(default="accuracy", description="On valid; test is scored once, at the end, and never selects.")
    alpha: float = Field(default=0.05, gt=0, lt=1, description="The rate of false verdicts over the whole study.")
    equivalence: float | None = Field(
        default=None, gt=0, description="An effect smaller than this, in units of the metric, does not matter."
    )
    correction: Literal["holm", "benjamini_hochberg"] = Field(
        default="holm", description="holm: of any false verdict; benjamini_hochberg: of their share among the verdicts."
    )
    confirm: int = Field(
        default=5,
        ge=0,
        le=MOST_SEEDS,
        description="Fresh seeds on which the recommended recipe is compared with the baseline.",
    )
    tune_learning_rate: TuneLearningRate | None = Field(
        default=None, description="Find a rate for each configuration first: {values: [1e-4, 2e-4], seeds: 1}."
    )
    budget: Budget | None = Field(default=None, description="What the study may cost: {cells: 60} or {hours: 8}.")
    isolation: Literal["warm", "process"] = Field(
        default="warm", description="warm: a process runs one cell after another; process: each cell has its own."
    )
    sharing: Literal["auto", "off"] = Field(
        default="auto", description="auto: steps that several cells have in common are done once; the same bits."
    )
    loggers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        default=(), description="Where else the cells are logged."
    )
    cell_minutes: float | None = Field(
        default=1440.0,
        gt=0,
        description="A cell that takes longer (a trick may hang) has failed; it keeps its checkpoints. null: no limit",
    )
    cpus_per_cell: int | None = Field(
        default=None,
        gt=0,
        le=4096,
        description="CPU cores, and threads, of a worker; 1 unless the recipe sets training.threads.",
    )
    gpus_per_cell: float | None = Field(
        default=None, ge=0, description="GPUs of a worker, or a share of one; 1 where there are any."
    )
    heads: Literal["apart", "together"] = Field(
        default="apart",
        description="together: cells of which only the head is trained are trained at once; equal to 1e-6, not to the "
        "bit.",
    )
    workers_per_cell: int = Field(
        default=1, gt=0, le=4096, description="How many workers train a cell together, each with those CPUs and GPUs."
    )

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        from finetricks.tasks.metrics import greater_is_better

        try:
            greater_is_better(value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _list_of_seeds(cls, value: Any) -> Any:
        if _is_number(value) and value > MOST_SEEDS:
            raise ValueError(f"at most {MOST_SEEDS:,} seeds")
        seeds = list(range(value)) if _is_number(value) else value
        if not isinstance(seeds, Sequence) or isinstance(seeds, str) or not seeds:
            raise ValueError("a number of seeds, at least 1, or a list of them")
        if not all(_is_number(seed) and 0 <= seed <= MOST_SEED for seed in seeds):
            raise ValueError(f"seeds are whole numbers of at least 0 and at most {MOST_SEED}")
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands twice")
        return tuple(seeds)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Study:
    """A comparison: the configurations of a design, each run with the same seeds. Immutable.

    Args:
        recipe: a recipe file, the recipe as a mapping, or a `Recipe`.
        factors: as in a study file; a `Trick` instance is a factor too.
        settings: the other keys of a study file: design, strategy, seeds, metric, ...
        catalog: where names are looked up; the installed tricks by default.

    Raises:
        RecipeError: with everything that is wrong, each with its place.
    """

    recipe: Recipe
    factors: tuple[Factor, ...]
    settings: StudySettings
    design: Design
    strategy: Strategy
    configurations: tuple[Configuration, ...]
    left_out: tuple[LeftOut, ...]
    data_sets: Mapping[str, Study]
    """The study on each of its data sets; empty where it has one, the recipe's."""

    def __init__(
        self,
        *,
        recipe: str | Path | Mapping[str, Any] | Recipe,
        factors: Iterable[str | Mapping[str, Any] | Trick] = (),
        catalog: Catalog | None = None,
        **settings: Any,
    ) -> None:
        recipe = str(recipe) if isinstance(recipe, Path) else recipe
        given = {"recipe": recipe, "factors": list(factors), **settings}
        self._fill(Document(given), (), catalog or installed())

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = (), catalog: Catalog | None = None) -> Study:
        """Read a study file, with `a.b=c` overrides on top; `recipe.a.b=c` also reaches into a recipe file.

        Relative paths are relative to the file that names them; those in overrides to the current directory.
        """
        document = load_yaml(path)
        overrides = tuple(overrides)
        inside = [o for o in overrides if o.startswith("recipe.") and not _is_inline(document.data)]
        study = cls.__new__(cls)
        study._fill(
            override(document, [o for o in overrides if o not in inside]),
            tuple(o.removeprefix("recipe.") for o in inside),
            catalog or installed(),
        )
        return study

    def _fill(self, document: Document, recipe_overrides: Sequence[str], catalog: Catalog) -> None:
        given = document.data
        known = ", ".join(StudySettings.model_fields)
        if not isinstance(given, Mapping):
            raise RecipeError(Problem(document.place(()), f"a study is a mapping with the keys {known}"))
        problems: list[Problem] = []
        recipe = _recipe(document, recipe_overrides, catalog, problems) if "recipe" in given else None
        reader = FactorReader(document, recipe, catalog.get, catalog.name_of, problems)
        of_design: list[Problem] = []
        design = read_design(given.get("design", "ablation"), document.place, of_design)
        needs = design is None or design.varies
        factors = reader.read(given["factors"]) if given.get("factors") or (needs and "factors" in given) else ()
        if needs and "factors" not in given:
            problems.append(Problem(document.place(("factors",)), f"is missing: a list of factors, {FORMS}"))
        problems += of_design
        strategy = read_strategy(given.get("strategy", "full"), document.place, problems)
        settings = None
        recipes: dict[str, Recipe] = {}
        try:
            settings = StudySettings.model_validate(dict(given))
        except ValidationError as error:
            problems += problems_of(error, StudySettings, given, (), document.place)
        if settings and recipe and (factors or not needs):
            recipes = read_data_sets(settings.data_sets, recipe, document, problems)
            _check_together(settings, recipe, {factor.name for factor in factors}, document, problems)
        if design and strategy and design.adaptive and strategy.name != "full":
            told = f"{design.name} decides what is run: leave `strategy` out, or choose another design"
            problems.append(Problem(document.place(("strategy",)), told))
        if design and not problems:
            check_design(design, factors, document.place, problems)
        if problems or settings is None or recipe is None or design is None or strategy is None:
            raise RecipeError(problems)
        self.recipe, self.factors, self.settings = recipe, factors, settings
        self.design, self.strategy = design, strategy
        try:
            self.configurations, self.left_out = design.choose(factors, recipe.tricks)
        except InputError as error:
            raise RecipeError(Problem(document.place(("design",)), str(error))) from None
        if len(self.configurations) < 2 and needs:
            reasons = [Problem(f"factors {out.name}", out.reason) for out in self.left_out]
            raise RecipeError([Problem(document.place(("factors",)), "only the baseline can be run"), *reasons])
        self.data_sets = {name: self._with_recipe(recipe) for name, recipe in recipes.items()}

    def _with_recipe(self, recipe: Recipe) -> Study:
        """The same study over another recipe, which holds one data set."""
        study = copy(self)
        study.recipe, study.data_sets = recipe, {}
        study.settings = self.settings.model_copy(update={"data_sets": None})
        return study

    @property
    def threads(self) -> int:
        """CPU cores of a cell, which are its threads."""
        return self.settings.cpus_per_cell or self.recipe.training.threads or 1

    @property
    def fresh_seeds(self) -> tuple[int, ...]:
        """The seeds on which a recommendation is confirmed: none of them chose it."""
        return self._seeds_from(FRESH_SEEDS, self.settings.confirm)

    @property
    def tuning_seeds(self) -> tuple[int, ...]:
        """The seeds on which a configuration's learning rate is found."""
        tuning = self.settings.tune_learning_rate
        return self._seeds_from(TUNING_SEEDS, tuning.seeds if tuning else 0)

    def _seeds_from(self, first: int, count: int) -> tuple[int, ...]:
        free = (seed for seed in itertools.count(first) if seed not in self.settings.seeds)
        return tuple(itertools.islice(free, count))

    @property
    def catalog(self) -> Catalog:
        """A catalog that knows every trick of the study, those given as instances too."""
        catalog = self.recipe.catalog
        used = [
            *self.recipe.tricks,
            *(named for factor in self.factors for level in factor.levels for named in level.tricks),
        ]
        given = [type(trick) for name, trick in used if name not in catalog.names()]
        return catalog.with_classes(given) if given else catalog

    def to_dict(self) -> dict[str, Any]:
        """The study as plain JSON values, every default filled in; `Study(**...)` reads it back."""
        return {
            "recipe": self.recipe.to_dict(),
            "factors": [factor.given for factor in self.factors],
            "design": self.design.given,
            "strategy": self.strategy.given,
            **self.settings.model_dump(mode="json", exclude={"recipe", "factors", "design", "strategy", "data_sets"}),
            "data_sets": {name: study.recipe.to_dict()["data"] for name, study in self.data_sets.items()} or None,
        }

    def to_yaml(self) -> str:
        return dump_yaml(self.to_dict())


def _is_inline(data: Any) -> bool:
    return isinstance(data, Mapping) and not isinstance(data.get("recipe"), str)


def _recipe(document: Document, overrides: Sequence[str], catalog: Catalog, problems: list[Problem]) -> Recipe | None:
    given = document.data["recipe"]
    if isinstance(given, Recipe):
        return given
    try:
        if isinstance(given, Mapping):
            return Recipe.from_document(document.at("recipe"), catalog)
        if isinstance(given, str):
            folder = Path.cwd() if ("recipe",) in document.overrides else document.folder
            of_recipe = override(load_yaml(folder / os.path.expanduser(given)), overrides)
            if isinstance(of_recipe.data, Mapping) and "factors" in of_recipe.data:
                raise RecipeError(Problem(document.place(("recipe",)), f"{quoted(given)} is a study; name a recipe"))
            return Recipe.from_document(of_recipe, catalog)
        problems.append(
            Problem(document.place(("recipe",)), f"a recipe file, or the recipe itself, got {quoted(given)}")
        )
    except RecipeError as error:
        # The recipe's own overrides were given to the study; a file that cannot be read is named in it.
        problems += [
            Problem(problem.place.replace("--set ", "--set recipe.", 1) or document.place(("recipe",)), problem.message)
            for problem in error.problems
        ]
    return None


def _check_together(
    settings: StudySettings, recipe: Recipe, factors: Collection[str], document: Document, problems: list[Problem]
) -> None:
    def note(key: str, message: str) -> None:
        problems.append(Problem(document.place((key,)), message))

    training = recipe.training
    if recipe.model is None:
        note("recipe", "a study needs `model` in its recipe")
    if recipe.data is None and settings.data_sets is None:
        note("recipe", "a study needs `data` in its recipe, or several under `data_sets`")
    fixed = [name for name in STREAM_SEEDS if getattr(training, name) is not None or f"training.{name}" in factors]
    if len(settings.seeds) > 1 and len(fixed) == len(STREAM_SEEDS):
        told = "the recipe, or a factor, fixes init_seed, data_seed and dropout_seed"
        note("seeds", f"{told}: all seeds would be the same run")
    if settings.tune_learning_rate and "training.learning_rate" in factors:
        note("tune_learning_rate", "training.learning_rate is a factor too; either compare rates, or tune them")
    if settings.heads == "together" and settings.workers_per_cell > 1:
        note("heads", "together, and workers_per_cell is more than 1; heads are trained together by one worker")
    if settings.cpus_per_cell and training.threads and settings.cpus_per_cell != training.threads:
        note(
            "cpus_per_cell",
            f"is {settings.cpus_per_cell}, and the recipe's training.threads {training.threads}; give one of them",
        )

"""Studies as people write them, and worse: what is compared is what was asked for, or field and mend are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetricks.settings import MOST_SEED
from finetricks_tuning.study import MOST_SEEDS, Study
from inputs import command, little_memory

BASE = "model: minilm\ndata: {train: stdlib_docstrings}\ntraining: {learning_rate: 2e-4}\ntricks: [linear_decay]\n"
HEAD = "recipe: base.yaml\n"
TRICKS = (
    *(
        "discriminative_lr",
        "gradual_unfreezing",
        "label_smoothing",
        "l1",
        "l2",
        "l2_sp",
        "weight_decay",
        "auxiliary_lm",
    ),
    *("glorot_normal", "output_dropout", "output_layer_norm", "layer_pooling", "embedding_uniform", "task_layers"),
)
FACTORIAL = f"""\
{HEAD}design: factorial
factors: [{", ".join(TRICKS)},
  training.epochs: {{values: [1, 2, 4, 5]}},
  training.batch_size: {{values: [1, 2, 3, 4]}},
  training.eval_batch_size: {{values: [1, 2, 3, 4]}},
  training.accumulation: {{values: [2, 3, 4, 5]}},
  training.eps: {{values: [0.1, 0.2, 0.3, 0.4]}},
  training.momentum: {{values: [0.1, 0.2, 0.3, 0.4]}},
  training.clip: {{values: [0.1, 0.2, 0.3, 0.4]}}]
"""
"""2**14 combinations of tricks, and with each 5**7 of settings."""


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    with little_memory():
        yield


BAD: dict[str, tuple[str, tuple[str, ...]]] = {
    # -- the file
    "a list": ("- stlr\n", ("study.yaml:1", "a recipe is a mapping")),
    "an unknown key": (
        HEAD + "factors: [stlr]\nseed: 3\n",
        ("study.yaml:3 seed", "unknown key 'seed' (did you mean 'seeds'?)"),
    ),
    "a number for a key": (HEAD + "factors: [stlr]\n1: 3\n", ("study.yaml:3",)),
    "a billion laughs": (
        HEAD
        + "factors: [stlr]\nmetric: &a [x, x]\n"
        + "".join(f"m{n}: &b{n} [*a, *a, *a, *a, *a]\n" for n in range(3_000)),
        ("study.yaml:", "more than 20,000 values"),
    ),
    # -- the recipe
    "itself for a recipe": (
        "recipe: study.yaml\nfactors: [stlr]\n",
        ("study.yaml:1 recipe", "'study.yaml' is a study; name a recipe"),
    ),
    "a study for a recipe": (
        "recipe: other.yaml\nfactors: [stlr]\n",
        ("study.yaml:1 recipe", "'other.yaml' is a study"),
    ),
    "a recipe that is not there": (
        "recipe: none.yaml\nfactors: [stlr]\n",
        ("study.yaml:1 recipe", "cannot read", "none.yaml"),
    ),
    "a recipe that is a folder": ("recipe: .\nfactors: [stlr]\n", ("study.yaml:1 recipe", "is a folder")),
    "a recipe that is empty": ("recipe: ''\nfactors: [stlr]\n", ("study.yaml:1 recipe",)),
    "a recipe of nothing": ("recipe:\nfactors: [stlr]\n", ("study.yaml:1 recipe", "got None")),
    "a recipe that is a list": (
        "recipe: [stlr]\nfactors: [stlr]\n",
        ("study.yaml:1 recipe", "a recipe file, or the recipe itself"),
    ),
    "a recipe that is a number": ("recipe: 5\nfactors: [stlr]\n", ("study.yaml:1 recipe", "got 5")),
    "a recipe with mistakes": ("recipe: broken.yaml\nfactors: [stlr]\n", ("broken.yaml:2", "did you mean 'epochs'")),
    "a recipe inside with mistakes": (
        "recipe:\n  modle: x\nfactors: [stlr]\n",
        ("study.yaml:2 modle", "did you mean 'model'"),
    ),
    "a recipe without a model": (
        "recipe: {tricks: []}\nfactors: [stlr]\n",
        ("recipe", "needs `model`", "needs `data`"),
    ),
    "no recipe": ("factors: [stlr]\n", ("study.yaml:1 recipe", "is missing")),
    "a study within a recipe": (
        "recipe:\n  recipe: base.yaml\n  factors: [stlr]\nfactors: [stlr]\n",
        ("study.yaml:2 recipe", "unknown key 'recipe'"),
    ),
    # -- factors
    "no factors": (HEAD, ("study.yaml:1 factors", "is missing")),
    "factors of nothing": (HEAD + "factors:\n", ("study.yaml:2 factors",)),
    "an empty list of factors": (HEAD + "factors: []\n", ("study.yaml:2 factors",)),
    "factors that are a word": (HEAD + "factors: stlr\n", ("study.yaml:2 factors", "a list of at least one factor")),
    "factors that are a mapping": (
        HEAD + "factors: {stlr: {}}\n",
        ("study.yaml:2 factors", "a list of at least one factor"),
    ),
    "a factor of nothing": (HEAD + "factors: [~]\n", ("study.yaml:2 factors.0", "got None")),
    "a factor that is empty": (HEAD + "factors: [{}]\n", ("study.yaml:2 factors.0", "got {}")),
    "a factor that is a number": (HEAD + "factors: [1.5]\n", ("study.yaml:2 factors.0", "got 1.5")),
    "a factor whose name is a number": (HEAD + "factors: [{1.5: {values: [1]}}]\n", ("factors.0", "1.5")),
    "a factor that is a list": (HEAD + "factors: [[stlr]]\n", ("factors.0", "got ['stlr']")),
    "two names in a factor": (HEAD + "factors: [{stlr: {}, l2: {}}]\n", ("factors.0", "a trick's name, {trick:")),
    "a trick that is unknown": (
        HEAD + "factors:\n  - stlr\n  - sltr\n",
        ("study.yaml:4 factors.1.sltr", "did you mean 'stlr'"),
    ),
    "a factor twice": (HEAD + "factors: [l2, l2]\n", ("factors.1", "l2 is a factor twice: here and as factor 1")),
    "a factor twice, once in one_of": (
        HEAD + "factors: [l2, {one_of: [l2, l1]}]\n",
        ("factors.1", "l2 is a factor twice"),
    ),
    "a factor of the recipe's": (
        HEAD + "factors: [linear_decay]\n",
        ("factors.0", "linear_decay is in the recipe already"),
    ),
    "a setting twice": (
        HEAD + "factors: [training.clip: {values: [2]}, training.clip: {values: [3]}]\n",
        ("factors.1", "training.clip is a factor twice"),
    ),
    "values that are none": (
        HEAD + "factors: [{l2: {strength: {values: []}}}]\n",
        ("factors.0.l2.strength", "at least one value"),
    ),
    "values that are a number": (
        HEAD + "factors: [{l2: {strength: {values: 3}}}]\n",
        ("factors.0.l2.strength", "at least one value"),
    ),
    "values that are a word": (
        HEAD + "factors: [{l2: {strength: {values: abc}}}]\n",
        ("l2.strength", "at least one value"),
    ),
    "a value out of bounds": (
        HEAD + "factors: [{l2: {strength: {values: [1, -1]}}}]\n",
        ("factors.0.l2.strength.values.1", "got -1"),
    ),
    "a value of another type": (
        HEAD + "factors: [{l2: {strength: {values: [x]}}}]\n",
        ("strength.values.0", "got 'x'"),
    ),
    "a value twice": (
        HEAD + "factors: [{l2: {strength: {values: [1, 1.0]}}}]\n",
        ("factors.0", "are the same; a level stands once"),
    ),
    "a value with more": (HEAD + "factors: [{l2: {strength: {values: [1], x: 2}}}]\n", ("factors.0.l2.strength",)),
    "values for the trick": (
        HEAD + "factors: [{l2: {values: [1]}}]\n",
        ("factors.0.l2.values", "unknown key 'values'"),
    ),
    "values that explode": (
        HEAD + "factors:\n  - cosine_restarts: {t_0: {values: [" + ", ".join(map(str, range(1, 2000))) + "]}, "
        "t_mult: {values: [" + ", ".join(map(str, range(1, 2000))) + "]}}\n",
        ("factors.0", "combinations"),
    ),
    "one_of of one": (HEAD + "factors: [{one_of: [l2]}]\n", ("factors.0.one_of", "at least two tricks")),
    "one_of of a word": (HEAD + "factors: [{one_of: l2}]\n", ("factors.0.one_of", "got 'l2'")),
    "one_of of nothing": (HEAD + "factors: [{one_of: }]\n", ("factors.0.one_of", "got None")),
    "one_of of the same": (HEAD + "factors: [{one_of: [l2, l2]}]\n", ("factors.0", "are the same")),
    "one_of with a setting": (
        HEAD + "factors: [{one_of: [l2, {training.clip: {values: [2]}}]}]\n",
        ("factors.0.one_of.1", "one_of is for tricks"),
    ),
    "one_of that is misspelt": (HEAD + "factors: [{oneof: [l1, l2]}]\n", ("factors.0",)),
    "a setting that is none": (
        HEAD + "factors: [{training.rate: {values: [1]}}]\n",
        ("'training.rate' cannot be a factor",),
    ),
    "the seed": (HEAD + "factors: [{training.seed: {values: [1, 2]}}]\n", ("the study's own `seeds` vary it",)),
    "a setting without values": (HEAD + "factors: [training.clip]\n", ("write it as training.clip: {values: [...]}",)),
    "a setting with a number": (HEAD + "factors: [{training.clip: 2}]\n", ("write it as training.clip", "got 2")),
    "a setting out of bounds": (HEAD + "factors: [{training.clip: {values: [-1]}}]\n", ("values.0", "got -1")),
    "a setting of the recipe's own value": (
        HEAD + "factors: [{training.learning_rate: {values: [2.0e-4]}}]\n",
        ("the only value is the recipe's own",),
    ),
    "a setting of infinity": (HEAD + "factors: [{training.clip: {values: [.inf]}}]\n", ("values.0", "finite")),
    "a model that is a number": (HEAD + "factors: [{model: {values: [3]}}]\n", ("factors.0.model.values.0", "got 3")),
    "a range in an ablation": (
        HEAD + "factors: [{l2: {strength: {low: 0.1, high: 1}}}]\n",
        ("only the design search can hold",),
    ),
    "a range that is none": (
        HEAD + "factors: [{l2: {strength: {low: 1, high: 1}}}]\ndesign: {search: {configurations: 3}}\n",
        ("factors.0.l2.strength", "`low` is below `high`"),
    ),
    "a range without an end": (
        HEAD + "factors: [{l2: {strength: {low: 1}}}]\ndesign: {search: {configurations: 3}}\n",
        ("factors.0.l2.strength.high", "is missing"),
    ),
    "a range to infinity": (
        HEAD + "factors: [{l2: {strength: {low: 1, high: .inf}}}]\ndesign: {search: {configurations: 3}}\n",
        ("l2.strength.high", "finite"),
    ),
    "a logarithmic range from 0": (
        HEAD + "factors: [{l2: {strength: {low: 0, high: 1, log: true}}}]\ndesign: {search: {configurations: 3}}\n",
        ("on a logarithmic scale `low` is above 0",),
    ),
    # -- designs
    "a design that is unknown": (
        HEAD + "factors: [stlr]\ndesign: factorail\n",
        ("study.yaml:3 design", "did you mean 'factorial'"),
    ),
    "a design that is a number": (HEAD + "factors: [l2]\ndesign: 5\n", ("study.yaml:3 design", "got 5")),
    "a design of two": (
        HEAD + "factors: [l2]\ndesign: {random: {}, factorial: {}}\n",
        ("study.yaml:3 design", "no such design"),
    ),
    "a design of nothing": (HEAD + "factors: [l2]\ndesign:\n", ("study.yaml:3 design", "got None")),
    "options that are a number": (
        HEAD + "factors: [l2]\ndesign: {random: 5}\n",
        ("design.random", "options by name, got 5"),
    ),
    "an option that is unknown": (
        HEAD + "factors: [l2]\ndesign: {ablation: {x: 1}}\n",
        ("design.ablation.x", "takes no values"),
    ),
    "an option that is missing": (
        HEAD + "factors: [l2]\ndesign: random\n",
        ("design.random.configurations", "is missing"),
    ),
    "more configurations than there are": (
        HEAD + "factors: [l2]\ndesign: {random: {configurations: 9}}\n",
        ("design.random.configurations", "2 combinations, got 9"),
    ),
    "a design of two levels with three": (
        HEAD + "factors: [{l2: {strength: {values: [1, 2]}}}]\ndesign: plackett_burman\n",
        ("factors.0", "has 2 levels beside off"),
    ),
    "a resolution that no fraction has": (
        HEAD + "factors: [l2, l1]\ndesign: {fractional_factorial: {resolution: 5}}\n",
        ("design.fractional_factorial.resolution", "got 5"),
    ),
    "a resolution of 10**400": (
        HEAD + f"factors: [l2, l1, l2_sp]\ndesign: {{fractional_factorial: {{resolution: {10**400}}}}}\n",
        ("design.fractional_factorial.resolution",),
    ),
    "a search of 10**12": (
        HEAD + "factors: [{l2: {strength: {low: 1, high: 2.5}}}]\ndesign: {search: {configurations: 1000000000000}}\n",
        ("design.search.configurations", "less than or equal to 10000"),
    ),
    "a factorial that explodes": (FACTORIAL, ("study.yaml:2 design", "1280000000 combinations, and a factorial lists")),
    "seed_search with factors": (HEAD + "factors: [l2]\ndesign: seed_search\n", ("factors", "leave the factors out")),
    "only conflicts": (
        "recipe: {model: minilm, data: {train: stdlib_docstrings}, tricks: [linear_decay]}\nfactors: [stlr]\n",
        ("only the baseline can be run", "both own the 'schedule' hook"),
    ),
    "tricks that cannot all stand": (
        "recipe: {model: minilm, data: {train: stdlib_docstrings}}\n"
        "factors: [stlr, cosine_restarts]\ndesign: leave_one_out\n",
        ("study.yaml:3 design", "cannot all be on together"),
    ),
    "a strategy that is unknown": (
        HEAD + "factors: [l2]\nstrategy: sequentail\n",
        ("strategy", "did you mean 'sequential'"),
    ),
    "a strategy for a search": (
        HEAD + "factors: [l2, l1]\ndesign: {search: {configurations: 3}}\nstrategy: race\n",
        ("strategy", "search decides what is run"),
    ),
    # -- seeds and the rest
    "no seeds": (HEAD + "factors: [l2]\nseeds: 0\n", ("study.yaml:3 seeds", "at least 1", "got 0")),
    "an empty list of seeds": (HEAD + "factors: [l2]\nseeds: []\n", ("seeds", "got []")),
    "a negative number of seeds": (HEAD + "factors: [l2]\nseeds: -3\n", ("seeds", "got -3")),
    "a negative seed": (HEAD + "factors: [l2]\nseeds: [1, -1]\n", ("seeds", "at least 0")),
    "a seed twice": (HEAD + "factors: [l2]\nseeds: [1, 2, 1]\n", ("seeds", "a seed stands twice")),
    "seeds in words": (HEAD + "factors: [l2]\nseeds: five\n", ("seeds", "got 'five'")),
    "seeds of fractions": (HEAD + "factors: [l2]\nseeds: [0.5]\n", ("seeds", "whole numbers")),
    "seeds of flags": (HEAD + "factors: [l2]\nseeds: [true, false]\n", ("seeds", "whole numbers")),
    "true seeds": (HEAD + "factors: [l2]\nseeds: true\n", ("seeds", "got True")),
    "10**12 seeds": (HEAD + f"factors: [l2]\nseeds: {10**12}\n", ("seeds", "at most 10,000 seeds")),
    "a seed of 10**400": (HEAD + f"factors: [l2]\nseeds: [{10**400}]\n", ("seeds", f"at most {MOST_SEED}", "...")),
    "a metric that is unknown": (HEAD + "factors: [l2]\nmetric: acuracy\n", ("study.yaml:3 metric", "accuracy")),
    "a metric that is a list": (HEAD + "factors: [l2]\nmetric: [accuracy]\n", ("metric", "got ['accuracy']")),
    "alpha of 0": (HEAD + "factors: [l2]\nalpha: 0\n", ("alpha", "greater than 0")),
    "alpha of 1": (HEAD + "factors: [l2]\nalpha: 1\n", ("alpha", "less than 1")),
    "alpha in percent": (HEAD + "factors: [l2]\nalpha: 5\n", ("alpha", "less than 1, got 5")),
    "an equivalence of 0": (HEAD + "factors: [l2]\nequivalence: 0\n", ("equivalence", "greater than 0")),
    "a correction that is none": (HEAD + "factors: [l2]\ncorrection: bonferroni\n", ("correction", "'holm'")),
    "confirm by 10**9": (HEAD + "factors: [l2]\nconfirm: 1000000000\n", ("confirm", "less than or equal to 10000")),
    "a budget of nothing": (HEAD + "factors: [l2]\nbudget: {}\n", ("budget", "give cells, hours or gpu_hours")),
    "a budget that is a number": (HEAD + "factors: [l2]\nbudget: 8\n", ("budget", "got 8")),
    "a budget of infinity": (HEAD + "factors: [l2]\nbudget: {hours: .inf}\n", ("budget", "finite")),
    "one rate to tune": (
        HEAD + "factors: [l2]\ntune_learning_rate: {values: [1e-4]}\n",
        ("tune_learning_rate.values", "2 items"),
    ),
    "a rate that is tuned and a factor": (
        HEAD + "factors: [training.learning_rate: {values: [1e-4]}]\ntune_learning_rate: {values: [1e-4, 1e-3]}\n",
        ("tune_learning_rate", "training.learning_rate is a factor too"),
    ),
    "a logger that is none": (HEAD + "factors: [l2]\nloggers: [comet]\n", ("loggers", "'tensorboard'")),
    "no CPUs": (HEAD + "factors: [l2]\ncpus_per_cell: 0\n", ("cpus_per_cell", "greater than 0")),
    "a million workers": (
        HEAD + "factors: [l2]\nworkers_per_cell: 1000000\n",
        ("workers_per_cell", "less than or equal"),
    ),
    "isolation that is none": (HEAD + "factors: [l2]\nisolation: container\n", ("isolation", "'warm' or 'process'")),
    "one data set": (HEAD + "factors: [l2]\ndata_sets: {a: {rows: 10}}\n", ("data_sets", "at least two")),
    "a data set that climbs": (
        HEAD + "factors: [l2]\ndata_sets:\n  ../a: {rows: 10}\n  b: {rows: 10}\n",
        ("study.yaml:4 data_sets.../a", "it names a folder"),
    ),
    "a data set that is a number": (
        HEAD + "factors: [l2]\ndata_sets: {a: 1, b: {rows: 3}}\n",
        ("data_sets.a", "keys of a recipe's `data`"),
    ),
    "a data set with a mistake": (
        HEAD + "factors: [l2]\ndata_sets: {a: {row: 1}, b: {rows: 3}}\n",
        ("data_sets.a.row", "did you mean 'rows'"),
    ),
    "all seeds fixed": (
        "recipe:\n  model: minilm\n  data: {train: stdlib_docstrings}\n"
        "  training: {init_seed: 1, data_seed: 1, dropout_seed: 1}\n"
        "factors: [l2]\n",
        ("seeds", "all seeds would be the same run"),
    ),
}

GOOD: dict[str, tuple[str, list[str]]] = {
    "names": (HEAD + "factors: [l2, l1]\n", ["baseline", "l2", "l1"]),
    "values": (
        HEAD + "factors: [{l2: {strength: {values: [1, 2.5]}}}]\n",
        ["baseline", "l2(strength=1)", "l2(strength=2.5)"],
    ),
    "a plain value": (HEAD + "factors: [{l2: {strength: 2}}]\n", ["baseline", "l2(strength=2)"]),
    "one_of": (HEAD + "factors: [{one_of: [l1, l2]}]\ndesign: factorial\n", ["baseline", "l1", "l2"]),
    "a setting": (HEAD + "factors: [training.clip: {values: [1, 0]}]\n", ["baseline", "training.clip=0"]),
    "several": (HEAD + "factors: [l2, l1]\ndesign: factorial\n", ["baseline", "l1", "l2", "l2 + l1"]),
    "no factors for seeds": (HEAD + "design: seed_search\n", ["baseline"]),
    "null for a trick's values": (HEAD + "factors: [{l2: }]\n", ["baseline", "l2"]),
    "CRLF": (HEAD.strip() + "\r\nfactors:\r\n  - l2\r\n", ["baseline", "l2"]),
    "JSON": ('{"recipe": "base.yaml", "factors": ["l2"]}', ["baseline", "l2"]),
    "the most seeds": (HEAD + f"factors: [l2]\nseeds: {MOST_SEEDS}\n", ["baseline", "l2"]),
    "large seeds": (HEAD + f"factors: [l2]\nseeds: [{MOST_SEED}, 0]\n", ["baseline", "l2"]),
    "a range": (
        HEAD + "factors: [{l2: {strength: {low: 0.5, high: 2.5}}}]\ndesign: {search: {configurations: 2}}\n",
        [],
    ),
    "a search to the edge of numbers": (
        HEAD + "factors: [{l2: {strength: {low: 5e-324, high: 1.7e+308}}}]\ndesign: {search: {configurations: 2}}\n",
        [],
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "broken.yaml").write_text("training:\n  epoch: 3\n")
    (tmp_path / "other.yaml").write_text("recipe: base.yaml\nfactors: [l2]\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("what", BAD)
def test_a_study_that_is_refused(what: str, folder: Path, record_property: Callable[[str, object], None]) -> None:
    text, told = BAD[what]
    command("check", write(folder, text)).refuses(*told)
    record_property("inputs tried", 1)


@pytest.mark.parametrize("what", GOOD)
def test_a_study_that_is_read(what: str, folder: Path, record_property: Callable[[str, object], None]) -> None:
    text, names = GOOD[what]
    path = write(folder, text)
    found = [configuration.name for configuration in Study.load(path).configurations]
    assert found == names or (not names and found[0] == "baseline" and len(found) == 2)
    answer = command("check", path)
    assert answer.code == 0, answer.err
    record_property("inputs tried", 1)


def test_sweep_refuses_the_same_and_leaves_nothing(folder: Path) -> None:
    path = write(folder, HEAD + "factors: [sltr]\n")
    command("sweep", path, "--out", folder / "out").refuses("study.yaml:2 factors.0.sltr", "did you mean 'stlr'")
    command("train", path, "--out", folder / "out").refuses("is no recipe but a study")
    command("sweep", folder / "base.yaml", "--out", folder / "out").refuses("base.yaml", "unknown key 'model'")
    assert not (folder / "out").exists()


SETTINGS = {
    "seeds": ("seeds=0", ("--set seeds", "at least 1")),
    "a part of the recipe": ("recipe.training.epoch=1", ("--set recipe.training.epoch", "did you mean 'epochs'")),
    "a file that is not there": ("recipe=none.yaml", ("--set recipe", "none.yaml")),
    "a factor": ("factors.l2.strength=-1", ("--set factors.0.l2.strength", "got -1")),
    "a factor that is not there": ("factors.l3.strength=1", ("--set factors.l3.strength", "no entry 'l3' to set")),
    "a design": ("design=none", ("--set design", "no such design")),
}


@pytest.mark.parametrize("what", SETTINGS)
def test_an_override_that_is_refused(what: str, folder: Path, record_property: Callable[[str, object], None]) -> None:
    setting, told = SETTINGS[what]
    command("check", write(folder, HEAD + "factors: [l2]\n"), "--set", setting).refuses(*told)
    record_property("inputs tried", 1)

"""The key of a cell: what changes it, and what does not. On real files."""

from __future__ import annotations

import collections
import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny
from finetricks.catalog import installed
from finetricks.errors import InputError
from finetricks.recipe import Recipe
from finetricks.runner import task_of
from finetricks.source import hash_of_trick
from finetricks.tasks import Task
from finetricks.trick import Trick
from finetricks_tuning.cell import CellMaker, Keys, hash_of_model, task_key
from finetricks_tuning.rounds import at_most
from finetricks_tuning.study import Study

TRICK = """
from finetricks import Trick, hookimpl

class {name}(Trick):
    \"\"\"A schedule.\"\"\"

    @hookimpl
    def schedule(self) -> float:
        return {factor}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def recipe_in(folder: Path, tricks: object = (), **training: object) -> Recipe:
    data = {"train": str(folder / "train.csv"), "valid": 0.25}
    return Recipe(model=str(folder / "model"), data=data, training=training, tricks=tricks)  # type: ignore[arg-type]


Make = Callable[..., str]


@pytest.fixture(scope="module")
def key() -> Make:
    tasks: dict[str, Task] = {}

    def task(recipe: Recipe) -> Task:
        return tasks.setdefault(task_key(recipe), task_of(recipe))

    def make(recipe: Recipe, device: str = "cpu") -> str:
        return Keys(task, device).of(recipe)

    return make


def test_equal_cells_have_equal_keys(folder: Path, key: Make) -> None:
    assert key(recipe_in(folder)) == key(recipe_in(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"learning_rate": 1e-3},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"compile": "eager"},
        {"gradient_checkpointing": True},
        {"threads": 2},
        {"max_length": 8},
    ],
)
def test_what_determines_the_result_changes_the_key(folder: Path, key: Make, change: dict[str, object]) -> None:
    assert key(recipe_in(folder, **change)) != key(recipe_in(folder))


def test_tricks_and_their_values_and_the_device_change_the_key(folder: Path, key: Make) -> None:
    keys = [
        key(recipe_in(folder)),
        key(recipe_in(folder, ["stlr"])),
        key(recipe_in(folder, [{"stlr": {"ratio": 10}}])),
        key(recipe_in(folder), device="NVIDIA H200"),
    ]
    assert len(set(keys)) == 4


def test_where_things_lie_and_how_often_a_run_is_saved_do_not_matter(folder: Path, key: Make, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "moved")
    assert key(recipe_in(tmp_path / "moved", checkpoint="off")) == key(recipe_in(folder))


def test_other_rows_or_other_weights_change_the_key(folder: Path, key: Make, tmp_path: Path) -> None:
    for name in ("rows", "weights"):
        shutil.copytree(folder, tmp_path / name)
    path = tmp_path / "rows" / "train.csv"
    path.write_text(path.read_text().replace("wing", "fin", 1))
    tiny.bert(seed=1, blocks=2).save_pretrained(tmp_path / "weights" / "model")
    keys = {key(recipe_in(place)) for place in (folder, tmp_path / "rows", tmp_path / "weights")}
    assert len(keys) == 3


def test_a_name_on_the_hub_stands_for_itself() -> None:
    assert hash_of_model("someone/some-model").startswith("someone/some-model")


# -- the source of tricks --------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A third party's package with two tricks and a helper."""
    root = tmp_path / "elsewhere" / "their_tricks"
    root.mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "one.py").write_text(TRICK.format(name="One", factor=0.5))
    (root / "helper.py").write_text("FACTOR = 1\n")
    monkeypatch.syspath_prepend(root.parent)
    yield root  # type: ignore[misc]
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_tricks"]:
        del sys.modules[name]


def test_an_edit_of_what_a_third_partys_trick_imports_counts_and_no_other(package: Path) -> None:
    (package / "one.py").write_text("from .helper import FACTOR\n" + (package / "one.py").read_text())
    (package / "other.py").write_text(TRICK.format(name="Other", factor=0.5))
    one: type[Trick] = importlib.import_module("their_tricks.one").One
    before = hash_of_trick(one)
    (package / "other.py").write_text("import anything")
    assert hash_of_trick(one) == before
    (package / "helper.py").write_text("FACTOR = 2\n")
    assert hash_of_trick(one) != before


def test_what_is_known_by_its_version_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(torch.nn.Module, collections.UserDict[str, int]):
        pass

    seen, read = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: seen.append(path) or read(path))
    assert hash_of_trick(Own)  # type: ignore[arg-type]
    assert set(seen) == {Path(__file__)}


def test_an_edited_plugin_file_runs_its_own_cells_again_and_no_others(folder: Path, tmp_path: Path) -> None:
    def keys() -> dict[str, str]:
        catalog = installed()
        for name in ("one", "two"):
            catalog = catalog.with_file(tmp_path / f"{name}.py")
        study = Study(recipe=recipe_in(folder), factors=["one", "two"], seeds=1, catalog=catalog)
        return {cell.configuration.name: cell.key for cell in at_most(study, CellMaker(study, Keys(task_of, "cpu")))}

    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(TRICK.format(name=name.title(), factor=0.5))
    before = keys()
    (tmp_path / "two.py").write_text(TRICK.format(name="Two", factor=0.25))
    after = keys()
    assert {name for name in before if before[name] != after[name]} == {"two"}


def test_a_built_in_trick_is_its_module_and_what_that_imports() -> None:
    catalog = installed()
    tricks = [catalog.get(name) for name in ("stlr", "linear_decay", "gradual_unfreezing")]
    hashes = [hash_of_trick(trick) for trick in tricks]
    assert len(set(hashes)) == 3
    assert hashes == [hash_of_trick(trick) for trick in tricks]


def test_a_class_without_any_source_is_refused_with_the_mend() -> None:
    namespace = {"__name__": "__main__"}
    exec(TRICK.format(name="Nowhere", factor=1), namespace)
    trick: type[Trick] = namespace["Nowhere"]  # type: ignore[assignment]
    with pytest.raises(InputError, match="source of Nowhere cannot be found; put it in a file"):
        hash_of_trick(trick)


# -- the list of cells -----------------------------------------------------------------------------------


def test_cells_come_seed_by_seed_over_all_configurations(folder: Path) -> None:
    study = Study(recipe=recipe_in(folder), factors=["stlr", "weight_decay"], seeds=[3, 1])
    cells = at_most(study, CellMaker(study, Keys(task_of, "cpu")))
    assert [(cell.configuration.name, cell.seed) for cell in cells] == [
        (name, seed) for seed in (3, 1) for name in ("baseline", "stlr", "weight_decay")
    ]
    assert all(cell.recipe.training.threads == 1 and cell.recipe.training.seed == cell.seed for cell in cells)
    assert len({cell.key for cell in cells}) == 6

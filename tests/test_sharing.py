"""The cells of a study that have steps in common: who waits for whom, and that nothing comes out otherwise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

import tiny
from finetricks import Progress, Recipe, Trick, hookimpl
from finetricks.catalog import installed
from finetricks.runner import run, task_of
from finetricks_tuning.cell_run import CellOrder, cell_folder, run_cell
from finetricks_tuning.dry_run import dry_run
from finetricks_tuning.families import Families
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.prepare import prepare
from finetricks_tuning.sharing import Branch, family_folder, read_tree, sharing_of, start_folder, was_lost_asking
from finetricks_tuning.study import Study
from finetricks_tuning.sweep import sweep
from test_prefix import Halving, assert_same

FAMILY, OTHER = "f" * 64, "e" * 64


def order(key: str, family: str = FAMILY, start: str = "") -> CellOrder:
    return CellOrder(key, key, {}, {"of": key}, "task", {}, family=family, start=start)


def grow(study: Path, **branches: Branch) -> None:
    """What a leader writes."""
    folder = family_folder(study, FAMILY)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tree.json").write_text(json.dumps({key: vars(branch) for key, branch in branches.items()}))


def leave(study: Path, stem: str) -> None:
    (family_folder(study, FAMILY) / stem).mkdir(parents=True)


class Workers:
    """Hands out cells as the searcher does."""

    def __init__(self, study: Path, *orders: CellOrder) -> None:
        self.families = Families(study)
        self.waiting = list(orders)
        self.running: list[CellOrder] = []

    def begin(self, slots: float = 2) -> CellOrder | None:
        found = self.families.next(self.waiting, self.running, slots)
        if found is None:
            return None
        self.waiting.remove(found)
        self.running.append(told := self.families.told(found, self.waiting))
        return told

    def end(self, key: str) -> None:
        self.running = [order for order in self.running if order.key != key]
        self.families.tidy([*self.waiting, *self.running])


AT_8, AT_16 = "00000008-a/step-00000008", "00000016-b/step-00000016"


def test_who_waits_for_whom(tmp_path: Path) -> None:
    cells = Workers(tmp_path, *map(order, "abcd"), order("alone", family=""))
    leader = cells.begin()
    assert leader is not None
    assert (leader.key, [key for key, _ in leader.leads], leader.leaves) == ("a", ["b", "c", "d"], ())
    other = cells.begin()
    assert other == order("alone", family="")  # the others wait until it is known where they part
    assert cells.begin() is None
    assert cells.families.awaited(cells.waiting) == [f"stems/{FAMILY[:16]}/tree.json"]

    grow(tmp_path, b=Branch("a", 8, AT_8), c=Branch("b", 16, AT_16), d=Branch())
    assert cells.begin() == order("d")
    assert cells.begin() is None
    assert cells.families.awaited(cells.waiting) == [f"stems/{FAMILY[:16]}/{stem}" for stem in (AT_8, AT_16)]
    leave(tmp_path, AT_8)
    assert cells.begin() == replace(order("b"), leaves=(16,))
    assert cells.begin() is None  # c waits for b
    cells.end("a")
    assert family_folder(tmp_path, FAMILY).joinpath(AT_8).is_dir()  # b might be lost, and go on from it again
    leave(tmp_path, AT_16)
    assert cells.begin() == order("c")
    cells.end("b")
    assert not family_folder(tmp_path, FAMILY).joinpath(AT_8).exists()
    assert family_folder(tmp_path, FAMILY).joinpath(AT_16).is_dir()
    cells.end("c")
    assert (tmp_path / "stems").is_dir()  # d is of the family, too
    cells.end("d")
    assert not (tmp_path / "stems").exists()


def test_a_leader_that_fails_is_followed_by_another(tmp_path: Path) -> None:
    cells = Workers(tmp_path, *map(order, "abc"))
    cells.begin()
    cells.end("a")  # before it wrote anything
    second = cells.begin()
    assert second is not None
    assert (second.key, [key for key, _ in second.leads]) == ("b", ["c"])
    grow(tmp_path, c=Branch("b", 8, AT_8))
    assert cells.begin() is None
    cells.end("b")  # before it came to step 8
    assert cells.begin() == order("c")
    assert cells.families.awaited([order("z", family="")]) == []


def test_leaders_of_other_families_begin_early_but_not_all_at_once(tmp_path: Path) -> None:
    seeds = [order(f"{name}{seed}", family=str(seed) * 64) for seed in range(5) for name in "ab"]
    cells = Workers(tmp_path, *seeds)
    assert [begun and begun.key for begun in (cells.begin(), cells.begin(), cells.begin())] == ["a0", "a1", "a2"]
    for seed in range(3):
        folder = family_folder(tmp_path, str(seed) * 64)
        folder.mkdir(parents=True)
        (folder / "tree.json").write_text(json.dumps({f"b{seed}": vars(Branch())}))
    assert [begun and begun.key for begun in (cells.begin(), cells.begin())] == ["b0", "b1"]
    for key in ("a0", "b0"):
        cells.end(key)
    assert (begun := cells.begin()) is not None
    assert begun.key == "a3"


@pytest.mark.parametrize("torn", ["", "[]", '{"b": {"parent": 1, "more": 2}}', "{"])
def test_a_tree_that_cannot_be_read_shares_nothing(tmp_path: Path, torn: str) -> None:
    cells = Workers(tmp_path, *map(order, "ab"))
    cells.begin()
    grow(tmp_path)
    (family_folder(tmp_path, FAMILY) / "tree.json").write_text(torn)
    assert read_tree(family_folder(tmp_path, FAMILY)) == {}
    assert cells.begin() == order("b")


def test_cells_wait_for_weights_that_one_of_them_makes(tmp_path: Path) -> None:
    cells = Workers(tmp_path, *(order(key, family="", start=OTHER) for key in "abc"))
    assert cells.begin() == order("a", family="", start=OTHER)
    assert cells.begin() is None
    (awaited,) = cells.families.awaited(cells.waiting)
    made = tmp_path / awaited
    assert made.parent == start_folder(tmp_path, OTHER)
    made.mkdir(parents=True)
    assert cells.begin() == order("b", family="", start=OTHER)
    cells.end("a")
    cells.end("b")
    assert made.is_dir()
    cells.begin()
    cells.end("c")
    assert not (tmp_path / "stems").exists()


# -- the leader ------------------------------------------------------------------------------------------


class Breaking(Trick):
    """Cannot be compiled."""

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        raise ValueError("no rate")


CATALOG = installed().with_classes([Halving, Breaking])


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def recipe_in(task: Path, *tricks: Any, **training: Any) -> dict[str, Any]:
    data = {"train": str(task / "train.csv"), "valid": 0.5, "test": str(task / "test.csv")}
    settings = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "threads": 1, **training}
    return {"model": str(task / "model"), "data": data, "training": settings, "tricks": list(tricks)}


def test_a_leader_leaves_what_others_go_on_from_and_its_own_result_is_untouched(task: Path, tmp_path: Path) -> None:
    given = {
        key: recipe_in(task, trick)
        for key, trick in {
            "a" * 64: {"halving": {"after": 20}},
            "b" * 64: {"halving": {"after": 12}},
            "c" * 64: "breaking",
            "d" * 64: {"halving": {"after": 14}},
        }.items()
    }
    keys = list(given)
    loaded = task_of(Recipe(**given[keys[0]], catalog=CATALOG))

    def recipe_of(values: Mapping[str, Any]) -> Recipe:
        return Recipe(**values, catalog=CATALOG)

    def cell(told: CellOrder) -> Trial:
        told = CellOrder(**json.loads(json.dumps(told.to_dict())))  # as a worker gets it
        shared = sharing_of(told, tmp_path, recipe_of)
        return run_cell(told, tmp_path, "cpu", lambda o: (recipe_of(o.recipe), loaded), sharing=shared)

    orders = [replace(order(key), recipe=recipe_of(given[key]).to_dict()) for key in keys]
    cells = Workers(tmp_path, *orders)
    leader = cells.begin()
    assert leader is not None
    assert cell(leader).branched is None
    found = read_tree(family_folder(tmp_path, FAMILY))
    assert found is not None
    assert {key: (branch.parent, branch.step) for key, branch in found.items()} == {
        keys[1]: (keys[0], 12),
        keys[2]: ("", 0),
        keys[3]: (keys[0], 14),
    }
    told = [cells.begin() for _ in range(3)]
    results = {o.key: cell(o) for o in told if o is not None}
    assert results[keys[2]].status == "failed"
    assert "no rate" in (results[keys[2]].error or "")
    for key, step in ((keys[1], 12), (keys[3], 14)):
        assert results[key].branched == {"step": step, "stem": keys[0], "seconds": results[key].branched["seconds"]}  # type: ignore[index]
        assert Trial.from_json(results[key].to_json()) == results[key]
    for key in (keys[0], keys[1], keys[3]):
        alone = run(recipe_of(given[key]), tmp_path / "alone" / key[0], task=loaded, save_model=False)
        assert alone.branched is None
        assert_same(tmp_path / "alone" / key[0], cell_folder(tmp_path, key), model=False)


def test_a_worker_that_was_lost_while_it_asked_for_others_is_not_asked_again(tmp_path: Path) -> None:
    told = replace(order("a" * 64), leads=(("b", {}),))
    asking = family_folder(tmp_path, FAMILY) / f".asking-{'a' * 16}"
    assert not was_lost_asking(told, tmp_path)

    class Lost(BaseException):
        pass

    def recipe_of(values: Mapping[str, Any]) -> Recipe:
        assert asking.read_text() == "b"
        raise Lost

    sharing = sharing_of(told, tmp_path, recipe_of)
    assert sharing is not None
    with pytest.raises(Lost):
        sharing.branches(None, lambda recipe: None, 0)  # type: ignore[arg-type, return-value]
    assert was_lost_asking(told, tmp_path)
    assert read_tree(family_folder(tmp_path, FAMILY)) == {}  # none waits for it
    assert not was_lost_asking(told, tmp_path)
    assert not was_lost_asking(order("a" * 64), tmp_path)


# -- studies ---------------------------------------------------------------------------------------------


def study(task: Path, seeds: int = 1, **more: Any) -> Study:
    factors = [
        {"sequential_unfreezing": {"n": {"values": [1, 2]}, "k": {"values": [3, 4]}}},
        {"two_stage": {"epochs": 2, "lr_factor": {"values": [0.1, 0.5]}}},
        "label_smoothing",
    ]
    recipe = recipe_in(task, "auxiliary_lm", epochs=4, checkpoint=4)
    return Study(recipe=recipe, factors=factors, seeds=seeds, confirm=0, **more)


def test_a_cells_key_does_not_depend_on_sharing_and_its_family_on_what_the_plan_holds(task: Path) -> None:
    keys, families = [], []
    for sharing in ("auto", "off"):
        of = study(task, sharing=sharing)
        make = prepare(of).make
        cells = [make(configuration, 0) for configuration in of.configurations]
        keys.append([cell.key for cell in cells])
        families.append([cell.family for cell in cells])
        other = make(of.configurations[0], 1)
    assert keys[0] == keys[1]
    *alike, smoothed = families[0]
    assert len(set(alike)) == 1
    assert smoothed not in {alike[0], ""}
    assert set(families[1]) == {other.family} == {""}
    assert prepare(study(task)).make(study(task).configurations[0], 1).family not in alike


def test_an_adaptive_trick_and_weights_that_take_training(task: Path) -> None:
    of = Study(
        recipe=recipe_in(task, "further_pretraining"),
        factors=["early_stopping", "mse", {"dropout": {"p": 0.3}}, "linear_decay"],
        seeds=1,
    )
    make = prepare(of).make
    cells = {configuration.name: make(configuration, 0) for configuration in of.configurations}
    assert [name for name, cell in cells.items() if not cell.family] == ["early_stopping"]
    starts = {name: cell.start for name, cell in cells.items()}
    assert starts["baseline"] == starts["mse"] == starts["linear_decay"]
    assert len(set(starts.values())) == 3  # its decisions rest on a part of train; dropout is another model


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=2)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("local_ray")
def test_a_dry_run_tells_what_is_saved(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = dry_run(study(task, seeds=2))
    # baseline, (1, 3), (1, 4), (2, 3), (2, 4) and two rates, all of 32 steps, and two that are alone.
    told = found.to_dict()
    branches = {
        cell["configuration"]: (cell["branches"]["from"], cell["branches"]["step"])
        for cell in told["cells"]
        if "branches" in cell and cell["seed"] == 0
    }
    grid = "sequential_unfreezing(n={}, k={})".format
    rates = "two_stage(epochs=2, lr_factor={})".format
    assert branches == {
        grid(1, 4): (grid(1, 3), 16),
        grid(2, 4): (grid(2, 3), 16),
        rates(0.1): (grid(2, 3), 8),
        rates(0.5): (rates(0.1), 16),
    }
    assert told["shared"] == {"steps": 2 * 7 * 32, "saved": 2 * (16 + 16 + 8 + 16)}
    seconds = {cell["configuration"]: cell["seconds"] for cell in told["cells"]}
    assert seconds[rates(0.5)] < seconds[rates(0.1)] < seconds["baseline"]
    assert dry_run(study(task, sharing="off")).to_dict()["shared"] == {"steps": 0, "saved": 0}


def assert_as_alone(of: Study, out: Path, alone: Path) -> int:
    """Every cell came to what it comes to alone. Gives how many went on from another."""
    trials, problems = Ledger(out / "trials.jsonl").read()
    assert problems == []
    loaded = task_of(of.recipe)
    for trial in trials.values():
        configuration = next(c for c in of.configurations if c.name == trial.configuration)
        run(configuration.recipe(of.recipe, trial.seed), alone / trial.key[:16], task=loaded, save_model=False)
        assert_same(alone / trial.key[:16], cell_folder(out, trial.key), model=False)
    return sum(trial.branched is not None for trial in trials.values())


@pytest.mark.usefixtures("local_ray")
def test_cells_that_share_their_steps_come_to_what_they_come_to_alone(task: Path, tmp_path: Path) -> None:
    of = study(task)
    summary = sweep(of, tmp_path / "out")
    assert summary.counts == {"planned": 8, "finished": 8, "not_run": 0}
    assert assert_as_alone(of, tmp_path / "out", tmp_path / "alone") == 4
    assert not (tmp_path / "out" / "stems").exists()
    trials, _ = Ledger(tmp_path / "out" / "trials.jsonl").read()
    stems = {trial.branched["stem"] for trial in trials.values() if trial.branched}
    assert stems <= trials.keys()
    assert summary.seconds == pytest.approx(sum(trial.seconds for trial in trials.values()))


PROGRAM = """
import sys
from finetricks_tuning.study import Study
from finetricks_tuning.sweep import sweep
sweep(Study.load(sys.argv[1]), sys.argv[2], resume=True)
"""


@pytest.mark.nightly
def test_a_killed_study_whose_cells_share_their_steps_comes_to_the_same(task: Path, tmp_path: Path) -> None:
    of = study(task, seeds=2)
    (tmp_path / "study.yaml").write_text(of.to_yaml())
    out = tmp_path / "out"
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "study.yaml"), str(out)]
    for stems in (1, 3):
        with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as killed:
            deadline = time.monotonic() + 300
            while len(list(out.glob("stems/*/*/step-*"))) < stems and killed.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.killpg(killed.pid, signal.SIGKILL)
        assert (out / "stems").is_dir()
    before, _ = Ledger(out / "trials.jsonl").read()
    assert len(before) < 16
    assert sweep(of, out, resume=True).complete
    assert len(Ledger(out / "trials.jsonl").read()[0]) == 16
    assert assert_as_alone(of, out, tmp_path / "alone") >= 5
    assert not (out / "stems").exists()

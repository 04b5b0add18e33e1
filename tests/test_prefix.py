"""How far two runs do the same work, and that one which goes on from another comes to what it does alone."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import every
import tiny
from finetricks import Progress, Recipe, Session, Step, Trick, hookimpl, installed, provenance
from finetricks.errors import CheckpointError
from finetricks.folder import RunFolder
from finetricks.hooks import HOOKS
from finetricks.plan import Group, Plan
from finetricks.prefix import Prefix, acts_by_plan, looks_ahead, unlike_any
from finetricks.progress import Stage
from finetricks.runner import Result, plans_of, run, task_of
from finetricks.stems import Sharing, Stems
from finetricks.tasks import Task
from finetricks_plugins.init.greedy_pretraining import GreedyPretraining
from finetricks_tuning.sharing import tree

SIATL = [(n, k) for n in (1, 2, 3) for k in (4, 5, 6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def recipe_in(folder: Path, *tricks: object, **training: object) -> Recipe:
    """8 steps an epoch."""
    data = {"train": str(folder / "train.csv"), "valid": 0.5, "test": str(folder / "test.csv")}
    settings = {"epochs": 6, "batch_size": 4, "learning_rate": 1e-2, "threads": 1, "checkpoint": "off", **training}
    return Recipe(model=str(folder / "model"), data=data, training=settings, tricks=tricks)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return task_of(recipe_in(folder))


def prefix_of(recipe: Recipe, task: Task) -> Prefix:
    return Prefix.of(recipe, plans_of([recipe], task)[0])


# -- by hand ---------------------------------------------------------------------------------------------


def plan(factors: Sequence[float], frozen: Sequence[str], rate: float = 1.0, decay: float = 0.0) -> Plan:
    """A plan with one character of `frozen` a step: `h` for a head that trains alone, `.` for everything."""
    stages: list[Stage] = []
    for step, what in enumerate(frozen):
        asleep = frozenset({"body"} if what == "h" else ())
        if stages and stages[-1].frozen == asleep:
            stages[-1] = replace(stages[-1], end=step + 1)
        else:
            stages.append(Stage(len(stages), step, step + 1, asleep))
    groups = tuple(Group(name, name, (name,), 1.0, decay, {}) for name in ("body", "head"))
    return Plan(groups, tuple(stages), tuple(map(float, factors)), rate, 2, ("body", "head"))


ONES = [1.0] * 6


@pytest.mark.parametrize(
    ("one", "other", "alike", "alike_ahead"),
    [
        (plan(ONES, "......"), plan(ONES, "......"), 5, 5),  # one is left to each
        (plan(ONES, "hh...."), plan(ONES, "hhhh.."), 2, 0),  # the first stage ends elsewhere
        (plan(ONES, "h.hhh."), plan(ONES, "h.hh.."), 4, 2),
        (plan(ONES, "hh...."), plan([1, 1, 1, 0.5, 1, 1], "hh...."), 3, 3),
        (plan(ONES, "hhhh.."), plan([1, 0.5, 1, 1, 1, 1], "h....."), 1, 0),
        (plan(ONES, "......"), plan([1.0] * 4, "...."), 3, 0),  # epochs differ
        (plan(ONES, "......"), plan(ONES, "......", rate=2.0), 0, 0),
        (plan(ONES, "......"), plan(ONES, "......", decay=0.1), 0, 0),
        (plan(ONES, "......"), plan([0.5, *ONES[1:]], "......"), 0, 0),
    ],
)
def test_the_steps_that_two_plans_do_alike_by_hand(one: Plan, other: Plan, alike: int, alike_ahead: int) -> None:
    for ahead, expected in ((False, alike), (True, alike_ahead)):
        a, b = Prefix({}, one, ahead), Prefix({}, other, ahead)
        assert a.shared(b) == b.shared(a) == expected
        most = min(one.total_steps, other.total_steps)
        agree = [step for step in range(most) if a.identity(step) == b.identity(step)]
        assert not expected or max(agree) == expected  # the check says the same as the count


def test_what_is_not_in_the_plan_must_be_equal_entirely() -> None:
    assert Prefix({"seed": 0}, plan(ONES, "......")).shared(Prefix({"seed": 1}, plan(ONES, "......"))) == 0


def test_the_tree_of_the_siatl_grid_by_hand(folder: Path, task: Task) -> None:
    recipes = [recipe_in(folder, {"sequential_unfreezing": {"n": n, "k": k}}, "auxiliary_lm") for n, k in SIATL]
    runs = [Prefix.of(recipe, plan) for recipe, plan in zip(recipes, plans_of(recipes, task), strict=True)]
    # Epoch k - 1 is the last before the embeddings thaw: 3 or 4 epochs in common within an n; n 3 has one with n 2.
    assert tree(runs) == [
        *((None, 0), (0, 24), (1, 32)),
        *((None, 0), (3, 24), (4, 32)),
        *((3, 8), (6, 24), (7, 32)),
    ]
    # What the first has done before it began it cannot leave, unless somebody has.
    assert tree(runs[:3], begun=24) == [(None, 0), (None, 0), (1, 32)]
    assert tree(runs[:3], begun=24, there=lambda run, step: step == 24) == [(None, 0), (0, 24), (1, 32)]
    # A fifth of an epoch more than the tenth of the run is not worth a stem of its own.
    wider = [Prefix({}, plan([1.0] * same + [0.5] * (90 - same), ["."] * 90)) for same in (90, 40, 44, 50, 7)]
    assert tree(wider) == [(None, 0), (0, 40), (0, 44), (0, 50), (None, 0)]


# -- what acts outside the plan --------------------------------------------------------------------------


class Halving(Trick):
    """The rate is halved after `after` steps."""

    after: int = 24

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return 1.0 if progress.step < self.after else 0.5


class Fading(Trick):
    """A loss that depends on where the run ends."""

    @hookimpl(wrapper=True)
    def loss(self, step: Step) -> Generator[None, torch.Tensor, torch.Tensor]:
        loss = yield
        return loss * (1 - step.progress.fraction / 2)


@pytest.mark.parametrize("name", every.CASES)
def test_a_loss_that_does_not_look_ahead_is_the_same_in_a_longer_run(name: str) -> None:
    trick = installed().get(name)(**every.CASES[name].values)
    if {"loss", "regularize"} & set(recipe_hooks(trick)) and not looks_ahead(trick):
        short, long = (every.train(every.bound(every.recipe(name, epochs=epochs)), steps=4) for epochs in (1, 3))
        assert short == long
    # Only what the plan holds may differ between runs that share their steps; the rest of a trick only checks.
    assert not (acts_by_plan(trick) and set(recipe_hooks(trick)) & {"data", "build", "loss", "regularize"})


def recipe_hooks(trick: Trick) -> tuple[str, ...]:
    stack = Recipe(tricks=[trick]).stack()
    return tuple(hook for hook in HOOKS if stack.implementing(hook))


BASE = (Halving(after=30), "label_smoothing")
NEAR_MISSES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "another seed": (BASE, {"seed": 1}),
    "another seed for dropout alone": (BASE, {"dropout_seed": 1}),
    "another clip": (BASE, {"clip": 0.5}),
    "another optimizer setting": (BASE, {"betas": (0.9, 0.99)}),
    "another evaluation interval": (BASE, {"evaluate": 3}),
    "another batch size": (BASE, {"batch_size": 5}),
    "another base rate": (BASE, {"learning_rate": 2e-2}),
    "another rate at one step": ((Halving(after=23), "label_smoothing"), {}),
    "frozen at one step": ((*BASE, {"two_stage": {"epochs": 0.125, "lr_factor": 1.0}}), {}),
    "no trick in the loss": (BASE[:1], {}),
    "another trick in the loss": ((BASE[0], "mse"), {}),
    "another value of it": ((BASE[0], {"label_smoothing": {"smoothing": 0.2}}), {}),
    "one more penalty": ((*BASE, "l2"), {}),
    "another dropout": ((*BASE, {"dropout": {"p": 0.3}}), {}),
    "another weight decay": ((*BASE, "weight_decay"), {}),
    "another start": ((*BASE, "kaiming"), {}),
    "fewer examples": ((*BASE, {"few_shot": {"fraction": 0.5}}), {"epochs": 12}),
}


@pytest.fixture(scope="module")
def stem(folder: Path, task: Task) -> Prefix:
    return prefix_of(recipe_in(folder, *BASE), task)


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_a_near_miss_is_refused(name: str, stem: Prefix, folder: Path, task: Task) -> None:
    tricks, training = NEAR_MISSES[name]
    other = prefix_of(recipe_in(folder, *tricks, **training), task)
    assert stem.shared(other) < 24
    with pytest.raises(CheckpointError, match="another by step 24"):
        other.check(stem.identity(24), 24)


def test_what_agrees_is_taken_and_another_source_of_a_trick_is_not(
    folder: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    stem = prefix_of(recipe_in(folder, *BASE), task).identity(24)
    other = recipe_in(folder, Halving(after=24), "label_smoothing", epochs=5)
    assert prefix_of(recipe_in(folder, *BASE), task).shared(prefix_of(other, task)) == 24
    prefix_of(other, task).check(json.loads(json.dumps(stem)), 24)
    with pytest.raises(CheckpointError, match="says nothing of what it has in common"):
        prefix_of(other, task).check(None, 24)
    with pytest.raises(CheckpointError, match="leaves this one, of 40, nothing to do"):
        prefix_of(other, task).check(stem, 40)
    kept = provenance.hash_of_trick
    monkeypatch.setattr(provenance, "hash_of_trick", lambda kind: kept(kind) + "edited" * (kind is not Halving))
    provenance._source.cache_clear()
    with pytest.raises(CheckpointError, match="another by step 24: recipe"):
        prefix_of(other, task).check(stem, 24)
    provenance._source.cache_clear()


def test_a_loss_that_looks_ahead_shares_nothing_with_another_length(folder: Path, task: Task) -> None:
    one, other = (recipe_in(folder, "constant", Fading(), epochs=epochs) for epochs in (3, 6))
    assert prefix_of(one, task).shared(prefix_of(other, task)) == 0
    assert prefix_of(one, task).shared(prefix_of(recipe_in(folder, Halving(after=20), Fading(), epochs=3), task)) == 20


def test_runs_that_decide_or_draw_from_the_global_state_share_nothing(folder: Path) -> None:
    assert unlike_any(recipe_in(folder, "early_stopping")) == "early_stopping decides while training"
    assert "global random state" in unlike_any(recipe_in(folder, streams="none"))
    assert not unlike_any(recipe_in(folder, "two_stage", "l2_sp"))


# -- going on --------------------------------------------------------------------------------------------


class Late(Trick):
    """Whatever the schedule gives, halved after `after` steps."""

    after: int = 9

    @hookimpl(wrapper=True)
    def schedule(self, progress: Progress) -> Generator[None, float, float]:
        factor = yield
        return factor if progress.step < self.after else factor / 2


@pytest.mark.parametrize("names", [names for names in every.together() if "predict_only" not in names], ids=" ".join)
def test_every_trick_goes_on_from_another_run(names: tuple[str, ...]) -> None:
    def bound(after: int, **how: Any) -> tuple[Session, Prefix]:
        given = every.recipe(*names)
        recipe = Recipe(tricks=[Late(after=after), *(trick for _, trick in given.tricks)], training=given.training)
        session = every.bound(recipe, *names, **how)
        return session, Prefix.of(recipe, session.plan, model=session.fingerprint())

    names = tuple(name for name in names if name != "early_stopping")  # it decides
    (first, of_first), (alone, of_alone) = bound(after=9), bound(after=7)
    step = of_first.shared(of_alone)
    assert step == 7
    every.train(first, steps=step)
    state = {**first.state_dict(), "prefix": of_first.identity(step)}
    other, _ = bound(after=7, init=False)
    other.branch(state, of_alone)
    assert every.same(every.final(other), every.final(alone))
    with pytest.raises(CheckpointError):
        bound(after=5)[0].branch(state, bound(after=5)[1])


def together(folder: Path, recipes: Sequence[Recipe], task: Task, **how: Any) -> list[Result]:
    """Run recipes that share what they can, in turn."""
    runs = [Prefix.of(recipe, plan) for recipe, plan in zip(recipes, plans_of(recipes, task), strict=True)]
    branches = tree(runs)
    results = []
    for index, recipe in enumerate(recipes):
        leaves = {step for parent, step in branches if parent == index}
        sharing = Sharing(folder / "stems", f"run {index}", "all", lambda *_, leaves=leaves: leaves)
        results.append(run(recipe, folder / str(index), task=task, resume=True, sharing=sharing, **how))
    return results


def assert_same(one: Path, other: Path, *, model: bool = True) -> None:
    """Two runs' folders agree in all but the time that they took, and where they branched."""
    for name in ("predictions/valid.csv", "predictions/test.csv", *(["model/model.safetensors"] if model else [])):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    lines = [(path / "metrics.jsonl").read_text().splitlines() for path in (one, other)]
    told = [[{**json.loads(line), "seconds": 0} for line in of] for of in lines]
    assert told[0] == told[1]
    results = [json.loads((path / "result.json").read_text()) for path in (one, other)]
    assert len({json.dumps({k: r[k] for k in ("valid", "test", "steps", "decisions")}) for r in results}) == 1


STUDIES: dict[str, tuple[list[tuple[Any, ...]], dict[str, Any], list[int]]] = {
    # A head stage of two and a half epochs, evaluated and parted within an epoch; an anchor that is remembered.
    "two_stage": (
        [({"two_stage": {"epochs": 2.5, "lr_factor": factor}}, "l2_sp", "stlr") for factor in (0.1, 0.3)],
        {"epochs": 3, "evaluate": 3, "accumulation": 2, "batch_size": 2},
        [0, 20],
    ),
    "siatl": (
        [({"sequential_unfreezing": {"n": n, "k": k}}, "auxiliary_lm") for n, k in ((2, 4), (3, 4), (3, 5))],
        {"epochs": 5, "optimizer": "sgd", "momentum": 0.9},
        [0, 8, 24],
    ),
    "decays": (
        [({"multistep_decay": {"milestones": [3], "gamma": gamma}},) for gamma in (0.5, 0.1)],
        {"epochs": 4, "clip": 0.1},
        [0, 24],
    ),
    "lengths": ([(), ()], {}, [0, 15]),
}


@pytest.mark.parametrize("name", STUDIES)
def test_runs_that_share_their_steps_come_to_what_they_come_to_alone(
    name: str, folder: Path, task: Task, tmp_path: Path
) -> None:
    tricks, training, steps = STUDIES[name]
    epochs = [2, 3] if name == "lengths" else [training["epochs"]] * len(tricks)
    recipes = [
        recipe_in(folder, *those, **{**training, "epochs": of}) for those, of in zip(tricks, epochs, strict=True)
    ]
    shared = together(tmp_path / "shared", recipes, task)
    assert [0 if result.branched is None else result.branched["step"] for result in shared] == steps
    for index, recipe in enumerate(recipes):
        run(recipe, tmp_path / "alone" / str(index), task=task)
        assert_same(tmp_path / "alone" / str(index), tmp_path / "shared" / str(index))
    written = json.loads((tmp_path / "shared" / "1" / "result.json").read_text())
    assert written["branched"] == shared[1].branched
    assert shared[1].branched is not None
    assert shared[1].branched["stem"] == "run 0"
    last = json.loads((tmp_path / "shared" / "1" / "metrics.jsonl").read_text().splitlines()[-1])
    # What others did is among the run's time up to here, and not among what it took itself.
    assert shared[1].seconds + shared[1].branched["seconds"] >= last["seconds"]
    assert shared[1].branched["seconds"] < last["seconds"]


def test_a_run_that_branched_and_was_interrupted_goes_on(folder: Path, task: Task, tmp_path: Path) -> None:
    recipes = [recipe_in(folder, Halving(after=after), epochs=4, checkpoint=2) for after in (30, 20)]

    def interrupted(step: int, total: int, metrics: object) -> None:
        if step == 27 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise KeyboardInterrupt

    first, second = recipes
    leaves = Sharing(tmp_path / "stems", "first", "all", lambda *_: {20})
    run(first, tmp_path / "first", task=task, sharing=leaves)
    goes_on = Sharing(tmp_path / "stems", "second", "all", lambda *_: ())
    with pytest.raises(KeyboardInterrupt):
        run(second, tmp_path / "second", task=task, sharing=goes_on, on_progress=interrupted)
    saved = RunFolder(tmp_path / "second").checkpoints.steps()
    assert saved == [24, 26]
    result = run(second, tmp_path / "second", task=task, resume=True, sharing=goes_on)  # its own is further on
    assert (result.branched or {})["step"] == 20
    run(second, tmp_path / "alone", task=task)
    assert_same(tmp_path / "alone", tmp_path / "second")


def test_a_damaged_stem_and_one_under_a_wrong_name_are_not_gone_on_from(
    folder: Path, task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, other = (recipe_in(folder, Halving(after=16), epochs=3, seed=seed) for seed in (0, 1))
    for seed, one in enumerate((recipe, other)):
        leaves = Sharing(tmp_path / "stems", f"seed {seed}", "all", lambda *_: {8, 16})
        run(one, tmp_path / f"seed {seed}", task=task, sharing=leaves)
    names = {}
    for path in (tmp_path / "stems").iterdir():
        names[torch.load(next(path.glob("step-*")) / "state.pt", weights_only=True)["from"], path.name[:8]] = path
    assert len(names) == 4
    # The first one's at step 16 is the other's under its name, and that at step 8 is torn.
    mine = names["seed 0", "00000016"]
    shutil.rmtree(mine)
    names["seed 1", "00000016"].rename(mine)
    weights = next(names["seed 0", "00000008"].glob("step-*")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    goes_on = Sharing(tmp_path / "stems", "late", "all", lambda *_: ())
    result = run(recipe, tmp_path / "late", task=task, sharing=goes_on)
    assert result.branched is None
    assert "another by step 16: recipe" in caplog.text
    assert "model.safetensors differs from the manifest" in caplog.text
    assert_same(tmp_path / "seed 0", tmp_path / "late")
    assert not mine.exists()


def test_what_cannot_be_left_for_others_costs_a_run_nothing(
    folder: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    recipe = recipe_in(folder, Halving(after=8), epochs=2)
    run(recipe, tmp_path / "alone", task=task)
    monkeypatch.setattr(Stems, "save", full)
    leaves = Sharing(tmp_path / "stems", "first", "all", lambda *_: {8})
    run(recipe, tmp_path / "shared", task=task, sharing=leaves)
    assert "step 8 is not left for other runs: [Errno 28] no space left" in caplog.text
    assert_same(tmp_path / "alone", tmp_path / "shared")


def test_weights_that_are_trained_before_the_first_step_are_made_once(
    folder: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    train = GreedyPretraining._train

    def counting(*arguments: Any) -> None:
        nonlocal made
        made += 1
        train(*arguments)

    monkeypatch.setattr(GreedyPretraining, "_train", counting)
    recipes = [
        recipe_in(folder, {"greedy_pretraining": {"epochs": 1}}, *tricks, epochs=1, **training)
        for tricks, training in (((), {}), (("mse",), {"learning_rate": 1e-3}), (("linear_decay",), {"clip": 0.1}))
    ]
    for index, recipe in enumerate(recipes):
        sharing = Sharing(start=tmp_path / "start", start_binds="all")
        run(recipe, tmp_path / "shared" / str(index), task=task, sharing=sharing)
    assert made == 2  # blocks
    for index, recipe in enumerate(recipes):
        run(recipe, tmp_path / "alone" / str(index), task=task)
        assert_same(tmp_path / "alone" / str(index), tmp_path / "shared" / str(index))
    assert made == 2 + 3 * 2
    others = [recipe_in(folder, {"greedy_pretraining": {"epochs": 1, "strength": 0.1}}, epochs=1)]
    others += [recipe_in(folder, {"greedy_pretraining": {"epochs": 1}}, epochs=1, seed=1)]
    for index, other in enumerate(others):
        sharing = Sharing(start=tmp_path / "start", start_binds="all")
        run(other, tmp_path / "other" / str(index), task=task, sharing=sharing)
    assert made == 2 + 3 * 2 + 2 * 2  # neither was taken for the weights that are there

"""Every trick, and random recipes of several: a run that is killed and resumed equals one that was left alone."""

from __future__ import annotations

import functools
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import every
import killing
from every import CASES
from finetricks import Recipe, installed
from finetricks.checkpoint import MANIFEST, STATE, WEIGHTS, Checkpoints
from finetricks.stack import conflicts
from killing import Kind, Place

KILLS = 2
RECIPES, RECIPES_AT_NIGHT = 16, 240

Record = Callable[[str, object], None]
SETTINGS = {"evaluate": 2, "checkpoint": 2}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    killing.warm_up()


# -- a recipe and its tricks -----------------------------------------------------------------------------


def recipe(*names: str, **settings: Any) -> Recipe:
    return every.recipe(*names, **SETTINGS | settings)


UNTRAINED = {
    "activation",
    "bi_attention",
    "concat_pooling",
    "embedding_uniform",
    "feature_based",
    "further_pretraining",
    "glorot_normal",
    "greedy_pretraining",
    "hierarchical",
    "kaiming",
    "layer_pooling",
    "lstm_forget_bias",
    "lstm_orthogonal",
    "output_layer_norm",
    "predict_only",
    "task_layers",
}
"""What changes the weights before a step is done."""
LATER = {"cosine_restarts", "exponential_decay", "multistep_decay", "step_decay"}
"""What changes nothing in the first epoch."""
FREEZING = {"chain_thaw", "feature_based", "gradual_unfreezing", "last_layer", "sequential_unfreezing", "two_stage"}

HIGH = {"feature_based", "gradual_unfreezing", "last_layer"}
"""Beside which the lower layers do not thaw in two epochs."""


def idle(name: str, names: Sequence[str]) -> str | None:
    """Why a trick may leave the weights as they are beside these; `None` when it must change them."""
    if name == "full":
        return "it says no more than the default does"
    if "predict_only" in names and name not in UNTRAINED:
        return "nothing is trained"
    if "early_stopping" in names and name in LATER:
        return "the run may have stopped before it says anything"
    if name in {"discriminative_lr", "layerwise_lr_decay"} and HIGH & {*names}:
        return "only layers at the base rate train"
    if name in FREEZING and FREEZING & {*names} - {name}:
        return "another freezes all that it would"
    alone = name != "auto_freeze" or len(names) == 1
    return None if alone else "beside others it may find nothing that has stopped learning"


@functools.cache
def without_tricks(model: tuple[str, ...], pairs: bool, long: bool) -> dict[str, bytes]:
    """What is left of a run without tricks on a model and data."""
    names = next(n for n in CASES if (CASES[n].models, CASES[n].pairs, CASES[n].long) == (model, pairs, long))
    with tempfile.TemporaryDirectory() as folder:
        return killing.left_alone(recipe(), (names,), Path(folder) / "run")


@dataclass(frozen=True)
class Run:
    """A run that was left alone: of which tricks and settings, which places it passed, and what it left."""

    names: tuple[str, ...]
    settings: dict[str, Any]
    places: list[Place]
    left: dict[str, Any]

    @property
    def kinds(self) -> list[Kind]:
        return sorted({place.kind for place in self.places}, key=str)

    @property
    def recipe(self) -> Recipe:
        return recipe(*self.names, **self.settings)

    def without(self, name: str, folder: Path) -> dict[str, bytes]:
        """The model that is left of a run of the other tricks, on the model and the data of all."""
        if self.names == (name,) and not self.settings:
            case = CASES[name]
            return without_tricks(case.models, case.pairs, case.long)
        others = [other for other in self.names if other != name]
        try:
            return killing.left_alone(recipe(*others, **self.settings), self.names, folder)
        except AssertionError as error:  # another trick needs what this one builds: an LSTM, say
            if "finetricks.errors.InputError" in str(error):
                return {}
            raise


def left_alone(names: tuple[str, ...], folder: Path, record: Record, **settings: Any) -> Run:
    """A run that goes to its end, once it is sure that each of its tricks changed the weights."""
    whole = folder / "whole"
    places = killing.whole(recipe(*names, **settings), names, whole)
    run = Run(names, settings, places, killing.state(whole))
    acting = [name for name in names if run.without(name, folder / f"without {name}") != run.left["model"]]
    unexcused = [name for name in names if name not in acting and idle(name, names) is None]
    assert not unexcused, f"of {', '.join(names)} these changed nothing: {', '.join(unexcused)}"
    record("tricks that changed the weights", len(acting))
    record("tricks that could not, for a reason", len(names) - len(acting))
    return run


def survives(run: Run, kinds: Sequence[Kind], folder: Path, draw: random.Random, record: Record) -> None:
    """Killed once at a place of each kind, it ends as the run that was left alone, bit for bit."""
    for number, chain in enumerate(killing.in_turn(run.places, kinds, draw)):
        disturbed = folder / str(number)
        for place in chain:
            assert killing.killed(run.recipe, run.names, disturbed, place), f"never came to {place}"
        killing.resumed(run.recipe, run.names, disturbed)
        assert killing.differences(killing.state(disturbed), run.left) == []
        record("bytes compared", killing.size(run.left))
    for kind, count in Counter(kinds).items():
        record(f"killed: {kind}", count)
    record("survived kills", len(kinds))
    record("recipes killed", 1)


# -- every trick -----------------------------------------------------------------------------------------

STAGES: dict[str, set[str]] = {
    "auto_freeze": {"frozen", "training"},
    "chain_thaw": {"frozen", "just thawed"},
    "feature_based": {"frozen"},
    "further_pretraining": {"pretraining", "training"},
    "gradual_unfreezing": {"frozen", "just thawed"},
    "greedy_pretraining": {"pretraining", "training"},
    "last_layer": {"frozen"},
    "predict_only": {"frozen"},
    "sequential_unfreezing": {"frozen", "just thawed", "training"},
    "two_stage": {"frozen", "just thawed", "training"},
}
"""Through which stages each trick's run goes at the values of its case, where it is more than plain training."""
WHAT = {"step", "evaluation", "writing", "checkpoint", "torn"}


def some_of(kinds: Sequence[Kind], draw: random.Random) -> list[Kind]:
    """One of each stage, one in an evaluation and one in the middle of a file, where there are such."""
    chosen: list[Kind] = []
    wanted = [("stage", stage) for stage in sorted({kind.stage for kind in kinds})]
    for attribute, value in [*wanted, ("what", "evaluation"), ("what", "torn")]:
        fitting = [kind for kind in kinds if getattr(kind, attribute) == value]
        if fitting and not any(kind in chosen for kind in fitting):
            chosen.append(draw.choice(fitting))
    return chosen


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["", "everywhere"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_a_trick_survives_a_kill_in_each_of_its_stages(
    name: str, everywhere: bool, tmp_path: Path, record_property: Record
) -> None:
    run = left_alone((name,), tmp_path, record_property)
    trains = name != "predict_only"
    assert {kind.what for kind in run.kinds} == (WHAT if trains else {"evaluation", "writing"})
    draw = random.Random(name)
    killed = run.kinds if everywhere else some_of(run.kinds, draw)
    assert {kind.stage for kind in killed} == STAGES.get(name, {"training"})
    assert {kind.what for kind in killed} >= ({"evaluation", "torn"} if trains else {"evaluation"})
    survives(run, killed, tmp_path, draw, record_property)


def test_every_stage_and_every_kind_of_place_is_some_tricks() -> None:
    assert set(STAGES) < set(CASES)
    assert set.union(*STAGES.values()) == {"pretraining", "frozen", "just thawed", "training"}


HEADS = {"bi_attention", "concat_pooling", "feature_based", "hierarchical", "layer_pooling", "output_layer_norm"}
"""What builds a head of its own on the encoder."""


# -- recipes at random -----------------------------------------------------------------------------------


def has_what_it_needs(names: tuple[str, ...], models: set[str]) -> bool:
    """Whether an LSTM is left for those that want one: what rebuilds the head of an encoder may take it away."""
    if "lstm" in models or not {"lstm_forget_bias", "lstm_orthogonal"} & {*names}:
        return True
    return "task_layers" in names or not {name for name in names if name in HEADS}


def random_recipe(draw: random.Random) -> tuple[tuple[str, ...], dict[str, Any]]:
    while True:
        names = tuple(draw.sample(sorted(CASES), draw.randint(2, 5)))
        models = set.intersection(*(set(CASES[name].models) for name in names))
        tricks = [(name, installed().get(name)(**every.values_of(name, *names))) for name in names]
        if models and not conflicts(tricks) and has_what_it_needs(names, models):
            break
    return names, {
        "evaluate": draw.choice([2, 3, "epoch"]),
        "checkpoint": draw.choice([1, 2, 3, "epoch"]),
        "accumulation": draw.choice([1, 1, 2]),
        "optimizer": draw.choice(["adamw", "adamw", "sgd"]),
        "streams": draw.choice(["derived", "derived", "none"]),
    }


NUMBERS = [
    pytest.param(number, marks=[pytest.mark.nightly] if number >= RECIPES else []) for number in range(RECIPES_AT_NIGHT)
]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_random_recipe_survives_kills_one_after_another(number: int, tmp_path: Path, record_property: Record) -> None:
    draw = random.Random(number)
    names, settings = random_recipe(draw)
    run = left_alone(names, tmp_path, record_property, **settings)
    survives(run, draw.sample(run.kinds, KILLS), tmp_path, draw, record_property)


# -- the harness itself ----------------------------------------------------------------------------------


def test_a_torn_file_has_half_its_bytes_and_the_checkpoint_before_is_whole(tmp_path: Path) -> None:
    of, names = recipe(), ("stlr",)
    places = killing.whole(of, names, tmp_path / "whole")
    sizes = []
    torn = [place for place in places if place.kind.what == "torn" and place.step == 4]
    assert len(torn) == 3
    for place in torn:
        run = tmp_path / str(place.number)
        assert killing.killed(of, names, run, place)
        (partial,) = (run / "checkpoints").glob(".step-00000004.partial")
        sizes.append({path.name: path.stat().st_size for path in partial.iterdir()})
        assert Checkpoints(run / "checkpoints").newest()["global_step"] == 2
    weights, state, manifest = sizes
    assert weights == {WEIGHTS: state[WEIGHTS] // 2}
    assert state == {WEIGHTS: state[WEIGHTS], STATE: pytest.approx(manifest[STATE] / 2, abs=200)}
    assert manifest == {WEIGHTS: state[WEIGHTS], STATE: manifest[STATE], MANIFEST: killing.PART_OF_MANIFEST}


def test_chains_come_to_every_kind_and_only_go_forward() -> None:
    rare, often, early = Kind("torn", "frozen"), Kind("step", "training"), Kind("step", "pretraining")
    places = [
        Place(early, -1, 0),
        Place(early, -1, 1),
        Place(rare, 3, 0),
        *(Place(often, step, 0) for step in range(9)),
    ]
    for seed in range(20):
        (chain,) = killing.in_turn(places, [often, rare, early], random.Random(seed))
        assert [place.kind for place in chain] == [early, rare, often]
        assert [place.step for place in chain] == sorted({place.step for place in chain})
    both = killing.in_turn(places, [rare, rare, Kind("torn", "frozen")], random.Random(0))
    assert both == [[Place(rare, 3, 0)]]


def test_what_differs_is_found_and_what_is_compared_is_counted() -> None:
    one = {"weights": torch.zeros(3), "metrics": [1.0, float("nan")], "file": b"abc"}
    assert killing.differences(one, {"weights": torch.zeros(3), "metrics": [1.0, float("nan")], "file": b"abc"}) == []
    other = {"weights": torch.tensor([0.0, -0.0, 0.0]), "metrics": [1.0, 2.0], "file": b"abd", "more": 1}
    found = ["/more: only in one", "/file", "/metrics/1", "/weights"]
    assert killing.differences(one, other) == found
    assert killing.size(one) == 12 + 16 + 3

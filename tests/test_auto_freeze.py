"""auto_freeze: the rule by hand, what it adds up, when it decides, and that all of it survives a resume."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import default_data_collator

import tiny
from finetricks import Layers, Progress, Recipe, Session, Stage, Trick, TrickTrainer, hookimpl, run
from finetricks.runner import plan_of
from finetricks_plugins.freeze.auto_freeze import AutoFreeze, change, first_to_train
from finetricks_plugins.freeze.gradual_unfreezing import GradualUnfreezing

NAMES = ("embeddings", "block.0", "block.1", "block.2", "head")
LAYERS = Layers(names=NAMES, parameters={name: (f"{name}.w", f"{name}.b") for name in NAMES}, modules={})
START = "auto_freeze: train from "


# -- the rule --------------------------------------------------------------------------------------------


def test_a_change_is_relative_to_the_interval_before() -> None:
    assert change(4.0, 3.0) == change(4.0, 5.0) == 0.25
    assert change(0.0, 0.0) == 0.0
    assert change(0.0, 1e-9) == sys.float_info.max


@pytest.mark.parametrize(
    ("now", "percentile", "first"),
    [
        # before 10 each; changes 0.1, 0.2, 0.4, 0.3: sorted 0.1 0.2 0.3 0.4, median 0.25
        ([11, 12, 14, 13], 50, "c"),
        ([9, 8, 6, 7], 50, "c"),  # a gradient that grows or falls is the same change
        ([11, 12, 14, 13], 25, "b"),  # 25th: 0.1 + 0.75 * 0.1 = 0.175
        ([11, 12, 14, 13], 0, "a"),
        ([11, 12, 13, 14], 100, "d"),
        ([14, 11, 11, 11], 50, "a"),  # the lowest still changes: nothing freezes
        ([11, 11, 11, 11], 50, "a"),  # all alike: the first is at the median
        ([11, 11, 14, 10], 50, "a"),  # 0.1, 0.1, 0.4, 0: median 0.1
        ([10, 10, 10, 14], 80, "d"),  # 80th: 0 + 0.4 * 0.4 = 0.16; the last one never freezes
    ],
)
def test_training_goes_on_from_the_first_block_at_the_percentile(now, percentile, first) -> None:
    before = dict.fromkeys("abcd", 10.0)
    assert first_to_train(before, dict(zip("abcd", map(float, now), strict=True)), percentile) == first


def test_a_block_that_had_no_gradient_before_is_no_reason_to_fail() -> None:
    assert first_to_train({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 2.0}, 50) == "b"


def gradients(**of: float) -> dict[str, torch.Tensor]:
    """Two tensors of each layer that is named: `w` [2] holds the value and its negative, `b` [1] the value."""
    given = {}
    for name, value in of.items():
        layer = name.replace("_", ".")
        given |= {f"{layer}.w": torch.tensor([value, -value]), f"{layer}.b": torch.tensor([value])}
    return given


def decided(trick: AutoFreeze, steps: list[dict[str, torch.Tensor]], total: int) -> tuple[dict[str, int], Any]:
    """What it decides, as the session would record it, and what it remembers."""
    state: dict[str, Any] = {}
    decisions: dict[str, int] = {}
    for step, given in enumerate(steps):
        frozen = trick.freeze(Progress(step, total, total, decisions=decisions), LAYERS)
        progress = Progress(step, total, total, Stage(0, 0, total, frozenset(frozen)), decisions)
        if word := trick.after_backward(given, LAYERS, progress, state):
            decisions[word] = step + 1
    return decisions, state


def test_it_sums_an_interval_and_compares_it_with_the_one_before() -> None:
    # Intervals of 2 steps. G is 3 |sum|, for w has two values. First: 3 * (2, 2, 2).
    first = [gradients(block_0=1, block_1=1, block_2=1)] * 2
    # The sums are 2.2, 3 and 1, not those of the absolute values: r = 0.1, 0.5, 0.5, median 0.5
    second = [gradients(block_0=3.2, block_1=1, block_2=-1), gradients(block_0=-1, block_1=2, block_2=2)]
    found, state = decided(AutoFreeze(intervals=4), first + second, total=8)
    assert found == {f"{START}block.1": 4}
    assert state["before"] == pytest.approx({"block.1": 9.0, "block.2": 3.0})
    assert sorted(state["sums"]) == ["block.1.b", "block.1.w", "block.2.b", "block.2.w"]
    # Third, of the two that are left: r = 1/9 and 2, the median 1.06: the last block is never frozen.
    third = [gradients(block_1=2, block_2=1), gradients(block_1=4 / 3, block_2=2)]
    found, state = decided(AutoFreeze(intervals=4), first + second + third, total=8)
    assert found == {f"{START}block.1": 4, f"{START}block.2": 6}
    # With one block left there is nothing to sum any more.
    _, state = decided(AutoFreeze(intervals=4), [*first, *second, *third, gradients(block_2=1)], total=8)
    assert state == {}


def test_what_is_decided_freezes_all_that_lies_below_from_that_step_on() -> None:
    decisions = {f"{START}block.1": 4, f"{START}block.2": 6}
    frozen = [len(AutoFreeze().freeze(Progress(s, 8, 8, decisions=decisions), LAYERS)) for s in range(8)]
    assert frozen == [0, 0, 0, 0, 2, 2, 3, 3]


def test_the_rest_of_a_run_and_its_last_step_decide_nothing() -> None:
    one, other = gradients(block_0=1, block_1=1, block_2=1), gradients(block_0=1, block_1=2, block_2=2)
    assert decided(AutoFreeze(intervals=3), [one, one, other, other], total=6)[0] == {f"{START}block.1": 4}
    assert decided(AutoFreeze(intervals=3), [one, one, one, one, other, other], total=6)[0] == {}


def test_an_interval_in_which_another_trick_froze_a_block_is_left_out() -> None:
    trick, state = AutoFreeze(intervals=6), dict[str, Any]()
    one, other = gradients(block_0=1, block_1=1, block_2=1), gradients(block_0=1, block_1=2, block_2=2)
    words = []
    for step, (given, frozen) in enumerate([(one, ()), (other, ("block.0",)), (one, ()), (other, ()), (one, ())]):
        stage = Stage(0, 0, 6, frozenset(frozen))
        words.append(trick.after_backward(given, LAYERS, Progress(step, 6, 6, stage), state))
    assert words == [None, None, None, f"{START}block.1", None]


def test_at_percentile_0_it_remembers_nothing() -> None:
    assert decided(AutoFreeze(percentile=0.0), [gradients(block_0=1, block_1=1)] * 3, total=3) == ({}, {})


# -- in a run --------------------------------------------------------------------------------------------


def bound(*tricks: Trick, epochs: int = 4, **options: Any) -> Session:
    training = {name: options.pop(name) for name in ("clip", "accumulation") if name in options}
    return tiny.recipe(*tricks, epochs=epochs, **training).bind(tiny.bert(), tiny.loader(), **options)


def test_the_session_freezes_what_was_decided_and_the_optimizer_keeps_its_moments() -> None:
    session = bound(AutoFreeze(intervals=6))
    assert session.plan.deciders == ("auto_freeze",)
    assert session.plan.judges == ()
    assert not session.plan.freezes
    assert any("auto_freeze decides while training, from gradients" in told for told in session.plan.warnings())
    assert session.plan.to_dict()["decided_while_training"] == ["auto_freeze"]
    tiny.train(session)
    step = min(session.plan.decisions.values())
    assert step % 4 == 0
    frozen = session.plan.stage_at(step).frozen
    assert "embeddings" in frozen
    assert session.plan.stage_at(step - 1).frozen == frozenset()
    moments = {
        layer: session.optimizer.state[session.model.get_parameter(session.layers.parameters[layer][0])]["step"]
        for layer in ("embeddings", "head")
    }
    assert moments == {"embeddings": step, "head": 24}


def test_a_decision_keeps_what_the_steps_before_it_did() -> None:
    alone, with_it = bound(), bound(AutoFreeze(intervals=6))
    losses, other = tiny.train(alone), tiny.train(with_it)
    step = min(with_it.plan.decisions.values())
    assert other[:step] == losses[:step]
    assert other[step] != losses[step]  # what is frozen has no dropout


@pytest.mark.parametrize("at", [3, 8, 9, 13])  # within an interval of 4, at the decision, after it
def test_resume_within_an_interval_is_exact(at: int, tmp_path: Path) -> None:
    whole, first = bound(AutoFreeze(intervals=6)), bound(AutoFreeze(intervals=6))
    tiny.train(whole)
    tiny.train(first, steps=at)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = bound(AutoFreeze(intervals=6), init=False)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    tiny.train(second)
    assert second.plan.decisions == whole.plan.decisions
    assert tiny.equal(second.model, whole.model)


def test_what_is_resumed_does_not_share_what_is_remembered() -> None:
    first = bound(AutoFreeze(intervals=6))
    tiny.train(first, steps=2)
    state = first.state_dict()
    second = bound(AutoFreeze(intervals=6), init=False)
    second.load_state_dict(state)
    before = {name: total.clone() for name, total in first.state["auto_freeze"]["sums"].items()}
    tiny.train(second, steps=3)
    assert all(torch.equal(total, before[name]) for name, total in first.state["auto_freeze"]["sums"].items())


def test_it_waits_until_other_tricks_have_thawed_everything() -> None:
    session = bound(AutoFreeze(intervals=12), GradualUnfreezing(stages=[1]), epochs=4)
    tiny.train(session)
    assert min(session.plan.decisions.values()) >= 6 + 2 * 2


def trainer_of(recipe: Recipe, folder: Path, **args: Any) -> TrickTrainer:
    quiet = {"disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "logging_strategy": "no"}
    return TrickTrainer(
        recipe=recipe,
        model=tiny.bert(),
        args=recipe.training_arguments(folder, **(quiet | args)),
        train_dataset=tiny.rows(),
        data_collator=default_data_collator,
    )


@pytest.mark.parametrize("training", [{"accumulation": 2}, {"clip": 0.0}], ids=str)
def test_the_trainer_decides_as_the_session_does(training: dict[str, Any], tmp_path: Path) -> None:
    recipe = tiny.recipe(AutoFreeze(intervals=12), epochs=3, **training)
    session = recipe.bind(tiny.bert(), tiny.loader())
    tiny.train(session)
    trainer = trainer_of(recipe, tmp_path)
    trainer.train()
    assert trainer.session is not None
    assert trainer.session.plan.decisions == session.plan.decisions != {}
    assert trainer.held_out is None
    for name, value in trainer.model.state_dict().items():
        assert torch.allclose(value, session.model.state_dict()[name], atol=1e-6), name


def test_the_trainer_resumes_within_an_interval(tmp_path: Path) -> None:
    recipe = tiny.recipe(AutoFreeze(intervals=6), epochs=4)
    saving = {"save_strategy": "steps", "save_steps": 6}
    whole, resumed = (trainer_of(recipe, tmp_path, **saving) for _ in range(2))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert resumed.session.plan.decisions == whole.session.plan.decisions != {}
    assert tiny.equal(resumed.model, whole.model)


def test_a_run_holds_nothing_out_and_records_the_decisions(tmp_path: Path) -> None:
    folder = tiny.write_task(tmp_path)
    data = {"train": str(folder / "train.csv"), "valid": 0.25}
    training = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "threads": 1}
    recipe = Recipe(model=str(folder / "model"), data=data, training=training, tricks=[AutoFreeze(intervals=4)])
    assert plan_of(recipe).total_steps == 4 * 6  # 45 rows, none held out
    result = run(recipe, tmp_path / "run")
    assert set(result.decisions) == {f"{START}block.1"}
    step = result.decisions[f"{START}block.1"]
    assert step in (12, 18)  # intervals of 6 steps, the first decision after two
    recorded = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [bool(line["frozen"]) for line in recorded] == [line["step"] > step for line in recorded]
    assert [line["decisions"] for line in recorded] == [{}] * (step // 6 - 1) + [result.decisions] * (5 - step // 6)
    assert any("auto_freeze decides while training" in note for note in result.notes)


# -- the hook --------------------------------------------------------------------------------------------

SEEN: list[tuple[int, float]] = []


class Watches(Trick):
    """Notes the norm of each step's gradient."""

    @hookimpl
    def after_backward(self, gradients: dict[str, torch.Tensor], progress: Progress) -> None:
        SEEN.append((progress.step, float(torch.nn.utils.get_total_norm(gradients.values()))))


class Masks(Trick):
    """Takes the classifier's gradient away."""

    @property
    def decides(self) -> bool:
        return False

    @hookimpl
    def after_backward(self, gradients: dict[str, torch.Tensor]) -> None:
        gradients["classifier.weight"].zero_()


class Spoils(Trick):
    """Makes a step's gradient infinite."""

    at: int = 1

    @hookimpl
    def regularize(self, model: torch.nn.Module, step: Any) -> torch.Tensor | None:
        return model.classifier.bias.sum() * float("inf") if step.progress.step == self.at else None


@pytest.mark.parametrize("in_trainer", [False, True])
def test_it_sees_the_whole_gradient_before_it_is_clipped(in_trainer: bool, tmp_path: Path) -> None:
    SEEN.clear()
    recipe = tiny.recipe(Watches(), epochs=1, accumulation=2, clip=1e-3)
    if in_trainer:
        trainer_of(recipe, tmp_path).train()
    else:
        session = recipe.bind(tiny.bert(), tiny.loader())
        norms = []
        for batch in session.batches():
            session.backward(session.loss(batch))
            if session.step():
                norms.append(float(session.grad_norm))
        assert [norm for _, norm in SEEN] == norms
    assert [step for step, _ in SEEN] == [0, 1, 2]  # of 6 micro-batches
    assert all(norm > 1e-2 for _, norm in SEEN)


@pytest.mark.parametrize("in_trainer", [False, True])
def test_it_can_change_the_gradient_and_what_is_clipped_is_what_it_left(in_trainer: bool, tmp_path: Path) -> None:
    recipe = tiny.recipe(Masks(), epochs=1, clip=1e-3)
    if in_trainer:
        trainer = trainer_of(recipe, tmp_path)
        trainer.train()
        model, session = trainer.model, trainer.session
    else:
        session = recipe.bind(tiny.bert(), tiny.loader())
        tiny.train(session)
        model = session.model
    assert torch.equal(model.classifier.weight, tiny.bert().classifier.weight)
    assert not torch.equal(model.classifier.bias, tiny.bert().classifier.bias)
    assert session.plan.deciders == ()


@pytest.mark.parametrize("in_trainer", [False, True])
def test_a_step_that_is_not_finite_is_not_seen(in_trainer: bool, tmp_path: Path) -> None:
    SEEN.clear()
    recipe = tiny.recipe(Watches(), Spoils(), epochs=1, nonfinite_patience=1)
    if in_trainer:
        trainer_of(recipe, tmp_path).train()
    else:
        tiny.train(recipe.bind(tiny.bert(), tiny.loader()))
    assert [step for step, _ in SEEN] == [0, 2, 3, 4, 5]


class Stops(Trick):
    """Ends the run from what it saw."""

    @hookimpl
    def after_backward(self, progress: Progress) -> str | None:
        return "stop" if progress.step == 2 else None


def test_it_can_end_the_run(tmp_path: Path) -> None:
    recipe = tiny.recipe(Stops(), epochs=2)
    session = recipe.bind(tiny.bert(), tiny.loader())
    tiny.train(session)
    trainer = trainer_of(recipe, tmp_path)
    trainer.train()
    assert session.global_step == trainer.state.global_step == 3
    assert session.plan.decisions == trainer.session.plan.decisions == {"stop": 3}

"""Runs that diverge: recognised, nothing spoilt, stopped after a stated patience, and the same after a resume."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

import tiny
from finetricks import Diverged, Recipe, Step, Trick, TrickTrainer, hookimpl
from finetricks.distributed import Ranks
from finetricks.runner import run
from test_trainer import trainer_of


class Infinite(Trick):
    """The loss is infinite at some steps, and its gradient is what it was."""

    at: tuple[int, ...]

    @hookimpl
    def regularize(self, step: Step) -> torch.Tensor | None:
        return torch.tensor(math.inf) if step.progress.step in self.at else None


class _Spoilt(torch.autograd.Function):
    """The loss as it is, and a gradient that is no number."""

    @staticmethod
    def forward(context: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.nan


class NoGradient(Trick):
    """The gradient is no number at some steps, and the loss is finite."""

    at: tuple[int, ...]

    @hookimpl(wrapper=True)
    def loss(self, step: Step):
        loss = yield
        return _Spoilt.apply(loss) if step.progress.step in self.at else loss


WHAT = [(Infinite, "loss"), (NoGradient, "gradient")]


@pytest.mark.parametrize(("kind", "what"), WHAT)
@pytest.mark.parametrize("settings", [{}, {"clip": 0.0}, {"accumulation": 2}, {"optimizer": "sgd", "momentum": 0.9}])
def test_the_first_step_that_is_not_finite_changes_no_weight(kind: Any, what: str, settings: dict[str, Any]) -> None:
    session = tiny.recipe(kind(at=(2,)), **settings).bind(tiny.bert(), tiny.loader())
    tiny.train(session, steps=2)
    before = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
    with pytest.raises(Diverged, match=f"^diverged at step 2: the {what} is not finite") as diverged:
        tiny.train(session)
    assert diverged.value.step == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in session.model.state_dict().items())


@pytest.mark.parametrize(("kind", "what"), WHAT)
def test_patience_is_for_steps_in_a_row(kind: Any, what: str) -> None:
    lasting = tiny.recipe(kind(at=(1, 2, 4, 5, 6)), nonfinite_patience=2).bind(tiny.bert(), tiny.loader())
    with pytest.raises(Diverged, match=f"^diverged at step 4: the {what} is not finite, for 3 steps in a row"):
        tiny.train(lasting)
    assert lasting.global_step == 6
    assert vars(lasting.skipped) == {"in_a_row": 3, "total": 5}
    passing = tiny.recipe(kind(at=(1, 2, 4, 5)), nonfinite_patience=2).bind(tiny.bert(), tiny.loader())
    tiny.train(passing)
    assert passing.global_step == 12
    assert vars(passing.skipped) == {"in_a_row": 0, "total": 4}


class Masked(Trick):
    """Leaves no gradient at a step: what a skipped step comes to."""

    at: int

    @hookimpl(wrapper=True)
    def loss(self, step: Step):
        return (yield) * (math.nan if step.progress.step == self.at else 1.0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_skipped_step_leaves_weights_and_optimizer_and_the_schedule_goes_on(optimizer: str) -> None:
    session = tiny.recipe(Masked(at=3), tiny.Decay(), nonfinite_patience=1, optimizer=optimizer, momentum=0.9).bind(
        tiny.bert(), tiny.loader()
    )
    tiny.train(session, steps=3)
    weights = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
    moments = [
        {key: value.clone() for key, value in state.items() if value is not None}
        for state in session.optimizer.state.values()
    ]
    assert moments
    tiny.train(session, steps=4)
    assert all(torch.equal(weights[name], tensor) for name, tensor in session.model.state_dict().items())
    for state, before in zip(session.optimizer.state.values(), moments, strict=True):
        assert all(torch.equal(state[key], value) for key, value in before.items())
    assert [group["lr"] for group in session.optimizer.param_groups] == [
        session.plan.rate(group, 4) for group in session.plan.groups
    ]
    tiny.train(session)
    assert session.global_step == 12
    assert not all(torch.equal(weights[name], tensor) for name, tensor in session.model.state_dict().items())


def test_a_resumed_run_has_as_much_patience_left() -> None:
    recipe = tiny.recipe(Infinite(at=(2, 3, 4)), nonfinite_patience=2)
    first = recipe.bind(tiny.bert(), tiny.loader())
    tiny.train(first, steps=4)
    saved = first.state_dict()
    again = recipe.bind(tiny.bert(), tiny.loader())
    again.load_state_dict(saved)
    assert vars(again.skipped) == {"in_a_row": 2, "total": 2}
    with pytest.raises(Diverged, match="diverged at step 2: the loss is not finite, for 3 steps in a row"):
        tiny.train(again)


def test_a_finite_loss_and_its_gradient_are_carried_bit_for_bit() -> None:
    session = tiny.recipe().bind(tiny.bert(), tiny.loader())
    for value in (0.3, -7.25, 1e30, 1e-38, 0.0):
        x = torch.tensor(value, requires_grad=True)
        loss = session.carried(x * 3)
        loss.backward()
        assert loss.item() == (x * 3).item()
        assert x.grad.item() == 3.0


class SpoilsOne(Trick):
    """The gradient of one weight is no number at a step; those below it are finite."""

    at: int

    @hookimpl(wrapper=True)
    def loss(self, step: Step):
        loss = yield
        bias = step.model.classifier.bias
        return loss + 0 * _Spoilt.apply(bias.sum()) if step.progress.step == self.at else loss


def test_without_clipping_any_gradient_tells() -> None:
    session = tiny.recipe(SpoilsOne(at=2), clip=0.0).bind(tiny.bert(), tiny.loader())
    with pytest.raises(Diverged, match="diverged at step 2: the gradient is not finite"):
        tiny.train(session)
    assert session.model.classifier.bias.isfinite().all()


def test_the_optimizer_is_not_asked_to_do_a_step_that_is_skipped() -> None:
    steps: list[int] = []
    session = tiny.recipe(Infinite(at=(1,)), nonfinite_patience=1).bind(tiny.bert(), tiny.loader())
    session.optimizer.register_step_pre_hook(lambda *_: steps.append(session.global_step))
    tiny.train(session, steps=3)
    assert steps == [0, 2]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_session_that_has_diverged_can_go_back_to_a_checkpoint(precision: str) -> None:
    recipe = tiny.recipe(Infinite(at=(3,)), accumulation=2, precision=precision)
    session = recipe.bind(tiny.bert(), tiny.loader())
    tiny.train(session, steps=2)
    saved = copy.deepcopy(session.state_dict())
    for _ in range(2):
        with pytest.raises(Diverged, match="diverged at step 3"):
            tiny.train(session)
        assert all(parameter.grad is None for parameter in session.model.parameters())
        session.state_dict()  # between steps
        session.load_state_dict(copy.deepcopy(saved))  # an optimizer takes up the tensors that it is given
    tiny.train(session, steps=3)
    straight = recipe.bind(tiny.bert(), tiny.loader())
    tiny.train(straight, steps=3)
    assert tiny.equal(session.model, straight.model)


def test_a_weight_that_is_infinite_by_design_is_no_divergence() -> None:
    model = tiny.bert()
    model.bert.embeddings.mask = torch.nn.Parameter(torch.tensor([0.0, -math.inf]), requires_grad=False)
    session = tiny.recipe().bind(model, tiny.loader())
    session.check_weights()
    model.classifier.bias.data[0] = math.nan
    with pytest.raises(Diverged, match="weight classifier.bias"):
        session.check_weights()


# -- a run in a folder ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def recipe_in(task: Path, *tricks: Trick, **training: Any) -> Recipe:
    settings = {"epochs": 3, "batch_size": 15, "learning_rate": 1e-3, "checkpoint": 1, "evaluate": 2} | training
    return Recipe(
        model=str(task / "model"),
        data={"train": str(task / "train.csv"), "valid": 0.5},
        training=settings,
        tricks=tricks,
    )


def test_a_diverged_run_records_the_step_and_keeps_the_last_good_checkpoint(task: Path, tmp_path: Path) -> None:
    recipe = recipe_in(task, Infinite(at=(3,)))
    for _ in range(2):  # resumed, it comes to the same
        with pytest.raises(Diverged, match="diverged at step 3: the loss is not finite"):
            run(recipe, tmp_path / "run", resume=True)
        assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()
        lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [2, 3]
        assert lines[-1]["diverged"] == {"step": 3, "what": "loss"}
        assert "diverged" not in lines[0]
        assert not (tmp_path / "run" / "result.json").exists()


def test_skipped_steps_are_in_the_metrics_and_not_in_the_mean_loss(task: Path, tmp_path: Path) -> None:
    run(recipe_in(task, Infinite(at=(1, 4)), nonfinite_patience=1), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["skipped_steps"]) for line in lines] == [(2, 1), (4, 1), (6, 2)]
    assert all(math.isfinite(line["train_loss"]) for line in lines)


def test_weights_that_are_not_finite_are_never_saved(task: Path, tmp_path: Path) -> None:
    class Spoils(Trick):
        """Spoils a weight behind everyone's back, when nobody looks."""

        @hookimpl
        def regularize(self, model: Any, step: Step) -> None:
            if step.progress.step == 3:
                model.classifier.bias.data[0] = math.nan

    with pytest.raises(Diverged, match="weight classifier.bias is not finite"):
        run(recipe_in(task, Spoils(), nonfinite_patience=9, evaluate=6), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "step-00000002",
        "step-00000003",
    ]


# -- in a Trainer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "what"), WHAT)
@pytest.mark.parametrize("args", [{}, {"max_grad_norm": 0.0}])
def test_the_trainer_stops_too(tmp_path: Path, kind: Any, what: str, args: dict[str, Any]) -> None:
    trainer = trainer_of(tiny.recipe(kind(at=(4, 5)), nonfinite_patience=1), tmp_path, **args)
    with pytest.raises(Diverged, match=f"diverged at step 4: the {what} is not finite, for 2 steps in a row"):
        trainer.train()
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())


def test_loop_and_trainer_skip_the_same_steps(tmp_path: Path) -> None:
    recipe = tiny.recipe(Infinite(at=(1, 4)), NoGradient(at=(7,)), nonfinite_patience=1)
    _, model = tiny.trained(recipe)
    trainer = trainer_of(recipe, tmp_path)
    trainer.train()
    assert tiny.equal(trainer.model, model)
    assert trainer.session.skipped.total == 3


def test_a_resumed_trainer_has_as_much_patience_left(tmp_path: Path) -> None:
    recipe = tiny.recipe(Infinite(at=(2, 3, 4)), nonfinite_patience=2)
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "logging_strategy": "no"}
    for resume in (None, True):
        with pytest.raises(Diverged, match="diverged at step 2: the loss is not finite, for 3 steps in a row"):
            trainer_of(recipe, tmp_path, **options).train(resume_from_checkpoint=resume)
        assert (tmp_path / "checkpoint-4").is_dir()


class Scaler:
    """A loss scaler that says what its scale is."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def get_scale(self) -> float:
        return self.scale


def test_under_a_loss_scaler_a_gradient_that_is_not_finite_ends_the_run_when_the_scale_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tiny.recipe(), tmp_path)
    trainer.train()
    session = trainer.session
    assert isinstance(trainer, TrickTrainer)
    monkeypatch.setattr(Trainer, "_get_grad_norm", lambda self, model, grad_norm=None: grad_norm)
    session.enter(5)
    monkeypatch.setattr(trainer.accelerator, "scaler", Scaler(1024.0))
    trainer._get_grad_norm(trainer.model, math.inf)  # the scaler's to skip, and no news
    assert session.skipped.total == 0
    session._losses = [torch.tensor(math.nan)]
    with pytest.raises(Diverged, match="diverged at step 5: the loss is not finite"):
        trainer._get_grad_norm(trainer.model, math.inf)
    session._losses = []
    trainer.accelerator.scaler = Scaler(1e-5)
    with pytest.raises(Diverged, match="diverged at step 5: the gradient at a loss scale of 1e-05 is not finite"):
        trainer._get_grad_norm(trainer.model, math.inf)


class Two(Ranks):
    """This rank, and another whose loss is not finite."""

    def gather(self, value: Any) -> list[Any]:
        return [value, True if isinstance(value, bool) else value]


def test_under_a_loss_scaler_all_ranks_of_a_trainer_hear_of_a_loss_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetricks.trainer.Ranks", Two)
    trainer = trainer_of(tiny.recipe(), tmp_path)
    trainer.train()
    trainer.session.enter(5)
    monkeypatch.setattr(Trainer, "_get_grad_norm", lambda self, model, grad_norm=None: grad_norm)
    monkeypatch.setattr(trainer.accelerator, "scaler", Scaler(1024.0))
    with pytest.raises(Diverged, match="diverged at step 5: the loss is not finite"):
        trainer._get_grad_norm(trainer.model, math.inf)

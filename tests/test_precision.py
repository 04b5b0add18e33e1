"""bf16 and fp16: what is scaled is unscaled before it is clipped, and a skipped step is a step of the plan."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

import tiny
from finetricks import Recipe, Session, Step, Trick, hookimpl
from finetricks.runner import run
from finetricks.trainer import TrickTrainer
from test_trainer import Steps, trainer_of

BEFORE, AFTER = 65536.0, 32768.0


class Overflow(Trick):
    """At some steps a gradient that is finite, and no longer is when the loss is scaled up."""

    at: tuple[int, ...] = (0, 3)

    @hookimpl
    def regularize(self, model: torch.nn.Module, step: Step) -> torch.Tensor | None:
        return model.classifier.bias.sum() * 1e35 if step.progress.step in self.at else None


def fp16(**training: object) -> Recipe:
    return tiny.recipe(Overflow(), tiny.Decay(), precision="fp16", **training)


def after(session: Session, steps: int) -> Session:
    tiny.train(session, steps)
    return session


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_skipped_step_changes_no_weight_and_is_a_step_of_the_plan(optimizer: str) -> None:
    session = fp16(optimizer=optimizer).bind(tiny.bert(), tiny.loader())
    skipped, unchanged = [], []
    session.model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of a schedule that begins before its optimizer
        for batch in session.batches():
            step = session.global_step
            before = [value.clone() for value in session.model.parameters()]
            assert {g["lr"] for g in session.optimizer.param_groups} == {
                session.plan.rate(group, step) for group in session.plan.groups
            }
            session.backward(session.loss(batch))
            session.step()
            assert session.global_step == step + 1
            if all(torch.equal(*pair) for pair in zip(before, session.model.parameters(), strict=True)):
                unchanged.append(step)
            if session.last_skipped:
                skipped.append(step)
    assert skipped == unchanged == [0, 3]
    assert session.loss_scale == BEFORE / 4
    if optimizer == "adamw":  # whose bias correction counts the updates
        assert session.optimizer.state[session.model.classifier.bias]["step"] == session.plan.total_steps - 2


def test_clipping_sees_the_gradients_of_the_loss_not_of_the_scaled_one() -> None:
    exact = after(tiny.recipe().bind(tiny.bert(), tiny.loader()), 1)
    half = after(tiny.recipe(precision="fp16").bind(tiny.bert(), tiny.loader()), 1)
    assert half.grad_norm.item() == pytest.approx(exact.grad_norm.item(), rel=0.01)


def test_the_scale_is_part_of_what_is_saved() -> None:
    state = after(fp16().bind(tiny.bert(), tiny.loader()), 2).state_dict()
    other = fp16().bind(tiny.bert(), tiny.loader())
    assert other.loss_scale == BEFORE
    other.load_state_dict(state)
    assert other.loss_scale == AFTER


def test_without_fp16_nothing_is_scaled_or_skipped() -> None:
    session = after(tiny.recipe(precision="bf16").bind(tiny.bert(), tiny.loader()), 2)
    assert (session.loss_scale, session.last_skipped, session.state_dict()["scaler"]) == (1.0, False, {})


def test_a_run_goes_on_after_skipped_steps_and_records_the_scale(tmp_path: Path) -> None:
    task = tiny.write_task(tmp_path)
    described = {
        "model": str(task / "model"),
        "data": {"train": str(task / "train.csv")},
        "training": {"epochs": 2, "batch_size": 16, "precision": "fp16"},
    }
    result = run(Recipe(**described, tricks=[Overflow()]), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert result.steps == 8
    assert [line["loss_scale"] for line in lines] == [BEFORE / 4, BEFORE / 4]  # steps 0 and 3 of 4 an epoch


def test_a_trainer_that_skips_a_step_keeps_to_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer: TrickTrainer = trainer_of(tiny.recipe(tiny.Decay()), tmp_path)
    steps = Steps()
    trainer.add_callback(steps)
    skipped = property(lambda accelerator: trainer.state.global_step == 2)  # it then leaves the schedule where it is
    monkeypatch.setattr(type(trainer.accelerator), "optimizer_step_was_skipped", skipped)
    trainer.train()
    plan = trainer.session.plan
    assert [rates for rates, _ in steps.seen] == [
        [plan.rate(group, step) for group in plan.groups] for step in range(plan.total_steps)
    ]


def test_a_trainer_is_not_let_train_in_fp32_where_fp16_is_asked_for(tmp_path: Path) -> None:
    from finetricks import RecipeError

    with pytest.raises(RecipeError, match="on a CPU the Trainer would compute in fp32 without a word; use bf16=True"):
        trainer_of(tiny.recipe(precision="fp16"), tmp_path)

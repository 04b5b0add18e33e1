"""The watch over plans, under which every test runs, finds each kind of departure from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import plans
import tiny
from finetricks import Session

HEAD = "classifier.weight"
BLOCK = "bert.encoder.layer.0.output.dense.weight"
Spoil = Callable[[Session], None]


def weight(session: Session, name: str) -> nn.Parameter:
    return dict(session.model.named_parameters())[name]


def to_step(session: Session, step: int, spoil: Spoil) -> None:
    """Train up to `step`, and spoil what it is about to do."""
    session.model.train()
    for batch in session.batches():
        session.backward(session.loss(batch))
        if session.global_step == step:
            spoil(session)
        session.step()
        if session.global_step > step:
            break


def faster(session: Session) -> None:
    session.optimizer.param_groups[-1]["lr"] *= 1 + 2**-50


def decayed(session: Session) -> None:
    session.optimizer.param_groups[0]["weight_decay"] = 0.01


def thawed_too_early(session: Session) -> None:
    weight(session, BLOCK).requires_grad_(True)


def not_trained(session: Session) -> None:
    weight(session, HEAD).requires_grad_(False)
    weight(session, HEAD).grad = None


def with_a_stale_gradient(session: Session) -> None:
    weight(session, BLOCK).grad = torch.ones_like(weight(session, BLOCK))


def frozen_in_train_mode(session: Session) -> None:
    session.model.bert.encoder.layer[0].training = True


def thawed_in_eval_mode(session: Session) -> None:
    session.model.bert.encoder.layer[2].training = False


def exchanged(session: Session) -> None:
    first, last = session.optimizer.param_groups[0], session.optimizer.param_groups[-1]
    first["params"], last["params"] = last["params"], first["params"]


def without_a_group(session: Session) -> None:
    del session.optimizer.param_groups[0]


def a_step_further(session: Session) -> None:
    session.enter(session.global_step + 1)
    session.scheduler.step()


@pytest.mark.parametrize(
    ("step", "spoil", "found"),
    [
        (3, faster, "head has the rate"),
        (3, decayed, "embeddings has weight decay 0.01; the plan says 0.0"),
        (3, thawed_too_early, f"{BLOCK} has requires_grad=True; the plan says False"),
        (3, not_trained, f"{HEAD} has requires_grad=False; the plan says True"),
        (3, with_a_stale_gradient, f"{BLOCK} is frozen and has a gradient"),
        (3, frozen_in_train_mode, "module 'bert.encoder.layer.0' is frozen and not in eval mode"),
        (7, thawed_in_eval_mode, "module 'bert.encoder.layer.2' has thawed, and is not in the mode of the model"),
        (3, exchanged, "embeddings holds other parameters than the plan's"),
        (3, without_a_group, "the optimizer has the groups block.0"),
        (3, a_step_further, "step 3 was to come next"),
    ],
)
def test_a_departure_is_found_at_its_step(step: int, spoil: Spoil, found: str, watched: plans.Watch) -> None:
    session = tiny.recipe(tiny.Unfreeze(), tiny.Decay()).bind(tiny.bert(), tiny.loader())
    with pytest.raises(plans.PlanBroken) as raised:
        to_step(session, step, spoil)
    assert found in str(raised.value)
    assert any(found in line for line in watched.broken)
    assert session.global_step == step + (spoil is a_step_further)
    watched.broken.clear()


def test_what_the_user_froze_may_not_thaw(watched: plans.Watch) -> None:
    model = tiny.bert()
    model.classifier.weight.requires_grad_(False)
    session = tiny.recipe(tiny.Unfreeze()).bind(model, tiny.loader())
    to_step(session, 2, lambda session: None)
    with pytest.raises(plans.PlanBroken, match=f"{HEAD} has requires_grad=True; the plan says False"):
        to_step(session, 3, lambda session: weight(session, HEAD).requires_grad_(True))
    watched.broken.clear()


def test_what_was_frozen_behind_the_plan_is_found(watched: plans.Watch) -> None:
    session = tiny.recipe().bind(tiny.bert(), tiny.loader())
    session.model.classifier.bias.requires_grad_(False)
    with pytest.raises(plans.PlanBroken, match="classifier.bias has requires_grad=False; the plan says True"):
        to_step(session, 0, lambda session: None)
    watched.broken.clear()


def test_an_undisturbed_run_is_compared_at_every_step(watched: plans.Watch) -> None:
    steps, values = watched.steps, watched.values
    session = tiny.recipe(tiny.Unfreeze(), tiny.Decay()).bind(tiny.bert(), tiny.loader())
    tiny.train(session)
    assert watched.steps - steps == session.plan.total_steps
    parameters = len(list(session.model.parameters()))
    assert (watched.values - values) / session.plan.total_steps >= parameters + 2 * len(session.plan.groups)

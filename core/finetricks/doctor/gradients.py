"""How large is the gradient of each layer: does one get none, does it vanish, does it explode?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from finetricks.doctor.case import Case, first_batches, fullest, peak_rate, still, trained_in, with_rates
from finetricks.doctor.finding import Finding, look, ok, wrong
from finetricks.errors import Diverged, FinetricksError
from finetricks.session import Session
from finetricks.tasks.table import listed

VANISHING = 1e-4
"""Of the largest norm of a layer."""

EXPLODING = 1e3
"""The norm of the whole gradient."""

STEPS = 2
"""A layer below a head that begins with zeros gets a gradient only in the second."""


def check_gradients(case: Case) -> Iterator[Finding]:
    session = case.session()
    names = trained_in(session.plan, fullest(session.plan))
    if not names:
        yield ok("the recipe trains no layer")
        return
    try:
        first, *later = _gradients(session, names)
    except FinetricksError as error:
        yield wrong(
            str(error), "let the output depend on what is trained: look for detach() and no_grad() in the model"
        )
        return
    norms = _by_layer(session, first)
    told = ", ".join(f"{layer} {norm:.2g}" for layer, norm in norms.items())
    total = math.hypot(*norms.values())
    if not math.isfinite(total):
        yield wrong(
            f"the gradient of the first batch is not finite: {told}",
            "look at the weights and the data that it begins with",
        )
        return
    reached = [norms, *(_by_layer(session, gradients) for gradients in later)]
    cut = [layer for layer in norms if not any(step[layer] for step in reached)]
    vanishing = [layer for layer, norm in norms.items() if layer not in cut and norm < VANISHING * max(norms.values())]
    unused = [name for name in names if session.layers.layer_of(name) not in cut and name not in first]
    if cut:
        yield wrong(
            f"no gradient reaches {', '.join(cut)}; norms by layer: {told}",
            "look for detach(), no_grad() or rounding between them and the output; or freeze them, if that is meant",
        )
    if total > EXPLODING:
        yield wrong(
            f"the gradient of the first batch explodes, its norm is {total:.2g}; norms by layer: {told}",
            "keep clipping on, lower the rate, begin with smaller weights, or normalise between the layers",
        )
    elif vanishing:
        yield look(
            f"the gradient vanishes in {', '.join(vanishing)}; norms by layer: {told}",
            "normalise between the layers or let states skip them; or look at the activations, which may be saturated",
        )
    if unused:
        yield look(
            f"{len(unused)} weights get no gradient: {listed(unused)}",
            "nothing is wrong where the model is made so; else look for what its forward pass leaves out",
        )
    if not (cut or vanishing or unused or total > EXPLODING):
        yield ok(f"norms by layer: {told}")


def _gradients(session: Session, names: tuple[str, ...]) -> list[dict[str, float]]:
    """Norms of the gradients of the trained weights, on one batch, step by step; without those that get none."""
    session.hold(with_rates(session.plan, [peak_rate(session.plan)] * STEPS), still=True)
    wanted = set(names)
    found: list[dict[str, float]] = []
    with still(session.model):
        (batch,) = first_batches(session, 1)
        for _ in range(STEPS):
            session.backward(session.loss(batch))
            found.append(
                {
                    name: _norm(p)
                    for name, p in session.model.named_parameters()
                    if name in wanted and p.grad is not None
                }
            )
            try:
                session.step()
            except Diverged:
                break
    return found


def _norm(parameter: nn.Parameter) -> float:
    assert parameter.grad is not None
    return float(torch.linalg.vector_norm(parameter.grad.float()))


def _by_layer(session: Session, norms: Mapping[str, float]) -> dict[str, float]:
    """The norm of each trained layer's gradient, from input to output."""
    frozen = session.plan.stages[0].frozen
    return {
        layer: math.hypot(*(norms[name] for name in session.layers.parameters[layer] if name in norms))
        for layer in session.plan.layers
        if layer not in frozen
    }

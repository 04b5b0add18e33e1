"""L2-SP: the starting point as the reference of weight decay."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from finetricks import Choice, Step, Trick, hookimpl


class L2SP(Trick):
    """Pretrained weights are pulled to where they began, the new head to zero.

    Penalty = alpha/2 * ||w - w0||^2 over the pretrained layers + beta/2 * ||w||^2 over the head. w0 is what the weights
    are before the first step; it is kept in the checkpoint. Frozen parameters stand still and are left out.

    Traps: public code that decays every parameter toward its start pulls the new head to its random initialisation.
    BERT's pooler belongs to the head here, so a pretrained one is pulled to zero, not to its start.
    A penalty in the loss goes through Adam's scaling; it is not decoupled as weight decay is.

    Source: Li, Grandvalet & Davoine 2018, Explicit Inductive Bias for Transfer Learning with Convolutional Networks
    (arXiv 1802.01483), section 3. alpha = beta = 0.01 are common defaults; not verified against the paper.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"alpha": 0.0, "beta": 0.0}

    alpha: Annotated[float, Field(ge=0), Choice(0.001, 0.01, 0.1)] = Field(
        default=0.01, description="Pull of the pretrained layers to their start."
    )
    beta: Annotated[float, Field(ge=0), Choice(0.001, 0.01)] = Field(
        default=0.01, description="Pull of the head to zero."
    )

    @hookimpl
    def regularize(self, model: nn.Module, step: Step) -> Tensor | None:
        if self.alpha == 0 and self.beta == 0:
            return None
        head = set(step.layers.parameters.get("head", ()))
        start = step.state_of(self)
        if not start:
            start |= {name: p.detach().clone() for name, p in model.named_parameters() if name not in head}
        terms = []
        for name, parameter in model.named_parameters():
            strength = self.beta if name in head else self.alpha
            if not (parameter.requires_grad and strength):
                continue
            if name in head:
                moved = parameter
            else:
                start[name] = start[name].to(parameter.device)  # a checkpoint gives it back on the CPU
                moved = parameter - start[name]
            terms.append(strength / 2 * moved.square().sum())
        return sum(terms[1:], terms[0]) if terms else None

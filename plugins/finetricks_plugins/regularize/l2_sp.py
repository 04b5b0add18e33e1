"""L2-SP: the starting point as the reference of weight decay."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from finetricks import Choice, Layers, Step, Trick, hookimpl
from finetricks_plugins.regularize.penalised import LayerNames, check_layers, in_layers, total


class L2SP(Trick):
    """Pretrained weights are pulled to where they began, new ones to zero.

    Penalty = alpha/2 * ||w - w0||^2 over the pretrained weights + beta/2 * ||w||^2 over the new ones: the head, and
    what tricks built into the model. w0 is what the weights are before the first step; it is kept in the checkpoint. A
    pooler that came with the checkpoint is pulled to its start, one that did not to zero. By layer if asked for. Frozen
    parameters stand still and are left out.

    Traps: public code that decays every parameter toward its start pulls the new head to its random initialisation. Of
    a transformers model that you built yourself, not finetricks, all that lies outside its base model counts as new.
    A penalty in the loss goes through Adam's scaling; it is not decoupled as weight decay is.

    Source: Li, Grandvalet & Davoine 2018, Explicit Inductive Bias for Transfer Learning with Convolutional Networks
    (arXiv 1802.01483), section 3. alpha = beta = 0.01 are common defaults; not verified against the paper.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"alpha": 0.0, "beta": 0.0}
    looks_ahead: ClassVar[bool] = False

    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False), Choice(0.001, 0.01, 0.1)] = Field(
        default=0.01, description="Pull of the pretrained weights to their start."
    )
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False), Choice(0.001, 0.01)] = Field(
        default=0.01, description="Pull of new weights to zero."
    )
    layers: LayerNames | None = Field(
        default=None, description="The layers whose weights are pulled (embeddings, block.0, head); all by default."
    )

    @hookimpl
    def init(self, layers: Layers) -> None:
        check_layers("l2_sp", self.layers, layers)

    @hookimpl
    def regularize(self, model: nn.Module, step: Step) -> Tensor | None:
        if self.alpha == 0 and self.beta == 0:
            return None
        pulled = step.once(self, lambda: dict(in_layers(self.layers, model, step.layers)))
        start = step.state_of(self)
        if self.alpha and not start:  # the first step; frozen weights as well, for they may thaw
            start |= {name: p.detach().clone() for name, p in pulled.items() if name not in step.fresh}
        terms = []
        for name, parameter in pulled.items():
            strength = self.beta if name in step.fresh else self.alpha
            if not (parameter.requires_grad and strength):
                continue
            if name in step.fresh:
                moved: Tensor = parameter
            else:
                start[name] = start[name].to(parameter.device)  # a checkpoint gives it back on the CPU
                moved = parameter - start[name]
            terms.append(strength / 2 * moved.square().sum())
        return total(terms)

"""L1: a penalty on the absolute values of the weights."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from finetricks import Choice, Layers, Step, Trick, hookimpl
from finetricks_plugins.regularize.penalised import Exempt, LayerNames, check_layers, penalised, total


class L1(Trick):
    """Add strength * sum of |w| to the loss: many weights are driven toward zero, all at the same pace.

    By layer if asked for, apart from biases and norms. The gradient is strength * sign(w), and 0 at 0. Frozen
    parameters stand still and are left out.

    Traps: the sum is over all weights, so that the same strength means more in a larger model. Steps of gradient
    descent cross zero and come back: weights become small, not exactly zero. The penalty goes through Adam's scaling,
    which evens out its size between weights.

    Source: Tibshirani 1996, Regression Shrinkage and Selection via the Lasso, section 1; the strength is a common
    default, to be searched.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"strength": 0.0}
    looks_ahead: ClassVar[bool] = False

    strength: Annotated[float, Field(ge=0, allow_inf_nan=False), Choice(1e-6, 1e-5, 1e-4)] = Field(
        default=1e-5, description="Factor on the sum of absolute values."
    )
    layers: LayerNames | None = Field(
        default=None, description="The layers whose weights are penalised (embeddings, block.0, head); all by default."
    )
    exempt: Exempt = Field(default="bias_and_norm", description="What is not penalised.")

    @hookimpl
    def init(self, layers: Layers) -> None:
        check_layers("l1", self.layers, layers)

    @hookimpl
    def regularize(self, step: Step) -> Tensor | None:
        if self.strength == 0:
            return None
        size = total([parameter.abs().sum() for parameter in penalised(self, self.layers, self.exempt, step)])
        return None if size is None else self.strength * size

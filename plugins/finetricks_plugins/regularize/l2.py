"""L2: a penalty on the squares of the weights."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from finetricks import Choice, Layers, Step, Trick, hookimpl
from finetricks_plugins.regularize.penalised import Exempt, LayerNames, check_layers, penalised, total


class L2(Trick):
    """Add strength/2 * sum of w^2 to the loss: weights are pulled to zero, large ones more.

    By layer if asked for, apart from biases and norms. The gradient is strength * w. Frozen parameters stand still and
    are left out. With plain SGD it is `weight_decay` of the same value, bit rounding apart.

    Traps: with Adam it is not weight decay: the penalty goes through Adam's scaling, so that weights with large
    gradients are pulled less than others (that is why AdamW decouples the decay). It also counts in the gradient's norm
    when that is clipped. In fine-tuning it pulls pretrained weights to zero; `l2_sp` pulls them to their start.

    Source: Krogh & Hertz 1991, A Simple Weight Decay Can Improve Generalization; on Adam: Loshchilov & Hutter 2019,
    Decoupled Weight Decay Regularization (arXiv 1711.05101), section 2. The strength is a common default.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"strength": 0.0}
    looks_ahead: ClassVar[bool] = False

    strength: Annotated[float, Field(ge=0, allow_inf_nan=False), Choice(1e-4, 1e-3, 1e-2)] = Field(
        default=1e-3, description="Factor on half the sum of squares."
    )
    layers: LayerNames | None = Field(
        default=None, description="The layers whose weights are penalised (embeddings, block.0, head); all by default."
    )
    exempt: Exempt = Field(default="bias_and_norm", description="What is not penalised.")

    @hookimpl
    def init(self, layers: Layers) -> None:
        check_layers("l2", self.layers, layers)

    @hookimpl
    def regularize(self, step: Step) -> Tensor | None:
        if self.strength == 0:
            return None
        size = total([parameter.square().sum() for parameter in penalised(self, self.layers, self.exempt, step)])
        return None if size is None else self.strength / 2 * size

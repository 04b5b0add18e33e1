"""Discriminative learning rates: lower layers learn more slowly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from finetricks import Choice, InputError, ParamOptions, Trick, hookimpl
from finetricks.errors import Problem, suggest

if TYPE_CHECKING:
    from finetricks import Layers

DECAY = 2.6
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def geometric_factors(layers: int, decay: float) -> list[float]:
    """Factor of each of `layers` layers, from input to output: 1 for the top one, each lower one's is 1 / `decay`."""
    return [decay ** -(layers - 1 - index) for index in range(layers)]


class DiscriminativeLR(Trick):
    """Lower layers learn more slowly: eta(l-1) = eta(l) / 2.6.

    The top layer learns at the base rate, each layer below at the rate of the one above divided by `decay`. What lower
    layers know is more general and should change less. Applies throughout training. Beside `layerwise_lr_decay` the
    factors multiply.

    Traps: fastai's `slice(a, b)` spreads rates geometrically between two ends, which is a factor of 2.6 only for five
    layers; a deep model's lowest layers hardly learn at 2.6 (12 blocks: 2.6^-13 = 4e-6), so a smaller decay suits them.
    When the authors fine-tune their language model they use other factors, not 2.6: 1/6, 1/3 and 1 for its three layers
    from the bottom, and 1/2 for the embeddings, which are tied to its output: `factors`.

    Source: Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification (arXiv 1801.06146),
    section 3.2.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"decay": 1.0}

    decay: Annotated[float, Field(ge=1, allow_inf_nan=False), Choice(1.3, 2.0, 2.6)] = Field(
        default=DECAY, description="Rate of a layer over that of the layer below; the paper's value is 2.6."
    )
    factors: Annotated[dict[str, Factor], Field(min_length=1)] | None = Field(
        default=None,
        description="Factors by layer, such as {head: 1, block.0: 0.1}, instead of decay; other layers keep 1.",
    )

    @model_validator(mode="after")
    def _decay_or_factors(self) -> Self:
        # By value: a resolved recipe holds the defaults too, and is read again.
        if self.factors is not None and self.decay != DECAY:
            raise ValueError("decay and factors both set the learning rates; give one of them")
        return self

    @hookimpl
    def param_groups(self, layers: Layers) -> dict[str, ParamOptions]:
        if self.factors is not None:
            if unknown := [name for name in self.factors if name not in layers.names]:
                has = f"the model has {', '.join(layers.names)}"
                raise InputError(
                    Problem("discriminative_lr.factors", f"no layer {name!r}{suggest(name, layers.names)}; {has}")
                    for name in unknown
                )
            return {name: ParamOptions(lr_factor=factor) for name, factor in self.factors.items()}
        if self.decay == 1:
            return {}
        factors = geometric_factors(len(layers.names), self.decay)
        return {name: ParamOptions(lr_factor=factor) for name, factor in zip(layers.names, factors, strict=True)}

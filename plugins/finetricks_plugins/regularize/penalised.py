"""Which parameters a penalty on the weights is of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from finetricks import InputError, Layers, Step, Trick
from finetricks.errors import suggest
from finetricks_plugins.param_groups.weight_decay import biases_and_norms

LayerNames = Annotated[tuple[str, ...], Field(min_length=1)]
Exempt = Literal["bias_and_norm", "none"]


def check_layers(trick: str, wanted: Sequence[str] | None, layers: Layers) -> None:
    """Raise `InputError` for a layer that the model does not have; `None` stands for all of them."""
    for name in wanted or ():
        if name not in layers.names:
            raise InputError(
                f"{trick}.layers: the model has no layer {name!r}{suggest(name, layers.names)}; it has "
                f"{', '.join(layers.names)}"
            )


def in_layers(wanted: Sequence[str] | None, model: nn.Module, layers: Layers) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of the layers `wanted`, by default of all; frozen ones too."""
    for name in layers.names if wanted is None else wanted:
        for parameter in layers.parameters[name]:
            yield parameter, model.get_parameter(parameter)


def penalised(trick: Trick, wanted: Sequence[str] | None, exempt: Exempt, step: Step) -> list[nn.Parameter]:
    """The parameters that a penalty is of: those of the layers `wanted` that are trained now and not exempt."""

    def of_model() -> list[nn.Parameter]:
        spared = biases_and_norms(step.model) if exempt == "bias_and_norm" else set()
        return [parameter for name, parameter in in_layers(wanted, step.model, step.layers) if name not in spared]

    return [parameter for parameter in step.once(trick, of_model) if parameter.requires_grad]


def total(terms: Sequence[Tensor]) -> Tensor | None:
    """The sum of scalars; `None` where there are none."""
    return sum(terms[1:], terms[0]) if terms else None

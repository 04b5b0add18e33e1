"""Low-rank adapters."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationInfo, model_validator
from torch import nn

from finetricks import Choice, Context, InputError, Trick, hookimpl
from finetricks.errors import suggest
from finetricks_plugins.build.adapters import hold, is_adapted, release
from finetricks_plugins.build.own_modules import own_modules

NAME = "lora"
_OURS = "_finetricks_lora"
MISSING = 'needs the library peft, which is not installed: pip install "finetricks[peft]"'

Targets = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class LoRA(Trick):
    """Train two small matrices beside each frozen one: h = W x + (alpha / r) B A x, with A [r, in] and B [out, r].

    The pretrained weights stay as they are; trained are the adapters, and what is new (the head, what other tricks
    built). B begins at 0, so that training starts from the pretrained model, and A at random. By default every linear
    layer of the blocks gets an adapter; `targets` names some: [query, value] for BERT, [q_proj, v_proj] for Llama. An
    adapter belongs to the layer that it stands in: it has that layer's rate, and freezes and thaws with it. When
    training ends the adapters are added to the weights, so the saved model is one of its own kind again, which
    `from_pretrained` loads without peft. `further_pretraining` trains the pretrained weights all the same, before the
    adapters do.

    Traps: adapters ask for a larger rate than fine-tuning, 1e-4 to 5e-4 where that takes 2e-5. alpha / r is a factor
    on what they give, so a larger r with the same alpha learns more slowly. Embeddings and a pooler stay frozen:
    while only they are thawed, nothing learns. What is read by its weight instead of being called (torch's own
    attention, recurrent networks) has no place for an adapter. It is built on peft.

    Source: Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685), sections 4.1 and 4.2;
    theirs are the query and value projections alone. All linear layers: Dettmers et al. 2023, QLoRA (arXiv 2305.14314),
    section 4. A is drawn as in the authors' code.
    """

    conflicts: ClassVar[dict[str, str]] = {
        "chain_thaw": "it trains each layer alone, and lora leaves the embeddings nothing that could be trained",
        **{
            name: f"{name} never trains the blocks, so that adapters there would stay at 0"
            for name in ("feature_based", "last_layer", "predict_only")
        },
    }

    r: Annotated[int, Field(ge=1), Choice(4, 8, 16)] = Field(
        default=8, description="Rank: the inner width of the adapters."
    )
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False), Choice(8.0, 16.0, 32.0)] = Field(
        default=16.0, description="What the adapters give is multiplied by alpha / r."
    )
    dropout: Annotated[float, Field(ge=0, lt=1), Choice(0.0, 0.1)] = Field(
        default=0.0, description="Probability that a value which an adapter reads is dropped."
    )
    targets: Targets | None = Field(
        default=None,
        description="The linear layers, by the ends of their names, such as [query, value]; by default all of the "
        "blocks.",
    )

    @model_validator(mode="after")
    def _peft_is_there(self, info: ValidationInfo) -> Self:
        # As for a file: a finished run is loaded without what it was trained with.
        if (info.context or {}).get("must_exist") and find_spec("peft") is None:
            raise ValueError(MISSING)
        return self

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> None:
        adapted = [module for module in model.modules() if is_adapted(module)]
        if any(_OURS in vars(module) for module in adapted):
            return  # it has been built before, and trained since
        if adapted:
            raise InputError(f"{NAME}: the model has adapters already; leave {NAME} out, or give it without them")
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ModuleNotFoundError as error:
            raise InputError(f"{NAME} {MISSING}") from error
        from transformers.pytorch_utils import Conv1D

        new = _new(model, context)
        targets = self._targets(model, new, context)
        trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(targets),
            fan_in_fan_out=all(isinstance(linear, Conv1D) for linear in targets.values()),
        )
        inject_adapter_in_model(config, model)  # which freezes all the rest
        for name in targets:
            vars(model.get_submodule(name))[_OURS] = True
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
        hold(model, trainable.keys() - new)

    @hookimpl
    def finish(self, model: nn.Module) -> None:
        for name, module in list(model.named_modules()):
            if _OURS in vars(module):
                adapted: Any = module
                adapted.merge()
                parent, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(parent), attribute, adapted.get_base_layer())
        release(model)

    def _targets(self, model: nn.Module, new: set[nn.Parameter], context: Context) -> dict[str, nn.Module]:
        """The linear layers to put adapters beside, by name."""
        found = {
            name: module
            for name, module in _linear_layers(model).items()
            if new.isdisjoint(module.parameters(recurse=False))
        }
        if self.targets is None:
            layers = context.find_layers(model)
            in_blocks = {name for block in layers.blocks for name in layers.parameters[block]}
            chosen = {name: module for name, module in found.items() if f"{name}.weight" in in_blocks}
            if not chosen:
                raise InputError(f"{NAME}: the blocks of {type(model).__name__} have no linear layer for an adapter")
            return chosen
        ends = sorted({name.rpartition(".")[2] for name in found})
        for target in self.targets:
            if not any(_is_called(name, target) for name in found):
                raise InputError(
                    f"{NAME}.targets: {type(model).__name__} has no pretrained linear layer {target!r}"
                    f"{suggest(target, ends)}; their names end in {', '.join(ends) or 'nothing: there are none'}"
                )
        return {name: m for name, m in found.items() if any(_is_called(name, target) for target in self.targets)}


def _is_called(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The model's own linear layers that are called, by name."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's: [in, out]

    # These read the weights of what is in them, and would pass by an adapter.
    closed = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention | nn.TransformerEncoderLayer)]
    inside = {module for each in closed for module in each.modules()}
    return {
        name: module
        for name, module in own_modules(model)
        if type(module) in (nn.Linear, Conv1D) and module not in inside
    }


def _new(model: nn.Module, context: Context) -> set[nn.Parameter]:
    """The parameters that no checkpoint supplied: these are trained whole."""
    names = set(context.fresh)
    if getattr(model, "base_model", model) is model:  # where nothing tells, the head is new
        names |= set(context.find_layers(model).parameters.get("head", ()))
    return {parameter for name, parameter in model.named_parameters() if name in names}

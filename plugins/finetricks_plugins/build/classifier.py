"""A classifier in parts: what the tricks that change the path from an encoder to the scores have in common.

A transformers classification model hides that path in its head. Here it is a chain of slots, each of which a trick can
fill with a module of its own:

    examples -> arrangement.rows -> encoder -> reading -> norm -> task_layers -> arrangement.tokens -> pooling
             -> arrangement.vectors -> head -> dropout -> output -> scores

A slot is filled with a factory, called with the width of what comes from the left; its module says by `width` what it
gives. Whichever slot is filled, the chain is assembled anew, each part drawn from its own trick's stream: the order of
the tricks in a recipe changes nothing.

For the same reason nothing is lost that tricks did to the model whose place the classifier takes. Its dropout and its
output layer are that model's own modules, with the hooks that stand on them. Modules that tricks put beside the old
head stay if they say `carried = True`; such a module may have the methods `join(classifier)`, to find a place of its
own instead of its old name, and `resize(width)`, to be told the width of what the output layer reads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from finetricks import Context, InputError, TrickConflict
from finetricks.streams import child, seeded
from finetricks_plugins.build.arrangement import Arrangement, Inputs, Pooled
from finetricks_plugins.build.head import head_dropouts, is_carried, output_layer
from finetricks_plugins.build.pooling import Pooling, first_token, last_token, max_over_tokens
from finetricks_plugins.language_model.objective import is_causal, reads_both_directions

Slot = Literal["reading", "norm", "task_layers", "arrangement", "pooling", "head"]
SLOTS: tuple[Slot, ...] = ("reading", "norm", "task_layers", "arrangement", "pooling", "head")


class Reading(nn.Module):
    """Which of the encoder's states are read: here the top layer's.

    Called with the states of all layers, the embeddings' output first, each [rows, tokens, width of the layer], and the
    mask [rows, tokens] of real tokens; gives [rows, tokens, `width`].
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.width = widths[-1]

    def forward(self, states: tuple[Tensor, ...], mask: Tensor) -> Tensor:
        return states[-1]


class Unchanged(nn.Module):
    """An empty slot. Called with what comes from the left (and the mask, where there are tokens); gives it on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        return values


@dataclass(frozen=True)
class Filling:
    """What stands in a slot: `make` gives the module, `trick` put it there, `seed` is its stream's."""

    make: Callable[[Any], nn.Module]
    trick: str
    seed: int


class Classifier(PreTrainedModel):  # type: ignore[misc]  # transformers gives it no type
    """An encoder and the chain of slots above it. Takes the place of the transformers model, with its configuration.

    Its outputs are a `SequenceClassifierOutput`; `hidden_states`, if asked for, stand at the places of `input_ids`.
    """

    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    arrangement: Arrangement

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model.config)
        base = model.base_model
        self.encoder = base.get_encoder() if model.config.is_encoder_decoder else base
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # nothing reads it here
        self.num_labels = model.config.num_labels
        self.loss_type = "ForSequenceClassification"
        self.name_or_path = model.name_or_path
        self._encoder_takes = frozenset(inspect.signature(type(self.encoder).forward).parameters)
        self._fillings: dict[Slot, Filling] = {}
        for slot in SLOTS:
            self.add_module(slot, None)  # registered as they are called, whichever is filled first
        dropouts, output = head_dropouts(model), output_layer(model)
        self.dropout = dropouts[-1] if dropouts else nn.Identity()
        self.output = output if output is not None and output.out_features == self.num_labels else self._new_output()
        self._assemble()
        for name, module in model.named_children():
            if is_carried(module):
                self._carry(name, module)

    def fill(self, slot: Slot, trick: str, context: Context, make: Callable[[Any], nn.Module]) -> None:
        """Put a module into a slot. Where the trick has filled it already, the module stays: it may have been trained.

        Args:
            trick: the name of the trick that does.
            make: gives the module for the width of what comes from the left (`reading`: for the layers' widths).

        Raises:
            TrickConflict: another trick fills the slot.
        """
        if slot in self._fillings and self._fillings[slot].trick != trick:
            raise TrickConflict(f"{self._fillings[slot].trick} and {trick} both say what the {slot} is; pick one")
        if slot not in self._fillings:
            self._fillings[slot] = Filling(make, trick, context.seed)
            self._assemble()

    def _carry(self, name: str, module: nn.Module) -> None:
        """Take over what a trick put beside the head of the model whose place this one takes."""
        if hasattr(module, "join"):
            module.join(self)  # type: ignore[operator]
        else:
            self.add_module(name, module)
            self._tell_width(module)

    def _new_output(self) -> nn.Linear:
        with seeded(0):  # drawn anew as soon as its width is known
            return nn.Linear(1, self.num_labels).to(self.encoder.device, self.encoder.dtype)

    def _assemble(self) -> None:
        width: Any = layer_widths(self.config)
        for slot in SLOTS:
            width = self._make(slot, width)
            if slot == "pooling":
                with seeded(self._seed("arrangement", "fit")):
                    width = self.arrangement.fit(width)
        for slot in SLOTS:
            getattr(self, slot).to(self.encoder.device, self.encoder.dtype)
        with seeded(child(0, *sorted(filling.seed for filling in self._fillings.values()))):
            _resize(self.output, width, getattr(self.config, "initializer_range", 0.02))
        for module in self.children():
            self._tell_width(module)

    def _make(self, slot: Slot, width: Any) -> int:
        defaults = {"reading": Reading, "arrangement": Arrangement, "pooling": self._default_pooling}
        make: Any = self._fillings[slot].make if slot in self._fillings else defaults.get(slot, Unchanged)
        with seeded(self._seed(slot)):
            module: Any = make(width)
        setattr(self, slot, module)
        return int(module.width)

    def _default_pooling(self, width: int) -> Pooling:
        """Take the token that has seen all others; with none, as in two directions side by side, the max over all."""
        if getattr(self.task_layers, "both_directions", False) or reads_both_directions(self.config):
            return Pooling(width, max_over_tokens)
        return Pooling(width, last_token if is_causal(self.config) else first_token)

    def _seed(self, slot: Slot, *more: str) -> int:
        return child(self._fillings[slot].seed if slot in self._fillings else 0, slot, *more)

    def _tell_width(self, module: nn.Module) -> None:
        if is_carried(module) and hasattr(module, "resize"):
            module.resize(self.output.in_features)  # type: ignore[operator]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Scores of `input_ids` [examples, tokens] (padding on either side), and the loss where there are `labels`."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {name: value for name, value in given.items() if value is not None}
        inputs.setdefault("attention_mask", torch.ones_like(input_ids))
        rows = self.arrangement.rows(inputs)
        pooled, states = self.arrangement.pooled(partial(self._pooled, keep_states=bool(output_hidden_states)), rows)
        vectors = self.head(self.arrangement.vectors(pooled, inputs))
        logits = self.output(self.dropout(vectors))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        at_tokens = tuple(self.arrangement.states(each, inputs) for each in states) if output_hidden_states else None
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=at_tokens)

    def _pooled(self, rows: Inputs, keep_states: bool) -> Pooled:
        taken = {name: value for name, value in rows.items() if name in self._encoder_takes}
        encoded = self.encoder(**taken, output_hidden_states=True, return_dict=True)
        states = (*encoded.hidden_states[:-1], encoded.last_hidden_state)
        mask = rows["attention_mask"].bool()
        tokens = self.task_layers(self.norm(self.reading(states, mask), mask), mask)
        return self.pooling(self.arrangement.tokens(tokens, mask), mask), states if keep_states else ()


def classifier_of(model: nn.Module, trick: str) -> Classifier:
    """`model` itself where it is a `Classifier`, else one that takes its place: made of its encoder, and its parts.

    Raises:
        InputError: it is no transformers model of text with an encoder inside.
    """
    if isinstance(model, Classifier):
        return model
    if not is_text_classifier(model):
        raise InputError(
            f"{trick} reads the states of a transformers model of text with a classification head; "
            f"{type(model).__name__} is none"
        )
    return Classifier(model)


def is_text_classifier(model: nn.Module) -> bool:
    """Whether `model` is a transformers model that classifies texts, with an encoder inside."""
    if not isinstance(model, PreTrainedModel) or model.base_model is model:
        return False
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:
        return False
    return isinstance(embeddings, nn.Embedding) and model.loss_type in (None, "ForSequenceClassification")


def layer_widths(config: Any) -> tuple[int, ...]:
    """The width of each layer's states, the embeddings' output first."""
    if (widths := getattr(config, "layer_widths", None)) is not None:
        return tuple(int(width) for width in widths)
    text = config.get_text_config()
    return (int(text.hidden_size),) * (int(text.num_hidden_layers) + 1)


def _resize(linear: nn.Linear, width: int, std: float) -> None:
    """Give an output layer a new input width, drawn anew; the module stays, for others may stand around it."""
    like = linear.weight
    linear.in_features = width
    linear.weight = nn.Parameter(torch.empty(linear.out_features, width).normal_(std=std).to(like))
    linear.bias = nn.Parameter(torch.zeros(linear.out_features).to(like))

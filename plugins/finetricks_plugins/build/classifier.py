"""A classifier in parts: what the tricks that change the path from an encoder to the scores have in common.

A transformers classification model hides that path in its head. Here it is a chain of slots, each of which a trick can
fill with a module of its own:

    examples -> arrangement.rows -> encoder -> reading -> norm -> task_layers -> arrangement.tokens -> pooling
             -> arrangement.vectors -> head -> dropout -> output -> scores

A slot is filled with a factory, called with the width of what comes from the left; its module says by `width` what it
gives. Whichever slot is filled, the chain is assembled anew, each part drawn from its own trick's stream: the order of
the tricks in a recipe changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from finetricks import Context, InputError, TrickConflict
from finetricks.streams import child, seeded
from finetricks_plugins.language_model.objective import is_causal

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


class Arrangement(nn.Module):
    """How examples become rows of the encoder, and rows one vector an example: here each example is one row.

    `fit` is told the width of the pooled vectors, makes the parts that need it, and gives the width of `vectors`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def fit(self, pooled: int) -> int:
        return pooled

    def rows(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's inputs, [rows, tokens] each, made of the examples', [examples, tokens] each."""
        return inputs

    def tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token states, changed before they are pooled: [rows, tokens, width] to [rows, tokens, `width`]."""
        return tokens

    def vectors(self, pooled: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """One vector an example of the rows' pooled ones; `inputs` are the examples'."""
        return pooled

    def states(self, states: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """An encoder layer's states [rows, tokens, width] at the places of the examples' tokens."""
        return states


class FirstToken(Unchanged):
    """The state of the first real token ([CLS]), with padding on either side: [rows, width]."""

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        assert mask is not None
        return values[torch.arange(len(values), device=values.device), mask.int().argmax(dim=1)]


class LastToken(Unchanged):
    """The state of the last real token, with padding on either side: [rows, width]."""

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        assert mask is not None
        last = mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1)
        return values[torch.arange(len(values), device=values.device), last]


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

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model.config)
        base = model.base_model
        self.encoder = base.get_encoder() if model.config.is_encoder_decoder else base
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # nothing reads it here
        self.num_labels = model.config.num_labels
        self.loss_type = "ForSequenceClassification"
        self.name_or_path = model.name_or_path
        self._fillings: dict[Slot, Filling] = {}
        self.dropout = nn.Dropout(_head_dropout(model.config))
        self.output = nn.Linear(1, self.num_labels)
        self._assemble()

    def fill(self, slot: Slot, trick: str, context: Context, make: Callable[[Any], nn.Module]) -> None:
        """Put a module into a slot.

        Args:
            trick: the name of the trick that does.
            make: gives the module for the width of what comes from the left (`reading`: for the layers' widths).

        Raises:
            TrickConflict: another trick fills the slot.
        """
        if slot in self._fillings:
            raise TrickConflict(f"{self._fillings[slot].trick} and {trick} both say what the {slot} is; pick one")
        self._fillings[slot] = Filling(make, trick, context.seed)
        self._assemble()

    def _assemble(self) -> None:
        width: Any = _widths(self.config)
        for slot in SLOTS:
            width = self._make(slot, width)
            if slot == "pooling":
                with seeded(self._seed("arrangement", "fit")):
                    width = self.arrangement.fit(width)
        with seeded(child(0, *sorted(filling.seed for filling in self._fillings.values()))):
            _resize(self.output, width, getattr(self.config, "initializer_range", 0.02))

    def _make(self, slot: Slot, width: Any) -> int:
        defaults = {"reading": Reading, "arrangement": Arrangement, "pooling": _pooling(self.config)}
        make = self._fillings[slot].make if slot in self._fillings else defaults.get(slot, Unchanged)
        with seeded(self._seed(slot)):
            module: Any = make(width)
        setattr(self, slot, module)
        return int(module.width)

    def _seed(self, slot: Slot, *more: str) -> int:
        return child(self._fillings[slot].seed if slot in self._fillings else 0, slot, *more)

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
        encoded = self.encoder(**rows, output_hidden_states=True, return_dict=True)
        states = (*encoded.hidden_states[:-1], encoded.last_hidden_state)
        mask = rows["attention_mask"].bool()
        tokens = self.task_layers(self.norm(self.reading(states, mask), mask), mask)
        pooled = self.pooling(self.arrangement.tokens(tokens, mask), mask)
        vectors = self.head(self.arrangement.vectors(pooled, inputs))
        logits = self.output(self.dropout(vectors))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        at_tokens = tuple(self.arrangement.states(each, inputs) for each in states) if output_hidden_states else None
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=at_tokens)


def classifier_of(model: nn.Module, trick: str) -> Classifier:
    """`model` itself where it is a `Classifier`, else one with its encoder and configuration.

    Raises:
        InputError: it is no transformers model of text with an encoder inside.
    """
    if isinstance(model, Classifier):
        return model
    if not isinstance(model, PreTrainedModel) or model.base_model is model or model.get_input_embeddings() is None:
        raise InputError(
            f"{trick} reads the states of a transformers model of text with a classification head; "
            f"{type(model).__name__} is none"
        )
    return Classifier(model)


def _pooling(config: Any) -> type[Unchanged]:
    return LastToken if is_causal(config) else FirstToken


def _widths(config: Any) -> tuple[int, ...]:
    """The width of each layer's states, the embeddings' output first."""
    if (widths := getattr(config, "layer_widths", None)) is not None:
        return tuple(int(width) for width in widths)
    text = config.get_text_config()
    return (int(text.hidden_size),) * (int(text.num_hidden_layers) + 1)


def _head_dropout(config: Any) -> float:
    """The probability with which the model's own head drops its input, by the name it has there."""
    for name in ("classifier_dropout", "seq_classif_dropout", "summary_last_dropout", "hidden_dropout_prob"):
        if isinstance(value := getattr(config, name, None), float):
            return value
    return 0.0


def _resize(linear: nn.Linear, width: int, std: float) -> None:
    """Give an output layer a new input width, drawn anew; the module stays, for others may stand around it."""
    linear.in_features = width
    linear.weight = nn.Parameter(torch.empty(linear.out_features, width).normal_(std=std))
    linear.bias = nn.Parameter(torch.zeros(linear.out_features))

"""An auxiliary language-model loss beside the task's own."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from finetricks import Choice, Context, InputError, Step, Trick, hookimpl
from finetricks_plugins.language_model.head import TiedHead, input_embeddings
from finetricks_plugins.language_model.objective import objective_of, reads_both_directions
from finetricks_plugins.language_model.targets import Masking, masking_of

NAME = "auxiliary_lm"
HEAD = "auxiliary_lm_head"
CONSTANT_AFTER = 15


def gamma_at(epoch: int, gamma: float, decay: str, rate: float) -> float:
    """The weight of the auxiliary loss in `epoch` (from 0): gamma * exp(-rate * epoch), constant from epoch 14 on."""
    return gamma * math.exp(-rate * min(epoch, CONSTANT_AFTER - 1)) if decay == "exponential" else gamma


class AuxiliaryHead(TiedHead):
    """The head, and what was settled when it was built.

    Attributes:
        masking: `None` for a causal language model.
        carried: a model that is built in the place of the one that has this head takes it over.
    """

    masking: Masking | None
    carried = True


class AuxiliaryLM(Trick):
    """Keep the model a language model while it learns the task: L = L_task + gamma * L_LM on the same text.

    A decoder predicts the next token, so does an LSTM (one that reads in both directions: each direction its own next
    token), an encoder the masked ones (15 %: 80/10/10). Of an encoder-decoder the encoder is trained, as a masked
    language model. A head of its own, tied to the input embeddings, reads the states and is taken off when training
    ends. Adds to whatever owns the loss. Each micro-batch costs one forward pass more: a classifier's own pass has no
    masked input and keeps no states.

    Traps: in the authors' code the tied embeddings move with the body and not at their own, later epoch, for they are
    in the head's optimizer too; here they are parameters of the layer `embeddings`, and nothing else. Their gamma
    decays by 0.9512 an epoch from 0.2019 over 15 epochs and then stays: `decay: exponential`.

    Source: Chronopoulou, Baziotis & Potamianos 2019, An Embarrassingly Simple Approach for Transfer Learning from
    Pretrained Language Models (arXiv 1902.10547), section 3; values from the authors' configuration. Both directions:
    Peters et al. 2018, Deep Contextualized Word Representations (arXiv 1802.05365), section 3.1.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"gamma": 0.0}
    looks_ahead: ClassVar[bool] = False

    gamma: Annotated[float, Field(ge=0, allow_inf_nan=False), Choice(0.1, 0.2, 0.5)] = Field(
        default=0.2, description="Weight of the language model's loss (in the first epoch)."
    )
    decay: Literal["constant", "exponential"] = Field(default="constant", description="Course of gamma over epochs.")
    rate: Annotated[float, Field(ge=0)] = Field(
        default=0.05, description="gamma falls by exp(-rate) an epoch, for 15 epochs; for exponential."
    )
    objective: Literal["auto", "causal", "masked"] = Field(
        default="auto", description="auto: causal where attention (or an LSTM) sees only what came before."
    )
    layer: Annotated[int, Field(ge=0)] = Field(
        default=0, description="How many layers below the top the states are read."
    )
    mask_probability: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.15, description="Share of tokens that masked language modelling predicts."
    )
    mask_token_id: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The mask token; the tokenizer's by default. Needed in a loop without a tokenizer."
    )

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> None:
        if self.gamma == 0:
            return
        embeddings = input_embeddings(model, NAME)
        config: Any = model.config
        head = AuxiliaryHead(self._width(model), embeddings.embedding_dim, embeddings.num_embeddings)
        head.masking = None
        if objective_of(config, self.objective, NAME) == "masked":
            head.masking = masking_of(
                model,
                embeddings,
                context,
                probability=self.mask_probability,
                mask_token_id=self.mask_token_id,
                trick=NAME,
            )
        model.add_module(HEAD, head)

    @hookimpl(wrapper=True)
    def loss(self, batch: Mapping[str, Any], step: Step) -> Generator[None, Tensor, Tensor]:
        loss = yield
        gamma = gamma_at(step.progress.epoch, self.gamma, self.decay, self.rate)
        return loss if gamma == 0 else loss + gamma * self.language_model_loss(batch, step)

    @hookimpl
    def finish(self, model: nn.Module) -> None:
        if hasattr(model, HEAD):
            delattr(model, HEAD)

    def language_model_loss(self, batch: Mapping[str, Any], step: Step) -> Tensor:
        """Mean cross-entropy of the predicted tokens of a micro-batch; 0 where there is none to predict."""
        head: AuxiliaryHead = getattr(step.model, HEAD)
        embeddings = input_embeddings(step.model, NAME).weight
        ids: Tensor = batch["input_ids"]
        attention = batch["attention_mask"] if "attention_mask" in batch else torch.ones_like(ids)
        if head.masking is None:
            both = reads_both_directions(step.model.config)
            return head.causal_loss(self._states(batch, ids, step), ids, attention, embeddings, both=both)
        inputs, targets = head.masking(ids, attention, step.generator(self))
        return head.loss(self._states(batch, inputs, step), targets, embeddings)

    def _states(self, batch: Mapping[str, Any], input_ids: Tensor, step: Step) -> Tensor:
        """The states [rows, tokens, width] that the head reads, of a forward pass of its own."""
        given = {name: value for name, value in batch.items() if name != "labels"}
        outputs = step.forward({**given, "input_ids": input_ids, "output_hidden_states": True})
        states: Any = outputs.get("hidden_states") or outputs.get("encoder_hidden_states")
        if not states or self.layer >= len(states):
            raise InputError(
                f"{NAME}: no hidden states {self.layer} layers below the top in {type(step.model).__name__}"
            )
        return states[-1 - self.layer]  # type: ignore[no-any-return]

    def _width(self, model: nn.Module) -> int:
        """What the head reads of a token. Raises `InputError` for a layer that does not exist."""
        config: Any = model.config
        text = config.get_text_config()
        depth = getattr(text, "num_hidden_layers", None)
        if depth is not None and self.layer > depth:
            raise InputError(
                f"{NAME}: no hidden states {self.layer} layers below the top in {type(model).__name__}; its "
                f"{depth} layers allow 0 to {depth}"
            )
        both = reads_both_directions(config)
        if both and self.layer == depth:
            raise InputError(
                f"{NAME}: the embeddings of {type(model).__name__} have no directions yet, and its language model has "
                f"two; its {depth} layers allow 0 to {depth - 1}"
            )
        widths = getattr(text, "layer_widths", None)  # of finetricks' own LSTMs, whose layers differ
        width = int(text.hidden_size if widths is None else widths[-1 - self.layer])
        return width // 2 if both else width

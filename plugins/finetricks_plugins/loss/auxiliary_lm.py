"""An auxiliary language-model loss beside the task's own."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from finetricks import Choice, Context, InputError, Step, Trick, hookimpl

HEAD = "auxiliary_lm_head"
IGNORED = -100
CONSTANT_AFTER = 15


def gamma_at(epoch: int, gamma: float, decay: str, rate: float) -> float:
    """The weight of the auxiliary loss in `epoch` (from 0): gamma * exp(-rate * epoch), constant from epoch 14 on."""
    return gamma * math.exp(-rate * min(epoch, CONSTANT_AFTER - 1)) if decay == "exponential" else gamma


def shifted(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Targets of causal language modelling, [rows, tokens]: the next token; -100 for padding and after the last."""
    targets = torch.full_like(input_ids, IGNORED)
    following = (attention_mask[:, 1:] * attention_mask[:, :-1]).bool()
    targets[:, :-1] = input_ids[:, 1:].masked_fill(~following, IGNORED)
    return targets


def masked(
    input_ids: Tensor,
    maskable: Tensor,
    *,
    probability: float,
    mask_id: int,
    vocabulary: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of masked language modelling, both [rows, tokens].

    Each maskable token is chosen with `probability`; of the chosen ones 80 % become the mask token, 10 % a random
    token, 10 % stay. Targets are -100 elsewhere. Draws on the CPU from `generator`. (Devlin et al. 2019, section 3.1.)
    """

    def draw() -> Tensor:
        return torch.rand(input_ids.shape, generator=generator).to(input_ids.device)

    chosen = (draw() < probability) & maskable
    how, random_ids = draw(), torch.randint(vocabulary, input_ids.shape, generator=generator).to(input_ids)
    inputs = torch.where(chosen & (how < 0.8), mask_id, input_ids)
    inputs = torch.where(chosen & (how >= 0.9), random_ids, inputs)
    return inputs, input_ids.masked_fill(~chosen, IGNORED)


class LanguageModelHead(nn.Module):
    """Hidden states to scores over the vocabulary, with the input embeddings as the output matrix.

    The embeddings are borrowed at each call, not owned: they are registered, saved and trained once, where they are.
    """

    causal: bool
    special_ids: list[int]
    mask_id: Any

    def __init__(self, hidden: int, embedding: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, embedding)
        self.norm = nn.LayerNorm(embedding)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """`states` [tokens, hidden] and `embeddings` [vocabulary, embedding] to scores [tokens, vocabulary]."""
        return F.linear(self.norm(F.gelu(self.dense(states))), embeddings, self.bias)


class AuxiliaryLM(Trick):
    """Keep the model a language model while it learns the task: L = L_task + gamma * L_LM on the same text.

    A decoder predicts the next token, an encoder the masked ones (15 %: 80/10/10). A head of its own, tied to the input
    embeddings, reads the states and is taken off when training ends. Adds to whatever owns the loss. Each micro-batch
    costs one forward pass more, since a classifier's own pass has no masked input and keeps no states.

    Traps: in the authors' code the tied embeddings move with the body and not at their own, later epoch, for they are
    in the head's optimizer too; here they are parameters of the layer `embeddings`, and nothing else. Their gamma
    decays by 0.9512 an epoch from 0.2019 over 15 epochs and then stays: `decay: exponential`.

    Source: Chronopoulou, Baziotis & Potamianos 2019, An Embarrassingly Simple Approach for Transfer Learning from
    Pretrained Language Models (arXiv 1902.10547), section 3; values from the authors' configuration.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"gamma": 0.0}

    gamma: Annotated[float, Field(ge=0), Choice(0.1, 0.2, 0.5)] = Field(
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
        embeddings = _embeddings(model)
        config: Any = model.config
        hidden = getattr(config.get_text_config(), "hidden_size", embeddings.embedding_dim)
        head = LanguageModelHead(hidden, embeddings.embedding_dim, embeddings.num_embeddings)
        tokenizer = context.tokenizer
        head.causal = is_causal(config) if self.objective == "auto" else self.objective == "causal"
        head.special_ids = [] if tokenizer is None else list(tokenizer.all_special_ids)
        head.mask_id = tokenizer.mask_token_id if self.mask_token_id is None and tokenizer else self.mask_token_id
        if not head.causal and head.mask_id is None:
            raise InputError(
                "auxiliary_lm: masked language modelling needs a mask token, and there is none (or no tokenizer): set "
                "mask_token_id, or objective: causal for a model that sees only what came before"
            )
        if not head.causal and head.mask_id >= embeddings.num_embeddings:
            raise InputError(
                f"auxiliary_lm: the mask token {head.mask_id} lies outside the {embeddings.num_embeddings} embeddings "
                f"of {type(model).__name__}"
            )
        depth = getattr(config.get_text_config(), "num_hidden_layers", None)
        if depth is not None and self.layer > depth:
            raise InputError(
                f"auxiliary_lm: no hidden states {self.layer} layers below the top in {type(model).__name__}; its "
                f"{depth} layers allow 0 to {depth}"
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
        head: LanguageModelHead = getattr(step.model, HEAD)
        embeddings = _embeddings(step.model)
        ids: Tensor = batch["input_ids"]
        attention = batch.get("attention_mask", torch.ones_like(ids))
        if head.causal:
            inputs, targets = ids, shifted(ids, attention)
        else:
            maskable = attention.bool() & ~torch.isin(ids, torch.tensor(head.special_ids, device=ids.device))
            inputs, targets = masked(
                ids,
                maskable,
                probability=self.mask_probability,
                mask_id=head.mask_id,
                vocabulary=embeddings.num_embeddings,
                generator=step.generator(self),
            )
        given = {name: value for name, value in batch.items() if name != "labels"}
        outputs = step.forward({**given, "input_ids": inputs, "output_hidden_states": True})
        states = outputs.get("hidden_states") or outputs.get("encoder_hidden_states")
        if not states or self.layer >= len(states):
            raise InputError(
                f"auxiliary_lm: no hidden states {self.layer} layers below the top in {type(step.model).__name__}"
            )
        predicted = targets != IGNORED
        scores = head(states[-1 - self.layer][predicted], embeddings.weight)
        return F.cross_entropy(scores, targets[predicted], reduction="sum") / predicted.sum().clamp(min=1)


def is_causal(config: Any) -> bool:
    """Whether a transformers model attends only to what came before.

    Models that transformers offers as causal but not as masked language models; one that is offered as both (BERT) says
    so in its configuration. XLNet generates by other means and attends both ways, and so do Gemma's encoders.
    """
    if getattr(config, "is_encoder_decoder", False):
        return False
    text = config.get_text_config()
    if getattr(text, "attn_type", None) == "bi" or getattr(text, "use_bidirectional_attention", False) is True:
        return False
    kind = text.model_type
    only_causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return only_causal or bool(getattr(config, "is_decoder", False))


def _embeddings(model: nn.Module) -> nn.Embedding:
    """The input embeddings of a transformers model. Raises `InputError` for a model that has none to tie to."""
    get: Any = getattr(model, "get_input_embeddings", lambda: None)
    found = get()
    if not isinstance(found, nn.Embedding) or not hasattr(model, "config"):
        raise InputError(
            f"auxiliary_lm: {type(model).__name__} has no input embeddings to tie a language-model head to; "
            "it needs a transformers model of text"
        )
    return found

"""A language model around the body of a model: the body's own kind where transformers has one, else a tied head."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from finetricks.streams import seeded
from finetricks_plugins.language_model.head import TiedHead, input_embeddings
from finetricks_plugins.language_model.targets import IGNORED, Masking, neighbours

logger = logging.getLogger(__name__)


class OwnHead(nn.Module):
    """A language model of transformers (or of finetricks), with the loss that it computes itself.

    Attributes:
        body: what is kept when the rest is dropped.
        masking: `None` for a causal language model, which shifts its labels itself.
    """

    def __init__(self, model: Any, masking: Masking | None) -> None:
        super().__init__()
        self.model = model
        self.masking = masking

    @property
    def body(self) -> nn.Module:
        return self.model.base_model  # type: ignore[no-any-return]

    def loss(self, input_ids: Tensor, attention_mask: Tensor, generator: torch.Generator) -> Tensor | None:
        """Mean loss of the predicted tokens of [rows, tokens]; `None` where there is none to predict."""
        if self.masking is None:
            given, labels = input_ids, input_ids.masked_fill(attention_mask == 0, IGNORED)
        else:
            given, labels = self.masking(input_ids, attention_mask, generator)
        if not (labels != IGNORED).any():
            return None
        return self.model(input_ids=given, attention_mask=attention_mask, labels=labels).loss  # type: ignore[no-any-return]


class WithTiedHead(nn.Module):
    """A body of a kind that has no language model, with a head tied to its embeddings. As `OwnHead`."""

    def __init__(self, body: Any, masking: Masking | None, trick: str) -> None:
        super().__init__()
        embeddings = input_embeddings(body, trick)
        width = body.config.get_text_config().hidden_size
        self.body = body
        self.head = TiedHead(width, embeddings.embedding_dim, embeddings.num_embeddings)
        self.masking = masking
        self.trick = trick

    def loss(self, input_ids: Tensor, attention_mask: Tensor, generator: torch.Generator) -> Tensor | None:
        """Mean loss of the predicted tokens of [rows, tokens]; `None` where there is none to predict."""
        given, targets = input_ids, neighbours(input_ids, attention_mask)
        if self.masking is not None:
            given, targets = self.masking(input_ids, attention_mask, generator)
        if not (targets != IGNORED).any():
            return None
        states = self.body(input_ids=given, attention_mask=attention_mask).last_hidden_state
        return self.head.loss(states, targets, input_embeddings(self.body, self.trick).weight)


LanguageModel = OwnHead | WithTiedHead


def language_model(
    body: Any, trained: Collection[str], masking: Masking | None, *, name: str, seed: int, trick: str
) -> LanguageModel:
    """A language model around a copy of `body`.

    Args:
        body: a base model of transformers; left alone.
        trained: names of its parameters that are trained, besides the head's.
        masking: `None` for a causal language model.
        name: of the checkpoint that it came from, whose language-model head is taken if it has one; or empty.
        seed: what the checkpoint lacks is drawn from it.
    """
    from finetricks.tasks.models import quiet

    body = copy.deepcopy(body)
    if hasattr(body.config, "use_cache"):
        body.config.use_cache = False
    for parameter_name, parameter in body.named_parameters():
        parameter.requires_grad_(parameter_name in trained)
    with quiet(), seeded(seed):
        own = _own(body, name, causal=masking is None)
        model = WithTiedHead(body, masking, trick) if own is None else OwnHead(own, masking)
    first = next(body.parameters())
    return model.to(device=first.device, dtype=first.dtype)


def _own(body: Any, name: str, *, causal: bool) -> Any:
    """The language model that transformers has for this kind of body, around it; `None` if it has none."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    auto: Any = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    if type(body.config) not in auto._model_mapping:
        return None
    model, missing = _loaded(auto, body.config, name)
    own_body = model.base_model
    if type(own_body) is not type(body):
        return None
    output = model.get_output_embeddings()
    drawn = output is not None and any(p is output.weight and n in missing for n, p in model.named_parameters())
    size = body.get_input_embeddings().num_embeddings
    if own_body.get_input_embeddings().num_embeddings != size:
        model.resize_token_embeddings(size, mean_resizing=False)
        output = model.get_output_embeddings()
    if getattr(own_body, "pooler", None) is None and getattr(body, "pooler", None) is not None:
        body.pooler = None  # no part of the language model: it stays as it is, and is no part of the result
    setattr(model, model.base_model_prefix, body)
    model.tie_weights()
    embeddings = body.get_input_embeddings().weight
    if drawn and output.weight.shape == embeddings.shape:
        output.weight = embeddings  # better than an output matrix that was drawn at random
    return model


def _loaded(auto: Any, config: Any, name: str) -> tuple[Any, set[str]]:
    """A language model of the checkpoint, and the names of its parameters that were drawn at random."""
    if name:
        try:
            model, info = auto.from_pretrained(name, output_loading_info=True, trust_remote_code=False)
            return model, set(info["missing_keys"])
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            logger.warning("no language-model head from %s, so it is drawn: %s", name, str(error).split("\n")[0])
    model = auto.from_config(copy.deepcopy(config))
    return model, {parameter for parameter, _ in model.named_parameters()}

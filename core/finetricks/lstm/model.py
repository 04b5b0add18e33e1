"""The LSTM encoder: words to states, layer by layer, in one direction or two."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from finetricks.lstm.alignment import alignments
from finetricks.lstm.config import LSTMConfig
from finetricks.lstm.dropouts import LockedDropout, WeightDropLSTM, WordEmbedding


class LSTMPreTrainedModel(PreTrainedModel):  # type: ignore[misc]  # transformers gives it no type
    """What the LSTM models have in common: configuration, prefix, initialisation."""

    config_class = LSTMConfig
    base_model_prefix = "lstm"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        bound = self.config.initializer_range
        if isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -bound, bound)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LSTM):
            for weight in module.parameters():
                nn.init.uniform_(weight, -(module.hidden_size**-0.5), module.hidden_size**-0.5)
        elif isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class LSTMLayer(nn.Module):
    """One layer. Two directions do not see one another: each reads the states of its own in the layer below."""

    def __init__(self, inputs: int, hidden: int, weight_drop: float, *, bidirectional: bool) -> None:
        super().__init__()
        self.forwards = WeightDropLSTM(inputs, hidden, weight_drop)
        self.backwards = WeightDropLSTM(inputs, hidden, weight_drop) if bidirectional else None

    def forward(self, forwards: Tensor, backwards: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """States [rows, tokens, hidden] of each direction, in its order of reading."""
        if self.backwards is None or backwards is None:
            return self.forwards.read(forwards), None
        return self.forwards.read(forwards), self.backwards.read(backwards)


class LSTMModel(LSTMPreTrainedModel):
    """The encoder. `last_hidden_state` is [rows, tokens, width], zero at padding, which may stand on either side.

    `hidden_states`, if asked for, are those of the embeddings and of each layer, of the widths `config.layer_widths`.
    In two directions a state is [forward, backward]: what has been read up to its token, from the beginning and from
    the end. Neither has seen what the other has.
    """

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.embeddings: nn.Embedding = WordEmbedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.embeddings.dropout = config.embedding_dropout
        self.input_dropout = LockedDropout(config.input_dropout)
        self.hidden_dropout = LockedDropout(config.hidden_dropout)
        widths = (config.embedding_size, *config.direction_widths)
        self.layers = nn.ModuleList(
            LSTMLayer(inputs, hidden, config.weight_drop, bidirectional=config.bidirectional)
            for inputs, hidden in pairwise(widths)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        from_begin, from_end = alignments(mask.bool())
        embedded = self.input_dropout(self.embeddings(input_ids))
        forwards: Tensor = from_begin.read(embedded)
        backwards: Tensor | None = from_end.read(embedded) if self.config.bidirectional else None
        states = [embedded * from_begin.mask[..., None]]
        for number, layer in enumerate(self.layers):
            if number:
                forwards = self.hidden_dropout(forwards)
                backwards = None if backwards is None else self.hidden_dropout(backwards)
            forwards, backwards = layer(forwards, backwards)
            read = [from_begin.put_back(forwards)]
            if backwards is not None:
                read.append(from_end.put_back(backwards))
            states.append(torch.cat(read, dim=-1))
        return BaseModelOutput(
            last_hidden_state=states[-1], hidden_states=tuple(states) if output_hidden_states else None
        )

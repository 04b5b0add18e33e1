"""The LSTM encoder: words to states, layer by layer, in one direction or two."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from finetricks.lstm.alignment import alignments
from finetricks.lstm.config import LSTMConfig
from finetricks.lstm.dropouts import LockedDropout, WeightDropLSTM, WordEmbedding


def real_tokens(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The places of real tokens, [rows, tokens], as booleans: all of them where there is no mask."""
    return torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()


class LSTMPreTrainedModel(PreTrainedModel):  # type: ignore[misc]  # transformers gives it no type
    """What the LSTM models have in common: configuration, prefix, initialisation."""

    config_class = LSTMConfig
    base_model_prefix = "lstm"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over their batch: the Trainer has to average those it accumulates

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


class LSTMLayer(GradientCheckpointingLayer):  # type: ignore[misc]  # transformers gives it no type
    """One layer. Two directions do not see one another: each reads the states of its own in the layer below.

    It drops what it reads itself, so that a frozen layer drops nothing and a trained one does.
    """

    def __init__(self, inputs: int, hidden: int, dropout: float, weight_drop: float, *, bidirectional: bool) -> None:
        super().__init__()
        self.dropout = LockedDropout(dropout)
        self.forwards = WeightDropLSTM(inputs, hidden, weight_drop)
        self.backwards = WeightDropLSTM(inputs, hidden, weight_drop) if bidirectional else None

    def forward(self, forwards: Tensor, backwards: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """States [rows, tokens, hidden] of each direction, in its order of reading."""
        states, _ = self.forwards(self.dropout(forwards))
        if self.backwards is None or backwards is None:
            return states, None
        states_from_end, _ = self.backwards(self.dropout(backwards))
        return states, states_from_end


class LSTMModel(LSTMPreTrainedModel):
    """The encoder. `last_hidden_state` is [rows, tokens, width], zero at padding, which may stand anywhere.

    `hidden_states`, if asked for, are those of the embeddings and of each layer, of the widths `config.layer_widths`,
    as they are before the layer above drops some.
    In two directions a state is [forward, backward]: what has been read up to its token, from the beginning and from
    the end. Neither has seen what the other has.
    """

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.embeddings: nn.Embedding = WordEmbedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.embeddings.dropout = config.embedding_dropout
        widths = (config.embedding_size, *config.direction_widths)
        dropouts = (config.input_dropout, *[config.hidden_dropout] * (config.num_hidden_layers - 1))
        self.layers = nn.ModuleList(
            LSTMLayer(inputs, hidden, dropout, config.weight_drop, bidirectional=config.bidirectional)
            for (inputs, hidden), dropout in zip(pairwise(widths), dropouts, strict=True)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings = value

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        from_begin, from_end = alignments(real_tokens(input_ids, attention_mask))
        embedded = self.embeddings(input_ids)
        forwards: Tensor = from_begin.read(embedded)
        backwards: Tensor | None = from_end.read(embedded) if self.config.bidirectional else None
        states = [embedded * from_begin.mask[..., None]]
        for layer in self.layers:
            forwards, backwards = layer(forwards, backwards)
            read = [from_begin.put_back(forwards)]
            if backwards is not None:
                read.append(from_end.put_back(backwards))
            states.append(torch.cat(read, dim=-1))
        return BaseModelOutput(
            last_hidden_state=states[-1], hidden_states=tuple(states) if output_hidden_states else None
        )

"""The LSTM as a classifier of texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from finetricks.lstm.config import LSTMConfig
from finetricks.lstm.model import LSTMModel, LSTMPreTrainedModel, real_tokens


class LSTMForSequenceClassification(LSTMPreTrainedModel):
    """A linear layer on the state that has read the whole text: of the last token, and backwards of the first."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.lstm = LSTMModel(config)
        self.dropout = nn.Dropout(config.output_dropout)
        self.classifier = nn.Linear(config.layer_widths[-1], config.num_labels)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        outputs = self.lstm(input_ids, attention_mask, output_hidden_states=output_hidden_states, return_dict=True)
        mask = real_tokens(input_ids, attention_mask).int()
        rows = torch.arange(len(mask), device=mask.device)
        last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
        states = outputs.last_hidden_state
        read = states[rows, last]
        if self.config.bidirectional:
            forwards, backwards = states.chunk(2, dim=-1)
            read = torch.cat([forwards[rows, last], backwards[rows, mask.argmax(dim=1)]], dim=-1)
        logits = self.classifier(self.dropout(read))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

"""The LSTM as a language model: of the next word, and in two directions of the word before, too."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import can_return_tuple

from finetricks.lstm.config import LSTMConfig
from finetricks.lstm.dropouts import LockedDropout
from finetricks.lstm.model import LSTMModel, LSTMPreTrainedModel, real_tokens

IGNORED = -100


class LSTMForCausalLM(LSTMPreTrainedModel):
    """A language model with one decoder for both directions, tied to the embeddings if the configuration says so.

    `labels` are the input ids, -100 where nothing is to be predicted; they are shifted here. The loss is the mean
    cross-entropy of the next word; in two directions the mean of that and of the word before, as the backward states
    predict it (Peters et al. 2018, arXiv 1802.05365, section 3.1). Nothing is predicted at padding, which has no state.
    `logits` are the forward direction's.
    """

    _tied_weights_keys: ClassVar[dict[str, str]] = {"decoder.weight": "lstm.embeddings.weight"}

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.lstm = LSTMModel(config)
        self.output_dropout = LockedDropout(config.output_dropout)
        self.decoder = nn.Linear(config.direction_widths[-1], config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.decoder = value

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        outputs = self.lstm(input_ids, attention_mask, output_hidden_states=output_hidden_states, return_dict=True)
        states = self.output_dropout(outputs.last_hidden_state)
        forwards, *backwards = states.chunk(2, dim=-1) if self.config.bidirectional else (states,)
        logits = self.decoder(forwards)
        loss = None
        if labels is not None:
            real = real_tokens(input_ids, attention_mask)
            loss = _loss(logits[:, :-1], labels[:, 1:].masked_fill(~real[:, :-1], IGNORED))
            for each in backwards:
                before = labels[:, :-1].masked_fill(~real[:, 1:], IGNORED)
                loss = (loss + _loss(self.decoder(each)[:, 1:], before)) / 2
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the targets that are not -100; 0 where all are."""
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)

"""Models from tiny configurations, with weights drawn from a seed: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from finetricks.lstm import LSTMConfig, LSTMForSequenceClassification
from finetricks.streams import kept

VOCABULARY = 50
CLASSES = 3


def bert_config(blocks: int = 2, dropout: float = 0.1) -> BertConfig:
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=blocks,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=CLASSES,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def bert(seed: int = 0, blocks: int = 2, dropout: float = 0.1) -> nn.Module:
    """BERT, with three classes. The caller's random state is left alone, as by the others."""
    return _drawn(seed, lambda: BertForSequenceClassification(bert_config(blocks, dropout)))


def lstm(seed: int = 0) -> nn.Module:
    """Two layers of an LSTM, with three classes."""
    config = LSTMConfig(
        vocab_size=VOCABULARY, embedding_size=12, hidden_size=12, num_hidden_layers=2, num_labels=CLASSES
    )
    return _drawn(seed, lambda: LSTMForSequenceClassification(config))


class BertAndLSTM(BertPreTrainedModel):  # type: ignore[misc]
    """An encoder with an LSTM above it: for tricks of either kind side by side."""

    supports_gradient_checkpointing = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.reader = nn.LSTM(config.hidden_size, 8, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(16, config.num_labels)
        self.loss_type = "ForSequenceClassification"
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Any = None, labels: Any = None, **more: Any) -> Any:
        more.pop("num_items_in_batch", None)
        outputs = self.bert(input_ids, attention_mask, **more)
        logits = self.classifier(self.reader(outputs.last_hidden_state)[0].mean(1))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


def bert_and_lstm(seed: int = 0) -> nn.Module:
    return _drawn(seed, lambda: BertAndLSTM(bert_config()))


def _drawn(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    with kept():
        torch.manual_seed(seed)
        return make()


MODELS: Mapping[str, Callable[..., nn.Module]] = {"bert": bert, "lstm": lstm, "bert_and_lstm": bert_and_lstm}
"""By name, each a function of a seed."""

OTHER_DEPTHS: Mapping[str, tuple[Callable[..., nn.Module], ...]] = {
    "bert": (partial(bert, blocks=1), partial(bert, blocks=4))
}
"""The same with other numbers of blocks."""

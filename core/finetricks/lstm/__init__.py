"""LSTM language models: the encoders of ULMFiT, SiATL and ELMo, as transformers models.

Importing this package tells transformers' Auto classes of them.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from finetricks.lstm.classification import LSTMForSequenceClassification
from finetricks.lstm.config import LSTMConfig
from finetricks.lstm.create import create_lstm
from finetricks.lstm.language_model import LSTMForCausalLM
from finetricks.lstm.model import LSTMModel

AutoConfig.register(LSTMConfig.model_type, LSTMConfig, exist_ok=True)
AutoModel.register(LSTMConfig, LSTMModel, exist_ok=True)
AutoModelForCausalLM.register(LSTMConfig, LSTMForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(LSTMConfig, LSTMForSequenceClassification, exist_ok=True)

__all__ = ["LSTMConfig", "LSTMForCausalLM", "LSTMForSequenceClassification", "LSTMModel", "create_lstm"]

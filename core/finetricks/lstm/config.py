"""The configuration of the LSTM models."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

_SIZES = ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers")
DROPOUTS = ("embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "weight_drop")


class LSTMConfig(PretrainedConfig):  # type: ignore[misc]  # transformers gives it no type
    """A stack of LSTM layers over word embeddings, with the dropouts of AWD-LSTM.

    Sizes and probabilities are ULMFiT's (Howard & Ruder 2018, arXiv 1801.06146, section 4.1).

    Args:
        embedding_size: width of the embeddings, and of the last layer's states where the decoder is tied to them.
        hidden_size: width of the other layers' states, in each direction.
        bidirectional: a second stack reads from the end; states are [forward, backward]. Each direction is a language
            model of its own, as in ELMo (Peters et al. 2018, arXiv 1802.05365, section 3.1).
        embedding_dropout: share of the words of the vocabulary that are dropped as a whole.
        input_dropout: on the embedded words, as the first layer reads them; as the next two one mask for all tokens of
            a text.
        hidden_dropout: between layers.
        output_dropout: on the last layer's states, before a head.
        weight_drop: on the recurrent weights (Merity et al. 2018, arXiv 1708.02182, section 2).
        initializer_range: embeddings and heads are drawn from U(-range, range); LSTM layers of H units as torch does,
            from U(-1/sqrt(H), 1/sqrt(H)).

    Raises:
        ValueError: a size is less than 1, or a probability not between 0 and 1.
    """

    model_type = "finetricks_lstm"

    def __init__(
        self,
        *,
        vocab_size: int = 30_000,
        embedding_size: int = 400,
        hidden_size: int = 1150,
        num_hidden_layers: int = 3,
        bidirectional: bool = False,
        embedding_dropout: float = 0.05,
        input_dropout: float = 0.4,
        hidden_dropout: float = 0.3,
        output_dropout: float = 0.4,
        weight_drop: float = 0.5,
        initializer_range: float = 0.1,
        tie_word_embeddings: bool = True,
        pad_token_id: int = 0,
        **more: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.bidirectional = bidirectional
        self.embedding_dropout = embedding_dropout
        self.input_dropout = input_dropout
        self.hidden_dropout = hidden_dropout
        self.output_dropout = output_dropout
        self.weight_drop = weight_drop
        self.initializer_range = initializer_range
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; an LSTM needs at least 1")
        for name in DROPOUTS:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name):g}; a probability lies between 0 and 1")
        super().__init__(pad_token_id=pad_token_id, tie_word_embeddings=tie_word_embeddings, **more)

    @property
    def direction_widths(self) -> tuple[int, ...]:
        """The width of each layer's states in one direction."""
        last = self.embedding_size if self.tie_word_embeddings else self.hidden_size
        return (*[self.hidden_size] * (self.num_hidden_layers - 1), last)

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """The width of the embeddings' output, then of each layer's states."""
        directions = 2 if self.bidirectional else 1
        return (self.embedding_size, *(directions * width for width in self.direction_widths))

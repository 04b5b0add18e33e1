"""More layers between the encoder and the head."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from finetricks import Choice, Context, InputError, Trick, hookimpl

NAME = "task_layers"
Kind = Literal["bilstm", "mlp", "transformer"]

# Each layer takes states [rows, tokens, width] and the mask [rows, tokens] of real tokens, and gives states. What it
# gives at padding means nothing, and what stands there reaches no real token. Its dropout is a function, no module: a
# trick that sets the model's dropout finds the same whether it comes before this one or after.


class BiLSTMLayer(nn.Module):
    """An LSTM in both directions over the real tokens, each half of the output's width."""

    def __init__(self, given: int, width: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(given, width // 2, batch_first=True, bidirectional=True)
        self.p = dropout

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        order = (~mask).int().argsort(dim=1, stable=True)  # the real tokens first, whichever side is padded
        sorted_states = states.gather(1, order[..., None].expand_as(states))
        lengths = mask.sum(dim=1).clamp(min=1).cpu()
        packed = pack_padded_sequence(sorted_states, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=states.shape[1])
        back = order.argsort(dim=1)
        return F.dropout(outputs.gather(1, back[..., None].expand_as(outputs)), self.p, self.training)


class MLPLayer(nn.Module):
    """A linear layer and ReLU, token by token."""

    def __init__(self, given: int, width: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(given, width)
        self.p = dropout

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return F.dropout(F.relu(self.linear(states)), self.p, self.training)


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward network four times as wide, each added to its input and then normalised."""

    def __init__(self, given: int, width: int, dropout: float, heads: int) -> None:
        super().__init__()
        self.project = nn.Identity() if given == width else nn.Linear(given, width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width)
        self.p = dropout

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = self.project(states)
        ignored = ~mask & mask.any(dim=1, keepdim=True)  # a row without tokens attends to itself: to nothing is NaN
        attended, _ = self.attention(states, states, states, key_padding_mask=ignored, need_weights=False)
        states = self.attention_norm(states + F.dropout(attended, self.p, self.training))
        changed = self.down(F.gelu(self.up(states)))
        return self.norm(states + F.dropout(changed, self.p, self.training))  # type: ignore[no-any-return]


class Stack(nn.Module):
    """Layers one above the other; fits the slot `task_layers` of a `Classifier`."""

    def __init__(self, width: int, *, kind: Kind, number: int, wanted: int | None, heads: int, dropout: float) -> None:
        super().__init__()
        self.width = width if wanted is None else wanted
        self.both_directions = kind == "bilstm"  # no token's state has seen all others in each half
        if kind == "bilstm" and self.width % 2:
            raise InputError(
                f"{NAME}: a bilstm of width {self.width} has no halves for its directions; give an even width"
            )
        if kind == "transformer" and self.width % heads:
            raise InputError(
                f"{NAME}: {heads} heads cannot share a width of {self.width}; give a multiple of the heads"
            )
        make: Any = {
            "bilstm": BiLSTMLayer,
            "mlp": MLPLayer,
            "transformer": partial(TransformerLayer, heads=heads),
        }[kind]
        self.layers = nn.ModuleList(
            make(self.width if above else width, self.width, dropout) for above in range(number)
        )

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            states = layer(states, mask)
        return states


class TaskLayers(Trick):
    """More parameters above the encoder: BiLSTM, MLP or transformer layers, between its states and the pooling.

    They see what the encoder gives for each token (with `layer_pooling` or `feature_based`, what these read), belong to
    the layer `head`, and begin from random weights. A BiLSTM or MLP layer gives dropout(layer(h)); a transformer layer
    is self-attention and a feed-forward network of four times the width (GELU), each dropped out, added and normalised.
    They gain most on a frozen encoder (`feature_based`, or stage 1 of `two_stage`). The model's own pooler and head are
    replaced: above come the pooling and one linear layer. Unless another trick says how, a BiLSTM's tokens are pooled
    by their max, and else the first token is taken (a decoder's last).

    Traps: the paper finds that such layers are needed for a frozen encoder and hurt where all of it is tuned at once;
    tuned with them, an encoder asks for gradual unfreezing. An LSTM that runs over padding tells texts by their length.

    Source: Peters, Ruder & Smith 2019, To Tune or Not to Tune? (arXiv 1903.05987), table 1; Wang et al. 2019, How
    About the Best of Both Worlds? (arXiv 1907.05338). Width, heads and dropout are common defaults.
    """

    kind: Annotated[Kind, Choice("bilstm", "mlp", "transformer")] = Field(
        default="bilstm", description="What stands above the encoder."
    )
    number: Annotated[int, Field(ge=1), Choice(1, 2)] = Field(default=1, description="How many layers.")
    width: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Dimensions of a layer's output (of a bilstm both directions'); by default the encoder's.",
    )
    heads: Annotated[int, Field(ge=1)] = Field(default=4, description="Attention heads, for transformer.")
    dropout: Annotated[float, Field(ge=0, lt=1), Choice(0.0, 0.1, 0.3)] = Field(
        default=0.1, description="Probability of each layer's dropout."
    )

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> nn.Module:
        from finetricks_plugins.build.classifier import classifier_of

        classifier = classifier_of(model, NAME)
        stack = partial(
            Stack, kind=self.kind, number=self.number, wanted=self.width, heads=self.heads, dropout=self.dropout
        )
        classifier.fill("task_layers", NAME, context, stack)
        return classifier

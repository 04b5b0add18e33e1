"""A denoising auto-encoder: what is corrupted, what is reconstructed, what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetricks import Diverged
from finetricks_plugins.init.stack import Call, StackLayer

Corruption = Literal["masking", "gaussian"]
Reconstruction = Literal["squared_error", "cross_entropy"]
Calls = Callable[[], Iterator[Call]]


def corrupt(states: Tensor, corruption: Corruption, strength: float, generator: torch.Generator) -> Tensor:
    """`states` with noise: values set to zero with probability `strength`, or noise of that standard deviation added.

    `generator` is a CPU generator.
    """
    if strength == 0:
        return states
    if corruption == "masking":
        kept = torch.rand(states.shape, generator=generator) >= strength
        return states * kept.to(states)
    return states + strength * torch.randn(states.shape, generator=generator).to(states)


def reconstruction_loss(
    decoded: Tensor, states: Tensor, counted: Tensor | None, reconstruction: Reconstruction
) -> Tensor:
    """How far the decoder's output is from the clean `states`, both [rows, ..., width].

    The sum over the width, of squares or of the cross-entropy of sigmoid(decoded), and the mean over the positions that
    are `counted` ([rows, ...], bool; all by default).
    """
    if reconstruction == "squared_error":
        each = (decoded - states).square().sum(dim=-1)
    else:
        each = F.binary_cross_entropy_with_logits(decoded, states, reduction="none").sum(dim=-1)
    return each.mean() if counted is None else each[counted].sum() / counted.sum().clamp(min=1)


def decoder_for(hidden: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight [width, hidden], from U(-1/sqrt(hidden), 1/sqrt(hidden)), and bias [width], zero, of a linear decoder."""
    bound = 1 / math.sqrt(hidden)
    return torch.empty(width, hidden).uniform_(-bound, bound, generator=generator), torch.zeros(width)


def train(
    layer: StackLayer,
    calls: Calls,
    parameters: Sequence[nn.Parameter],
    *,
    epochs: int,
    learning_rate: float,
    corruption: Corruption,
    strength: float,
    reconstruction: Reconstruction,
    seed: int,
) -> Iterator[float]:
    """Train `parameters` of a layer, and a decoder that is dropped, to restore what the layer is given.

    Args:
        calls: gives how the layer is called for each batch, each time it is called.
        seed: of the decoder's start and of the noise.

    Yields:
        Each epoch's mean loss.

    Raises:
        Diverged: the loss is no longer finite.
    """
    generator = torch.Generator().manual_seed(seed)
    first = next(calls())
    with torch.no_grad():
        hidden = layer(first, first.states)
    decoder = decoder_for(hidden.shape[-1], first.states.shape[-1], generator)
    weight, bias = (tensor.to(hidden).requires_grad_() for tensor in decoder)
    learning = [*parameters, weight, bias]
    optimizer = torch.optim.Adam(learning, lr=learning_rate)
    step = 0
    for _ in range(epochs):
        losses = []
        for call in calls():
            decoded = F.linear(layer(call, corrupt(call.states, corruption, strength, generator)), weight, bias)
            loss = reconstruction_loss(decoded, call.states, call.counted, reconstruction)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise Diverged(step, f"reconstruction loss of {layer.name}")
            optimizer.zero_grad()
            loss.backward(inputs=learning)
            optimizer.step()
            step += 1
        yield sum(losses) / len(losses)


def in_unit_interval(calls: Calls) -> bool:
    """Whether all that a layer is given lies in [0, 1]."""
    return all(bool(((call.states >= 0) & (call.states <= 1)).all()) for call in calls())

"""Gradient checkpointing: on while a run asks for it, without a way through what is frozen."""

from __future__ import annotations

import pytest
from torch import nn

import tiny
from finetricks import InputError, Recipe, Session


def bound(*tricks: str) -> Session:
    training = {"epochs": 1, "batch_size": 4, "gradient_checkpointing": True}
    return Recipe(tricks=tricks, training=training).bind(tiny.bert(), tiny.loader())


def test_blocks_are_computed_twice_and_frozen_ones_once() -> None:
    calls: list[int] = []
    counts = {}
    for tricks in ((), ("last_layer",)):
        session = bound(*tricks)
        dense = [layer.intermediate.dense for layer in session.model.bert.encoder.layer]
        for number, module in enumerate(dense):
            module.register_forward_hook(lambda *_, number=number: calls.append(number))
        calls.clear()
        tiny.train(session, 1)
        counts[tricks] = [calls.count(number) for number in range(len(dense))]
    assert counts == {(): [2, 2, 2], ("last_layer",): [1, 1, 1]}


def test_the_backward_pass_does_not_go_through_what_is_frozen() -> None:
    session, wanted = bound("last_layer"), []
    session.model.bert.embeddings.register_forward_hook(lambda module, given, out: wanted.append(out.requires_grad))
    tiny.train(session, 1)
    assert wanted == [False]


def test_it_is_off_again_when_training_ends_unless_it_was_on_before() -> None:
    session = bound()
    assert session.model.is_activation_checkpointing
    assert not session.finish().is_activation_checkpointing
    model = tiny.bert()
    model.activation_checkpointing_enable()
    session = Recipe(training={"gradient_checkpointing": True}).bind(model, tiny.loader())
    assert session.finish().is_activation_checkpointing


def test_a_model_that_has_none_is_refused_before_training() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

    recipe = Recipe(training={"gradient_checkpointing": True})
    with pytest.raises(InputError, match=r"gradient_checkpointing: Own has none.*torch\.utils\.checkpoint"):
        recipe.bind(Own(), [{"x": 1}])

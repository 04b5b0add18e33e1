from __future__ import annotations

import tiny
from finetricks.stack import conflicts
from finetricks_plugins.freeze.full import Full
from finetricks_plugins.freeze.gradual_unfreezing import GradualUnfreezing


def test_everything_trains_as_without_it_bit_for_bit() -> None:
    losses, model = tiny.trained(tiny.recipe(Full()))
    expected, without = tiny.trained(tiny.recipe())
    assert losses == expected
    assert tiny.equal(model, without)


def test_every_layer_moves() -> None:
    before = {name: value.clone() for name, value in tiny.bert().named_parameters()}
    session = tiny.recipe(Full()).bind(tiny.bert(), tiny.loader())
    tiny.train(session)
    moved = {session.layers.layer_of(n) for n, value in session.model.named_parameters() if not value.equal(before[n])}
    assert moved == set(session.layers.names)


def test_beside_a_trick_that_thaws_in_turn_that_ones_order_holds() -> None:
    alone = tiny.recipe(GradualUnfreezing()).bind(tiny.bert(), tiny.loader()).plan
    both = tiny.recipe(Full(), GradualUnfreezing()).bind(tiny.bert(), tiny.loader()).plan
    assert both.stages == alone.stages
    assert not conflicts([("full", Full()), ("gradual_unfreezing", GradualUnfreezing())])


def test_what_the_user_froze_stays_frozen() -> None:
    model = tiny.bert()
    model.bert.embeddings.requires_grad_(False)
    before = model.bert.embeddings.word_embeddings.weight.clone()
    _, after = tiny.trained(tiny.recipe(Full()), model)
    assert before.equal(after.bert.embeddings.word_embeddings.weight)

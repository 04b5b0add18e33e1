from __future__ import annotations

import copy
import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import tiny
from finetricks import InputError, Trick
from finetricks_plugins.build.concat_pooling import ConcatPooling
from finetricks_plugins.build.head import head_modules, output_layer
from finetricks_plugins.build.output_dropout import OutputDropout
from test_classifier import NAMES, built, model_of, texts


def read_by_the_output_layer(model: nn.Module, **more: Tensor) -> Tensor:
    """What the weights of the output layer are multiplied with, in training."""
    linear = output_layer(model)
    assert linear is not None
    seen: list[Tensor] = []
    handle = linear.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    model.train()(**texts("right"), **more)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("bert", "classifier"),
        ("roberta", "classifier.out_proj"),
        ("distilbert", "classifier"),
        ("electra", "classifier.out_proj"),
        ("albert", "classifier"),
        ("deberta", "classifier"),
        ("modernbert", "classifier"),
        ("gpt2", "score"),
        ("llama", "score"),
        ("t5", "classification_head.out_proj"),
        ("bart", "classification_head.out_proj"),
    ],
)
def test_the_output_layer_is_the_one_that_gives_the_scores(kind: str, name: str) -> None:
    model = model_of(kind)
    assert output_layer(model) is model.get_submodule(name)


def test_the_output_layer_of_any_module_is_its_last_linear() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Identity())
    assert output_layer(model) is model[2]


def zeros(kind: str, *tricks: Trick, p: float) -> float:
    """The share of zeros in what the output layer reads, where the head's own dropouts have probability `p`."""
    model = model_of(kind)
    for module in head_modules(model):
        if isinstance(module, nn.Dropout):
            module.p = p
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.constant_(module.bias, 0.5)  # a dense layer that is given nothing does not give nothing
    return (read_by_the_output_layer(built(model, *tricks)) == 0).float().mean().item()


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("others", [(), (ConcatPooling(hidden=None),)], ids=["own head", "classifier"])
def test_it_stands_before_the_output_layer_in_place_of_the_models_own(kind: str, others: tuple[Trick, ...]) -> None:
    has_one = kind not in ("gpt2", "llama")
    assert (zeros(kind, *others, p=0.95) > 0.8) == has_one
    assert zeros(kind, *others, OutputDropout(p=0.0), p=0.95) < 0.4
    assert zeros(kind, *others, OutputDropout(p=0.95), p=0.0) > 0.8


def test_a_dropout_directly_before_is_replaced_and_another_is_not() -> None:
    torch.manual_seed(0)
    replaced = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.9, inplace=True), nn.Linear(64, 2))
    kept = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.9), nn.Softplus(), nn.Linear(64, 2))
    for model, zeros in ((replaced, 0), (kept, 64 * 0.9)):
        OutputDropout(p=0.0).build(model)
        seen: list[Tensor] = []
        model[-1].register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0]))
        model.train()(torch.randn(1, 4))
        nothing = nn.functional.softplus(torch.zeros(())) if zeros else torch.zeros(())
        assert (seen[0] == nothing).sum().item() == pytest.approx(zeros, abs=8)


def test_values_that_are_kept_are_scaled_by_hand() -> None:
    model = nn.Sequential(nn.Identity(), nn.Linear(1000, 1, bias=False))
    nn.init.ones_(model[1].weight)
    OutputDropout(p=0.75).build(model)
    torch.manual_seed(0)
    assert model.train()(torch.ones(1, 1000)).item() == pytest.approx(1000, rel=0.1)  # about 250 ones, times 4
    assert model.eval()(torch.ones(1, 1000)).item() == 1000


def test_the_order_beside_tricks_that_replace_the_head_changes_nothing() -> None:
    tricks = (OutputDropout(p=0.3), ConcatPooling())
    (one, first), (other, second) = (tiny.trained(tiny.recipe(*order)) for order in itertools.permutations(tricks))
    assert one == other
    assert tiny.equal(first, second)
    assert one != tiny.trained(tiny.recipe(ConcatPooling()))[0]


def test_it_changes_the_result_and_is_taken_off() -> None:
    session = tiny.recipe(OutputDropout(p=0.3)).bind(tiny.bert(), tiny.loader())
    assert not session.stack.changes_structure
    assert tiny.train(session) != tiny.trained(tiny.recipe())[0]
    model, plain = session.finish(), tiny.bert()
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    assert not model.classifier._forward_pre_hooks
    assert not model.dropout._forward_hooks
    assert model.dropout.p == 0.1


def test_building_again_leaves_one() -> None:
    model = tiny.bert()
    for p in (0.5, 0.0):
        OutputDropout(p=p).build(model)
    assert len(model.classifier._forward_pre_hooks) == 1
    assert not (read_by_the_output_layer(model) == 0).any()


def test_a_copy_has_one_of_its_own() -> None:
    model = tiny.bert()
    OutputDropout(p=0.5).build(model)
    twin = copy.deepcopy(model)
    OutputDropout().finish(model)
    assert (read_by_the_output_layer(twin) == 0).any()
    OutputDropout().finish(twin)
    assert not twin.classifier._forward_pre_hooks


def test_a_frozen_head_does_not_drop() -> None:
    session = tiny.recipe(OutputDropout(p=0.9)).bind(tiny.bert(dropout=0.0), tiny.loader())
    session._freezing.apply(frozenset(session.layers.names))
    assert not (read_by_the_output_layer(session.model) == 0).any()


def test_a_model_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(InputError, match="output_dropout: Sequential has no linear layer .* to stand before"):
        tiny.recipe(OutputDropout()).bind(nn.Sequential(nn.Conv1d(1, 1, 1)), tiny.loader())


def test_values_out_of_range_are_refused() -> None:
    for p in (-0.1, 1.0):
        with pytest.raises(ValidationError):
            OutputDropout(p=p)

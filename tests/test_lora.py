"""Low-rank adapters: a trick's own, and those that the user's model comes with."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import default_data_collator
from transformers.pytorch_utils import Conv1D

import every
import tiny
from finetricks import InputError, LayersError, Recipe, RecipeError, Trick, TrickTrainer, find_layers
from finetricks.fresh import fresh_parameters
from finetricks.stack import Stack
from finetricks_plugins.build.activation import Activation
from finetricks_plugins.build.adapters import adapters, is_adapted, thawed
from finetricks_plugins.build.concat_pooling import ConcatPooling
from finetricks_plugins.build.dropout import Dropout
from finetricks_plugins.build.lora import LoRA
from finetricks_plugins.build.output_layer_norm import OutputLayerNorm
from finetricks_plugins.build.task_layers import TaskLayers
from finetricks_plugins.init.further_pretraining import FurtherPretraining
from finetricks_plugins.init.greedy_pretraining import GreedyPretraining
from finetricks_plugins.init.kaiming import Kaiming
from finetricks_plugins.loss.auxiliary_lm import AuxiliaryLM
from test_classifier import NAMES, model_of, texts
from test_trainer import losses_of, trainer_of

peft = pytest.importorskip("peft", reason="lora is built on peft, which is not installed")

RATES = {"discriminative_lr": {"decay": 2.0}}
"""Each layer at half the rate of the one above: block.2 at 1/2, block.1 at 1/4, block.0 at 1/8, embeddings at 1/16."""


def built(model: nn.Module, *tricks: Trick) -> nn.Module:
    return Stack([(type(trick).__name__, trick) for trick in tricks]).build(model, seed=0)


def is_adapter(name: str) -> bool:
    return ".lora_" in name


def test_an_adapter_adds_alpha_over_r_times_b_a_x() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    weight, bias = (p.detach().clone() for p in model[2].parameters())
    adapted: Any = built(model, LoRA(r=2, alpha=6))[2]
    assert [is_adapted(module) for module in model] == [True, False, True, False, False]  # the head is trained whole
    assert (adapted.lora_B["default"].weight == 0).all()
    x = torch.randn(5, 4)
    assert torch.equal(adapted(x), x @ weight.T + bias)
    a, b = torch.randn(2, 4), torch.randn(4, 2)
    with torch.no_grad():
        adapted.lora_A["default"].weight.copy_(a)
        adapted.lora_B["default"].weight.copy_(b)
    assert torch.allclose(adapted(x), x @ weight.T + bias + 3 * (x @ a.T) @ b.T, atol=1e-6)


def test_adapters_have_their_layers_rates_and_freeze_and_thaw_with_them() -> None:
    recipe = Recipe(
        tricks=[{"lora": {"r": 2}}, RATES, "gradual_unfreezing"],
        training={"epochs": 3, "batch_size": 4, "learning_rate": 1e-3},
    )
    session = recipe.bind(tiny.bert(), tiny.loader())
    rates = {"block.2": 1 / 2, "block.1": 1 / 4, "block.0": 1 / 8}
    for group in session.plan.groups:
        own = [name for name in group.parameters if is_adapter(name)]
        assert len(own) == (12 if group.layer in rates else 0)  # A and B beside each of six linear layers
        assert all(f".layer.{group.layer[-1]}." in name for name in own)
        if own:
            assert group.lr_factor == rates[group.layer]
    before = {name: p.detach().clone() for name, p in session.model.named_parameters()}
    session.model.train()
    for batch in session.batches():
        frozen = session.plan.stage_at(session.global_step).frozen
        loss = session.loss(batch)
        trained = {name for name, p in session.model.named_parameters() if p.requires_grad}
        thawed_layers = [layer for layer in rates if layer not in frozen]
        expected = {n for layer in thawed_layers for n in session.layers.parameters[layer] if is_adapter(n)}
        assert trained == expected | {"classifier.weight", "classifier.bias"}
        session.backward(loss)
        session.step()
    moved = {name for name, p in session.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trained  # those of the last epoch, in which block.2 and block.1 were thawed; nothing of the base
    assert sum(map(is_adapter, moved)) == 24


@pytest.mark.parametrize("kind", NAMES)
def test_every_linear_layer_of_the_blocks_learns_and_is_merged(kind: str) -> None:
    plain, model = model_of(kind), built(model_of(kind), LoRA(r=2)).eval()
    layers = find_layers(plain)
    wanted = {
        name
        for name, module in plain.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and any(f"{name}.weight" in layers.parameters[block] for block in layers.blocks)
    }
    assert {name for name, module in model.named_modules() if is_adapted(module)} == wanted != set()
    batch = texts("right")
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, plain(**batch).logits)
    for part in adapters(model):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.1)
    scores = model(**batch).logits
    scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for part in adapters(model) for p in part.parameters())
    assert (scores - plain(**batch).logits).abs().max() > 1e-4
    LoRA(r=2).finish(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        assert torch.allclose(model(**batch).logits, scores, atol=1e-5)


def test_targets_name_linear_layers_by_their_ends() -> None:
    model = built(tiny.bert(), LoRA(targets=("query", "self.value")))
    assert {name.rpartition(".")[2] for name, module in model.named_modules() if is_adapted(module)} == {
        "query",
        "value",
    }
    with pytest.raises(
        InputError, match=r"no pretrained linear layer 'qeury' \(did you mean 'query'\?\); .*dense, key"
    ):
        built(tiny.bert(), LoRA(targets=("qeury",)))
    with pytest.raises(InputError, match="no pretrained linear layer 'classifier'"):  # new: it is trained whole
        built(tiny.bert(), LoRA(targets=("classifier",)))


def test_what_was_frozen_stays_so_and_building_twice_is_building_once() -> None:
    model = tiny.bert()
    model.bert.embeddings.requires_grad_(False)
    names = list(built(model, LoRA(r=2)).state_dict())
    assert list(built(model, LoRA(r=2)).state_dict()) == names
    LoRA(r=2).finish(model)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"bert.embeddings.{name}" for name, _ in model.bert.embeddings.named_parameters()}


@pytest.mark.parametrize(
    "other",
    [
        Activation(to="prelu"),
        AuxiliaryLM(mask_token_id=4),
        ConcatPooling(),
        Dropout(p=0.4),
        OutputLayerNorm(),
        TaskLayers(),
    ],
    ids=lambda trick: type(trick).__name__,
)
def test_the_order_of_the_tricks_changes_nothing(other: Trick) -> None:
    found = []
    for tricks in ([LoRA(r=2, dropout=0.2), other], [other, LoRA(r=2, dropout=0.2)]):
        losses, model = tiny.trained(tiny.recipe(*tricks, epochs=1))
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        found.append((losses, trained, {name: p.sum().item() for name, p in model.named_parameters()}))
    assert found[0] == found[1]
    assert len(set(found[0][0])) > 1


@pytest.mark.parametrize(
    "trick", [FurtherPretraining(steps=2, mask_token_id=4), GreedyPretraining(epochs=1)], ids=lambda t: type(t).__name__
)
def test_pretraining_goes_on_with_the_weights_before_the_adapters_learn(trick: Trick) -> None:
    session = tiny.recipe(LoRA(r=2), trick, epochs=1).bind(tiny.bert(), tiny.loader())
    plain = dict(tiny.bert().named_parameters())
    base = {n.replace(".base_layer", ""): p for n, p in session.model.named_parameters() if not is_adapter(n)}
    assert base.keys() == plain.keys()
    moved = {name for name, p in base.items() if not torch.equal(p, plain[name])}
    assert "bert.encoder.layer.1.output.dense.weight" in moved
    assert not any(base[name].requires_grad for name in moved)
    ends = [p for name, p in session.model.named_parameters() if ".lora_B." in name]
    assert len(ends) == 18
    assert all((p == 0).all() for p in ends)
    with thawed(session.model):
        assert base["bert.encoder.layer.1.output.dense.weight"].requires_grad


def test_an_initialiser_leaves_adapters_alone() -> None:
    for modules in ("fresh", "all"):
        session = tiny.recipe(LoRA(r=2), Kaiming(modules=modules)).bind(tiny.bert(), tiny.loader())
        assert all((p == 0).all() for name, p in session.model.named_parameters() if ".lora_B." in name)
        assert not torch.equal(session.model.classifier.weight, tiny.bert().classifier.weight)


def test_what_cannot_be_adapted_is_said() -> None:
    with pytest.raises(InputError, match="the blocks of .* have no linear layer for an adapter"):
        built(every.bench_for("lstm_forget_bias").make_model(), LoRA())
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    torchs = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 2))
    with pytest.raises((InputError, LayersError), match="no linear layer for an adapter"):
        built(torchs, LoRA())
    theirs = peft.get_peft_model(tiny.bert(), peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(InputError, match="has adapters already"):
        built(theirs, LoRA())


def test_without_peft_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r'lora needs the library peft.*pip install "finetricks\[peft\]"'):
        built(tiny.bert(), LoRA())
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "finetricks_plugins.build.lora.find_spec", lambda name: None if name == "peft" else find_spec(name)
    )
    (tmp_path / "recipe.yaml").write_text("model: minilm\ndata: {train: stdlib_docstrings}\ntricks: [lora]\n")
    with pytest.raises(RecipeError, match="lora: needs the library peft"):
        Recipe.load(tmp_path / "recipe.yaml")
    assert LoRA().r == 8  # a finished run is loaded without it


def test_a_trainer_resumes_it_bit_for_bit(tmp_path: Path) -> None:
    recipe = tiny.recipe(LoRA(r=2, dropout=0.1), tiny.Unfreeze(), epochs=3)
    options = {"save_strategy": "steps", "save_steps": 7}
    whole = trainer_of(recipe, tmp_path, **options)
    whole.train()
    resumed = trainer_of(recipe, tmp_path, model=tiny.bert(seed=5), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert tiny.equal(whole.model, resumed.model)
    assert whole.model.state_dict().keys() == tiny.bert().state_dict().keys()


# -- the user's own ------------------------------------------------------------------------------------


def adapted_by_the_user() -> Any:
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, lora_dropout=0.1, target_modules=["query", "value"], task_type="SEQ_CLS")
    return peft.get_peft_model(tiny.bert(), config)


def test_of_a_model_that_has_adapters_each_is_in_its_layers_group() -> None:
    model = adapted_by_the_user()
    for batch in (None, default_data_collator(tiny.rows(4))):
        layers = find_layers(model, batch)
        assert layers.names == ("embeddings", "block.0", "block.1", "block.2", "head")
        for number, block in enumerate(layers.blocks):
            own = [name for name in layers.parameters[block] if is_adapter(name)]
            assert len(own) == 4
            assert all(f".layer.{number}." in name for name in own)
        assert not any(is_adapter(name) for layer in ("embeddings", "head") for name in layers.parameters[layer])
    assert {name.split(".", 2)[2].partition(".")[0] for name in fresh_parameters(model, layers)} == {"classifier"}


def test_in_the_loop_and_the_trainer_its_losses_are_the_same_and_its_base_stays(tmp_path: Path) -> None:
    recipe = tiny.recipe(tiny.Unfreeze(), tiny.Decay(), tiny.TwicePass(), epochs=3)
    losses, model = tiny.trained(recipe, adapted_by_the_user())
    trainer = trainer_of(recipe, tmp_path, model=adapted_by_the_user(), kind=TrickTrainer)
    assert losses_of(trainer) == losses
    assert tiny.equal(trainer.model, model)
    before = dict(adapted_by_the_user().named_parameters())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {
        name
        for name, p in before.items()
        if p.requires_grad and ".layer.0." not in name  # block.0 does not thaw within three epochs
    }


def test_a_trainer_resumes_it_from_its_adapters_alone(tmp_path: Path) -> None:
    recipe = tiny.recipe(tiny.Unfreeze(), epochs=3)
    options = {"save_strategy": "steps", "save_steps": 7}
    whole = trainer_of(recipe, tmp_path, model=adapted_by_the_user(), **options)
    whole.train()
    assert (tmp_path / "checkpoint-7" / "adapter_model.safetensors").is_file()
    resumed = trainer_of(recipe, tmp_path, model=adapted_by_the_user(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert tiny.equal(whole.model, resumed.model)

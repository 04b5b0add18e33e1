"""The plan at work in a hand-written loop."""

from __future__ import annotations

import copy
import importlib.metadata
import itertools
import pickle
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

import tiny
from finetricks import (
    CheckpointError,
    FinetricksError,
    Layers,
    ParamOptions,
    Progress,
    Recipe,
    Session,
    Step,
    Trick,
    hookimpl,
    libraries,
)
from finetricks.freezing import Freezing


class LayerRates(Trick):
    """Halves the rate from layer to layer, and decays only matrices."""

    @hookimpl
    def param_groups(self, model: nn.Module, layers: Any) -> dict[str, ParamOptions]:
        by_layer = {name: ParamOptions(lr_factor=0.5 ** layers.from_top(name)) for name in layers.names}
        decays = {name: ParamOptions(weight_decay=0.1) for name, p in model.named_parameters() if p.dim() > 1}
        return by_layer | decays


def bound(*tricks: Trick, **training: Any) -> Session:
    return tiny.recipe(*tricks, **training).bind(tiny.bert(), tiny.loader())


# -- rule 2: groups ------------------------------------------------------------------------------------------


def test_every_parameter_is_in_the_optimizer_from_the_first_step_once() -> None:
    session = bound(tiny.Unfreeze(), LayerRates())
    held = [id(p) for group in session.optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in session.model.parameters())
    names = [group["name"] for group in session.optimizer.param_groups]
    assert len(set(names)) == len(names)
    groups = len(names)
    tiny.train(session)
    assert len(session.optimizer.param_groups) == groups


def test_tied_weights_count_once_in_their_lowest_layer() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=8, n_layer=2, n_head=2, n_positions=16))
    ids = torch.arange(12).view(2, 6)
    session = tiny.recipe().bind(model, [{"input_ids": ids, "labels": ids}])
    assert session.layers.layer_of("transformer.wte.weight") == "embeddings"
    held = [id(p) for group in session.optimizer.param_groups for p in group["params"]]
    assert held.count(id(model.lm_head.weight)) == 1


# -- rule 4 and the plan -------------------------------------------------------------------------------------


def test_the_optimizer_follows_the_plan_at_every_step() -> None:
    session = bound(tiny.Unfreeze(), tiny.Decay(), LayerRates(), epochs=3)
    plan = session.plan
    seen = set()
    for batch in session.batches():
        loss = session.loss(batch)
        step = session.global_step
        for group, planned in zip(session.optimizer.param_groups, plan.groups, strict=True):
            assert group["name"] == planned.name
            assert group["lr"] == pytest.approx(1e-3 * planned.lr_factor * (1 - step / plan.total_steps), rel=1e-12)
            assert group["weight_decay"] == planned.weight_decay
        frozen = plan.stage_at(step).frozen
        for layer, names in session.layers.parameters.items():
            for name in names:
                assert session.model.get_parameter(name).requires_grad == (layer not in frozen)
        seen.add(frozen)
        session.backward(loss)
        session.step()
    assert len(seen) == 3
    assert session.global_step == plan.total_steps == 18  # 22 rows in batches of 4 are 6 steps an epoch


# -- rule 3: frozen ------------------------------------------------------------------------------------------


def test_frozen_layers_do_not_move_and_are_in_eval_mode_whatever_the_loop_calls() -> None:
    session = bound(tiny.Unfreeze())
    model = session.model
    before = copy.deepcopy(model.state_dict())
    for batch in session.batches():
        model.train()
        loss = session.loss(batch)
        assert model.training
        assert model.dropout.training
        assert not model.bert.embeddings.dropout.training
        assert not model.bert.encoder.layer[0].training
        assert model.bert.encoder.layer[2].training == (session.global_step >= 6)
        session.backward(loss)
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        session.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    expected = {name for layer in ("block.2", "head") for name in session.layers.parameters[layer]}
    assert moved == expected


class Asleep(Trick):
    """Freezes everything from one step to another."""

    trains_nothing: ClassVar[bool] = True
    steps: tuple[int, int]

    @hookimpl
    def freeze(self, progress: Progress, layers: Layers) -> tuple[str, ...]:
        return layers.names if self.steps[0] <= progress.step < self.steps[1] else ()


@pytest.mark.parametrize("steps", [(0, 3), (4, 7)])
def test_the_rates_are_the_plans_after_steps_at_which_nothing_is_trained(steps: tuple[int, int]) -> None:
    session = bound(Asleep(steps=steps), tiny.Decay())
    rates = {}
    for batch in session.batches():
        rates[session.global_step] = session.optimizer.param_groups[0]["lr"]
        session.backward(session.loss(batch))
        session.step()
    trained = [step for step in range(12) if not steps[0] <= step < steps[1]]
    assert rates == pytest.approx({step: 1e-3 * (1 - step / 12) for step in trained})


def test_a_stale_gradient_does_not_move_a_parameter_that_freezes() -> None:
    class Refreeze(Trick):
        """Freezes the embeddings from step 2 on."""

        @hookimpl
        def freeze(self, progress: Any) -> list[str]:
            return ["embeddings"] if progress.step >= 2 else []

    session = bound(Refreeze())
    tiny.train(session, steps=2)
    weight = session.model.bert.embeddings.word_embeddings.weight
    before = weight.detach().clone()
    tiny.train(session)
    assert torch.equal(weight, before)


def test_what_the_user_had_frozen_stays_frozen_after_thawing() -> None:
    model = tiny.bert()
    model.bert.encoder.layer[2].output.dense.weight.requires_grad_(False)
    session = tiny.recipe(tiny.Unfreeze(), epochs=3).bind(model, tiny.loader())
    tiny.train(session)
    assert model.bert.encoder.layer[2].output.dense.bias.requires_grad
    assert not model.bert.encoder.layer[2].output.dense.weight.requires_grad


def test_finishing_thaws_and_leaves_no_trace() -> None:
    session = bound(tiny.Unfreeze())
    tiny.train(session, steps=3)
    model = session.finish()
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.train().modules())


def test_a_frozen_model_can_be_copied_and_pickled() -> None:
    session = bound(tiny.Unfreeze())
    tiny.train(session, steps=2)
    twin = copy.deepcopy(session.model)
    twin.train()
    assert not twin.bert.encoder.layer[0].training
    assert not session.model.bert.encoder.layer[0].training
    assert tiny.equal(pickle.loads(pickle.dumps(session.model)), session.model)


# -- accumulation and clipping -------------------------------------------------------------------------------


def test_accumulated_micro_batches_equal_the_whole_batch() -> None:
    def run(batch_size: int, accumulation: int) -> nn.Module:
        whole = tiny.recipe(batch_size=batch_size, accumulation=accumulation, optimizer="sgd", learning_rate=0.1)
        rows = DataLoader(tiny.rows(24), batch_size=batch_size, collate_fn=tiny.default_data_collator)
        session = whole.bind(tiny.bert(dropout=0.0), rows)
        tiny.train(session)
        assert session.global_step == 6
        return session.model

    for name, value in run(8, 1).state_dict().items():
        torch.testing.assert_close(run(4, 2).state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_a_last_window_with_fewer_micro_batches_is_divided_by_what_it_holds() -> None:
    # 6 micro-batches in windows of 4: 4 and 2.
    session = bound(accumulation=4, epochs=1, clip=0, optimizer="sgd")
    divided = []
    for batch in session.batches():
        loss = session.loss(batch)
        before = [p.grad.clone() if p.grad is not None else None for p in session.model.parameters()]
        session.backward(loss)
        after = next(p.grad for p in session.model.parameters())
        whole = torch.autograd.grad(session.loss(batch), next(iter(session.model.parameters())))[0]
        added = after if before[0] is None else after - before[0]
        divided.append(round((whole.norm() / added.norm()).item(), 3))
        session.step()
    assert divided == [4, 4, 4, 4, 2, 2]


def test_gradients_are_clipped() -> None:
    session = bound(clip=1e-3, optimizer="sgd", learning_rate=1.0, epochs=1)
    before = [p.detach().clone() for p in session.model.parameters()]
    tiny.train(session, steps=1)
    moved = torch.stack([(p - b).norm() for p, b in zip(session.model.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-3)


# -- rule 6: resume ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 6, 8, 11])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("streams", ["derived", "none"])
def test_resume_equals_uninterrupted_bit_for_bit(at: int, accumulation: int, streams: str, tmp_path) -> None:
    tricks = (*(trick() for trick in tiny.ALL), LayerRates())
    everything = tiny.recipe(*tricks, accumulation=accumulation, epochs=4, streams=streams)
    whole = everything.bind(tiny.bert(), tiny.loader())
    losses = tiny.train(whole)

    first = everything.bind(tiny.bert(), tiny.loader())
    tiny.train(first, steps=at)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(99)  # the global state is not what resume rests on
    second = everything.bind(tiny.bert(seed=5), tiny.loader(), init=False)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert tiny.train(second) == losses[at * accumulation :]
    assert tiny.equal(second.model, whole.model)
    assert tiny.equal(tiny.bert(), tiny.bert())
    assert not tiny.equal(second.model, first.model)


def test_evaluating_or_drawing_between_steps_shifts_nothing() -> None:
    undisturbed, _ = tiny.trained(tiny.recipe())
    session = bound()
    losses = []
    for batch in session.batches():
        session.model.eval()
        with torch.no_grad():
            session.model(**batch)
        torch.rand(7)
        session.model.train()
        loss = session.loss(batch)
        losses.append(loss.item())
        session.backward(loss)
        session.step()
    assert losses == undisturbed


def test_adding_a_trick_never_shifts_anothers_draws() -> None:
    class Silent(Trick):
        """Draws much, and changes nothing."""

        @hookimpl
        def regularize(self, step: Any) -> torch.Tensor:
            return torch.rand(1000, generator=step.generator(self)).sum() * 0.0

    alone, _ = tiny.trained(tiny.recipe(tiny.Noise()))
    beside, _ = tiny.trained(tiny.recipe(Silent(), tiny.Noise()))
    assert alone == beside


def test_the_callers_random_state_is_left_alone() -> None:
    recipe = tiny.recipe(*(trick() for trick in tiny.ALL))
    model, rows = tiny.bert(), tiny.loader()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    tiny.train(recipe.bind(model, rows))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_three_streams_are_independent() -> None:
    base, _ = tiny.trained(tiny.recipe())
    for stream in ("data_seed", "dropout_seed"):
        assert tiny.trained(tiny.recipe(**{stream: 17}))[0] != base
    assert tiny.trained(tiny.recipe(init_seed=17))[0] == base  # no trick here draws from it
    no_dropout = [tiny.trained(tiny.recipe(dropout_seed=seed), tiny.bert(dropout=0.0))[0] for seed in (1, 2)]
    assert no_dropout[0] == no_dropout[1]


# -- rule 5: a checkpoint of another run ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"tricks": [tiny.Unfreeze(), LayerRates()]}, "tricks.layer_rates"),
        ({"epochs": 5}, "steps.total: 12 there, 30 here"),
        ({"seed": 4}, "streams.init"),
        ({"learning_rate": 1e-4}, "the plan: learning rates, weight decay or frozen layers"),
        ({"accumulation": 2}, "accumulation: 1 there, 2 here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(other: dict[str, Any], message: str) -> None:
    state = bound(tiny.Unfreeze()).state_dict()
    tricks = other.pop("tricks", [tiny.Unfreeze()])
    with pytest.raises(CheckpointError) as error:
        bound(*tricks, **other).load_state_dict(state)
    assert message in str(error.value)


class StopsAtOnce(Trick):
    """Remembers what it is shown, and stops."""

    @hookimpl
    def evaluated(self, metrics: Mapping[str, float], state: dict[str, Any]) -> str:
        state.update(metrics)
        return "stop"


def test_what_an_evaluation_showed_can_be_saved_whatever_kind_of_number_it_was(tmp_path) -> None:
    session = bound(StopsAtOnce())
    session.evaluated({"accuracy": np.float64(0.5), "loss": torch.tensor(2.0), "examples": 7})
    torch.save(session.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert saved["own"][0]["tricks"] == {"stops_at_once": {"accuracy": 0.5, "loss": 2.0, "examples": 7.0}}


def test_a_state_from_before_a_decision_takes_it_back() -> None:
    session = bound(StopsAtOnce())
    before = copy.deepcopy(session.state_dict())
    session.evaluated({"accuracy": 0.5})
    assert session.stopped
    session.load_state_dict(before)
    assert session.plan.decisions == {}
    assert len(tiny.train(session)) == 12


def test_nothing_is_decided_between_the_micro_batches_of_a_step() -> None:
    session = bound(StopsAtOnce(), accumulation=2)
    session.backward(session.loss(next(session.batches())))
    session.step()
    with pytest.raises(FinetricksError, match="evaluate between optimizer steps"):
        session.evaluated({"accuracy": 0.5})


def test_groups_are_matched_by_name_not_by_position() -> None:
    class Swapped(LayerRates):
        """The same groups by size, with other rates."""

        @hookimpl
        def param_groups(self, layers: Any) -> dict[str, ParamOptions]:
            return {"block.0": ParamOptions(lr_factor=0.5), "block.1": ParamOptions(lr_factor=0.25)}

    class Straight(LayerRates):
        """The same, the other way about."""

        @hookimpl
        def param_groups(self, layers: Any) -> dict[str, ParamOptions]:
            return {"block.0": ParamOptions(lr_factor=0.25), "block.1": ParamOptions(lr_factor=0.5)}

    state = bound(Swapped()).state_dict()
    with pytest.raises(CheckpointError, match="another run"):
        bound(Straight()).load_state_dict(state)


def test_an_exact_resume_that_cannot_be_had_is_refused() -> None:
    session = tiny.recipe(epochs=1).bind(tiny.bert(), list(tiny.loader()))
    tiny.train(session)  # a list of batches trains
    with pytest.raises(FinetricksError, match="order of this one cannot be continued"):
        session.state_dict()
    waiting = bound(accumulation=2)
    waiting.backward(waiting.loss(next(waiting.batches())))
    waiting.step()
    with pytest.raises(FinetricksError, match="save between optimizer steps"):
        waiting.state_dict()


# -- any model, any loop -------------------------------------------------------------------------------------


def test_a_plain_torch_model_with_tuples_and_a_criterion_of_its_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    inputs = torch.randn(64, 4)
    data = TensorDataset(inputs, (inputs[:, 0] > 0).long())
    recipe = Recipe(
        tricks=[tiny.Decay()],
        training={"learning_rate": 0.01, "epochs": 20, "batch_size": 16},
        layers={"embeddings": ["0"], "block.0": ["2"], "head": ["4"]},
    )
    session = recipe.bind(
        model,
        DataLoader(data, batch_size=16, shuffle=True),
        forward=lambda model, batch: model(batch[0]),
        criterion=lambda outputs, batch: F.cross_entropy(outputs, batch[1]),
    )
    losses = tiny.train(session)
    assert session.layers.names == ("embeddings", "block.0", "head")
    assert losses[-1] < losses[0] / 2


def test_an_optimizer_of_the_users_own() -> None:
    session = tiny.recipe(tiny.Decay()).bind(
        tiny.bert(), tiny.loader(), optimizer=lambda groups: torch.optim.Adagrad(groups, lr=1.0)
    )
    assert session.optimizer.param_groups[0]["lr"] == 1e-3  # the plan's, not the optimizer's default
    tiny.train(session, steps=3)
    assert session.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * (1 - 3 / 12))


def test_a_loader_without_a_length_needs_one() -> None:
    batches = list(tiny.loader())
    with pytest.raises(FinetricksError, match="give steps_per_epoch"):
        tiny.recipe().bind(tiny.bert(), iter(batches))
    session = tiny.recipe(epochs=1).bind(tiny.bert(), iter(batches), steps_per_epoch=6)
    assert len(tiny.train(session)) == 6


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: iter(list(tiny.loader())), "no batches left at step 6 of 12.*an iterator cannot"),
        (lambda: list(tiny.loader())[:4], "ended at step 4, within an epoch of 6 steps; give steps_per_epoch"),
    ],
)
def test_a_loader_that_gives_less_than_was_said_is_an_error(loader: Any, message: str) -> None:
    with pytest.raises(FinetricksError, match=message):
        tiny.train(tiny.recipe().bind(tiny.bert(), loader(), steps_per_epoch=6))


def test_forgetting_to_step_is_said() -> None:
    session = bound()
    with pytest.raises(FinetricksError, match=r"session\.step\(\) was not called"):
        for batch in session.batches():
            session.backward(session.loss(batch))


def test_bf16_computes_in_bf16_and_keeps_weights_and_losses_in_fp32() -> None:
    losses, model = tiny.trained(tiny.recipe(precision="bf16"))
    exact, _ = tiny.trained(tiny.recipe())
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.05)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_model_without_a_loss_is_told_what_to_do() -> None:
    session = tiny.recipe().bind(tiny.bert(), tiny.loader())
    batch = next(session.batches())
    del batch["labels"]
    with pytest.raises(FinetricksError, match="put `labels` in the batch"):
        session.loss(batch)


# -- whose state it is ---------------------------------------------------------------------------------------


def saved() -> dict[str, Any]:
    session = bound(tiny.Unfreeze())
    for batch in itertools.islice(session.batches(), 3):
        session.backward(session.loss(batch))
        session.step()
    return copy.deepcopy(session.state_dict())


def another_buffer(model: nn.Module) -> None:
    model.register_buffer("extra", torch.zeros(2))


def other_activation(model: nn.Module) -> None:
    model.bert.encoder.layer[0].intermediate.intermediate_act_fn = nn.ReLU()


def other_dropout(model: nn.Module) -> None:
    model.dropout.p = 0.3


def other_heads(model: nn.Module) -> None:
    model.config.num_attention_heads = 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (another_buffer, r"weights\.extra: absent there, torch\.float32 \[2\] here"),
        (
            other_activation,
            r"modules\.bert.*intermediate_act_fn: GELUActivation\(.*\) there, ReLU\(inplace=False\) here",
        ),
        (other_dropout, r"modules\.dropout: Dropout\(p=0\.\d, inplace=False\) there, Dropout\(p=0\.3"),
        (other_heads, r"config\.num_attention_heads: \d there, 1 here"),
    ],
)
def test_another_models_state_is_refused(change: Any, told: str) -> None:
    model = tiny.bert()
    change(model)
    session = tiny.recipe(tiny.Unfreeze()).bind(model, tiny.loader())
    before = copy.deepcopy(session.state_dict())
    with pytest.raises(CheckpointError, match=told):
        session.load_state_dict(saved())
    assert session.global_step == 0
    assert all(torch.equal(value, before["model"][name]) for name, value in session.model.state_dict().items())


class OtherDropout(nn.Dropout):
    """The same by another name, as a new version may have it."""


class Settings:
    """No configuration of transformers'."""

    def to_json_string(self) -> str:
        return "{}"


class Own(nn.Module):
    """A model of somebody's own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.config = Settings()

    def forward(self, **batch: Any) -> Any:
        return self.model(**batch)


def with_values_of_its_own(model: nn.Module) -> nn.Module:
    model.config.kind, model.config.of, model.config.table = object(), {1, 2}, {(1, 2): 3, 4: Settings()}
    return model


def as_transformers_leaves_it(model: nn.Module) -> None:
    """After it was saved, loaded from another folder and trained for a while."""
    model.config.problem_type, model.config.use_cache = "single_label_classification", False
    model.config.id2label, model.config.auto_map = {0: "a", 1: "b", 2: "c"}, {"AutoModel": "x.Y"}
    model.name_or_path = "/elsewhere"
    model.bert.encoder.gradient_checkpointing = True


@pytest.mark.parametrize("kind", [Own, with_values_of_its_own])
def test_a_model_may_have_a_configuration_of_any_kind(kind: Any) -> None:
    states = []
    for _ in range(2):
        session = tiny.recipe().bind(kind(tiny.bert()), tiny.loader())
        states.append(copy.deepcopy(session.state_dict()))
    session.load_state_dict(states[0])


def test_what_transformers_changes_of_its_own_accord_makes_no_other_model() -> None:
    model = tiny.bert()
    as_transformers_leaves_it(model)
    tiny.recipe(tiny.Unfreeze()).bind(model, tiny.loader()).load_state_dict(saved())


def test_another_version_of_transformers_may_describe_the_model_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    state = saved()
    state["made_with"]["versions"]["transformers"] = "5.0"
    model = tiny.bert()
    model.dropout = OtherDropout(0.1)
    model.config.new_default = True
    session = tiny.recipe(tiny.Unfreeze()).bind(model, tiny.loader())
    session.load_state_dict(state)
    assert "modules.dropout: Dropout(p=0.1, inplace=False) there, OtherDropout(" in caplog.text
    assert "config.new_default: absent there, True here" in caplog.text
    state["identity"]["weights"]["extra"] = "torch.float32 [2]"
    with pytest.raises(CheckpointError, match="weights.extra"):
        session.load_state_dict(state)


def test_a_library_that_only_lies_on_the_path_has_an_unknown_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    libraries.version_of.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", missing)
    try:
        assert bound().made_with["versions"]["finetricks"] == "unknown"
    finally:
        libraries.version_of.cache_clear()


def test_a_plugin_file_that_lies_elsewhere_in_each_process_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    state = saved()
    state["made_with"]["tricks"]["unfreeze"]["from"] = "/tmp/a/tiny.py"
    bound(tiny.Unfreeze()).load_state_dict(state)
    assert caplog.text == ""


def test_an_edited_trick_is_named_also_where_the_plan_has_changed_with_it() -> None:
    state = saved()
    state["identity"]["plan"] = "another"
    with pytest.raises(CheckpointError, match="the plan"):
        bound(tiny.Unfreeze()).load_state_dict(state)
    state["made_with"]["tricks"]["unfreeze"]["source"] = "another"
    with pytest.raises(CheckpointError, match="the source of unfreeze .* begin anew"):
        bound(tiny.Unfreeze()).load_state_dict(state)


def test_an_edited_trick_is_refused_and_an_unrelated_upgrade_is_said(caplog: pytest.LogCaptureFixture) -> None:
    state = saved()
    own = state["made_with"]["tricks"]["unfreeze"]
    own["from"], source = "tricks-of-mine 1.0", own["source"]
    state["made_with"]["versions"]["torch"] = "1.0"
    bound(tiny.Unfreeze()).load_state_dict(state)
    assert "unfreeze: tricks-of-mine 1.0 there, " in caplog.text
    assert f"torch: 1.0 there, {torch.__version__.partition('+')[0]}" in caplog.text
    own["source"] = "0" * len(source)
    with pytest.raises(CheckpointError, match=r"the source of unfreeze \(tricks-of-mine 1\.0 there, .*tiny\.py here\)"):
        bound(tiny.Unfreeze()).load_state_dict(state)


def test_an_edit_of_a_module_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    sessions = []
    for factor in ("0.5", "0.25 + 0.25"):
        (tmp_path / "half.py").write_text(
            "from finetricks import Trick, hookimpl\n"
            f"class Half(Trick):\n    @hookimpl\n    def schedule(self): return {factor}\n"
        )
        monkeypatch.delitem(sys.modules, "half", raising=False)
        importlib.invalidate_caches()
        sessions.append(bound(importlib.import_module("half").Half()))
    with pytest.raises(CheckpointError, match=r"the source of half \("):
        sessions[1].load_state_dict(sessions[0].state_dict())


@pytest.mark.parametrize("part", ["identity", "global_step", "model", "optimizer", "own"])
def test_a_state_that_lacks_a_part_is_refused(part: str) -> None:
    state = saved()
    del state[part]
    told = "does not say which run" if part == "identity" else f"the state lacks {part}"
    with pytest.raises(CheckpointError, match=told):
        bound(tiny.Unfreeze()).load_state_dict(state)


def test_what_tricks_are_told_can_be_copied_and_pickled() -> None:
    session = tiny.recipe().bind(tiny.bert(), tiny.loader())
    progress = replace(session.plan.progress(3), decisions={"thaw": 2})
    for twin in (copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        assert twin(progress) == progress
        assert twin(session.layers) == session.layers


def test_a_step_does_nothing_to_the_layers_where_the_plan_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[tuple[int, frozenset[str]]] = []
    session = tiny.recipe(tiny.Unfreeze(), epochs=3).bind(tiny.bert(), tiny.loader())
    own = Freezing.apply
    monkeypatch.setattr(
        Freezing, "apply", lambda self, frozen: (applied.append((session.global_step, frozen)), own(self, frozen))[1]
    )
    tiny.train(session)
    assert applied == [(stage.start, stage.frozen) for stage in session.plan.stages]


class Derives(Trick):
    """Counts how often it asks for what it needs once."""

    @hookimpl
    def regularize(self, step: Step) -> None:
        MADE.append(step.once(self, object))


MADE: list[object] = []


def test_what_a_trick_derives_once_is_made_once_a_session() -> None:
    MADE.clear()
    for _ in range(2):
        tiny.train(tiny.recipe(Derives(), epochs=1).bind(tiny.bert(), tiny.loader()))
    assert len(MADE) == 12
    assert [MADE.count(made) for made in dict.fromkeys(MADE)] == [6, 6]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_session_clips_as_torch_does(accumulation: int) -> None:
    session = tiny.recipe(epochs=1, accumulation=accumulation, clip=0.01).bind(tiny.bert(dropout=0.0), tiny.loader())
    for batch in itertools.islice(session.batches(), accumulation):
        session.backward(session.loss(batch))
        twin = copy.deepcopy(session.model)
        for parameter, copied in zip(session.model.parameters(), twin.parameters(), strict=True):
            copied.grad = parameter.grad.clone()
        seen: list[torch.Tensor] = []
        hook = session.optimizer.register_step_pre_hook(
            lambda *_, seen=seen: seen.extend(p.grad.clone() for p in session.model.parameters())
        )
        session.step()
        hook.remove()
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.01)
    assert norm > 0.01
    assert torch.equal(session.grad_norm, norm)
    assert len(seen) == len(list(twin.parameters()))
    assert all(torch.equal(one, other.grad) for one, other in zip(seen, twin.parameters(), strict=True))


# -- examples of like length together ------------------------------------------------------------------------


def uneven() -> list[dict[str, Any]]:
    return [{**row, "input_ids": row["input_ids"][: 2 + number % 6]} for number, row in enumerate(tiny.rows())]


def padded(rows: Any) -> dict[str, torch.Tensor]:
    ids = [torch.as_tensor(row["input_ids"]) for row in rows]
    batch = {"input_ids": nn.utils.rnn.pad_sequence(ids, batch_first=True)}
    return batch | {"labels": torch.tensor([row["labels"] for row in rows])}


def grouped(rows: Any, **options: Any) -> Session:
    loader = DataLoader(rows, batch_size=4, shuffle=True, collate_fn=padded)
    return tiny.recipe(group_by_length=True).bind(tiny.bert(), loader, **options)


def test_lengths_are_taken_from_the_examples_or_given() -> None:
    columns = {name: [row[name] for row in uneven()] for name in ("input_ids", "labels")}
    sets = [grouped(uneven()), grouped(datasets.Dataset.from_dict(columns))]
    sets.append(grouped(Subset(uneven(), range(tiny.ROWS)), lengths=[2 + number % 6 for number in range(tiny.ROWS)]))
    first, *others = ([batch["input_ids"] for batch in itertools.islice(s._order.epoch(0), 6)] for s in sets)
    assert first[0].shape == (4, 7)  # the longest
    assert [len(ids) for ids in first] == [4] * 5 + [2]
    assert all(torch.equal(one, other) for order in others for one, other in zip(first, order, strict=True))
    losses = tiny.train(sets[0])
    assert losses == tiny.train(sets[1])


def test_lengths_that_are_not_known_are_asked_for() -> None:
    with pytest.raises(FinetricksError, match=r"lengths of the examples are not known; give lengths=\[...\]"):
        grouped(Subset(uneven(), range(tiny.ROWS)))


def test_a_grouped_run_goes_on_within_an_epoch_and_only_in_its_own_order() -> None:
    whole, first, second = (grouped(uneven()) for _ in range(3))
    losses = tiny.train(whole)
    begun = tiny.train(first, steps=2)
    second.load_state_dict(first.state_dict())
    assert begun + tiny.train(second) == losses
    assert tiny.equal(second.model, whole.model)
    other = grouped(uneven(), lengths=range(tiny.ROWS))
    with pytest.raises(CheckpointError, match="group_by_length: by lengths"):
        other.load_state_dict(first.state_dict())

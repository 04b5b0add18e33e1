"""Layers of tiny random models, against labels that were written by hand from the models' forward methods."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tr
from torch import Tensor, nn

from finetricks.errors import InputError, LayersError
from finetricks.layers import Layers, find_layers
from layer_cases import (
    CASE,
    CASES,
    CLASSES,
    LENGTH,
    ROWS,
    VOCABULARY,
    Case,
    LSTMClassifier,
    NoContainer,
    TextCNN,
    Towers,
    ids,
    mlp,
    text,
    vectors,
)


def labelled(names: list[str], labels: dict[str, list[str]]) -> dict[str, list[str]]:
    """The parameters of each layer, by the longest prefix."""
    result: dict[str, list[str]] = {layer: [] for layer in labels}
    for name in names:
        fitting = [
            (len(prefix), layer)
            for layer, prefixes in labels.items()
            for prefix in prefixes
            if name == prefix or name.startswith(prefix + ".")
        ]
        result[max(fitting)[1]].append(name)
    return result


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_parameter_is_in_the_layer_where_it_acts(case: Case) -> None:
    model = case.build()
    names = [name for name, _ in model.named_parameters()]
    layers = find_layers(model, case.batch())
    assert layers.names == tuple(case.labels)
    assert {layer: list(group) for layer, group in layers.parameters.items()} == labelled(names, case.labels)


# In these, something is registered in another place than the one where it acts; only the trace knows.
NEEDS_A_TRACE = {
    "NllbMoe",
    "DebertaV2",
    "OPT",
    "Bart",
    "Wav2Vec2Stable",
    "LSTM",
    "TransformerEncoder",
    "MixtureOfExperts",
}


@pytest.mark.parametrize("name", sorted(CASE.keys() - NEEDS_A_TRACE))
def test_without_a_batch_the_order_of_registration_decides(name: str) -> None:
    model = CASE[name].build()
    assert find_layers(model).parameters == find_layers(model, CASE[name].batch()).parameters


# ----------------------------------------------------------------------------------------------------
# Modules: what is in evaluation mode while a layer is frozen
# ----------------------------------------------------------------------------------------------------

MODULES = [
    ("Bert", "bert.embeddings.dropout", {"embeddings"}),
    ("Bert", "bert.encoder.layer.1.output.dropout", {"block.1"}),
    ("Bert", "bert.encoder.layer.1", {"block.1"}),
    ("Bert", "bert.encoder", {"block.0", "block.1", "block.2"}),
    ("Bert", "bert.pooler.activation", {"head"}),
    ("Bert", "dropout", {"head"}),
    ("Bert", "", {"embeddings", "block.0", "block.1", "block.2", "head"}),
    ("XLMRoberta", "classifier.dropout", {"head"}),
    ("DistilBert", "dropout", {"head"}),
    ("GPT2", "transformer.drop", {"embeddings"}),
    ("GPT2", "transformer.h.2.mlp.dropout", {"block.2"}),
]
TRACED_MODULES = [
    # The encoder's dropout runs on its embeddings and its output, the decoder's likewise.
    ("T5", "transformer.encoder.dropout", {"embeddings", "block.1"}),
    ("T5", "transformer.decoder.dropout", {"embeddings", "head"}),
    ("XLNet", "transformer.dropout", {"embeddings", "head"}),
    ("DebertaV2", "deberta.encoder.conv.dropout", {"block.0"}),
    ("LSTM", "lstm", {"block.0", "block.1"}),
    ("LSTM", "dropout", {"head"}),
    ("MLP", "5", {"head"}),
]


@pytest.mark.parametrize(("name", "module", "expected"), MODULES + TRACED_MODULES)
def test_a_module_computes_for_the_layers_that_it_is_called_in(name: str, module: str, expected: set[str]) -> None:
    assert find_layers(CASE[name].build(), CASE[name].batch()).modules[module] == expected


@pytest.mark.parametrize(("name", "module", "expected"), MODULES)
def test_without_a_batch_a_module_computes_for_the_layers_that_surround_it(
    name: str, module: str, expected: set[str]
) -> None:
    assert find_layers(CASE[name].build()).modules[module] == expected


@pytest.mark.parametrize("name", ["Bert", "ModernBert", "ResNet", "LSTM", "T5", "MLP"])
def test_every_module_has_layers(name: str) -> None:
    model = CASE[name].build()
    layers = find_layers(model, CASE[name].batch())
    assert list(layers.modules) == [module for module, _ in model.named_modules()]
    assert all(computes and computes <= set(layers.names) for computes in layers.modules.values())


# ----------------------------------------------------------------------------------------------------
# The trace leaves no mark
# ----------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Counts its calls, and draws from every global generator even in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layers(x) * torch.rand(()) * random.random() * np.random.rand()


def state(model: nn.Module) -> dict[str, Any]:
    return {
        "weights and buffers": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": [  # transformers leaves hooks of its own behind at the first forward pass of some models
            hook.__module__
            for module in model.modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
            if hook.__module__.startswith("finetricks")
        ],
        "use_cache": getattr(getattr(model, "config", None), "use_cache", None),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1:3],
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("name", ["Bert", "GPT2", "ResNet", "Wav2Vec2", "LSTM", "Noisy"])
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_the_trace_leaves_everything_as_it_was(name: str, fails: bool) -> None:
    model = Noisy() if name == "Noisy" else CASE[name].build()
    batch = vectors() if name == "Noisy" else CASE[name].batch()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    model.train()
    next(iter(model.children())).eval()

    def forward(model: nn.Module, batch: Any) -> Any:
        output = model(**batch) if isinstance(batch, dict) else model(batch)
        if fails:
            raise ValueError("after the forward pass")
        return output

    before = state(model)
    with torch.no_grad():
        before["grad mode"] = False
        if fails:
            with pytest.raises(LayersError, match="after the forward pass"):
                find_layers(model, batch, forward=forward)
        else:
            find_layers(model, batch, forward=forward)
        after = state(model)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["Bert", "OPT", "Bart", "LSTM"])
def test_what_the_user_froze_does_not_change_the_layers(name: str) -> None:
    model = CASE[name].build()
    free = find_layers(model, CASE[name].batch())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert find_layers(model, CASE[name].batch()) == free


def test_the_trace_runs_without_dropout_and_without_a_cache() -> None:
    model = CASE["GPT2"].build()
    assert model.config.use_cache
    seen: list[tuple[bool, Any]] = []

    def forward(model: nn.Module, batch: Any) -> Any:
        output = model(**batch)
        seen.append((model.training, output.past_key_values))
        return output

    find_layers(model, text(), forward=forward)
    assert seen == [(False, None)]


# ----------------------------------------------------------------------------------------------------
# The batch
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch",
    [
        text(),
        {name: tensor for name, tensor in text().items() if name != "labels"},
        tr.BatchEncoding(text()),
        ids(),
        (ids(), torch.ones(ROWS, LENGTH, dtype=torch.long)),
        [ids()],
        {"input_ids": ids()[:1]},
    ],
    ids=["dict", "no labels", "BatchEncoding", "tensor", "tuple", "list", "one row"],
)
def test_batches_of_any_shape_give_the_same_layers(batch: Any) -> None:
    model = CASE["OPT"].build()
    assert find_layers(model, batch) == find_layers(model, text())


def test_two_rows_of_the_batch_are_enough() -> None:
    received: dict[str, Any] = {}

    def forward(model: nn.Module, batch: Any) -> Any:
        received.update(batch)
        return model(batch["nested"][0])

    batch = {"ids": ids(), "nested": [ids()], "weights": torch.ones(CLASSES), "scalar": torch.tensor(1.0), "note": "x"}
    find_layers(LSTMClassifier(), batch, forward=forward)
    assert received["ids"].shape == (2, LENGTH)
    assert received["nested"][0].shape == (2, LENGTH)
    assert received["weights"].shape == (CLASSES,)  # not as long as the batch: no rows
    assert received["scalar"] == 1.0
    assert received["note"] == "x"
    assert batch["ids"].shape == (ROWS, LENGTH)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_batch_follows_the_model_to_its_device() -> None:
    model = CASE["OPT"].build().cuda()
    before = torch.cuda.get_rng_state()
    assert find_layers(model, text()) == find_layers(model.cpu(), text())
    assert torch.equal(torch.cuda.get_rng_state(), before)


# ----------------------------------------------------------------------------------------------------
# Models whose order cannot be told
# ----------------------------------------------------------------------------------------------------


def test_blocks_side_by_side_are_an_error_that_shows_how_to_give_the_layers() -> None:
    with pytest.raises(LayersError) as error:
        find_layers(TextCNN(), ids())
    assert str(error.value) == (
        "convs.1 does not build on any of the blocks registered before it\n"
        "give the layers yourself, from input to output; to begin with\n"
        "  layers: {embeddings: [embed], block.0: [convs.0], block.1: [convs.1], head: [classifier]}"
    )


def test_blocks_that_share_weights_may_stand_side_by_side_all_the_same() -> None:
    with pytest.raises(LayersError, match=r"towers\.1 does not build on"):
        find_layers(Towers(), ids())


def test_a_list_of_single_matrices_is_no_chain_until_a_trace_says_so() -> None:
    with pytest.raises(LayersError, match="TextCNN"):
        find_layers(TextCNN())


def test_a_model_without_blocks_is_an_error_that_shows_how_to_give_the_layers() -> None:
    with pytest.raises(LayersError) as error:
        find_layers(NoContainer(), ids())
    assert "layers: {embeddings: [embed], block.0: [first], block.1: [second], head: [out]}" in str(error.value)


def test_blocks_in_parallel_lists_are_an_error_that_shows_the_order_in_which_they_ran() -> None:
    settings = {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "n_words": VOCABULARY, "num_labels": CLASSES}
    model = tr.XLMForSequenceClassification(tr.XLMConfig(**settings))
    with pytest.raises(LayersError) as error:
        find_layers(model, text())
    assert "transformer.ffns.0 runs before transformer.attentions.1" in str(error.value)
    assert "block.0: [transformer.attentions.0], block.1: [transformer.ffns.0], block.2: [tr" in str(error.value)


def test_a_forward_pass_that_fails_is_reported_with_its_own_message() -> None:
    with pytest.raises(LayersError, match="unexpected keyword argument 'attention_mask'") as error:
        find_layers(LSTMClassifier(), text())
    assert "layers: {embeddings: [embed], block.0: [lstm], head: [classifier, norm]}" in str(error.value)


# ----------------------------------------------------------------------------------------------------
# Layers that the user gives
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [CASE["Bert"], CASE["Bart"], CASE["T5Generation"], CASE["LSTM"]], ids=lambda c: c.name)
def test_explicit_layers_equal_the_ones_that_are_found(case: Case) -> None:
    model = case.build()
    given, found = find_layers(model, explicit=case.labels), find_layers(model, case.batch())
    assert (given.names, given.parameters) == (found.names, found.parameters)


def test_explicit_layers_win_over_those_that_would_be_found() -> None:
    layers = find_layers(mlp(), vectors(), explicit={"block.0": ["0", "1"], "head": ["3", "6"]})
    assert layers.parameters == {
        "block.0": ("0.weight", "0.bias", "1.weight", "1.bias"),
        "head": ("3.weight", "3.bias", "6.weight", "6.bias"),
    }


def test_explicit_layers_fit_any_module() -> None:
    layers = find_layers(
        NoContainer(),
        explicit={"embeddings": ["embed"], "block.0": ["first"], "head": ["second", "out", "second.bias"]},
    )
    assert layers.names == ("embeddings", "block.0", "head")
    assert layers.layer_of("second.bias") == "head"
    assert layers.modules["dropout"] == {"head"}


def test_the_longest_prefix_wins_and_covers_modules_without_parameters() -> None:
    layers = find_layers(
        NoContainer(),
        explicit={"block.0": ["embed", "first", "dropout"], "block.1": ["second", "first.bias"], "head": ["out"]},
    )
    assert layers.layer_of("first.weight") == "block.0"
    assert layers.layer_of("first.bias") == "block.1"
    assert layers.modules["first"] == {"block.0", "block.1"}
    assert layers.modules["dropout"] == {"block.0"}


def test_the_problems_of_explicit_layers_are_reported_together() -> None:
    with pytest.raises(LayersError) as error:
        find_layers(
            NoContainer(), explicit={"block.0": ["frist"], "embedings": ["embed"], "block.2": ["out"], "head": "embed"}
        )
    assert str(error.value).splitlines() == [
        "layers.embedings: no such layer (did you mean 'embeddings'?); the names are embeddings, block.0, block.1, "
        "..., head",
        "layers: expected the order from input to output block.0, block.1, head, got block.0, block.2, head",
        "layers.block.0: no module or parameter is named 'frist' (did you mean 'first'?)",
        "layers.head: expected a list of module names, got 'embed'; write [embed]",
        "layers.head: 'embed' stands in embedings already",
        "layers: no layer holds the 2 parameters of first",
        "layers: no layer holds the 2 parameters of second",
    ]


def test_an_explicit_layer_whose_weights_are_all_tied_to_a_lower_one_is_reported() -> None:
    case = CASE["GPT2LMHead"]
    labels = {**case.labels, "block.2": ["transformer.h.2", "transformer.ln_f"], "head": ["lm_head"]}
    with pytest.raises(LayersError, match=r"layers\.head: holds no parameters: .* tied to lower ones"):
        find_layers(case.build(), explicit=labels)


def test_an_explicit_layer_that_is_left_without_parameters_is_reported() -> None:
    with pytest.raises(LayersError, match=r"layers\.block\.0: holds no parameters"):
        find_layers(NoContainer(), explicit={"block.0": ["dropout"], "head": ["embed", "first", "second", "out"]})


def test_no_explicit_layers_at_all_is_reported() -> None:
    with pytest.raises(LayersError, match="no layer is given"):
        find_layers(NoContainer(), explicit={})


# ----------------------------------------------------------------------------------------------------
# What a user asks of the layers
# ----------------------------------------------------------------------------------------------------


@pytest.fixture(name="layers")
def _layers() -> Layers:
    return find_layers(mlp(), vectors())


def test_blocks_and_distance_from_the_top(layers: Layers) -> None:
    assert layers.names == ("block.0", "block.1", "head")
    assert layers.blocks == ("block.0", "block.1")
    assert [layers.from_top(name) for name in layers.names] == [2, 1, 0]


def test_unknown_names_are_answered_with_the_nearest(layers: Layers) -> None:
    assert layers.layer_of("6.weight") == "head"
    with pytest.raises(KeyError, match=r"no parameter '6\.weights' \(did you mean '6\.weight'\?\)"):
        layers.layer_of("6.weights")
    with pytest.raises(KeyError, match="no layer 'haed'.*it has block.0, block.1, head"):
        layers.from_top("haed")


def test_layers_survive_pickling(layers: Layers) -> None:
    assert pickle.loads(pickle.dumps(layers)) == layers


class InParts(nn.Module):
    """Runs its blocks on one row at a time, as on the parts of a long text; refuses rows that begin with 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(2))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        if (input_ids[:, 0] == 0).any():
            raise InputError("the first token may not be 0")
        pooled = []
        for row in self.embed(input_ids):
            states = row
            for block in self.blocks:
                states = block(states)
            pooled.append(self.dropout(states).mean(0))
        return self.head(torch.stack(pooled))


def test_what_follows_the_last_block_is_the_head_also_where_the_blocks_run_again() -> None:
    layers = find_layers(InParts(), torch.ones(3, 5, dtype=torch.long))
    assert layers.modules["dropout"] == {"head"}
    assert layers.parameters["head"] == ("head.weight", "head.bias")


def test_what_a_model_says_of_its_input_is_not_advice_on_layers() -> None:
    with pytest.raises(InputError, match=r"^the first token may not be 0$"):
        find_layers(InParts(), torch.zeros(3, 5, dtype=torch.long))


class RecurrentBody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.lstm = nn.LSTM(8, 8, num_layers=2, batch_first=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.lstm(self.embed(input_ids))[0]


class HeadThatRepeats(nn.Module):
    """Its head has layers of the kind that its body consists of, and others that look like blocks: wider, and more."""

    base_model_prefix = "body"

    def __init__(self) -> None:
        super().__init__()
        self.body = RecurrentBody()
        self.recurrent = nn.LSTM(8, 32, num_layers=3, batch_first=True)
        self.linear = nn.Sequential(*(nn.Linear(32, 32) for _ in range(6)))
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 32)) for _ in range(6)))
        self.classifier = nn.Linear(32, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        states, _ = self.recurrent(self.body(input_ids))
        return self.classifier(self.blocks(self.linear(states)).mean(1))


@pytest.mark.parametrize("batch", [torch.ones(3, 5, dtype=torch.long), None], ids=["traced", "by registration"])
def test_blocks_are_looked_for_in_the_backbone_first(batch: Tensor | None) -> None:
    layers = find_layers(HeadThatRepeats(), batch)
    assert layers.names == ("embeddings", "block.0", "block.1", "head")
    assert set(layers.parameters["block.1"]) == {
        f"body.lstm.{kind}_l1" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    assert not any(name.startswith("body.") for name in layers.parameters["head"])

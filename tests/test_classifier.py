"""The classifier in parts, by itself and through the tricks that fill its slots."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch
import transformers as tr
from torch import Tensor, nn

import tiny
from finetricks import Context, InputError, Recipe, Trick, TrickConflict, TrickTrainer
from finetricks_plugins.build.classifier import Classifier, Unchanged, classifier_of
from finetricks_plugins.build.concat_pooling import ConcatPooling
from finetricks_plugins.build.feature_based import FeatureBased
from finetricks_plugins.build.layer_pooling import LayerPooling
from finetricks_plugins.build.output_dropout import OutputDropout
from finetricks_plugins.build.output_layer_norm import OutputLayerNorm
from finetricks_plugins.build.pooling import Pooling, first_token, last_max_mean, last_token
from finetricks_plugins.build.task_layers import TaskLayers
from finetricks_plugins.loss.auxiliary_lm import AuxiliaryLM

# Beginning, end and padding are tokens 1, 2 and 0; T5 and BART classify by the state of the only end.
SHAPE = {"vocab_size": 50, "num_labels": 3, "pad_token_id": 0}
BODY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, **SHAPE}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}


def seq2seq() -> dict[str, int]:
    sides = ("encoder", "decoder")
    return {
        f"{side}_{name}": value
        for side in sides
        for name, value in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))
    }


MODELS: dict[str, Callable[[], tr.PreTrainedModel]] = {
    "bert": lambda: tr.BertForSequenceClassification(tr.BertConfig(**BODY)),
    "roberta": lambda: tr.RobertaForSequenceClassification(tr.RobertaConfig(**BODY, max_position_embeddings=40)),
    "distilbert": lambda: tr.DistilBertForSequenceClassification(
        tr.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, **SHAPE)
    ),
    "electra": lambda: tr.ElectraForSequenceClassification(tr.ElectraConfig(**BODY, embedding_size=8)),
    "albert": lambda: tr.AlbertForSequenceClassification(tr.AlbertConfig(**BODY, embedding_size=8)),
    "deberta": lambda: tr.DebertaV2ForSequenceClassification(
        tr.DebertaV2Config(**BODY, relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False)
    ),
    "modernbert": lambda: tr.ModernBertForSequenceClassification(
        tr.ModernBertConfig(**BODY, **ENDS, cls_token_id=1, sep_token_id=2)
    ),
    "gpt2": lambda: tr.GPT2ForSequenceClassification(tr.GPT2Config(n_embd=16, n_layer=2, n_head=2, **SHAPE, **ENDS)),
    "llama": lambda: tr.LlamaForSequenceClassification(tr.LlamaConfig(**BODY, **ENDS)),
    "t5": lambda: tr.T5ForSequenceClassification(
        tr.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0, **SHAPE)
    ),
    "bart": lambda: tr.BartForSequenceClassification(tr.BartConfig(d_model=16, **seq2seq(), **SHAPE, **ENDS)),
}
NAMES = sorted(MODELS)


def model_of(kind: str) -> tr.PreTrainedModel:
    torch.manual_seed(0)
    return MODELS[kind]().eval()


def texts(side: str, length: int = 8) -> dict[str, Tensor]:
    """Two texts of 6 and 4 tokens, padded."""
    generator = torch.Generator().manual_seed(0)
    batch = {name: torch.zeros(2, length, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    for row, tokens in enumerate((6, 4)):
        ids = torch.cat(
            [torch.tensor([1]), torch.randint(3, 50, (tokens - 2,), generator=generator), torch.tensor([2])]
        )
        place = slice(0, tokens) if side == "right" else slice(length - tokens, length)
        batch["input_ids"][row, place] = ids
        batch["attention_mask"][row, place] = 1
    return batch


def built(model: nn.Module, *tricks: Trick) -> nn.Module:
    return tiny.recipe(*tricks).stack().build(model, seed=1).eval()


FILLED: dict[str, tuple[Trick, ...]] = {
    "nothing": (),
    "concat_pooling": (ConcatPooling(),),
    "layer_pooling": (LayerPooling(layers="all", combine="max", tokens="mean"),),
    "bilstm": (FeatureBased(), TaskLayers(kind="bilstm")),
    "transformer": (TaskLayers(kind="transformer", heads=2), OutputLayerNorm()),
    "mlp": (TaskLayers(kind="mlp", number=2), ConcatPooling(hidden=None)),
}

# ----------------------------------------------------------------------------------------------------
# What it is made of
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NAMES)
def test_it_keeps_the_encoder_and_drops_the_head_and_the_pooler(kind: str) -> None:
    model = model_of(kind)
    base = model.base_model
    encoder = base.get_encoder() if model.config.is_encoder_decoder else base
    kept = {id(p) for name, p in encoder.named_parameters() if not name.startswith("pooler")}
    classifier = classifier_of(model, "test")
    assert {id(p) for p in classifier.encoder.parameters()} == kept
    assert {name for name, _ in classifier.named_parameters() if not name.startswith("encoder.")} == {
        "output.weight",
        "output.bias",
    }
    assert classifier(**texts("right")).logits.shape == (2, 3)


@pytest.mark.parametrize("kind", NAMES)
def test_it_reads_the_first_token_or_a_decoders_last(kind: str) -> None:
    classifier = classifier_of(model_of(kind), "test").eval()
    given = texts("right")
    mask = given["attention_mask"].bool()
    states = classifier.encoder(**given).last_hidden_state
    read = (last_token if kind in ("gpt2", "llama") else first_token)(states, mask)
    assert torch.allclose(classifier(**given).logits, classifier.output(read), atol=1e-6)


def test_the_dropout_before_the_output_layer_is_the_models_own() -> None:
    model = model_of("bert")
    dropout = model.dropout
    assert classifier_of(model, "test").dropout is dropout
    assert isinstance(classifier_of(model_of("llama"), "test").dropout, nn.Identity)


def test_hidden_states_are_given_for_those_who_ask() -> None:
    classifier = classifier_of(model_of("gpt2"), "test").eval()
    outputs = classifier(**texts("right"), output_hidden_states=True)
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(2, 8, 16)] * 3
    assert torch.equal(outputs.hidden_states[-1], classifier.encoder(**texts("right")).last_hidden_state)
    assert classifier(**texts("right")).hidden_states is None


def test_token_types_reach_the_encoders_that_know_them() -> None:
    types = torch.ones(2, 8, dtype=torch.long)
    for kind, knows in (("bert", True), ("distilbert", False)):
        classifier = classifier_of(model_of(kind), "test").eval()
        plain, typed = (classifier(**texts("right"), **more).logits for more in ({}, {"token_type_ids": types}))
        assert torch.equal(plain, typed) != knows


def test_without_a_mask_every_token_counts() -> None:
    classifier = classifier_of(model_of("bert"), "test").eval()
    given = texts("right", length=6)
    alone = {"input_ids": given["input_ids"][:1]}
    masked = {name: value[:1] for name, value in given.items()}
    assert torch.equal(classifier(**alone).logits, classifier(**masked).logits)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(2, 2)),
        tr.BertModel(tr.BertConfig(**BODY)),
        tr.BertForMaskedLM(tr.BertConfig(**BODY)),
        tr.ViTForImageClassification(
            tr.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4)
        ),
    ],
    ids=lambda model: type(model).__name__,
)
def test_other_models_are_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match=f"concat_pooling reads the states .*; {type(model).__name__} is none"):
        tiny.recipe(ConcatPooling()).bind(model, tiny.loader())


# ----------------------------------------------------------------------------------------------------
# Its loss
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("single_label_classification", torch.tensor([0, 2])),
        ("multi_label_classification", torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])),
        ("regression", torch.tensor([[0.5, 1.0, -1.0], [0.0, 2.0, 1.5]])),
        (None, torch.tensor([0, 2])),
    ],
)
def test_the_loss_is_that_of_transformers(problem: str | None, labels: Tensor) -> None:
    model = model_of("bert")
    model.config.problem_type = problem
    theirs = model.loss_function(labels=labels, pooled_logits=(scores := torch.randn(2, 3)), config=model.config)
    model.config.problem_type = problem
    classifier = classifier_of(model, "test").eval()
    classifier.output.register_forward_hook(lambda module, given, gave: scores)
    assert torch.equal(classifier(**texts("right"), labels=labels).loss, theirs)


def test_a_regression_of_one_value() -> None:
    model = tr.BertForSequenceClassification(tr.BertConfig(**{**BODY, "num_labels": 1}, problem_type="regression"))
    outputs = classifier_of(model, "test").eval()(**texts("right"), labels=(labels := torch.tensor([0.5, -1.0])))
    assert outputs.loss.item() == pytest.approx((outputs.logits[:, 0] - labels).square().mean().item())


# ----------------------------------------------------------------------------------------------------
# Padding
# ----------------------------------------------------------------------------------------------------


# Their positions do not depend on padding, so that nothing else tells the sides apart.
@pytest.mark.parametrize("kind", ["roberta", "llama", "t5", "deberta"])
@pytest.mark.parametrize("filled", sorted(FILLED))
def test_scores_do_not_depend_on_padding(kind: str, filled: str) -> None:
    model = built(model_of(kind), *(FILLED[filled] or (LayerPooling(layers=-1),)))
    right = model(**texts("right")).logits
    assert torch.allclose(model(**texts("left")).logits, right, atol=1e-5)
    assert torch.allclose(model(**texts("right", length=11)).logits, right, atol=1e-5)


def test_what_stands_at_padding_is_never_read() -> None:
    states, mask = torch.randn(2, 5, 4), torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]).bool()
    other = states.masked_fill(~mask[..., None], 1e3)
    for pool in (first_token, last_token, last_max_mean):
        assert torch.equal(pool(states, mask), pool(other, mask))


# ----------------------------------------------------------------------------------------------------
# Slots
# ----------------------------------------------------------------------------------------------------


class Wider(Unchanged):
    """Draws a weight, and gives twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__(2 * width)
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.cat([values, values], dim=-1)


SEEDS = {"norm": 1, "task_layers": 2, "head": 3}


def filled(*slots: str, seeds: dict[str, int] | None = None) -> Classifier:
    classifier = classifier_of(model_of("bert"), "test")
    for slot in slots:
        classifier.fill(slot, slot, Context(seed=(seeds or SEEDS)[slot]), Wider)
    return classifier


def test_widths_are_handed_on_from_slot_to_slot() -> None:
    classifier = filled("head", "norm")
    classifier.fill("pooling", "pooling", Context(seed=0), partial(Pooling, pool=last_max_mean, times=3))
    assert [getattr(classifier, slot).width for slot in ("norm", "task_layers", "pooling", "head")] == [32, 32, 96, 192]
    assert classifier.output.in_features == 192
    assert classifier(**texts("right")).logits.shape == (2, 3)


def test_the_order_of_filling_changes_nothing() -> None:
    slots = ("norm", "task_layers", "head")
    first, *others = (filled(*order) for order in itertools.permutations(slots))
    assert [name for name, _ in others[-1].named_parameters()] == [name for name, _ in first.named_parameters()]
    assert all(tiny.equal(first, other) for other in others)


def test_a_part_is_drawn_from_its_own_tricks_stream() -> None:
    one, other = (
        filled("norm", "head", seeds={"norm": 1, "head": 2}),
        filled("norm", "head", seeds={"norm": 1, "head": 3}),
    )
    assert torch.equal(one.norm.weight, other.norm.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_the_global_random_state_is_left_alone() -> None:
    model = model_of("bert")
    before = torch.get_rng_state()
    classifier_of(model, "test").fill("head", "test", Context(seed=0), Wider)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_tricks_in_one_slot_conflict() -> None:
    classifier = filled("head")
    with pytest.raises(TrickConflict, match="head and other both say what the head is; pick one"):
        classifier.fill("head", "other", Context(seed=0), Wider)


def test_a_trick_that_builds_again_finds_its_module_as_it_was() -> None:
    classifier = filled("head")
    with torch.no_grad():
        classifier.head.weight.fill_(7.0)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    classifier.fill("head", "head", Context(seed=0), Wider)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_the_parts_take_the_encoders_type() -> None:
    classifier = classifier_of(model_of("bert").to(torch.float64), "test")
    classifier.fill("head", "test", Context(seed=0), Wider)
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float64}


# ----------------------------------------------------------------------------------------------------
# Tricks together
# ----------------------------------------------------------------------------------------------------

TOGETHER = (
    AuxiliaryLM(objective="masked", mask_token_id=3),
    ConcatPooling(hidden=5),
    FeatureBased(),
    OutputDropout(p=0.4),
    OutputLayerNorm(),
    TaskLayers(width=6),
)


def test_the_order_of_the_tricks_changes_nothing_bit_for_bit() -> None:
    orders = [TOGETHER[turn:] + TOGETHER[:turn] for turn in range(len(TOGETHER))] + [TOGETHER[::-1]]
    results = [tiny.trained(tiny.recipe(*order, epochs=1)) for order in orders]
    losses, model = results[0]
    for other_losses, other in results[1:]:
        assert other_losses == losses
        assert [name for name, _ in other.named_parameters()] == [name for name, _ in model.named_parameters()]
        assert tiny.equal(other, model)


class Beside(nn.Module):
    """Stands beside a head for as long as it does."""

    carried = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.widths: list[int] = []

    def resize(self, width: int) -> None:
        self.widths.append(width)


def test_what_tricks_put_beside_the_old_head_stays_and_is_told_the_width() -> None:
    model = model_of("bert")
    beside = Beside()
    model.add_module("beside", beside)
    model.add_module("old", nn.Linear(2, 2))
    classifier = classifier_of(model, "test")
    classifier.fill("head", "test", Context(seed=0), Wider)
    assert classifier.get_submodule("beside") is beside
    assert beside.widths == [16, 32]
    assert not hasattr(classifier, "old")


def test_hooks_on_the_old_output_layer_stay() -> None:
    model = model_of("roberta")
    seen: list[tuple[int, ...]] = []
    model.classifier.out_proj.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    classifier = classifier_of(model, "test")
    classifier.fill("head", "test", Context(seed=0), Wider)
    classifier(**texts("right"))
    assert seen == [(2, 32)]


# ----------------------------------------------------------------------------------------------------
# Saving
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in sorted(FILLED) if FILLED[name]])
def test_its_weights_fit_a_second_build(name: str) -> None:
    recipe = tiny.recipe(*FILLED[name], epochs=1)
    _, model = tiny.trained(recipe)
    again = recipe.stack().build(tiny.bert(seed=5), seed=1)
    assert [key for key, _ in again.named_parameters()] == [key for key, _ in model.named_parameters()]
    again.load_state_dict(model.state_dict())
    batch = {"input_ids": tiny.rows()[0]["input_ids"][None]}
    assert torch.equal(again.eval()(**batch).logits, model.eval()(**batch).logits)


def trainer(recipe: Recipe, folder: object, **more: object) -> TrickTrainer:
    args = recipe.training_arguments(folder, disable_tqdm=True, use_cpu=True, logging_strategy="no", **more)
    return TrickTrainer(recipe=recipe, model=tiny.bert(), args=args, train_dataset=tiny.rows())


def test_the_trainer_resumes_it_from_a_checkpoint(tmp_path: object) -> None:
    recipe = tiny.recipe(ConcatPooling(), TaskLayers())
    whole = trainer(recipe, tmp_path / "whole", save_strategy="epoch")
    whole.train()
    resumed = trainer(recipe, tmp_path / "resumed", save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert tiny.equal(resumed.model, whole.model)


def test_training_again_goes_on_with_what_was_trained(tmp_path: object) -> None:
    trained = trainer(tiny.recipe(ConcatPooling()), tmp_path, save_strategy="no")
    trained.train()
    model = trained.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert trained._built(model) is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    trained.train()


def test_it_is_made_anew_by_every_model() -> None:
    make = partial(classifier_of, trick="test")
    assert make(one := make(model_of("bert"))) is one
    assert make(model_of("bert")) is not one

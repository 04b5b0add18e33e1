from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import DataCollatorWithPadding

import every
import tiny
from finetricks import Context, InputError, Recipe, Session, Trick, TrickTrainer, installed, predict, run
from finetricks.tasks.encode import loader, tokenize
from finetricks_plugins.build import fractions
from finetricks_plugins.build.bi_attention import BiAttention
from finetricks_plugins.build.classifier import Classifier, classifier_of
from finetricks_plugins.build.fractions import SelfAttention, max_of, mean_of
from finetricks_plugins.build.hierarchical import Hierarchical, fraction_positions
from finetricks_plugins.data.head_tail import HeadTail
from finetricks_plugins.freeze.last_layer import LastLayer
from finetricks_plugins.loss.auxiliary_lm import AuxiliaryLM

CLS, SEP, PAD = 2, 3, 0
LENGTH = 6


def context(**about: Any) -> Context:
    return Context(seed=0, **{"tokenizer": every.tokenizer(), "max_length": LENGTH} | about)


def split_up(rows: list[list[int]], trick: Hierarchical | None = None, **about: Any) -> list[list[int]]:
    columns = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows], "labels": [0] * len(rows)}
    changed = (trick or Hierarchical()).data(datasets.Dataset.from_dict(columns), "train", context(**about))
    assert changed["attention_mask"][:] == [[1] * len(row) for row in changed["input_ids"][:]]
    return changed["input_ids"][:]


def words(count: int) -> list[int]:
    return [CLS, *range(5, 5 + count), SEP]


def padded(rows: list[list[int]], side: str = "right") -> dict[str, Tensor]:
    width = max(map(len, rows))

    def pad(row: list[int], value: int) -> list[int]:
        padding = [value] * (width - len(row))
        return row + padding if side == "right" else padding + row

    ids, mask = [pad(row, PAD) for row in rows], [pad([1] * len(row), 0) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def built(dropout: float = 0.0, **values: Any) -> Classifier:
    model = Hierarchical(**values).build(tiny.bert(dropout=dropout), context())
    assert isinstance(model, Classifier)
    return model.eval()


def task(rows: int = 12) -> datasets.Dataset:
    texts = [" ".join(f"w{(7 * row + word) % 45}" for word in range(2 + 5 * (row % 5))) for row in range(rows)]
    return tokenize({"text": texts}, every.tokenizer(), range(rows), [row % 3 for row in range(rows)])


def bound(*tricks: Any, dropout: float = 0.1, **training: Any) -> Session:
    """A session as in a loop of one's own: the examples go through the tricks first."""
    recipe = tiny.recipe(*tricks, **training)
    about = {"tokenizer": every.tokenizer(), "max_length": LENGTH}
    data = recipe.stack().data(task(), "train", recipe.streams.data, **about)
    batches = loader(data, every.tokenizer(), recipe.training.batch_size, shuffle=True)
    return recipe.bind(tiny.bert(dropout=dropout), batches, context=about)


# -- the fractions of a text -------------------------------------------------------------------------------


def test_the_papers_fractions_of_510() -> None:
    # Sun et al. 2019, section 5.3.1: k = L / 510 fractions, each between [CLS] and [SEP]
    positions = fraction_positions(1002, opening=1, closing=1, length=512, at_most=8)
    assert positions == [0, *range(1, 511), 1001, 0, *range(511, 1001), 1001]


def test_each_fraction_but_the_last_is_full_and_has_special_tokens_of_its_own() -> None:
    assert split_up([words(4), words(5), words(9)]) == [
        words(4),
        [CLS, 5, 6, 7, 8, SEP, CLS, 9, SEP],
        [CLS, 5, 6, 7, 8, SEP, CLS, 9, 10, 11, 12, SEP, CLS, 13, SEP],
    ]


def test_text_beyond_the_most_fractions_is_cut_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    rows = split_up([words(8), words(9)], Hierarchical(max_fractions=2))
    assert rows == [[CLS, 5, 6, 7, 8, SEP, CLS, 9, 10, 11, 12, SEP]] * 2
    assert "1 of 2 texts of train are cut after 2 fractions of 6 tokens" in caplog.text


def test_fractions_can_have_a_length_of_their_own() -> None:
    assert split_up([words(3)], Hierarchical(fraction_length=4)) == [[CLS, 5, 6, SEP, CLS, 7, SEP]]


def test_texts_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(InputError, match=r"splits single texts, and the examples of train are pairs"):
        split_up([words(3)], text_columns=("premise", "hypothesis"))
    pairs = tokenize({"text": ["w1 w2"]}, every.tokenizer(), [0]).add_column("token_type_ids", [[0, 0, 1, 1]])
    with pytest.raises(InputError, match="are pairs"):
        Hierarchical().data(pairs, "train", context())
    with pytest.raises(InputError, match="row 1 of train does not begin and end with the tokenizer's special tokens"):
        split_up([words(9), list(range(5, 15))])
    with pytest.raises(InputError, match="a fraction of 2 tokens has no room beside its 2 special ones"):
        split_up([words(9)], Hierarchical(fraction_length=2))
    with pytest.raises(InputError, match="needs the tokenizer"):
        split_up([words(9)], tokenizer=None)
    for unknown in (None, int(1e30)):
        with pytest.raises(InputError, match="set fraction_length"):
            split_up([words(9)], max_length=unknown)


# -- one vector of several ---------------------------------------------------------------------------------


def test_means_and_maxima_are_of_the_fractions_that_are_there() -> None:
    vectors = torch.tensor([[[1.0, -4.0], [3.0, -2.0]], [[5.0, -1.0], [0.0, 0.0]]])
    there = torch.tensor([[True, True], [True, False]])
    assert mean_of(vectors, there).tolist() == [[2.0, -3.0], [5.0, -1.0]]
    assert max_of(vectors, there).tolist() == [[3.0, -2.0], [5.0, -1.0]]


def test_self_attention_weighs_by_a_learned_query() -> None:
    attention = SelfAttention(2)
    with torch.no_grad():
        attention.dense.weight.copy_(torch.eye(2))
        attention.dense.bias.zero_()
        attention.query.weight.copy_(torch.tensor([[math.log(3) / math.tanh(1.0), 0.0]]))
    # scores log 3 and 0: weights 3/4 and 1/4; alone: 1
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 8.0]], [[0.0, 8.0], [0.0, 0.0]]])
    there = torch.tensor([[True, True], [True, False]])
    assert attention(vectors, there).flatten().tolist() == pytest.approx([0.75, 2.0, 0.0, 8.0])


# -- the model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_row_for_each_fraction(side: str) -> None:
    arrangement = built().arrangement
    rows = arrangement.rows(padded(split_up([words(5), words(2)]), side))
    assert rows["input_ids"].tolist() == [[2, 5, 6, 7, 8, 3], [2, 9, 3, 0, 0, 0], [2, 5, 6, 3, 0, 0]]
    assert rows["attention_mask"].sum(dim=1).tolist() == [6, 3, 4]


@pytest.mark.parametrize("combine", ["mean", "max", "self_attention"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_of_one_fraction_each_combination_is_the_plain_classifier(combine: str, side: str) -> None:
    model = built(combine=combine)
    plain = classifier_of(tiny.bert(), "test").eval()
    weights = model.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    batch = padded([words(4), words(2)])
    assert torch.equal(model(**padded([words(4), words(2)], side)).logits, plain(**batch).logits)


def test_fractions_are_encoded_apart_and_their_vectors_combined() -> None:
    model = built(combine="mean")
    apart = [[CLS, 5, 6, 7, 8, SEP], [CLS, 9, 10, 11, 12, SEP], [CLS, 13, SEP]]
    states = [model.encoder(input_ids=torch.tensor([part])).last_hidden_state[0, 0] for part in apart]
    expected = model.output(torch.stack(states).mean(dim=0))
    both = model(**padded(split_up([words(9), words(2)]))).logits
    assert torch.allclose(both[0], expected, atol=1e-6)
    greatest = model.output(torch.stack(states).amax(dim=0))
    model.arrangement.combine = "max"
    assert torch.allclose(model(**padded(split_up([words(9)]))).logits[0], greatest, atol=1e-6)
    assert not torch.allclose(expected, greatest, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_hidden_states_stand_where_the_tokens_do(side: str) -> None:
    batch = padded(split_up([words(9), words(2)]), side)
    model = built(fractions_at_once=2)
    states = model(**batch, output_hidden_states=True).hidden_states
    own = batch["attention_mask"].bool()
    assert all(layer.shape[:2] == batch["input_ids"].shape for layer in states)
    word = model.encoder.embeddings.word_embeddings
    model.encoder.embeddings.position_embeddings.weight.data.zero_()
    embedded = model(**batch, output_hidden_states=True).hidden_states[0]
    types = model.encoder.embeddings.token_type_embeddings.weight[0]
    expected = model.encoder.embeddings.LayerNorm(word(batch["input_ids"]) + types)
    assert torch.allclose(embedded[own], expected[own], atol=1e-6)
    assert not embedded[~own].any()


# -- memory ------------------------------------------------------------------------------------------------


def test_no_more_rows_at_once_and_the_same_result() -> None:
    batch = padded(split_up([words(9), words(12), words(2)]))  # 3 + 3 + 1 rows
    sizes: list[int] = []
    whole, parts = built(), built(fractions_at_once=2)
    parts.load_state_dict(whole.state_dict())
    parts.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    results = []
    for model in (whole, parts):
        loss = model(**batch, labels=torch.tensor([0, 1, 2])).loss
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*results, strict=True))
    assert sizes == [2, 2, 2, 1, 1, 2, 2, 2]  # forward, and again backward
    with torch.no_grad():
        parts(**batch)
    assert sizes[8:] == [2, 2, 2, 1]


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_fractions() -> None:
    model = built(dropout=0.1, fractions_at_once=1).train()

    def kept(count: int) -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**padded(split_up([words(4 * count)])), labels=torch.tensor([0]))
        return sum(sizes)

    # the inputs, a vector and what combining it takes; a block's activations alone are over a thousand numbers
    assert kept(8) - kept(2) < 6 * 150


def test_a_part_that_is_computed_again_has_the_same_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = padded(split_up([words(9), words(12)]))

    def gradients() -> list[Tensor]:
        model = built(dropout=0.3, fractions_at_once=2).train()
        torch.manual_seed(5)
        model(**batch, labels=torch.tensor([0, 1])).loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    again = gradients()
    monkeypatch.setattr(fractions, "checkpoint", lambda function, rows, **_: function(rows))
    kept = gradients()
    assert all(torch.equal(a, b) for a, b in zip(again, kept, strict=True))


# -- with the other parts of a run -------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 2, 16])
def test_the_layers_are_found_whatever_the_parts(at_once: int) -> None:
    session = bound(Hierarchical(combine="self_attention", fractions_at_once=at_once))
    assert session.layers.names == ("embeddings", "block.0", "block.1", "block.2", "head")
    assert all(name.startswith("encoder.embeddings") for name in session.layers.parameters["embeddings"])
    assert set(session.layers.parameters["head"]) == {
        f"{module}.{name}" for module in ("arrangement.attention.dense", "output") for name in ("weight", "bias")
    } | {"arrangement.attention.query.weight"}


def test_it_trains_with_everything_below_the_head_frozen() -> None:
    session = bound(LastLayer(), Hierarchical(fractions_at_once=2))
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    tiny.train(session)
    after = session.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"output.weight", "output.bias"}


def test_parts_resume_as_if_uninterrupted(tmp_path: Path) -> None:
    trick = Hierarchical(combine="self_attention", fractions_at_once=2)
    whole, first, second = bound(trick), bound(trick), bound(trick)
    tiny.train(whole)
    tiny.train(first, steps=2)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    tiny.train(second)
    assert tiny.equal(second.model, whole.model)
    assert not tiny.equal(whole.model, bound(trick).model)


def test_the_order_beside_another_build_trick_changes_nothing() -> None:
    tricks = (Hierarchical(), AuxiliaryLM(gamma=0.5))
    one, other = bound(*tricks), bound(*reversed(tricks))
    assert tiny.train(one) == tiny.train(other)
    assert tiny.equal(one.finish(), other.finish())


def test_it_changes_the_result() -> None:
    losses = [tiny.train(bound(Hierarchical(combine=combine))) for combine in ("mean", "max", "self_attention")]
    assert losses[0] != losses[1] != losses[2] != losses[0]


def test_an_example_that_was_not_split_is_refused_before_training() -> None:
    recipe = tiny.recipe(Hierarchical())
    about = {"tokenizer": every.tokenizer(), "max_length": LENGTH}
    with pytest.raises(InputError, match="an example of more than 6 tokens was not split into fractions"):
        recipe.bind(tiny.bert(), loader(task(), every.tokenizer(), 4), context=about)


def test_a_fraction_that_the_model_has_no_positions_for_is_refused() -> None:
    with pytest.raises(InputError, match="positions for 32 tokens, and a fraction holds 33; set fraction_length to 32"):
        built(fraction_length=33)


@pytest.mark.parametrize("other", [HeadTail(), BiAttention()])
def test_tricks_that_leave_nothing_to_split_or_split_otherwise_are_refused(other: Trick) -> None:
    with pytest.raises(InputError, match="exclude one another"):
        tiny.recipe(Hierarchical(), other)


def test_in_the_trainer(tmp_path: Path) -> None:
    recipe = tiny.recipe(Hierarchical(fraction_length=LENGTH, fractions_at_once=2), epochs=1)
    trainer = TrickTrainer(
        recipe=recipe,
        model=tiny.bert(),
        args=recipe.training_arguments(tmp_path, disable_tqdm=True, save_strategy="no", use_cpu=True),
        train_dataset=task(),
        processing_class=every.tokenizer(),
        data_collator=DataCollatorWithPadding(every.tokenizer()),
    )
    trainer.train()
    session = bound(Hierarchical(fraction_length=LENGTH, fractions_at_once=2), epochs=1)
    tiny.train(session)
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(trainer.model.state_dict().values(), session.model.state_dict().values(), strict=True)
    )


def test_a_run_and_its_predictions_read_all_of_a_text(tmp_path: Path) -> None:
    folder = tiny.write_task(tmp_path)
    table = pd.read_csv(folder / "test.csv")
    table["text"] = [f"{text} the a big the a big {text}" for text in table["text"]]
    table.to_csv(folder / "test.csv", index=False)
    recipe = Recipe(
        tricks=[Hierarchical(combine="mean")],
        model=str(folder / "model"),
        data={"train": str(folder / "train.csv"), "test": str(folder / "test.csv")},
        training={"epochs": 1, "max_length": LENGTH, "learning_rate": 1e-2},
    )
    run(recipe, tmp_path / "run")
    scored = pd.read_csv(tmp_path / "run" / "predictions" / "test.csv").filter(like="score:").to_numpy()
    assert scores(tmp_path / "run", folder / "test.csv") == pytest.approx(scored, abs=1e-6)
    table["text"] = [f"{text} fin gill reef fin gill" for text in table["text"]]
    table.to_csv(folder / "longer.csv", index=False)
    longer = scores(tmp_path / "run", folder / "longer.csv")
    assert abs(longer - scored).max() > 1e-4  # what stands at the end counts, too


def scores(folder: Path, file: Path) -> Any:
    return predict(folder, file, catalog=installed().with_classes([Hierarchical])).filter(like="score:").to_numpy()

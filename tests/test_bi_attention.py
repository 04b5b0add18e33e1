from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import every
import tiny
from finetricks import Context, InputError, Recipe, Session, run
from finetricks.tasks.encode import loader, tokenize
from finetricks_plugins.build.bi_attention import BiAttention, PairForm, bi_attention, combined, enriched
from finetricks_plugins.build.classifier import Classifier
from finetricks_plugins.build.concat_pooling import ConcatPooling
from finetricks_plugins.loss.auxiliary_lm import AuxiliaryLM

# How models frame a text and a pair. The ids of the special tokens: 2 opens, 3 separates or closes, 4 ends.
TEMPLATES = {
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"),
    "t5": ("$A [SEP]", "$A [SEP] $B [SEP]"),
    "xlnet": ("$A [SEP] [MASK]", "$A [SEP] $B:1 [SEP]:1 [MASK]:2"),
    "llama": ("[CLS] $A", "[CLS] $A [CLS] $B"),
}
FORMS = {
    "bert": PairForm(3, 1, 1),
    "roberta": PairForm(3, 1, 1),
    "t5": PairForm(3, 0, 1),
    "xlnet": PairForm(3, 0, 2),
    "llama": PairForm(2, 1, 0),
}


def tokenizer(single: str, pair: str) -> PreTrainedTokenizerFast:
    plain = every.tokenizer()
    copied = PreTrainedTokenizerFast(tokenizer_object=plain.backend_tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    special = [("[CLS]", 2), ("[SEP]", 3), ("[MASK]", 4)]
    copied.backend_tokenizer.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=special)
    return copied


def padded(rows: list[list[int]], side: str = "right") -> dict[str, Tensor]:
    width = max(map(len, rows))

    def pad(row: list[int], value: int) -> list[int]:
        padding = [value] * (width - len(row))
        return row + padding if side == "right" else padding + row

    ids, mask = [pad(row, 0) for row in rows], [pad([1] * len(row), 0) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def built(given: Any = None, trick: BiAttention | None = None, dropout: float = 0.0) -> Classifier:
    context = Context(seed=0, tokenizer=given or every.tokenizer())
    model = (trick or BiAttention()).build(tiny.bert(dropout=dropout), context)
    assert isinstance(model, Classifier)
    return model.eval()


def pairs(rows: int = 22) -> Any:
    texts = [" ".join(f"w{(7 * row + word) % 45}" for word in range(1 + row % 4)) for row in range(rows)]
    columns = {"first": texts, "second": texts[::-1]}
    return tokenize(columns, every.tokenizer(), range(rows), [row % 3 for row in range(rows)])


def bound(*tricks: Any, data: Any = None, about: dict[str, Any] | None = None, **training: Any) -> Session:
    recipe = tiny.recipe(*tricks, **training)
    batches = loader(pairs() if data is None else data, every.tokenizer(), recipe.training.batch_size, shuffle=True)
    return recipe.bind(tiny.bert(), batches, context={"tokenizer": every.tokenizer()} if about is None else about)


# -- the attention -----------------------------------------------------------------------------------------


def test_each_text_attends_to_the_other() -> None:
    # likeness [[0, ln 3], [0, 2 ln 3]]: over the second text weights 1/4, 3/4 and 1/10, 9/10; over the first 1/2, 1/2
    # and 1/4, 3/4
    first, second = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[0.0], [math.log(3)]]])
    real = torch.ones(1, 2, dtype=torch.bool)
    of_first, of_second = bi_attention(first, second, real, real)
    assert of_first.flatten().tolist() == pytest.approx([0.75 * math.log(3), 0.9 * math.log(3)])
    assert of_second.flatten().tolist() == pytest.approx([1.5, 1.75])


def test_padding_is_not_attended_to() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(1, 3, 4), torch.randn(1, 5, 4)
    first_mask, second_mask = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[False, True, True, True, False]])
    padded_first, padded_second = bi_attention(first, second, first_mask, second_mask)
    own_first, own_second = bi_attention(first, second[:, 1:4], first_mask, second_mask[:, 1:4])
    assert torch.allclose(padded_first, own_first)
    assert torch.allclose(padded_second[:, 1:4], own_second)


def test_scaled_is_by_the_root_of_the_width() -> None:
    first, second = torch.ones(1, 1, 4), torch.tensor([[[0.0] * 4, [math.log(3) / 2] * 4]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    attended, _ = bi_attention(first, second, mask[:, :1], mask, scaled=True)  # likeness 0 and 2 ln 3, over sqrt 4
    assert attended.flatten().tolist() == pytest.approx([0.75 * math.log(3) / 2] * 4)


def test_states_are_enriched_and_vectors_compared() -> None:
    u, v = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 5.0]])
    assert enriched(u, v).tolist() == [[1, -2, 3, 5, -2, -7, 3, -10]]  # Chen et al. 2017, equations 14 and 15
    assert combined(u, v, "compare").tolist() == [[1, -2, 3, 5, 2, 7, 3, -10]]
    assert combined(u, v, "concat").tolist() == [[1, -2, 3, 5]]


# -- a pair is two rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_each_text_gets_a_row_as_if_it_stood_alone(kind: str, side: str) -> None:
    own = tokenizer(*TEMPLATES[kind])
    arrangement = built(own).arrangement
    assert arrangement.form == FORMS[kind]
    texts = [("w1 w2 w3", "w4"), ("w5", "w6 w7"), ("w8 w9", "w10 w11 w12")]
    rows = arrangement.rows(padded([own(*pair)["input_ids"] for pair in texts], side))
    alone = padded([own(text)["input_ids"] for column in zip(*texts, strict=True) for text in column])
    assert torch.equal(rows["input_ids"], alone["input_ids"])
    assert torch.equal(rows["attention_mask"], alone["attention_mask"])


def test_a_text_alone_is_of_one_type() -> None:
    inputs = padded([every.tokenizer()("w1", "w2")["input_ids"]])
    rows = built().arrangement.rows(inputs | {"token_type_ids": torch.tensor([[0, 0, 0, 1, 1]])})
    assert not rows["token_type_ids"].any()
    assert "token_type_ids" not in built().arrangement.rows(inputs)


def test_an_empty_second_text_is_a_text() -> None:
    rows = built().arrangement.rows(padded([[2, 5, 6, 3, 3]]))
    assert rows["input_ids"].tolist() == [[2, 5, 6, 3], [2, 3, 0, 0]]


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_hidden_states_stand_where_the_tokens_do(kind: str, side: str) -> None:
    own = tokenizer(*TEMPLATES[kind])
    inputs = padded([own(*pair)["input_ids"] for pair in (("w1 w2 w3", "w4"), ("w5", "w6 w7"))], side)
    arrangement = built(own).arrangement
    rows = arrangement.rows(inputs)
    states = torch.where(rows["attention_mask"].bool(), rows["input_ids"], -1)[..., None].float()
    back = arrangement.states(states, inputs)[..., 0].long()
    dropped = (back == 0) & inputs["attention_mask"].bool()
    assert torch.equal(back[~dropped], inputs["input_ids"][~dropped])
    # Only RoBERTa's second separator and Llama's have no place in a text that stands alone.
    assert dropped.sum(dim=1).tolist() == [1 if kind in ("roberta", "llama") else 0] * 2


# -- the model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_scores_are_of_both_texts_read_apart(side: str) -> None:
    model = built(trick=BiAttention(projection=5))
    own = every.tokenizer()
    states = [model.encoder(**own(text, return_tensors="pt")).last_hidden_state for text in ("w1 w2 w3", "w4")]
    masks = [torch.ones(1, each.shape[1], dtype=torch.bool) for each in states]
    attended = bi_attention(*states, *masks)
    u, v = (model.arrangement.projection(enriched(a, b)).relu()[:, 0] for a, b in zip(states, attended, strict=True))
    expected = model.output(torch.cat([u, v, (u - v).abs(), u * v], dim=-1))
    scores = model(**padded([own("w1 w2 w3", "w4")["input_ids"], own("w5 w6", "w7 w8 w9")["input_ids"]], side)).logits
    assert torch.allclose(scores[0], expected[0], atol=1e-6)


def test_its_layers_are_found_and_it_trains() -> None:
    session = bound(BiAttention(projection=4, scaled=True))
    assert session.layers.names == ("embeddings", "block.0", "block.1", "block.2", "head")
    assert set(session.layers.parameters["head"]) == {
        f"{module}.{name}" for module in ("arrangement.projection", "output") for name in ("weight", "bias")
    }
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    tiny.train(session)
    trained = session.model.state_dict()
    unchanged = {name for name in before if torch.equal(before[name], trained[name])}
    assert unchanged <= {"encoder.embeddings.position_ids", "encoder.embeddings.token_type_ids"}


def test_values_change_the_result() -> None:
    tricks = [BiAttention(), BiAttention(scaled=True), BiAttention(combine="concat"), BiAttention(projection=8)]
    losses = [tuple(tiny.train(bound(*given))) for given in ((), *([trick] for trick in tricks))]
    assert len(set(losses)) == 5


def test_the_order_beside_other_build_tricks_changes_nothing() -> None:
    tricks = (BiAttention(), ConcatPooling(), AuxiliaryLM(gamma=0.5))
    one, other = bound(*tricks), bound(*reversed(tricks))
    assert tiny.train(one) == tiny.train(other)
    assert tiny.equal(one.finish(), other.finish())


def test_a_run_resumes_as_if_uninterrupted(tmp_path: Path) -> None:
    trick = BiAttention(projection=4)
    whole, first, second = bound(trick), bound(trick), bound(trick)
    tiny.train(whole)
    tiny.train(first, steps=3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    tiny.train(second)
    assert tiny.equal(second.model, whole.model)


# -- what it needs -----------------------------------------------------------------------------------------


def test_in_a_loop_without_a_tokenizer_the_separator_is_named() -> None:
    named = bound(BiAttention(separator_token_id=3), about={})
    assert tiny.train(named) == tiny.train(bound(BiAttention()))
    with pytest.raises(InputError, match="set separator_token_id"):
        bound(BiAttention(), about={})


def test_single_texts_are_refused_before_training(tmp_path: Path) -> None:
    single = tokenize({"text": ["w1 w2", "w3"] * 4}, every.tokenizer(), range(8), [0, 1] * 4)
    with pytest.raises(InputError, match="compares two texts, and an example holds one: no separator .token 3."):
        bound(BiAttention(), data=single)
    folder = tiny.write_task(tmp_path)
    recipe = Recipe(tricks=[BiAttention()], model=str(folder / "model"), data={"train": str(folder / "train.csv")})
    with pytest.raises(InputError, match="the task has one text column, 'text'; name two"):
        run(recipe, tmp_path / "run")


def test_a_tokenizer_that_does_not_separate_texts_is_refused() -> None:
    for template in (("$A", "$A $B"), ("[CLS] $A", "[CLS] $A $B")):
        with pytest.raises(InputError, match="puts no token between two texts"):
            built(tokenizer(*template))
    named = built(tokenizer("$A", "$A $B"), BiAttention(separator_token_id=9))
    rows = named.arrangement.rows(padded([[5, 6, 9, 7]]))
    assert rows["input_ids"].tolist() == [[5, 6], [7, 0]]


def test_a_model_without_states_is_refused() -> None:
    with pytest.raises(InputError, match="reads the states of a transformers model"):
        BiAttention().build(torch.nn.Linear(2, 2), Context(seed=0, tokenizer=every.tokenizer()))

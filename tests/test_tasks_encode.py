"""From texts to batches."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from finetricks.errors import DataError
from finetricks.tasks.encode import Padding, encode_rows, loader, tokenize, truncate
from finetricks.tasks.models import load_tokenizer, resolve_model
from finetricks.tasks.table import Table

CLS, SEP = 101, 102


@pytest.fixture(scope="module")
def minilm():
    return load_tokenizer(resolve_model("minilm"))


def tokenizer_with(template: str | None, pair: str | None, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the words w0 ... w9, whose ids are 10 ... 19."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    vocabulary = {"<unk>": 0, "<pad>": 1, "<s>": 2, "</s>": 3} | {f"w{index}": 10 + index for index in range(10)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    if template:
        tokenizer.post_processor = TemplateProcessing(
            single=template, pair=pair, special_tokens=[("<s>", 2), ("</s>", 3)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", **special)


ROBERTA = tokenizer_with("<s> $A </s>", "<s> $A </s> </s> $B </s>", cls_token="<s>", sep_token="</s>")
T5 = tokenizer_with("$A </s>", "$A </s> $B </s>", eos_token="</s>")
GPT2 = tokenizer_with(None, None, eos_token="</s>")


def test_everything_is_tokenised_and_nothing_cut(minilm, recwarn, caplog) -> None:
    dataset = tokenize({"text": ["word " * 600, "a"]}, minilm, [7, 3], labels=[1, 0])
    assert dataset.column_names == ["example_id", "text", "labels", "input_ids", "attention_mask", "token_type_ids"]
    assert [len(ids) for ids in dataset["input_ids"]] == [602, 3]
    assert dataset["example_id"][:] == [7, 3]
    assert dataset["text"][1] == "a"
    assert not dataset.cache_files
    assert not recwarn.list
    assert not caplog.records


def test_pairs(minilm) -> None:
    dataset = tokenize({"premise": ["a b"], "hypothesis": ["c"]}, minilm, [0])
    assert minilm.convert_ids_to_tokens(dataset[0]["input_ids"]) == ["[CLS]", "a", "b", "[SEP]", "c", "[SEP]"]
    assert dataset[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert (dataset[0]["premise"], dataset[0]["hypothesis"]) == ("a b", "c")


def test_new_rows_need_no_labels(minilm) -> None:
    dataset = encode_rows(Table("new.csv", {"text": ["a", "b"], "more": [1, 2]}), minilm, ["text"])
    assert dataset["example_id"][:] == [0, 1]
    assert "labels" not in dataset.column_names
    with pytest.raises(DataError, match=r"^new\.csv: no column 'txt' \(did you mean 'text'\?\)"):
        encode_rows(Table("new.csv", {"text": ["a"]}), minilm, ["txt"])


def test_a_text_column_may_not_be_named_as_the_models_own() -> None:
    with pytest.raises(DataError, match=r"^data\.text: the name 'labels' is the model's own; rename the column"):
        tokenize({"labels": ["w1"]}, T5, [0])


def words(count: int, first: int = 0) -> str:
    return " ".join(f"w{(first + index) % 10}" for index in range(count))


@pytest.mark.parametrize(
    ("tokenizer", "texts", "max_length", "ids"),
    [
        (ROBERTA, [words(8)], 5, [2, 10, 11, 12, 3]),
        (ROBERTA, [words(3)], 5, [2, 10, 11, 12, 3]),
        (ROBERTA, [words(6), words(2, 6)], 9, [2, 10, 11, 12, 3, 3, 16, 17, 3]),  # the longer one is cut
        (ROBERTA, [words(2), words(6, 4)], 9, [2, 10, 11, 3, 3, 14, 15, 16, 3]),
        (ROBERTA, [words(6), words(7)], 8, [2, 10, 11, 3, 3, 10, 11, 3]),  # down to one length
        (ROBERTA, [words(6), words(7)], 7, [2, 10, 3, 3, 10, 11, 3]),  # an odd one goes to the longer
        (T5, [words(8)], 4, [10, 11, 12, 3]),
        (T5, [words(4), words(1, 5)], 5, [10, 11, 3, 15, 3]),
        (GPT2, [words(8)], 3, [10, 11, 12]),
        (ROBERTA, ["w0 <unk> w2 w3"], 5, [2, 10, 0, 12, 3]),  # an unknown word is content
        (ROBERTA, ["w0 </s> w2 w3 w4"], 6, [2, 10, 3, 12, 13, 3]),  # a special token that the text holds
        (ROBERTA, ["</s> " * 9], 4, [2, 3, 3, 3]),  # a text of nothing else
    ],
)
def test_truncation_keeps_the_beginnings_and_the_special_tokens(tokenizer, texts, max_length: int, ids) -> None:
    names = ["text", "other"][: len(texts)]
    dataset = tokenize({name: [text] for name, text in zip(names, texts, strict=True)}, tokenizer, [5], labels=[1])
    cut = truncate(dataset, tokenizer, max_length)
    assert cut[0]["input_ids"] == ids
    assert cut[0]["attention_mask"] == [1] * len(ids)
    assert (cut[0]["example_id"], cut[0]["labels"], cut[0]["text"]) == (5, 1, texts[0])


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("max_length", [5, 8, 13, 64])
def test_truncation_is_what_the_tokenizer_would_have_done(minilm, pair: bool, max_length: int) -> None:
    texts = {"a": [words(n) for n in (1, 4, 9, 30)], "b": [words(n) for n in (9, 4, 2, 7)]}
    texts = texts if pair else {"a": texts["a"]}
    cut = truncate(tokenize(texts, minilm, range(4)), minilm, max_length)
    expected = minilm(*texts.values(), truncation=True, max_length=max_length)
    assert [len(ids) for ids in cut["input_ids"]] == [len(ids) for ids in expected["input_ids"]]
    if not pair:
        assert cut["input_ids"][:] == expected["input_ids"]
    for row in cut:
        kinds = row["token_type_ids"]
        assert kinds == sorted(kinds)
        first = kinds.count(0)
        assert row["input_ids"][first - 1] == SEP == row["input_ids"][-1]


def test_truncation_follows_a_selection_and_spares_what_fits(minilm) -> None:
    dataset = tokenize({"text": [words(3), words(9), words(5)]}, minilm, [0, 1, 2])
    assert truncate(dataset, minilm, 512) is dataset
    cut = truncate(dataset.select([2, 1]), minilm, 6)
    assert cut["example_id"][:] == [2, 1]
    assert cut.features == dataset.features


@pytest.mark.parametrize(
    ("labels", "dtype", "shape"),
    [([0, 1, 2], torch.int64, (2,)), ([0.5, 1.0, 2.0], torch.float32, (2,)), ([[0.0, 1.0]] * 3, torch.float32, (2, 2))],
)
def test_batches_are_padded_to_their_longest(minilm, labels, dtype, shape) -> None:
    dataset = tokenize({"text": ["a", "a b c", "a b"]}, minilm, [0, 1, 2], labels=labels)
    batches = list(loader(dataset, minilm, batch_size=2))
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(2, 5), (1, 4)]
    first = batches[0]
    assert set(first) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert first["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert first["input_ids"][0].tolist()[2:] == [SEP, minilm.pad_token_id, minilm.pad_token_id]
    assert (first["labels"].dtype, tuple(first["labels"].shape)) == (dtype, shape)
    assert first["labels"].tolist() == labels[:2]


@pytest.mark.parametrize(
    ("padding", "longest", "length"),
    [
        (Padding(), 5, 5),
        (Padding(8), 5, 8),
        (Padding(8), 8, 8),
        (Padding(8), 9, 16),
        (Padding(8, limit=12), 9, 12),  # no longer than the model is given
        (Padding(8, limit=12), 12, 12),
        (Padding(8, limit=12), 13, 13),  # a trick bounds the length; nothing is rounded up
        (Padding(64, limit=12), 3, 12),
    ],
)
def test_a_length_is_rounded_up_but_not_beyond_the_limit(minilm, padding, longest, length) -> None:
    assert padding.length(longest) == length
    dataset = tokenize({"text": ["a", " ".join("a" * (longest - 2))]}, minilm, [0, 1], labels=[0, 1])
    (batch,) = loader(dataset, minilm, 2, padding=padding)
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (2, length)
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, longest]


def test_a_loader_shuffles_when_asked(minilm) -> None:
    dataset = tokenize({"text": ["a"] * 64}, minilm, range(64), labels=range(64))
    shuffled = [label for batch in loader(dataset, minilm, 8, shuffle=True) for label in batch["labels"].tolist()]
    assert sorted(shuffled) == list(range(64)) != shuffled

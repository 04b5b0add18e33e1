from __future__ import annotations

from types import SimpleNamespace

import datasets
import pytest

from finetricks import Context, InputError
from finetricks_plugins.data.head_tail import HeadTail, kept_of_run, kept_positions

CLS, SEP = 101, 102
TOKENIZER = SimpleNamespace(cls_token_id=CLS, sep_token_id=SEP, bos_token_id=None, eos_token_id=None)


def cut(ids: list[int], max_length: int, **values) -> dict:
    columns = {"input_ids": [ids], "attention_mask": [[1] * len(ids)], "labels": [0], "example_id": [7]}
    context = Context(seed=0, tokenizer=TOKENIZER, max_length=max_length)
    return HeadTail(**values).data(datasets.Dataset.from_dict(columns), context)[0]


def test_the_papers_128_and_382_of_510() -> None:
    # Sun et al. 2019, section 5.3.1
    assert kept_of_run(1000, 510, "head_tail", 128 / 510) == [*range(128), *range(1000 - 382, 1000)]
    assert kept_of_run(1000, 510, "head", 0.5) == list(range(510))
    assert kept_of_run(1000, 510, "tail", 0.5) == list(range(490, 1000))
    assert kept_of_run(510, 510, "head_tail", 0.5) == list(range(510))


def test_special_tokens_stay_and_the_columns_stay_aligned() -> None:
    row = cut([CLS, *range(10), SEP], 6, head_fraction=0.25)
    assert row["input_ids"] == [CLS, 0, 7, 8, 9, SEP]
    assert row["attention_mask"] == [1] * 6
    assert row["example_id"] == 7


def test_texts_that_fit_are_left_alone() -> None:
    assert cut([CLS, 1, 2, SEP], 4)["input_ids"] == [CLS, 1, 2, SEP]


def test_in_a_pair_what_the_shorter_does_not_need_goes_to_the_longer() -> None:
    special = [True, *[False] * 2, True, *[False] * 20, True]
    # room 8: the short text's 2, and 6 of the long one: 1 first, 5 last
    kept = kept_positions(special, 11, "head_tail", 1 / 6)
    assert kept == [0, 1, 2, 3, 4, 19, 20, 21, 22, 23, 24]


def test_without_a_tokenizer_it_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="needs the task's tokenizer and length"):
        HeadTail().data(datasets.Dataset.from_dict({"input_ids": [[1]]}), Context(seed=0))


def test_a_text_full_of_special_tokens_is_left_to_be_cut_as_without_the_trick() -> None:
    ids = [CLS, *[5, SEP] * 10]
    assert cut(ids, 8)["input_ids"] == ids

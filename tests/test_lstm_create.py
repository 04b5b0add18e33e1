"""A new LSTM in a folder: its vocabulary, its command, and a run that trains it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import torch
from transformers import AutoTokenizer
from transformers.utils import logging

import tiny
from finetricks import InputError, Recipe, predict, run
from finetricks.cli import main
from finetricks.lstm import LSTMForCausalLM, create_lstm
from finetricks.lstm.tokenizer import word_tokenizer


def command(*arguments: str | Path) -> int | str | None:
    """Run the command line; its exit code."""
    try:
        return main(["new-lstm", *map(str, arguments)])
    except SystemExit as end:
        return end.code


@pytest.fixture(autouse=True)
def _bars_are_put_back() -> Iterator[None]:
    """The command line turns the libraries' progress bars off for its process."""
    yield
    datasets.enable_progress_bars()
    logging.enable_progress_bar()


TEXTS = ["A wing, a beak.", "a fin", "The wing!"]
SIZES = {"embedding_size": 8, "hidden_size": 12, "layers": 2}


def test_words_and_marks_are_tokens_the_most_frequent_first() -> None:
    tokenizer = word_tokenizer(TEXTS, vocabulary=100)
    assert tokenizer.convert_ids_to_tokens(range(7)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "wing"]
    assert len(tokenizer) == 5 + 8  # a wing , beak . fin the !
    assert tokenizer.tokenize("The WING, gill") == ["the", "wing", ",", "[UNK]"]
    assert tokenizer.decode(tokenizer("a fin", "a wing")["input_ids"]) == "[CLS] a fin [SEP] a wing [SEP]"
    assert len(word_tokenizer(TEXTS, vocabulary=7)) == 7
    assert word_tokenizer(TEXTS, vocabulary=100, min_frequency=2).tokenize("a wing fin") == ["a", "wing", "[UNK]"]
    assert word_tokenizer(TEXTS, vocabulary=100, lower_case=False).tokenize("The the") == ["The", "[UNK]"]


def test_a_folder_holds_model_and_tokenizer_drawn_from_the_seed_alone(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        create_lstm(tmp_path / name, TEXTS, seed=seed, **SIZES)
    assert torch.equal(torch.get_rng_state(), state)
    one, again, other = (LSTMForCausalLM.from_pretrained(tmp_path / name) for name in ("one", "again", "other"))
    assert tiny.equal(one, again)
    assert not tiny.equal(one, other)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "one")) == one.config.vocab_size == 13


def test_dropouts_are_scaled(tmp_path: Path) -> None:
    create_lstm(tmp_path / "half", TEXTS, drop_mult=0.5, **SIZES)
    config = LSTMForCausalLM.from_pretrained(tmp_path / "half").config
    assert (config.input_dropout, config.hidden_dropout, config.weight_drop) == (0.2, 0.15, 0.25)
    with pytest.raises(InputError, match="weight_drop is 1.1; a probability"):
        create_lstm(tmp_path / "three", TEXTS, drop_mult=2.2, **SIZES)


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="full is not empty"):
        create_lstm(tmp_path / "full", TEXTS, **SIZES)
    with pytest.raises(InputError, match="hold no word"):
        create_lstm(tmp_path / "new", ["", " "], **SIZES)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_command_makes_one_that_a_run_pretrains_and_trains(bidirectional: bool, tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    task = tiny.write_task(tmp_path / "task")
    sizes = f"--embedding 16 --hidden 24 --layers 2 --drop-mult 0.5 {'--bidirectional' if bidirectional else ''}"
    assert command(tmp_path / "lstm", "--corpus", task / "train.csv", *sizes.split()) == 0
    recipe = Recipe(
        model=str(tmp_path / "lstm"),
        data={"train": str(task / "train.csv"), "test": str(task / "test.csv"), "valid": 0.25},
        training={"epochs": 10, "batch_size": 8, "learning_rate": 1e-2, "threads": 1},
        tricks=[{"further_pretraining": {"steps": 5, "learning_rate": 1e-2}}, "auxiliary_lm", {"dropout": {"p": 0.1}}],
    )
    result = run(recipe, tmp_path / "run")
    assert result.test is not None
    assert result.test["accuracy"] >= 0.75
    assert len(predict(tmp_path / "run", task / "test.csv")) == 12


def test_a_corpus_without_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    assert command(tmp_path / "lstm", "--corpus", tmp_path / "empty.txt") == 2
    assert "holds no text" in capsys.readouterr().err

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

import finetricks as ft
import further_pretraining_worker
import tiny
from finetricks import Context, DataError, InputError
from finetricks_plugins.build.classifier import classifier_of
from finetricks_plugins.init import further_pretraining
from finetricks_plugins.init.further_pretraining import FurtherPretraining
from finetricks_plugins.language_model.cache import Entry
from further_pretraining_worker import SETTINGS


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FINETRICKS_CACHE", str(folder))
    return folder


@pytest.fixture
def trainings(monkeypatch) -> list[int]:
    """An entry for each time that a language model is trained."""
    done: list[int] = []
    train = further_pretraining.train

    def counted(*arguments: Any) -> None:
        train(*arguments)
        done.append(1)

    monkeypatch.setattr(further_pretraining, "train", counted)
    return done


def trick(**fields: Any) -> FurtherPretraining:
    return FurtherPretraining(**SETTINGS | fields)


def pretrained(model: nn.Module | None = None, run_seed: int = 3, **fields: Any) -> nn.Module:
    return tiny.recipe(trick(**fields), seed=run_seed).bind(model or tiny.bert(), tiny.loader()).model


def changed(model: nn.Module, before: nn.Module) -> set[str]:
    old = dict(before.named_parameters())
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, old[name])}


def test_the_body_learns_and_the_pooler_and_the_new_head_stay() -> None:
    moved = changed(pretrained(), tiny.bert())
    everything = {name for name, _ in tiny.bert().named_parameters()}
    assert everything - moved == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }


def test_it_learns_the_language(caplog) -> None:
    with caplog.at_level(logging.INFO):
        pretrained(steps=100, mask_probability=0.3)
    losses = [float(record.message.split()[-1]) for record in caplog.records if "loss" in record.message]
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_lower_layers_learn_more_slowly_if_asked() -> None:
    def moved(**values: Any) -> set[str]:
        return {
            re.split(r"\.(?=attention|inter|output|word|pos|tok|LayerN)", name)[0]
            for name in changed(pretrained(discriminative_lr=values), tiny.bert())
        }

    blocks = [f"bert.encoder.layer.{number}" for number in range(3)]
    assert moved(factors={"block.0": 0, "embeddings": 0}) == set(blocks[1:])
    assert tiny.equal(pretrained(discriminative_lr={"decay": 1}), pretrained())
    one_step = {"steps": 1, "warmup": 0, "weight_decay": 0}
    plain, slowly = (pretrained(**one_step, **more) for more in ({}, {"discriminative_lr": {"decay": 2}}))
    before = dict(tiny.bert().named_parameters())
    # AdamW's first step is the learning rate times the gradient's sign: layers 4 (head) to 0 at 1, 1/2 ... 1/16.
    for name, factor in ((f"{blocks[2]}.output.dense.weight", 1 / 2), (f"{blocks[0]}.output.dense.weight", 1 / 8)):
        fast, slow = (dict(model.named_parameters())[name] - before[name] for model in (plain, slowly))
        assert torch.allclose(slow, factor * fast, rtol=1e-3, atol=1e-6)


def test_a_decoder_learns_the_next_tokens() -> None:
    def gpt2() -> nn.Module:
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32, num_labels=3, pad_token_id=0)
        return GPT2ForSequenceClassification(config)

    moved = changed(pretrained(gpt2(), mask_token_id=None), gpt2())
    assert moved == {name for name, _ in gpt2().named_parameters() if name.startswith("transformer.")}


def test_a_classifier_in_parts_keeps_its_parts() -> None:
    model, before = (classifier_of(tiny.bert(), "some_trick") for _ in range(2))
    assert changed(pretrained(model), before) == {n for n, _ in before.named_parameters() if n.startswith("encoder.")}


def test_what_was_frozen_or_is_new_stays() -> None:
    model = tiny.bert()
    model.bert.embeddings.requires_grad_(False)
    fresh = "bert.encoder.layer.0.output.dense.bias"
    context = Context(seed=0, fresh=frozenset({fresh}), batches=lambda: list(tiny.loader()))
    trick().init(model=model, layers=None, context=context)
    moved = changed(model, tiny.bert())
    assert "bert.encoder.layer.0.output.dense.weight" in moved
    assert fresh not in moved
    assert not any(name.startswith("bert.embeddings") for name in moved)


def test_it_leaves_modes_gradients_and_the_random_state() -> None:
    model = tiny.bert()
    model.train()
    model.bert.pooler.eval()
    model.bert.embeddings.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    required = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.get_rng_state()
    trick().init(model=model, layers=None, context=Context(seed=0, batches=lambda: list(rows_in_order())))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == required
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.bert.pooler is not None


def rows_in_order() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": row["input_ids"][None]} for row in tiny.rows()]


# -- the cache -------------------------------------------------------------------------------------------


def test_seeds_share_one_result_and_other_settings_do_not(trainings) -> None:
    first = pretrained()
    assert tiny.equal(pretrained(run_seed=4), first)
    pretrained(checkpoint=100)
    assert len(trainings) == 1
    for other in ({"seed": 1}, {"steps": 8}, {"mask_probability": 0.2}, {"learning_rate": 2e-2}):
        assert not tiny.equal(pretrained(**other), first)
    pretrained(tiny.bert(seed=1))
    pretrained(tiny.bert(dropout=0.2))
    assert len(trainings) == 7


def test_a_new_classifier_of_each_seed_still_shares(trainings) -> None:
    for seed in (1, 2):
        model = tiny.bert()
        torch.manual_seed(seed)
        nn.init.normal_(model.classifier.weight)
        nn.init.normal_(model.bert.pooler.dense.weight)
        pretrained(model)
    assert len(trainings) == 1


def test_a_damaged_result_is_made_anew(trainings, cache) -> None:
    first = pretrained()
    (weights,) = cache.rglob("model.safetensors")
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(bytes(damaged))
    assert tiny.equal(pretrained(), first)
    assert len(trainings) == 2


def test_a_run_that_comes_second_waits_and_takes_the_result(trainings, cache, caplog) -> None:
    first = pretrained()
    (folder,) = (cache / "further_pretraining").iterdir()
    entry = Entry("further_pretraining", folder.name)
    tensors = entry.result()
    assert tensors is not None
    entry._result.clear()
    with caplog.at_level(logging.INFO):
        second: list[nn.Module] = []
        with entry.locked():
            waiting = threading.Thread(target=lambda: second.append(pretrained()))
            waiting.start()
            deadline = time.monotonic() + 120
            while "waiting for it" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.01)
            entry.save(9, tensors, {})
        waiting.join(10)
    assert "waiting for it" in caplog.text
    assert tiny.equal(second[0], first)
    assert len(trainings) == 1


def test_killed_in_the_middle_it_goes_on_to_the_same_bits(cache, monkeypatch, caplog) -> None:
    worker = Path(further_pretraining_worker.__file__)
    killed = subprocess.run([sys.executable, str(worker)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (folder,) = (cache / "further_pretraining").iterdir()
    assert sorted(path.name for path in (folder / "progress").iterdir()) == ["step-00000002", "step-00000004"]
    assert not (folder / "result").exists()
    with caplog.at_level(logging.INFO):
        resumed = pretrained()
    assert "resumed after step 4 of 9" in caplog.text
    assert not (folder / "progress").exists()
    monkeypatch.setenv("FINETRICKS_CACHE", str(cache / "another"))
    assert tiny.equal(pretrained(), resumed)


# -- text ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def about(cache: Path) -> dict[str, Any]:
    (file,) = cache.rglob("about.json")
    return json.loads(file.read_text())


def run(task: Path, out: Path, *tricks: ft.Trick, **options: Any) -> ft.Result:
    recipe = ft.Recipe(
        model=str(task / "model"),
        data={"train": str(task / "train.csv"), "test": str(task / "test.csv")},
        training={"epochs": 1, "batch_size": 8},
        tricks=tricks,
    )
    return ft.run(recipe, out, **options)


def test_within_task_reads_the_training_examples_alone(task, cache, tmp_path, trainings) -> None:
    within = FurtherPretraining(steps=3)
    run(task, tmp_path / "run", within)
    assert about(cache)["texts"] == 54  # of 60, of which a tenth is valid; and 12 are test
    run(task, tmp_path / "again", within)
    assert len(trainings) == 1


def test_a_corpus_trains_too(task, cache, tmp_path) -> None:
    (tmp_path / "corpus.txt").write_text("the big wing\na nest the beak\n")
    corpus = FurtherPretraining(steps=3, text="in_domain", corpus=str(tmp_path / "corpus.txt"))
    run(task, tmp_path / "run", corpus)
    assert (about(cache)["texts"], about(cache)["tokens"]) == (2, 5 + 6)  # with [CLS] and [SEP]


def test_a_path_is_relative_to_the_file_that_names_it(tmp_path) -> None:
    given = {"text": "in_domain", "corpus": ["a.txt", "/b.txt"]}
    read = FurtherPretraining.model_validate(given, context={"folder": tmp_path})
    assert read.corpus == (str(tmp_path / "a.txt"), "/b.txt")
    assert FurtherPretraining.model_validate(json.loads(read.model_dump_json()), context={"folder": "/other"}) == read
    assert FurtherPretraining(text="in_domain", corpus="a.txt").corpus == (str(Path.cwd() / "a.txt"),)


# -- what it cannot do -----------------------------------------------------------------------------------


def test_a_corpus_and_whose_text_it_is_belong_together() -> None:
    with pytest.raises(ValidationError, match="within_task is the task's own text"):
        FurtherPretraining(corpus="a.txt")
    with pytest.raises(ValidationError, match="cross_domain needs a corpus"):
        FurtherPretraining(text="cross_domain")
    assert FurtherPretraining(**FurtherPretraining().model_dump()) == FurtherPretraining()


@pytest.mark.parametrize(
    "fields", [{"steps": -1}, {"learning_rate": 0}, {"warmup": 1}, {"mask_probability": 1}, {"max_length": 1}]
)
def test_values_out_of_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        FurtherPretraining(**fields)


def test_what_it_cannot_do_is_said_before_training(tmp_path, task) -> None:
    def refused(
        match: str, model: nn.Module | None = None, batches: Any = None, tokenizer: Any = None, **fields: Any
    ) -> None:
        context = Context(seed=0, tokenizer=tokenizer, batches=batches and (lambda: batches))
        with pytest.raises(InputError, match=match):
            trick(**fields).init(model=model or tiny.bert(), layers=None, context=context)

    batches = rows_in_order()
    refused("can be read only once")
    refused("got tuple", batches=[(torch.zeros(1, 2),)])
    refused("no text to learn from in the training batches", batches=[{"input_ids": torch.tensor([[0, 4]])}])
    refused("needs a mask token", batches=batches, mask_token_id=None)
    refused("seen the next token already", batches=batches, objective="causal")
    refused("no tokenizer to read it with", text="in_domain", corpus="a.txt")
    refused("Linear has no input embeddings to tie", model=nn.Linear(2, 2), batches=batches)
    tokenizer = AutoTokenizer.from_pretrained(task / "model")
    missing = str(tmp_path / "missing.txt")
    with pytest.raises(DataError, match="cannot read .*missing.txt"):
        trick(text="in_domain", corpus=missing).init(
            model=tiny.bert(), layers=None, context=Context(seed=0, tokenizer=tokenizer)
        )
    frozen = tiny.bert().requires_grad_(False)
    refused("nothing to train", model=frozen, batches=batches)
    config = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, num_labels=3)
    refused("is an encoder-decoder", model=T5ForSequenceClassification(config), batches=batches)

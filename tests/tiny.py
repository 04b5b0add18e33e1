"""A tiny model, tiny data and a few tricks of the tests' own, small enough to train in a tenth of a second."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn
from torch.utils.data import DataLoader
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast, default_data_collator

from finetricks import Layers, Progress, Recipe, Session, Step, Trick, hookimpl
from finetricks.testing.models import bert_config

ROWS = 22


def bert(seed: int = 0, blocks: int = 3, dropout: float = 0.1) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(bert_config(blocks, dropout))


def rows(count: int = ROWS) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "input_ids": torch.randint(1, 50, (8,), generator=generator),
            "attention_mask": torch.ones(8, dtype=torch.long),
            "labels": int(torch.randint(0, 3, (1,), generator=generator)),
        }
        for _ in range(count)
    ]


def loader(batch_size: int = 4, **options: Any) -> DataLoader[Any]:
    return DataLoader(rows(), batch_size=batch_size, shuffle=True, collate_fn=default_data_collator, **options)


def train(session: Session, steps: int | None = None) -> list[float]:
    """The hand-written loop of the docs; the loss of each micro-batch. Stops after `steps` optimizer steps."""
    losses = []
    session.model.train()
    for batch in session.batches():
        loss = session.loss(batch)
        losses.append(loss.item())
        session.backward(loss)
        session.step()
        if session.global_step == steps:
            break
    return losses


def trained(recipe: Recipe, model: nn.Module | None = None, **options: Any) -> tuple[list[float], nn.Module]:
    session = recipe.bind(model or bert(), loader(recipe.training.batch_size), **options)
    return train(session), session.model


def equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models' weights are equal bit for bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def recipe(*tricks: Trick, **training: Any) -> Recipe:
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "seed": 3} | training
    return Recipe(tricks=tricks, training=settings)


class Unfreeze(Trick):
    """One layer an epoch, from the top."""

    @hookimpl
    def freeze(self, progress: Progress, layers: Layers) -> tuple[str, ...]:
        return layers.names[: max(len(layers.names) - 1 - progress.epoch, 0)]


class Decay(Trick):
    """Linear to zero."""

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return 1 - progress.fraction


class TwicePass(Trick):
    """Half of the loss from a second pass, with dropout drawn anew."""

    @hookimpl(wrapper=True)
    def loss(self, batch: Any, step: Step):
        first = yield
        return (first + step.criterion(step.forward(batch), batch)) / 2


class Anchor(Trick):
    """Pulls the weights to where they began, and remembers where that was."""

    @hookimpl
    def regularize(self, model: nn.Module, step: Step) -> torch.Tensor:
        start = step.state_of(self)
        if not start:
            start.update({name: p.detach().clone() for name, p in model.named_parameters()})
        return sum(((p - start[name]) ** 2).sum() for name, p in model.named_parameters() if p.requires_grad)


class Noise(Trick):
    """Draws from a stream of its own at every micro-batch."""

    @hookimpl
    def regularize(self, model: nn.Module, step: Step) -> torch.Tensor:
        draw = torch.rand((), generator=step.generator(self))
        return draw * model.classifier.weight.square().mean()


ALL: tuple[Callable[[], Trick], ...] = (Unfreeze, Decay, TwicePass, Anchor, Noise)


def write_task(folder: Path) -> Path:
    """A model folder and CSV files of a task that a tiny model can learn: is a text about birds or about fish?"""
    model = bert(blocks=2)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "wing",
        "beak",
        "nest",
        "fin",
        "gill",
        "reef",
        "a",
        "the",
        "big",
    ]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", model_max_length=32, **special)
    model.save_pretrained(folder / "model")
    fast.save_pretrained(folder / "model")
    draw = random.Random(0)
    for name, count in (("train", 60), ("test", 12)):
        lines = ["text,label"]
        for row in range(count):
            kind, own = (("bird", words[5:8]), ("fish", words[8:11]))[row % 2]
            text = " ".join(draw.choice(own if draw.random() < 0.6 else words[5:]) for _ in range(3 + row % 4))
            lines.append(f"{text} {words[11 + row % 3]},{kind}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder

"""A tiny task on which every built-in trick acts, and the values at which each does.

A trick without an entry in `CASES` fails the suite.
"""

from __future__ import annotations

import atexit
import functools
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertPreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

import tiny
from finetricks import Recipe, Session, Task, installed
from finetricks.distributed import ALONE, Ranks
from finetricks.layer_pass import without
from finetricks.lstm import LSTMConfig, LSTMForSequenceClassification
from finetricks.runner import about, splits_of
from finetricks.stack import Stack, conflicts
from finetricks.streams import kept
from finetricks.tasks.encode import loader, tokenize

MAX_LENGTH = 12
ROWS = 22


def _other_task() -> str:
    """A file with another task's rows: three classes, words of the same vocabulary."""
    path = Path(tempfile.mkdtemp(prefix="finetricks-tests-")) / "other.csv"
    rows = (f"w{row} w{row + 9},w{row + 18},{row % 3}\n" for row in range(9))
    path.write_text("text,second,label\n" + "".join(rows))
    atexit.register(shutil.rmtree, path.parent)
    return str(path)


OTHER_TASK = _other_task()


@dataclass(frozen=True)
class Case:
    """How a trick is tried.

    Attributes:
        values: at which it acts.
        values_with_pairs: the same where the texts come in pairs, if others.
        models: on which it can act, the first choice first.
        pairs: it needs texts in pairs.
        long: it needs texts that are longer than the model's length.
    """

    values: dict[str, Any] = field(default_factory=dict)
    values_with_pairs: dict[str, Any] | None = None
    models: tuple[str, ...] = ("bert", "lstm", "bert_and_lstm")
    pairs: bool = False
    long: bool = False


CASES: dict[str, Case] = {
    "activation": Case({"to": "prelu"}, models=("bert", "bert_and_lstm")),
    "auto_freeze": Case({"intervals": 3}),
    "auxiliary_lm": Case({"gamma": 0.5}),
    "bi_attention": Case(pairs=True),
    "chain_thaw": Case(),
    "concat_pooling": Case(),
    "constant": Case({"factor": 0.5, "total_iters": 1}),
    "cosine_restarts": Case(),
    "cross_entropy": Case({"class_weights": [1, 2, 4]}),
    "discriminative_lr": Case(),
    "dropout": Case({"p": 0.4}),
    "early_stopping": Case({"patience": 1}),
    "embedding_uniform": Case({"modules": "all"}),
    "exponential_decay": Case(),
    "feature_based": Case(),
    "few_shot": Case({"fraction": 0.6}),
    "full": Case(),
    "further_pretraining": Case({"steps": 3, "learning_rate": 1e-2}),
    "glorot_normal": Case(),
    "gradual_unfreezing": Case(),
    "greedy_pretraining": Case({"epochs": 1}, models=("bert", "bert_and_lstm")),
    "head_tail": Case(long=True),
    "hierarchical": Case({"combine": "self_attention", "fractions_at_once": 3}, long=True),
    "kaiming": Case(),
    "l1": Case({"strength": 0.1}),
    "l2": Case({"strength": 0.5}),
    "l2_sp": Case({"alpha": 0.5}),
    "label_smoothing": Case(),
    "last_layer": Case(),
    "layer_pooling": Case({"layers": "all"}),
    "layerwise_lr_decay": Case(),
    "linear_decay": Case(),
    "lstm_forget_bias": Case({"modules": "all"}, models=("lstm", "bert_and_lstm")),
    "lstm_orthogonal": Case({"modules": "all"}, models=("lstm", "bert_and_lstm")),
    "mse": Case(),
    "multi_task": Case(
        {"tasks": {"other": {"train": OTHER_TASK}}},
        {"tasks": {"other": {"train": OTHER_TASK, "text": ["text", "second"]}}},
    ),
    "multistep_decay": Case({"milestones": [1]}),
    "output_dropout": Case(),
    "output_layer_norm": Case(),
    "predict_only": Case(),
    "sequential_unfreezing": Case({"n": 1, "k": 2}),
    "step_decay": Case({"step_size": 1}),
    "stlr": Case(),
    "task_layers": Case(),
    "two_stage": Case(),
    "warmup": Case({"steps": 3}),
    "weight_decay": Case({"value": 0.5}),
}


class BertAndLSTM(BertPreTrainedModel):
    """An encoder with an LSTM above it: for tricks of either kind side by side."""

    supports_gradient_checkpointing = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.reader = nn.LSTM(config.hidden_size, 8, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(16, config.num_labels)
        self.loss_type = "ForSequenceClassification"
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Any = None, labels: Any = None, **more: Any) -> Any:
        more.pop("num_items_in_batch", None)
        outputs = self.bert(input_ids, attention_mask, **more)
        logits = self.classifier(self.reader(outputs.last_hidden_state)[0].mean(1))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


def _bert_and_lstm(seed: int = 0) -> nn.Module:
    config = tiny.bert(blocks=2).config
    torch.manual_seed(seed)
    return BertAndLSTM(config)


def _lstm(seed: int = 0) -> nn.Module:
    config = LSTMConfig(vocab_size=50, embedding_size=12, hidden_size=12, num_hidden_layers=2, num_labels=3)
    torch.manual_seed(seed)
    return LSTMForSequenceClassification(config)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "bert": partial(tiny.bert, blocks=2),
    "lstm": _lstm,
    "bert_and_lstm": _bert_and_lstm,
}


def recipe(*names: str, **training: Any) -> Recipe:
    tricks = [{name: values_of(name, *names)} for name in names]
    return Recipe(tricks=tricks, training={"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "seed": 3} | training)


def values_of(name: str, *others: str) -> dict[str, Any]:
    """The values at which the trick `name` acts beside others."""
    case = CASES[name]
    with_pairs = any(CASES[other].pairs for other in others)
    return case.values if not with_pairs or case.values_with_pairs is None else case.values_with_pairs


def model_for(*names: str, seed: int = 0) -> nn.Module:
    """A model on which all of the tricks can act."""
    common = [kind for kind in CASES[names[0]].models if all(kind in CASES[name].models for name in names)]
    with kept():  # the models seed the global state
        return MODELS[common[0]](seed=seed)


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(45))]
    built = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    built.pre_tokenizer = Whitespace()
    built.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=built, mask_token="[MASK]", model_max_length=MAX_LENGTH, padding_side="right", **special
    )


@functools.cache
def examples(pairs: bool, long: bool) -> datasets.Dataset:
    """Tokenised texts of 2 to 6 words, or pairs of them; with `long` some have up to 25."""
    draw = random.Random(0)

    def text() -> str:
        most = 25 if long and draw.random() < 0.4 else 6 if not pairs else 4
        return " ".join(f"w{draw.randrange(45)}" for _ in range(draw.randint(2, most)))

    columns = {name: [text() for _ in range(ROWS)] for name in (("first", "second") if pairs else ("text",))}
    return tokenize(columns, tokenizer(), range(ROWS), [draw.randrange(3) for _ in range(ROWS)])


def task_for(*names: str) -> Task:
    pairs, long = (any(getattr(CASES[name], need) for name in names) for need in ("pairs", "long"))
    data = examples(pairs, long)
    return Task(
        kind="classification",
        labels=("a", "b", "c"),
        splits={"train": data},
        tokenizer=tokenizer(),
        model_name="tiny",
        max_length=MAX_LENGTH,
        text_columns=("first", "second") if pairs else ("text",),
        fingerprint="",
        notes=(),
    )


def bound(
    recipe: Recipe,
    *names: str,
    seed: int = 0,
    init: bool = True,
    ranks: Ranks = ALONE,
    device: str = "cpu",
) -> Session:
    """`recipe` bound to the model and the task on which the tricks `names` act (by default the recipe's)."""
    names = names or tuple(name for name, _ in recipe.tricks)
    task, stack = task_for(*names), recipe.stack()
    splits, added = splits_of(recipe, task, stack)
    batches = loader(splits["train"], task.tokenizer, recipe.training.batch_size, shuffle=True, added=added)
    model = model_for(*names, seed=seed) if names else tiny.bert(seed=seed)
    model = stack.build(model, recipe.streams.init, **about(recipe, task)).to(device)
    forward = partial(without, added)
    return recipe.bind(
        model, batches, build=False, init=init, context=about(recipe, task), forward=forward, ranks=ranks
    )


def train(session: Session, steps: int | None = None) -> list[float]:
    """The loop of the docs, to its end or up to `steps` steps done; each micro-batch's loss.

    Where a trick decides while training, each epoch's evaluation is worse than the one before.
    """
    losses = []
    session.model.train()
    for batch in session.batches():
        loss = session.loss(batch)
        losses.append(loss.item())
        session.backward(loss)
        if session.step() and session.plan.deciders and session.global_step % session.plan.steps_per_epoch == 0:
            session.evaluated({"accuracy": -session.global_step})
        if session.global_step == steps:
            break
    return losses


def final(session: Session) -> dict[str, torch.Tensor]:
    """Train to the end; the weights that are saved."""
    train(session)
    return {name: value.clone() for name, value in session.finish().state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two models' weights are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def together() -> list[tuple[str, ...]]:
    """All tricks in as few recipes as a greedy search finds: each trick in one recipe, beside others that it suits.

    One trick that freezes in a recipe, so that none hides what another does; `predict_only` has one of its own.
    """
    recipes: list[tuple[str, ...]] = []
    for name in sorted(CASES):
        for number, others in enumerate(recipes):
            if suit((*others, name)):
                recipes[number] = (*others, name)
                break
        else:
            recipes.append((name,))
    return recipes


def suit(names: tuple[str, ...]) -> bool:
    tricks = [(name, installed().get(name)(**values_of(name, *names))) for name in names]
    common = set.intersection(*(set(CASES[name].models) for name in names))
    freezing = [name for name, trick in tricks if Stack([(name, trick)]).implementing("freeze") and name != "full"]
    return bool(common) and not conflicts(tricks) and len(freezing) <= 1 and "predict_only" not in names

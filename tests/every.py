"""A tiny task on which every built-in trick acts, and the values at which each does.

A trick without an entry in `CASES` fails the suite.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from finetricks import Recipe, Session, Task, installed
from finetricks.stack import Stack, conflicts
from finetricks.testing.bench import MAX_LENGTH, ROWS, TRAINING, Bench, examples, final, same, tokenizer, train

__all__ = ["MAX_LENGTH", "ROWS", "examples", "final", "same", "tokenizer", "train"]


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
    "lora": Case({"r": 2}, models=("bert", "bert_and_lstm")),
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


def recipe(*names: str, **training: Any) -> Recipe:
    tricks = [{name: values_of(name, *names)} for name in names]
    return Recipe(tricks=tricks, training={**TRAINING, **training})


def values_of(name: str, *others: str) -> dict[str, Any]:
    """The values at which the trick `name` acts beside others."""
    case = CASES[name]
    with_pairs = any(CASES[other].pairs for other in others)
    return case.values if not with_pairs or case.values_with_pairs is None else case.values_with_pairs


def bench_for(*names: str) -> Bench:
    """A model and a task on which all of the tricks can act."""
    kinds = CASES[names[0]].models if names else ("bert",)
    common = [kind for kind in kinds if all(kind in CASES[name].models for name in names)]
    pairs, long = (any(getattr(CASES[name], need) for name in names) for need in ("pairs", "long"))
    return Bench(common[0], pairs, long)


def model_for(*names: str, seed: int = 0) -> nn.Module:
    return bench_for(*names).make_model(seed)


def task_for(*names: str) -> Task:
    return bench_for(*names).task()


def bound(recipe: Recipe, *names: str, **options: Any) -> Session:
    """`recipe` bound to the model and the task on which the tricks `names` act (by default the recipe's)."""
    return bench_for(*(names or tuple(name for name, _ in recipe.tricks))).bound(recipe, **options)


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

"""What a trick does to data and model, before training and after it."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np

from finetricks.runner import about, splits_of
from finetricks.tasks.predictions import score
from finetricks.testing.bench import same, train
from finetricks.testing.check import Wrong, check
from finetricks.testing.of_plan import FIRST
from finetricks.testing.subject import Subject

SCORED = ("valid", "test", "predict")


@check("data", after=FIRST)
def check_data(subject: Subject) -> None:
    """It leaves examples in every split, those that are scored with their labels, and does the same each time."""
    task, recipe = subject.bench.task(), subject.recipe()
    given = task.splits["train"]
    for split in ("train", "held_out", *SCORED):
        once, again = (subject.stack().data(given, split, recipe.streams.data, **about(recipe, task)) for _ in range(2))
        if not len(once):
            raise Wrong(f"it leaves no example in {split}")
        if _columns(once) != _columns(again):
            raise Wrong(f"it does not change {split} as it did before; draw from `context.seed`")
        if split in SCORED and (lost := _labels(given).items() - _labels(once).items()):
            raise Wrong(
                f"in {split} it takes out, or relabels, the example {min(lost)[0]}; what is scored stays, as other "
                "tricks are compared on it: look at the argument `split`"
            )


def _columns(dataset: datasets.Dataset) -> dict[str, list[Any]]:
    return dict(dataset.with_format(None).to_dict())


def _labels(dataset: datasets.Dataset) -> dict[int, Any]:
    columns = _columns(dataset)
    return dict(zip(columns["example_id"], columns["labels"], strict=True))


@check("build", after=FIRST)
def check_build(subject: Subject) -> None:
    """Built a second time, as on loading, the model has the same parameters, and takes the weights of the first."""
    recipe, task = subject.recipe(), subject.bench.task()
    built = [
        subject.stack().build(subject.bench.make_model(seed), recipe.streams.init, **about(recipe, task))
        for seed in (0, 1)
    ]
    shapes = [{name: tuple(value.shape) for name, value in model.state_dict().items()} for model in built]
    if shapes[0] != shapes[1]:
        name = min(dict(shapes[0].items() ^ shapes[1].items()))
        raise Wrong(f"built a second time the model differs in {name!r}; its structure depends on the values alone")
    built[1].load_state_dict(built[0].state_dict())
    if not same(built[0].state_dict(), built[1].state_dict()):
        raise Wrong("built a second time the model does not take the weights of the first")


@check("finish", after=("loop",))
def check_finish(subject: Subject) -> None:
    """What it changes after training leaves the model's predictions as they are."""
    task, recipe = subject.bench.task(), subject.recipe()
    splits, added = splits_of(recipe, task, subject.stack())
    session = subject.bound()
    train(session)
    scores = []
    for finishes in (False, True):
        model = session.finish() if finishes else session.model
        scores.append(score(model, splits["train"], task.tokenizer, kind=task.kind, batch_size=4, added=added))
    if not np.allclose(scores[0], scores[1], atol=1e-5):
        most = abs(scores[0] - scores[1]).max()
        raise Wrong(f"after `finish` scores differ by up to {most:.2g}; keep them as they are")

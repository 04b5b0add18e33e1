"""Few examples: k of each class, or a fraction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from finetricks import Choice, Context, InputError, Trick, hookimpl
from finetricks.streams import child
from finetricks.tasks.splits import draw_rows

if TYPE_CHECKING:
    import datasets

K = 16


def draw_of_each(classes: Sequence[int], k: int, seed: int) -> list[int]:
    """Draw `k` of the rows of each class, ascending; what is drawn with a smaller k is among them."""
    order = np.random.default_rng(np.random.SeedSequence(child(seed, "few shot"))).permutation(len(classes))
    rows: dict[int, list[int]] = {}
    for row in order.tolist():
        rows.setdefault(classes[row], []).append(row)
    return sorted(row for members in rows.values() for row in members[:k])


class FewShot(Trick):
    """Train on few examples: k of each class, or a fraction in which the classes keep their shares.

    Only train changes. The subset is drawn from a seed of its own: the same for every other trick, every value of
    theirs and every seed of the run; that of a smaller k is part of that of a larger one. `fraction` stands in for k
    and leaves each class at least one example. Labels that are no classes (values, several labels at once) have no
    strata: k is then the number of all examples, and a fraction is drawn from all alike. Rows that other tricks add
    stay.

    Traps: one subset is one draw. What is best on it may be luck of the draw: repeat a study with other values of
    `seed`. A validation set of the full size is not few-shot learning. The epochs become short: give the run more of
    them.

    Source: Sun, Qiu, Xu & Huang 2019, How to Fine-Tune BERT for Text Classification? (arXiv 1905.05583), on few-shot
    learning (0.4 % of IMDb: 100 examples). k = 16 is a common default.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"fraction": 1.0}

    k: Annotated[int, Field(gt=0), Choice(4, 8, 16, 32)] = Field(default=K, description="Examples of each class.")
    fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Share of the examples, instead of k."
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Draws the subset, whatever the run's seeds.")

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        # By value: a resolved recipe holds the defaults too, and is read again.
        if self.k != K and self.fraction is not None:
            raise ValueError("k and fraction both set the number of examples; give one of them")
        return self

    @hookimpl
    def data(self, dataset: datasets.Dataset, split: str, context: Context) -> datasets.Dataset:
        if split != "train" or self.fraction == 1:
            return dataset
        columns = getattr(dataset, "column_names", ())
        column = next((name for name in ("labels", "label") if name in columns), None)
        if column is None:
            raise InputError(
                "few_shot draws from a `datasets.Dataset` with a column `labels` or `label`; train is a "
                f"{type(dataset).__name__}" + (f" with {', '.join(columns)}" if columns else "")
            )
        ids = dataset["example_id"][:] if "example_id" in columns else range(len(dataset))
        own = [row for row, number in enumerate(ids) if number >= 0]
        values = dataset[column][:]
        labels = [values[row] for row in own]
        names = context.labels or getattr(dataset.features[column], "names", None)  # of a ClassLabel
        drawn = self._k_of_each(labels, names) if self.fraction is None else self._share_of(labels, self.fraction)
        chosen = {own[row] for row in drawn}
        return dataset.select([row for row, number in enumerate(ids) if number < 0 or row in chosen])

    def _k_of_each(self, labels: Sequence[Any], names: Sequence[str] | None) -> list[int]:
        """The rows that are kept, ascending; `names` are the classes', where they are known."""
        classes = _classes(labels)
        if classes is None and len(labels) < self.k:
            raise InputError(f"few_shot.k: {self.k} examples asked for, train has {len(labels)}; ask for fewer")
        for number, count in sorted(Counter(classes or ()).items()):
            if count < self.k:
                raise InputError(
                    f"few_shot.k: {self.k} examples of each class asked for, the class "
                    f"{repr(names[number]) if names else number} of train has {count}; ask for fewer"
                )
        return draw_of_each(classes or [0] * len(labels), self.k, self.seed)

    def _share_of(self, labels: Sequence[Any], share: float) -> list[int]:
        """The rows that are kept, ascending."""
        classes = _classes(labels)
        rows = max(round(share * len(labels)), 1)
        if classes is not None and rows < len(set(classes)):
            raise InputError(
                f"few_shot.fraction: {share:g} of {len(labels)} examples is {rows}, fewer than the "
                f"{len(set(classes))} classes; give a larger one"
            )
        return draw_rows(classes, len(labels), rows, self.seed)


def _classes(labels: Sequence[Any]) -> Sequence[int] | None:
    """The labels, if they are classes; `None` for values and for several labels at once."""
    return labels if all(isinstance(label, int) for label in labels) else None

"""A model's scores for a data set, and the files that keep them example by example."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from finetricks.atomic import write_atomically
from finetricks.distributed import ALONE, Ranks
from finetricks.errors import NotFinite
from finetricks.layer_pass import without
from finetricks.lengths import token_counts
from finetricks.tasks.encode import NO_MORE, TOKENS, Padding, collator
from finetricks.tasks.labels import Kind
from finetricks.tasks.metrics import THRESHOLD

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    from transformers import PreTrainedTokenizerBase


def score(
    model: nn.Module,
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    kind: Kind,
    batch_size: int,
    ranks: Ranks = ALONE,
    added: Sequence[str] = (),
    padding: Padding = NO_MORE,
    around: Callable[[Callable[[], Any]], Any] = lambda compute: compute(),
) -> NDArray[np.float64]:
    """What the model gives for each example, in the data set's order.

    Examples of like length share a batch; the batches are shared out among `ranks`, and all get all scores. The model
    is in eval mode meanwhile, and each of its modules is put back as it was; the global random state is left alone.

    Args:
        added: the columns that tricks added; the model is given those that its forward pass names.
        around: gives what a batch's computation gives; `Session.replayed`, say.

    Returns:
        [examples, classes] probabilities that sum to 1 (classification), or each label's own (multi_label);
        [examples, 1] values for a regression.

    Raises:
        NotFinite: a score is not finite.
    """
    lengths = token_counts(dataset)
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])  # the largest batch first: out of memory early
    rows = dataset.select_columns([name for name in (*TOKENS, *added) if name in dataset.column_names]).select(order)
    device = next(model.parameters()).device
    collate = collator(tokenizer, added, padding)
    logits: dict[int, torch.Tensor] = {}
    ranks.share_buffers(model)
    with ranks.together(), _evaluating(model), torch.inference_mode():
        for start in range(ranks.rank * batch_size, len(rows), ranks.size * batch_size):
            columns = rows[start : start + batch_size]
            batch = collate([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            outputs = around(partial(without, added, model, batch))
            logits[start] = outputs.logits.to("cpu", torch.float64)
    every = {start: part for parts in ranks.gather(logits) for start, part in parts.items()}
    scores = scores_of(torch.cat([every[start] for start in sorted(every)]), kind)
    in_order: NDArray[np.float64] = np.empty_like(scores)
    in_order[order] = scores
    return in_order


def scores_of(logits: torch.Tensor, kind: Kind) -> NDArray[np.float64]:
    """The scores that `score` gives, of a model's outputs [examples, labels] in float64.

    Raises:
        NotFinite: a score is not finite.
    """
    scores: NDArray[np.float64] = _ACTIVATIONS[kind](logits).numpy()
    unfit = int((~np.isfinite(scores).all(axis=1)).sum())
    if unfit:
        raise NotFinite(f"the model's scores are not finite for {unfit} of {len(scores)} examples")
    return scores


_ACTIVATIONS: dict[Kind, Any] = {
    "classification": lambda logits: logits.softmax(dim=-1),
    "multi_label": torch.sigmoid,
    "regression": lambda values: values,
}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    # Module by module: what is frozen stands in eval mode while the rest trains.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def decide(scores: NDArray[Any], *, kind: Kind, labels: Sequence[str]) -> list[Any]:
    """What the scores say: a label's name, the value, or the list of the names at or above the threshold."""
    if kind == "regression":
        return [float(value) for value in scores[:, 0]]
    if kind == "classification":
        return [labels[index] for index in scores.argmax(axis=1)]
    return [[name for name, value in zip(labels, row, strict=True) if value >= THRESHOLD] for row in scores]


def write_predictions(
    path: Path, dataset: datasets.Dataset, scores: NDArray[Any], *, kind: Kind, labels: Sequence[str]
) -> None:
    """Write predictions as CSV, a row an example, at full precision.

    Columns: `example_id`; `label`, where the data set has labels; `prediction`; and for each label `score:NAME`. The
    label and the prediction are a name, a number, or a JSON list of names. An `example_id` is a row of the file or
    split that the example came from, from 0.
    """
    columns: dict[str, list[Any]] = {"example_id": dataset["example_id"][:]}
    if "labels" in dataset.column_names:
        truth = dataset["labels"][:]
        if kind == "classification":
            columns["label"] = [labels[index] for index in truth]
        else:
            columns["label"] = decide(np.asarray(truth).reshape(len(truth), -1), kind=kind, labels=labels)
    columns["prediction"] = decide(scores, kind=kind, labels=labels)
    if kind == "multi_label":
        for name in columns.keys() - {"example_id"}:
            columns[name] = [json.dumps(names, ensure_ascii=False) for names in columns[name]]
    for index, name in enumerate(labels):
        columns[f"score:{name}"] = scores[:, index].tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read what `write_predictions` wrote, every score to the bit; labels and predictions are text as they stand."""
    import pandas as pd

    return pd.read_csv(path, dtype={"label": str, "prediction": str}, keep_default_na=False)

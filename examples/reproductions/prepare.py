"""Make the files of the reproductions on TREC-6 that are no plain copy of its own: `python prepare.py TRAIN.csv OUT`.

`pool.csv`, `valid.csv`: nine tenths of the questions and the last tenth, after a shuffle by seed 0; equal texts on one
side. `what.csv`, `other.csv`: the questions that begin with "What", and those that do not: a shift of the question
word, and with it of the classes. `untrained/`: MiniLM with random weights and its own vocabulary. `docstrings.csv`:
those of Python's standard library, a text for a language model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from finetricks.tasks.models import resolve_model
from finetricks.tasks.stdlib_docstrings import stdlib_docstrings


def prepare(train: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(train)
    texts = rows["text"].drop_duplicates().sample(frac=1, random_state=0)
    held_out = rows["text"].isin(texts[: len(texts) // 10])
    what = rows["text"].str.match(r"what\b", case=False)
    parts = {"valid": held_out, "pool": ~held_out, "what": what, "other": ~what}
    for name, chosen in parts.items():
        rows[chosen].to_csv(out / f"{name}.csv", index=False)
        print(f"{name}.csv: {int(chosen.sum())} rows, {rows[chosen]['label'].value_counts().to_dict()}")


def docstrings(out: Path) -> None:
    table, _ = stdlib_docstrings()
    pd.DataFrame({"text": table.columns["text"]}).to_csv(out / "docstrings.csv", index=False)
    print(f"docstrings.csv: {len(table)} rows")


def untrained(out: Path) -> None:
    torch.manual_seed(0)
    minilm = resolve_model("minilm")
    AutoModel.from_config(AutoConfig.from_pretrained(minilm)).save_pretrained(out / "untrained")
    AutoTokenizer.from_pretrained(minilm).save_pretrained(out / "untrained")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]))
    docstrings(Path(sys.argv[2]))
    untrained(Path(sys.argv[2]))

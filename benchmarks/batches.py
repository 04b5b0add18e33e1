"""What batches cost beside the model: padding with and without groups of like length, tokenising, and scoring by size.

    python benchmarks/batches.py
    python benchmarks/batches.py --data ../shared/data/scv2/train.csv --rounds 5 --json batches.json

Shares of padding are counted over an epoch of 32 examples a batch, the same everywhere; seconds are medians over the
rounds, the ways in turn within each round. MiniLM, 128 tokens at most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from finetricks.lengths import token_counts
from finetricks.order import Order
from finetricks.settings import Data
from finetricks.tasks import load_task
from finetricks.tasks.encode import Padding, tokenize, truncate
from finetricks.tasks.predictions import score

LENGTH = 128


def padding(lengths: list[int]) -> list[dict[str, Any]]:
    """The share of real tokens in an epoch's batches."""
    rows = []
    for grouped in (False, True):
        for multiple in (1, 8):
            loader = DataLoader(TensorDataset(torch.arange(len(lengths))), batch_size=32, shuffle=True)
            order, pad, tokens = Order(loader, 0, lengths=lengths if grouped else None), Padding(multiple, LENGTH), 0
            for (batch,) in order.epoch(0):
                tokens += len(batch) * pad.length(max(lengths[row] for row in batch.tolist()))
            rows.append(
                {"group_by_length": grouped, "multiple": multiple, "real": sum(lengths) / tokens, "tokens": tokens}
            )
    return rows


def timed(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/trec6/train.csv", help="a file with `text` and `label`")
    parser.add_argument("--rows", type=int, default=1000, help="examples that are scored (1000)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = load_task("minilm", Data(train=options.data, valid=0.1), max_length=LENGTH)
    whole, tokenizer, model = task.splits["train"], task.tokenizer, task.model(0)
    cut = truncate(whole, tokenizer, LENGTH)
    lengths = token_counts(cut)
    few = cut.select(range(min(options.rows, len(cut))))
    texts, repeats = {"text": whole["text"][:]}, max(20_000 // len(whole), 1)
    many = {"text": texts["text"] * repeats}
    tokens = tokenize(many, tokenizer, range(len(many["text"])))
    record = {
        "data": options.data,
        "padding": padding(lengths),
        "seconds": timed(
            {
                f"tokenise {len(tokens)} texts": lambda: tokenize(many, tokenizer, range(len(tokens))),
                f"cut {len(tokens)} texts to 16 tokens": lambda: truncate(tokens, tokenizer, 16),
            }
            | {
                f"score {len(few)} examples, {size} a batch": lambda size=size: score(
                    model, few, tokenizer, kind=task.kind, batch_size=size, padding=Padding(8, LENGTH)
                )
                for size in (16, 32, 64, 128, 256)
            },
            options.rounds,
        ),
    }
    for row in record["padding"]:
        print(
            f"group_by_length {row['group_by_length']!s:5}  multiple {row['multiple']}: {row['real']:6.1%} real tokens"
        )
    for name, seconds in record["seconds"].items():
        print(f"{name:44} {seconds:8.2f} s")
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

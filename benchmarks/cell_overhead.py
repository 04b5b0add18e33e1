"""What a cell costs beside its training, in a warm worker, and whether the worker's memory stays flat.

    python benchmarks/cell_overhead.py --cells 100

One worker, a tiny model trained for one step. The overhead is the time from one result to the next, less the seconds
of training and evaluation that the cell records: choosing the cell, making the model, writing its folder and ledger,
and Tune's own work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from finetricks_tuning.ledger import Ledger
from finetricks_tuning.status import Status
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER
from finetricks_tuning.sweep import sweep


def write_task(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(20))]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=2,
    )
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "model")
    rows = [f"w{index % 20} w{index % 7},{index % 2}" for index in range(16)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100, help="an even number (100)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_task(folder)
        recipe = {
            "model": str(folder / "model"),
            "data": {"train": str(folder / "train.csv"), "valid": 0.5},
            "training": {"epochs": 1, "batch_size": 8, "checkpoint": "off"},
        }
        study = Study(recipe=recipe, factors=["linear_decay"], seeds=options.cells // 2, confirm=0, cpus_per_cell=CORES)
        ended: list[tuple[float, int]] = []  # when a cell ended, and the worker's resident bytes then

        def note(status: Status) -> None:
            if len(lines := (folder / "out" / LEDGER).read_text().splitlines() if done(folder) else []) > len(ended):
                ended.extend([(time.perf_counter(), resident())] * (len(lines) - len(ended)))

        sweep(study, folder / "out", on_update=note)
        trials, _ = Ledger(folder / "out" / LEDGER).read()
    trained = [trial.seconds for trial in trials.values()]
    first, last = ended[0], ended[-1]
    overhead = (last[0] - first[0] - sum(trained[1:])) / (len(trained) - 1)
    print(f"{len(trained)} cells, {statistics.median(trained):.3f} s of training each (median)")
    print(f"overhead a cell after the first: {overhead:.3f} s")
    middle = ended[len(ended) // 2]
    told = " -> ".join(f"{memory / 2**20:.0f}" for _, memory in (first, middle, last))
    print(f"resident memory of the workers, MiB, after the first, the middle and the last cell: {told}")


CORES = os.cpu_count() or 1  # one cell at a time


def done(folder: Path) -> bool:
    return (folder / "out" / LEDGER).is_file()


def resident() -> int:
    """Bytes, of the Ray workers that this process has started."""
    sizes = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "CellWorker" in " ".join(process.cmdline()):
                sizes.append(process.memory_info().rss)
        except psutil.Error:  # ended in between
            continue
    return sum(sizes)


if __name__ == "__main__":
    main()

"""The same cells by four ways: `finetricks sweep`, Ray Tune by hand, transformers' search on Ray, and plain Optuna.

    python benchmarks/side_by_side.py --seeds 4 --rounds 3

MiniLM on 320 docstrings cut to 32 tokens, 9 steps of 32, with and without a linear decay, two cells at once with one
thread each. Each way runs in a process of its own and pays for its own start. By hand, and under Optuna (two processes
on one SQLite file), a cell calls `finetricks.run`; transformers trains the same model on the same tokens with its own
Trainer.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SLOTS = 2
TRICKS: tuple[list[str], ...] = ([], ["linear_decay"])


def recipe(seed: int, tricks: list[str]) -> dict[str, Any]:
    return {
        "model": "minilm",
        "data": {"train": "stdlib_docstrings", "rows": 320},
        "training": {
            "epochs": 1,
            "batch_size": 32,
            "learning_rate": 2e-4,
            "threads": 1,
            "seed": seed,
            "max_length": 32,
        },
        "tricks": tricks,
    }


def by_sweep(folder: Path, seeds: int) -> float:
    """The seconds of training and evaluation, summed."""
    from finetricks_tuning.study import Study
    from finetricks_tuning.sweep import sweep

    study = Study(recipe=recipe(0, []), factors=["linear_decay"], seeds=seeds, confirm=0)
    return sweep(study, folder / "out").seconds


def by_tune(folder: Path, seeds: int) -> float:
    import ray
    from ray import tune

    def cell(config: dict[str, Any]) -> dict[str, float]:
        import finetricks

        tricks = TRICKS[config["tricks"]]
        place = folder / f"{config['tricks']}-{config['seed']}"
        result = finetricks.run(finetricks.Recipe(**recipe(config["seed"], tricks)), place, save_model=False)
        return {"accuracy": result.valid["accuracy"], "seconds": result.seconds}

    ray.init(num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, logging_level="error")
    space = {"tricks": tune.grid_search([0, 1]), "seed": tune.grid_search(list(range(seeds)))}
    run_config = tune.RunConfig(storage_path=str(folder), verbose=0)
    found = tune.Tuner(tune.with_resources(cell, {"cpu": 1}), param_space=space, run_config=run_config).fit()
    return float(sum(result.metrics["seconds"] for result in found if result.metrics))


def by_transformers(folder: Path, seeds: int) -> float:
    import ray
    from ray import tune
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from finetricks import Recipe
    from finetricks.runner import task_of
    from finetricks.tasks.encode import truncate

    ray.init(num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, logging_level="error")
    task = task_of(Recipe(**recipe(0, [])))
    splits = {name: truncate(rows, task.tokenizer, task.max_length) for name, rows in task.splits.items()}
    trainer = Trainer(
        model_init=lambda _: task.model(0),
        args=TrainingArguments(
            output_dir=str(folder / "trainer"),
            num_train_epochs=1,
            per_device_train_batch_size=32,
            learning_rate=2e-4,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["valid"],
        data_collator=DataCollatorWithPadding(task.tokenizer, pad_to_multiple_of=8),  # as ours pads
    )
    trainer.hyperparameter_search(
        backend="ray",
        n_trials=1,  # of each point of the grid
        hp_space=lambda _: {
            "seed": tune.grid_search(list(range(seeds))),
            "lr_scheduler_type": tune.grid_search(["constant", "linear"]),
        },
        resources_per_trial={"cpu": 1},
        storage_path=str(folder),
        verbose=0,
    )
    return float("nan")


def by_optuna(folder: Path, seeds: int) -> float:
    import optuna

    storage = f"sqlite:///{folder / 'study.db'}"
    optuna.create_study(storage=storage, study_name="cells", direction="maximize")
    with multiprocessing.get_context("spawn").Pool(SLOTS) as pool:
        return sum(pool.starmap(_optimize, [(storage, folder, seeds, part) for part in range(SLOTS)]))


def _optimize(storage: str, folder: Path, seeds: int, part: int) -> float:
    import optuna

    import finetricks

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seconds = []

    def objective(trial: optuna.Trial) -> float:
        tricks = trial.suggest_categorical("tricks", [0, 1])
        seed = trial.suggest_int("seed", 0, seeds - 1)
        place = folder / f"{part}-{trial.number}"
        result = finetricks.run(finetricks.Recipe(**recipe(seed, TRICKS[tricks])), place, save_model=False)
        seconds.append(result.seconds)
        return result.valid["accuracy"]

    grid = optuna.samplers.GridSampler({"tricks": [0, 1], "seed": list(range(seeds))}, seed=0)
    study = optuna.load_study(storage=storage, study_name="cells", sampler=grid)
    study.optimize(objective, n_trials=2 * seeds // SLOTS)
    return sum(seconds)


WAYS: dict[str, Callable[[Path, int], float]] = {
    "finetricks sweep": by_sweep,
    "Ray Tune by hand": by_tune,
    "transformers on Ray": by_transformers,
    "Optuna": by_optuna,
}


def _measure(way: str, folder: Path, seeds: int) -> None:
    """Run one way in this process and leave its seconds beside it."""
    started = time.perf_counter()
    trained = WAYS[way](folder, seeds)
    wall = time.perf_counter() - started
    (folder / "seconds.json").write_text(json.dumps({"wall": wall, "trained": trained}))


def _in_a_process(way: str, seeds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--way", way, "--folder", folder, "--seeds", str(seeds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{way} failed:\n{done.stderr}")
        seconds: dict[str, float] = json.loads((Path(folder) / "seconds.json").read_text())
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="cells are twice as many (4)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each way runs, in turn (1)")
    parser.add_argument("--way", choices=WAYS, help="run this one only, in --folder")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.way:
        _measure(options.way, options.folder, options.seeds)
        return
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            measured[way].append(_in_a_process(way, options.seeds))
    rates = {
        way: 3600 * 2 * options.seeds / statistics.median(one["wall"] for one in runs) for way, runs in measured.items()
    }
    print(f"{2 * options.seeds} cells, median of {options.rounds}")
    print(f"{'':22}{'seconds':>9}{'cells an hour':>15}{'training / (2 x wall)':>23}")
    for way, runs in measured.items():
        wall = statistics.median(one["wall"] for one in runs)
        share = statistics.median(one["trained"] / (SLOTS * one["wall"]) for one in runs)
        print(f"{way:22}{wall:9.1f}{rates[way]:15.0f}{share:23.2f}")
    own, *others = rates.values()
    print(f"finetricks sweep to the best of the others: {own / max(others):.2f}")


if __name__ == "__main__":
    main()

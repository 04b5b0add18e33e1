"""The same cells by four ways: `finetricks sweep`, Ray Tune by hand, transformers' search on Ray, and plain Optuna.

    python benchmarks/side_by_side.py --seeds 4

MiniLM on 320 docstrings, 9 steps of 32, with and without a linear decay, two cells at once with one thread each. Each
way runs in a process of its own and pays for its own start. By hand, and under Optuna (two processes on one SQLite
file), a cell calls `finetricks.run`; transformers trains the same model on the same tokens with its own Trainer.
"""

from __future__ import annotations

import argparse
import multiprocessing
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
        "training": {"epochs": 1, "batch_size": 32, "learning_rate": 2e-4, "threads": 1, "seed": seed},
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
    return sum(result.metrics["seconds"] for result in found if result.metrics)


def by_transformers(folder: Path, seeds: int) -> float:
    import ray
    from ray import tune
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from finetricks import Recipe
    from finetricks.runner import task_of

    ray.init(num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, logging_level="error")
    task = task_of(Recipe(**recipe(0, [])))
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
        train_dataset=task.splits["train"],
        eval_dataset=task.splits["valid"],
        data_collator=DataCollatorWithPadding(task.tokenizer),
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
    storage = f"sqlite:///{folder / 'study.db'}"
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

    study = optuna.create_study(storage=storage, study_name="cells", direction="maximize", load_if_exists=True)
    study.optimize(objective, n_trials=2 * seeds // SLOTS)
    return sum(seconds)


WAYS: dict[str, Callable[[Path, int], float]] = {
    "finetricks sweep": by_sweep,
    "Ray Tune by hand": by_tune,
    "transformers on Ray": by_transformers,
    "Optuna": by_optuna,
}


def _timed(way: str, folder: Path, seeds: int, answer: Any) -> None:
    started = time.perf_counter()
    trained = WAYS[way](folder, seeds)
    answer.send((time.perf_counter() - started, trained))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="cells are twice as many (4)")
    options = parser.parse_args()
    cells, best = 2 * options.seeds, 0.0
    print(f"{'':22}{'seconds':>9}{'cells an hour':>15}{'training / (2 x wall)':>23}")
    for way in WAYS:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        with tempfile.TemporaryDirectory() as place:
            process = context.Process(target=_timed, args=(way, Path(place), options.seeds, theirs))
            process.start()
            theirs.close()
            try:
                wall, trained = ours.recv()
            except EOFError:
                print(f"{way:22}  failed", flush=True)
                continue
            finally:
                process.join()
        rate = 3600 * cells / wall
        print(f"{way:22}{wall:9.1f}{rate:15.0f}{trained / (SLOTS * wall):23.2f}", flush=True)
        if way == next(iter(WAYS)):
            own = rate
        else:
            best = max(best, rate)
    if best:
        print(f"finetricks sweep to the best of the others: {own / best:.2f}")


if __name__ == "__main__":
    main()

"""Early stopping: when it stops, what it goes back to, and what it decides on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import default_data_collator

import tiny
from finetricks import FinetricksError, InputError, Recipe, Session, Trick, TrickTrainer, hookimpl, run
from finetricks_plugins.evaluated.best import goodness
from finetricks_plugins.evaluated.early_stopping import EarlyStopping
from finetricks_plugins.freeze.gradual_unfreezing import GradualUnfreezing


def bound(*tricks: Any, epochs: int = 6, **options: Any) -> Session:
    return tiny.recipe(*tricks, epochs=epochs).bind(tiny.bert(), tiny.loader(), **options)


def train(session: Session, values: list[float], name: str = "accuracy") -> list[dict[str, torch.Tensor]]:
    """Train, with `values` as what each epoch's evaluation shows; the weights at each."""
    seen = []
    session.model.train()
    for batch in session.batches():
        session.backward(session.loss(batch))
        if session.step() and session.global_step % 6 == 0:
            seen.append({name: tensor.clone() for name, tensor in session.model.state_dict().items()})
            session.evaluated({name: values[session.global_step // 6 - 1]})
    return seen


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best"),
    [
        ([0.5, 0.6, 0.6, 0.55, 0.9, 0.9], 2, 4, 2),  # equal is no better: two evaluations after the second
        ([0.5, 0.6, 0.6, 0.55, 0.9, 0.9], 3, 6, 5),  # the fifth comes in time
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 1, 2, 1),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 6, 6),
        ([0.5, float("nan"), 0.4, 0.6, 0.6, 0.6], 2, 3, 1),  # no number is worse than any
    ],
)
def test_it_stops_after_patience_and_goes_back_to_the_best(values, patience, epochs, best) -> None:
    session = bound(EarlyStopping(patience=patience))
    seen = train(session, values)
    assert len(seen) == epochs
    assert session.stopped == (epochs < 6)
    assert session.plan.decisions == ({"stop": 6 * epochs} if epochs < 6 else {})
    assert same(session.model.state_dict(), seen[best - 1])


def test_without_restoring_the_last_weights_stay() -> None:
    session = bound(EarlyStopping(patience=1, restore_best=False))
    seen = train(session, [0.5, 0.4, 0.9, 0.9, 0.9, 0.9])
    assert len(seen) == 2
    assert same(session.model.state_dict(), seen[1])


def test_a_loss_is_better_when_it_is_smaller() -> None:
    seen = train(bound(EarlyStopping(patience=1)), [0.5, 0.4, 0.45, 0.1, 0.1, 0.1], name="log_loss")
    assert len(seen) == 3
    assert goodness("t", {"error": 0.2}, None, "auto") == -0.2
    assert goodness("t", {"error": 0.2}, None, "max") == 0.2
    assert goodness("t", {"accuracy": 0.2, "mse": 3.0}, "mse", "auto") == -3.0


def test_a_little_better_is_not_better() -> None:
    assert len(train(bound(EarlyStopping(patience=1, min_delta=0.05)), [0.5, 0.54, 0.9, 0.9, 0.9, 0.9])) == 2


@pytest.mark.parametrize("at", [1, 2, 3])
def test_its_decisions_survive_resume(at: int, tmp_path: Path) -> None:
    values = [0.5, 0.6, 0.55, 0.5, 0.9, 0.9]
    whole = bound(EarlyStopping(patience=2))
    train(whole, values)
    first = bound(EarlyStopping(patience=2))
    for batch in first.batches():
        first.backward(first.loss(batch))
        if first.step() and first.global_step % 6 == 0:
            first.evaluated({"accuracy": values[first.global_step // 6 - 1]})
            if first.global_step == 6 * at:
                break
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = bound(EarlyStopping(patience=2), init=False)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(second, values)
    assert second.global_step == whole.global_step == 24
    assert same(second.model.state_dict(), whole.model.state_dict())


def recipe_in(folder: Path, **options: Any) -> Recipe:
    data = {"train": str(folder / "train.csv"), "test": str(folder / "test.csv"), "valid": 0.25} | options
    training = {"epochs": 8, "batch_size": 8, "learning_rate": 1e-2, "threads": 1, "held_out": 0.2}
    return Recipe(model=str(folder / "model"), data=data, training=training, tricks=[EarlyStopping(patience=1)])


def test_a_run_decides_on_a_slice_of_train_and_never_on_valid(tmp_path: Path) -> None:
    folder = tiny.write_task(tmp_path)
    result = run(recipe_in(folder), tmp_path / "run")
    assert result.decisions == {"stop": result.steps}
    assert result.steps < 8 * 5  # 45 rows left by valid, 9 of them held out: 5 steps an epoch
    assert result.steps % 5 == 0
    assert sorted(path.name for path in (tmp_path / "run" / "predictions").iterdir()) == ["test.csv", "valid.csv"]


def test_what_valid_shows_does_not_matter_to_it(tmp_path: Path) -> None:
    folder = tiny.write_task(tmp_path)
    swapped = {"bird": "fish", "fish": "bird"}
    header, *lines = (folder / "test.csv").read_text().splitlines()
    parts = [line.rsplit(",", 1) for line in lines]
    (folder / "wrong.csv").write_text(
        "\n".join([header, *(f"{text},{swapped[label]}" for text, label in parts)]) + "\n"
    )
    right = run(recipe_in(folder, valid=str(folder / "test.csv")), tmp_path / "right")
    wrong = run(recipe_in(folder, valid=str(folder / "wrong.csv")), tmp_path / "wrong")
    assert right.valid["log_loss"] != wrong.valid["log_loss"]
    assert right.steps == wrong.steps


def test_a_metric_that_the_task_lacks_is_refused_before_training(tmp_path: Path) -> None:
    folder = tiny.write_task(tmp_path)
    recipe = Recipe(**{**recipe_in(folder).to_dict(), "tricks": [{"early_stopping": {"metric": "acuracy"}}]})
    with pytest.raises(InputError, match="no metric .acuracy. .did you mean .accuracy"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def trainer_of(recipe: Recipe, folder: Path, **args: Any) -> TrickTrainer:
    quiet = {"disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "logging_strategy": "no"}
    return TrickTrainer(
        recipe=recipe,
        model=tiny.bert(),
        args=recipe.training_arguments(folder, **(quiet | {"eval_strategy": "epoch"} | args)),
        train_dataset=tiny.rows(),
        eval_dataset=tiny.rows(6),
        data_collator=default_data_collator,
    )


def test_in_the_trainer_it_stops_on_a_slice_of_the_training_set(tmp_path: Path) -> None:
    recipe = tiny.recipe(EarlyStopping(patience=1), epochs=9, learning_rate=0.05)
    trainer = trainer_of(recipe, tmp_path)
    assert (len(trainer.train_dataset), len(trainer.held_out), len(trainer.eval_dataset)) == (20, 2, 6)
    trainer.train()
    assert trainer.session.plan.decisions == {"stop": trainer.state.global_step}
    assert trainer.state.global_step < 9 * 5
    held_out = [entry["held_out_loss"] for entry in trainer.state.log_history if "held_out_loss" in entry]
    best = min(held_out)
    assert trainer.evaluate(trainer.held_out)["eval_loss"] == pytest.approx(best)


def test_in_the_trainer_a_run_that_was_stopped_does_not_go_on_when_it_is_resumed(tmp_path: Path) -> None:
    recipe = tiny.recipe(EarlyStopping(patience=1, restore_best=False), epochs=9, learning_rate=0.05)
    whole, resumed = (trainer_of(recipe, tmp_path, save_strategy="epoch") for _ in range(2))
    whole.train()
    assert whole.session.stopped
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step < 9 * 5
    assert resumed.session.plan.decisions == whole.session.plan.decisions
    assert tiny.equal(resumed.model, whole.model)


class Marks(Trick):
    """Says in a column which split an example is of; adds rows to train."""

    @hookimpl
    def data(self, dataset: datasets.Dataset, split: str) -> datasets.Dataset:
        marked = dataset.add_column("split", [split] * len(dataset))
        if split != "train":
            return marked
        added = marked.map(lambda row: {"example_id": -1 - row["example_id"]})
        return datasets.concatenate_datasets([marked, added])


def test_in_the_trainer_the_slice_is_a_split_of_its_own_to_other_tricks(tmp_path: Path) -> None:
    recipe, data = tiny.recipe(Marks(), EarlyStopping()), datasets.Dataset.from_dict({"labels": [0, 1] * 10})
    args = recipe.training_arguments(tmp_path, eval_strategy="epoch", use_cpu=True)
    trainer = TrickTrainer(recipe=recipe, model=tiny.bert(), args=args, train_dataset=data, eval_dataset=data)
    assert (len(trainer.train_dataset), len(trainer.held_out)) == (38, 2)
    assert trainer.held_out["split"][:] == ["held_out"] * 2
    own = [number for number in trainer.train_dataset["example_id"] if number >= 0]
    assert sorted([*own, *trainer.held_out["example_id"]]) == list(range(20))


def test_a_trainer_without_a_training_set_evaluates(tmp_path: Path) -> None:
    recipe = tiny.recipe(EarlyStopping())
    args = recipe.training_arguments(tmp_path, eval_strategy="epoch", use_cpu=True, disable_tqdm=True)
    trainer = TrickTrainer(recipe=recipe, model=tiny.bert(), args=args, eval_dataset=tiny.rows(6))
    assert trainer.evaluate()["eval_loss"] > 0


def test_a_single_example_cannot_be_parted(tmp_path: Path) -> None:
    recipe = tiny.recipe(EarlyStopping())
    args = recipe.training_arguments(tmp_path, eval_strategy="epoch", use_cpu=True)
    with pytest.raises(FinetricksError, match="held out of train, and train has 1 example"):
        TrickTrainer(recipe=recipe, model=tiny.bert(), args=args, train_dataset=tiny.rows(1), eval_dataset=tiny.rows(2))


def test_the_trainer_needs_evaluations(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="early_stopping decides at evaluations"):
        trainer_of(Recipe(tricks=["early_stopping"]), tmp_path, eval_strategy="no")


def test_the_trainer_cannot_go_back_to_other_weights_than_the_trick(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "save_strategy": "epoch"}
    with pytest.raises(InputError, match="load_best_model_at_end, but early_stopping goes back to the best weights"):
        trainer_of(Recipe(tricks=["early_stopping"]), tmp_path, **best)
    trainer_of(Recipe(tricks=[{"early_stopping": {"restore_best": False}}]), tmp_path, **best)


def test_neutral_holds_nothing_out() -> None:
    trick = EarlyStopping(**(EarlyStopping.neutral or {}))
    assert bound(trick).plan.deciders == ()
    assert bound(EarlyStopping()).plan.deciders == ("early_stopping",)


def test_it_composes_with_unfreezing() -> None:
    session = bound(EarlyStopping(patience=2), GradualUnfreezing())
    train(session, [0.5, 0.4, 0.3, 0.2, 0.1, 0.1])
    assert session.global_step == 12 + 6

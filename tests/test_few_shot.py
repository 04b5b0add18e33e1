from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from pydantic import ValidationError
from transformers import default_data_collator

import tiny
from finetricks import Context, InputError, TrickTrainer, run
from finetricks.runner import splits_of, task_of
from finetricks_plugins.data.few_shot import FewShot, draw_of_each
from test_run import recipe_in


def train_set(labels: list[Any], **columns: Any) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"labels": labels, "example_id": range(len(labels)), **columns})


def kept(trick: FewShot, dataset: datasets.Dataset, split: str = "train") -> list[int]:
    return trick.data(dataset, split, Context(seed=0))["example_id"][:]


def test_k_of_each_class_and_fewer_are_part_of_more() -> None:
    classes = [0] * 20 + [1] * 7 + [2] * 5
    four, five = draw_of_each(classes, 4, seed=0), draw_of_each(classes, 5, seed=0)
    assert [classes[row] for row in four] == [0] * 4 + [1] * 4 + [2] * 4
    assert set(four) < set(five)
    assert five[-5:] == [27, 28, 29, 30, 31]  # all of the smallest class
    assert draw_of_each(classes, 4, seed=1) != four


def test_a_fraction_keeps_the_shares_and_every_class() -> None:
    dataset = train_set([0] * 50 + [1] * 49 + [2])
    labels = FewShot(fraction=0.1).data(dataset, "train", Context(seed=0))["labels"][:]
    assert sorted(labels) == [0] * 5 + [1] * 4 + [2]


def test_only_train_changes() -> None:
    dataset = train_set([0, 1] * 10)
    for split in ("valid", "test", "held_out", "predict"):
        assert FewShot(k=2).data(dataset, split, Context(seed=0)) is dataset
    assert len(kept(FewShot(k=2), dataset)) == 4


@pytest.mark.parametrize("labels", [[row / 4 for row in range(40)], [[1.0, 0.0]] * 40])
def test_labels_that_are_no_classes_are_drawn_from_all_alike(labels: list[Any]) -> None:
    dataset = train_set(labels)
    assert len(kept(FewShot(k=5), dataset)) == 5
    assert len(kept(FewShot(fraction=0.25), dataset)) == 10
    with pytest.raises(InputError, match="few_shot.k: 50 examples asked for, train has 40"):
        kept(FewShot(k=50), dataset)


def test_rows_that_other_tricks_added_stay_and_shift_nothing() -> None:
    own = train_set([0, 1] * 10)
    added = datasets.Dataset.from_dict({"labels": [7] * 3, "example_id": [-1, -2, -3]})
    subset = kept(FewShot(k=3), own)
    assert kept(FewShot(k=3), datasets.concatenate_datasets([own, added])) == [*subset, -1, -2, -3]


def test_the_users_own_data_sets() -> None:
    features = datasets.Features({"label": datasets.ClassLabel(names=["bird", "fish"])})
    dataset = datasets.Dataset.from_dict({"label": [0, 1, 0, 1, 0]}, features=features)
    assert FewShot(k=2).data(dataset, "train", Context(seed=0))["label"][:].count(1) == 2
    with pytest.raises(InputError, match="3 examples of each class asked for, the class 'fish' of train has 2"):
        FewShot(k=3).data(dataset, "train", Context(seed=0))
    with pytest.raises(InputError, match=r"a column `labels` or `label`; train is a list$"):
        FewShot().data([1, 2], "train", Context(seed=0))
    with pytest.raises(InputError, match=r"train is a Dataset with target"):
        FewShot().data(dataset.rename_column("label", "target"), "train", Context(seed=0))


def test_too_small_a_fraction_is_refused() -> None:
    with pytest.raises(InputError, match="0.05 of 20 examples is 1, fewer than the 2 classes"):
        kept(FewShot(fraction=0.05), train_set([0, 1] * 10))


@pytest.mark.parametrize("values", [{"k": 0}, {"fraction": 0}, {"fraction": 1.5}, {"seed": -1}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        FewShot(**values)


def test_k_and_a_fraction_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="k and fraction both set the number"):
        FewShot(k=4, fraction=0.1)
    assert FewShot(**FewShot(fraction=0.1).model_dump()) == FewShot(fraction=0.1)  # as in a resolved recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def test_in_a_run_it_is_the_same_subset_for_every_seed(folder: Path, tmp_path: Path) -> None:
    def subset(**values: Any) -> list[int]:
        recipe = recipe_in(folder, [FewShot(**values)], seed=values.get("seed", 3))
        splits, _ = splits_of(recipe, task_of(recipe), recipe.stack())
        assert len(splits["valid"]) == 15
        return splits["train"]["example_id"][:]

    assert subset(k=4) == subset(k=4, seed=0)
    assert subset(k=4) != subset(k=4, seed=1)
    assert len(subset(k=4)) == 8
    result = run(recipe_in(folder, [FewShot(k=4)]), tmp_path / "few")
    assert result.steps == 2
    whole, plain = (recipe_in(folder, tricks, epochs=1) for tricks in ([FewShot(fraction=1)], []))
    run(whole, tmp_path / "whole")
    run(plain, tmp_path / "plain")
    saved = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "plain")]
    assert saved[0] == saved[1]


def test_in_the_trainer(tmp_path: Path) -> None:
    recipe = tiny.recipe(FewShot(k=2), epochs=1)
    rows = datasets.Dataset.from_list([{**row, "input_ids": row["input_ids"].tolist()} for row in tiny.rows()])
    trainer = TrickTrainer(
        recipe=recipe,
        model=tiny.bert(),
        args=recipe.training_arguments(tmp_path, disable_tqdm=True, save_strategy="no", use_cpu=True),
        train_dataset=rows.remove_columns("attention_mask"),
        data_collator=default_data_collator,
    )
    assert len(trainer.train_dataset) == 6
    trainer.train()
    assert trainer.state.global_step == 2

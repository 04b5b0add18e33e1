"""One run in its folder: written, refused, resumed after a kill, loaded again, and used to label new rows."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import tiny
from finetricks import (
    CheckpointError,
    Context,
    Diverged,
    InputError,
    Layers,
    Progress,
    Recipe,
    Trick,
    hookimpl,
    installed,
    load,
    predict,
    run,
)
from finetricks.yaml_file import load_yaml


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def recipe_in(folder: Path, tricks: Any = (), rows: int | None = None, **training: Any) -> Recipe:
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "threads": 1} | training
    data = {"train": str(folder / "train.csv"), "test": str(folder / "test.csv"), "valid": 0.25, "rows": rows}
    return Recipe(model=str(folder / "model"), data=data, training=settings, tricks=tricks)


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_folder_holds_what_is_promised(folder: Path, tmp_path: Path) -> None:
    seen = []
    result = run(recipe_in(folder), tmp_path / "run", on_progress=lambda *event: seen.append(event))
    out = tmp_path / "run"
    written = json.loads((out / "result.json").read_text())
    assert set(written) == {"valid", "test", "seconds", "steps", "notes", "decisions", "replay"}
    assert written["valid"] == result.valid
    assert 0 < written["seconds"] < 60
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [result.steps // 2, result.steps]
    assert lines[-1]["valid"] == result.valid
    assert load_yaml(out / "recipe.yaml").data == recipe_in(folder).to_dict()
    made_with = json.loads((out / "versions.json").read_text())
    assert {"python", "platform", "libraries", "tricks", "determinism"} == set(made_with)
    assert (made_with["determinism"]["device"], made_with["determinism"]["ranks"]) == ("cpu", 1)
    for split, rows in (("valid", 15), ("test", 12)):
        header, *body = (out / "predictions" / f"{split}.csv").read_text().splitlines()
        assert header == "example_id,label,prediction,score:bird,score:fish"
        assert len(body) == rows
    assert not (out / "checkpoints").exists()
    assert [event[0] for event in seen] == list(range(1, result.steps + 1))
    assert [event[2] is not None for event in seen].count(True) == 2


class Shapes(Trick):
    """Notes the length of every batch that the model is given."""

    seen: ClassVar[list[int]] = []

    @hookimpl
    def build(self, model: torch.nn.Module, context: Context) -> torch.nn.Module:
        model.register_forward_pre_hook(
            lambda _, __, given: self.seen.append(given["input_ids"].shape[1]), with_kwargs=True
        )
        return model


@pytest.mark.parametrize(
    ("training", "lengths"), [({}, {8, 16}), ({"max_length": 10}, {8, 10}), ({"pad_to_multiple_of": 1}, {6, 7, 8, 9})]
)
def test_batches_are_rounded_up_in_training_and_evaluation(folder: Path, tmp_path: Path, training, lengths) -> None:
    """The texts have 6 to 9 tokens, with the special ones."""
    with_room = {"epochs": 1, "batch_size": 1, "eval_batch_size": 1} | training
    Shapes.seen.clear()
    run(recipe_in(folder, [Shapes()], **with_room), tmp_path / "run")
    assert set(Shapes.seen) == lengths
    Shapes.seen.clear()
    predict(tmp_path / "run", folder / "test.csv", catalog=installed().with_classes([Shapes]))
    assert set(Shapes.seen) == {max(lengths)}  # one batch


class Order(Trick):
    """Notes which examples each batch holds, by their rows in the file."""

    seen: ClassVar[list[list[int]]] = []

    @hookimpl
    def data(self, dataset: Any) -> Any:
        return dataset.add_column("row", dataset["example_id"][:])

    @hookimpl(wrapper=True)
    def loss(self, batch: Any):
        self.seen.append(batch["row"].tolist())
        return (yield)


def test_groups_of_like_length_are_those_of_the_texts_whatever_cuts_them(folder: Path, tmp_path: Path) -> None:
    orders = []
    for number, (tricks, training) in enumerate(
        [([], {}), (["head_tail"], {"max_length": 6}), ([], {"max_length": 7}), ([], {"group_by_length": False})]
    ):
        Order.seen.clear()
        recipe = recipe_in(folder, [*tricks, Order()], **{"group_by_length": True, "batch_size": 4} | training)
        run(recipe, tmp_path / str(number), save_model=False)
        orders.append([*Order.seen])
    assert orders[0] == orders[1] == orders[2] != orders[3]
    words = [len(line.split()) for line in (folder / "train.csv").read_text().splitlines()[1:]]
    one_length, mixed = ([len({words[row] for row in rows}) for rows in order] for order in (orders[0], orders[3]))
    assert sum(one_length) < 0.85 * sum(mixed)  # of stretches of two batches, 60 texts being few


def test_a_grouped_run_is_resumed_within_an_epoch(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_in(folder, group_by_length=True, batch_size=4, accumulation=2, epochs=2)
    whole = run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "parts", upto=0.3)
    run(recipe, tmp_path / "parts", resume=True)
    assert (
        files_of(tmp_path / "parts")["model/model.safetensors"]
        == files_of(tmp_path / "whole")["model/model.safetensors"]
    )
    assert whole.steps % 2 == 0 != math.ceil(0.3 * whole.steps) % (whole.steps // 2)  # within an epoch


def test_the_model_is_loaded_without_finetricks_and_scores_the_same(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run(recipe_in(folder), tmp_path / "run")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    text = (folder / "test.csv").read_text().splitlines()[1].split(",")[0]
    with torch.no_grad():
        scores = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
    first = predict(tmp_path / "run", folder / "test.csv").iloc[0]
    assert first["score:bird"] == pytest.approx(scores[0].item(), abs=1e-6)
    assert model.config.id2label == {0: "bird", 1: "fish"}


def test_new_rows_are_labelled_as_the_test_split_was(folder: Path, tmp_path: Path) -> None:
    run(recipe_in(folder), tmp_path / "run")
    frame = predict(tmp_path / "run", folder / "test.csv")
    assert list(frame.columns) == ["text", "label", "prediction", "score:bird", "score:fish"]
    saved = (tmp_path / "run" / "predictions" / "test.csv").read_text().splitlines()[1:]
    assert frame["prediction"].tolist() == [line.split(",")[2] for line in saved]


def test_the_same_recipe_gives_the_same_bits(folder: Path, tmp_path: Path) -> None:
    run(recipe_in(folder), tmp_path / "one")
    torch.rand(5)
    run(recipe_in(folder, seed=1), tmp_path / "between")
    run(recipe_in(folder), tmp_path / "two")
    one, two, other = (files_of(tmp_path / name) for name in ("one", "two", "between"))
    for name in ("model/model.safetensors", "predictions/valid.csv", "predictions/test.csv"):
        assert one[name] == two[name]
        assert one[name] != other[name]


def test_a_finished_run_is_not_run_again(folder: Path, tmp_path: Path) -> None:
    first = run(recipe_in(folder), tmp_path / "run")
    assert run(recipe_in(folder), tmp_path / "run", resume=True) == first


def test_a_folder_that_holds_something_is_refused(folder: Path, tmp_path: Path) -> None:
    run(recipe_in(folder, epochs=1), tmp_path / "run")
    with pytest.raises(InputError, match="already holds a run: --resume continues it, --overwrite replaces it"):
        run(recipe_in(folder, epochs=1), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"training\.epochs: 1\.0 there, 2\.0 here"):
        run(recipe_in(folder), tmp_path / "run", resume=True)
    run(recipe_in(folder), tmp_path / "run", overwrite=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"meow")
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match="not empty and holds no run"):
            run(recipe_in(folder), tmp_path / "photos", **how)
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"meow"
    with pytest.raises(InputError, match="exclude one another"):
        run(recipe_in(folder), tmp_path / "run", resume=True, overwrite=True)


def test_what_a_kill_leaves_before_there_is_a_run_is_no_obstacle(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".recipe.yaml.partial").write_text("mod")
    assert run(recipe_in(folder, epochs=1), tmp_path / "run", resume=True).steps > 0


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step(folder: Path, tmp_path: Path) -> None:
    class Explodes(Trick):
        """Infinite from the third step on."""

        @hookimpl(wrapper=True)
        def loss(self, step: Any):
            return (yield) * (float("inf") if step.progress.step == 2 else 1.0)

    with pytest.raises(Diverged, match="diverged at step 2: the loss is not finite"):
        run(recipe_in(folder, [Explodes()]), tmp_path / "run")


def test_a_run_whose_last_steps_train_nothing_is_scored_with_what_it_ends_with(folder: Path, tmp_path: Path) -> None:
    class FallsAsleep(Trick):
        """Freezes everything from the ninth step on."""

        trains_nothing: ClassVar[bool] = True

        @hookimpl
        def freeze(self, progress: Progress, layers: Layers) -> tuple[str, ...]:
            return layers.names if progress.step >= 8 else ()

    asleep = run(recipe_in(folder, [FallsAsleep()]), tmp_path / "asleep")
    short = run(recipe_in(folder, epochs=8 / 6), tmp_path / "short")
    assert (asleep.steps, short.steps) == (12, 8)
    assert (asleep.valid, asleep.test) == (short.valid, short.test)
    assert files_of(tmp_path / "asleep" / "predictions") == files_of(tmp_path / "short" / "predictions")


def test_weights_that_are_not_finite_after_a_step_end_the_run_too(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_in(folder, epochs=1 / 6, learning_rate=1e38, optimizer="sgd")
    with pytest.raises(Diverged, match="diverged at step 1: the score of an example of valid is not finite"):
        run(recipe, tmp_path / "run")


def test_a_run_that_cannot_begin_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    before = run(recipe_in(folder), tmp_path / "run")
    with pytest.raises(InputError, match="1000000 asked for"):
        run(recipe_in(folder, rows=10**6), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError):
        run(recipe_in(folder, rows=10**6), tmp_path / "run", overwrite=True)
    assert run(recipe_in(folder), tmp_path / "run", resume=True) == before


def test_a_run_needs_model_and_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a run needs `model` and `data`"):
        run(Recipe(), tmp_path / "run")


def test_a_structure_that_a_trick_built_is_built_again_on_loading(folder: Path, tmp_path: Path) -> None:
    class WiderHead(Trick):
        """Puts a hidden layer before the classifier."""

        @hookimpl
        def build(self, model: Any) -> None:
            size = model.classifier.in_features
            hidden = torch.nn.Linear(size, size)
            model.classifier = torch.nn.Sequential(hidden, torch.nn.Tanh(), model.classifier)

    run(recipe_in(folder, [WiderHead()]), tmp_path / "run")
    catalog = installed().with_classes([WiderHead])
    model, _ = load(tmp_path / "run", catalog)
    assert isinstance(model.classifier, torch.nn.Sequential)
    again = predict(tmp_path / "run", folder / "test.csv", catalog=catalog)["prediction"].tolist()
    saved = (tmp_path / "run" / "predictions" / "test.csv").read_text().splitlines()[1:]
    assert again == [line.split(",")[2] for line in saved]


class Reader(Trick):
    """Adds a column that the model then reads, in training, evaluation and prediction alike."""

    @hookimpl
    def data(self, dataset: Any) -> Any:
        return dataset.add_column("extra", [5.0] * len(dataset))

    @hookimpl
    def build(self, model: Any) -> None:
        class Reads(type(model)):
            def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None, extra=None):
                assert extra is not None
                return super().forward(input_ids, attention_mask, token_type_ids, labels=labels)

        model.__class__ = Reads


def test_a_column_that_a_trick_adds_is_there_whenever_the_model_reads_it(folder: Path, tmp_path: Path) -> None:
    run(recipe_in(folder, [Reader()], epochs=1), tmp_path / "run")
    assert len(predict(tmp_path / "run", folder / "test.csv", catalog=installed().with_classes([Reader]))) == 12


def test_tricks_are_told_the_same_when_a_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    told: list[Any] = []

    class Listens(Trick):
        """Notes what it is told of the task."""

        @hookimpl
        def build(self, model: Any, context: Context) -> None:
            told.append((context.labels, context.metrics, context.text_columns, context.max_length))

        @hookimpl
        def data(self, dataset: Any, context: Context) -> Any:
            self.build(None, context)
            return dataset

    run(recipe_in(folder, [Listens()], epochs=1), tmp_path / "run")
    predict(tmp_path / "run", folder / "test.csv", catalog=installed().with_classes([Listens]))
    assert told[0][0] == ("bird", "fish")
    assert len(told) == 6
    assert len(set(told)) == 1


def test_a_run_that_kept_no_model_says_so(folder: Path, tmp_path: Path) -> None:
    run(recipe_in(folder, epochs=1), tmp_path / "run", save_model=False)
    with pytest.raises(InputError, match="holds a run that kept no model"):
        load(tmp_path / "run")


@pytest.mark.parametrize("name", ["nothing", "unfinished"])
def test_what_holds_no_finished_run_cannot_be_loaded(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "nothing").mkdir()
    run(recipe_in(folder, epochs=1), tmp_path / "unfinished")
    (tmp_path / "unfinished" / "result.json").unlink()
    with pytest.raises(InputError, match="holds no (run|finished run)"):
        load(tmp_path / name)


# -- a real kill ---------------------------------------------------------------------------------------------

CHILD = """
import sys, pathlib
sys.path.insert(0, {tests!r})
import test_run
from finetricks import run
run(test_run.long_recipe(pathlib.Path(sys.argv[1])), sys.argv[2], resume=True,
    on_progress=lambda step, total, metrics: print(step, flush=True))
"""


def long_recipe(folder: Path) -> Recipe:
    tricks = [trick() for trick in tiny.ALL]
    return recipe_in(folder, tricks, epochs=8, checkpoint=3, evaluate=4, batch_size=4)


@pytest.mark.parametrize("at", [4, 37])
def test_resume_after_kill_9_equals_uninterrupted_bit_for_bit(folder: Path, tmp_path: Path, at: int) -> None:
    code = CHILD.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "killed")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as child:
        for line in child.stdout:
            if int(line) == at:
                os.kill(child.pid, signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    steps = []
    run(long_recipe(folder), tmp_path / "killed", resume=True, on_progress=lambda step, *_: steps.append(step))
    assert 1 < steps[0] <= at + 2  # it went on, and did not begin again
    run(long_recipe(folder), tmp_path / "whole")
    killed, whole = files_of(tmp_path / "killed"), files_of(tmp_path / "whole")
    for name in ("model/model.safetensors", "predictions/valid.csv", "predictions/test.csv"):
        assert killed[name] == whole[name]
    lines = [[json.loads(line) for line in files["metrics.jsonl"].splitlines()] for files in (killed, whole)]
    for one, other in zip(*lines, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(step: int, total: int, metrics: Any) -> None:
        if step == 8:
            raise Interrupted

    folder = tiny.write_task(tmp_path)
    with pytest.raises(Interrupted):
        run(recipe_in(folder), tmp_path / "run", on_progress=interrupt)
    before = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text(before.replace("wing", "reef"))
    with pytest.raises(CheckpointError, match="no longer what the checkpoint .* was trained on"):
        run(recipe_in(folder), tmp_path / "run", resume=True)
    (folder / "train.csv").write_text(before)
    assert run(recipe_in(folder), tmp_path / "run", resume=True).steps == 12


def test_a_run_that_is_told_to_stop_can_be_resumed(folder: Path, tmp_path: Path) -> None:
    def stop(step: int, *_: Any) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(long_recipe(folder), tmp_path / "run", on_progress=stop)
    started = time.perf_counter()
    result = run(long_recipe(folder), tmp_path / "run", resume=True)
    assert result.seconds > time.perf_counter() - started - 5
    assert result.steps == 96

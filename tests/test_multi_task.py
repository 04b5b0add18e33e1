from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import every
import tiny
from finetricks import (
    Context,
    DataError,
    InputError,
    Recipe,
    RecipeError,
    Session,
    TrickTrainer,
    installed,
    load,
    predict,
    run,
)
from finetricks.catalog import Catalog
from finetricks.layer_pass import without
from finetricks.runner import about, splits_of, task_of
from finetricks.tasks.encode import loader
from finetricks_plugins.build.classifier import Classifier
from finetricks_plugins.build.concat_pooling import ConcatPooling
from finetricks_plugins.build.head import output_layer
from finetricks_plugins.data.few_shot import FewShot
from finetricks_plugins.evaluated.early_stopping import EarlyStopping
from finetricks_plugins.loss.auxiliary_lm import AuxiliaryLM
from finetricks_plugins.loss.cross_entropy import CrossEntropy
from finetricks_plugins.loss.label_smoothing import LabelSmoothing
from finetricks_plugins.loss.mse import MSE
from finetricks_plugins.loss.multi_task import HEADS, MultiTask
from finetricks_plugins.loss.other_tasks import OtherTask, draw, read_task, rows_of_each
from finetricks_plugins.loss.task_heads import at_last_token
from test_run import files_of, recipe_in
from test_trainer import losses_of

ROWS = {"mood": 10, "length": 7, "topics": 5}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Three other data sets: four classes, values, two labels at once."""
    folder = tmp_path_factory.mktemp("others")
    text = [f"w{number}" for number in range(1, 14)]
    mood = [f"{' '.join(text[: 3 + row])},{'abcd'[row % 4]}" for row in range(ROWS["mood"])]
    length = [f"{' '.join(text[row : row + 4])},{row / 2}" for row in range(ROWS["length"])]
    topics = [f"{' '.join(text[row : row + 5])},{row % 2},{row // 3}" for row in range(ROWS["topics"])]
    for name, header, lines in (
        ("mood", "text,label", mood),
        ("length", "words,size", length),
        ("topics", "text,one,two", topics),
    ):
        (folder / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")
    return {
        "mood": {"train": str(folder / "mood.csv")},
        "length": {"train": str(folder / "length.csv"), "text": "words", "label": "size"},
        "topics": {"train": str(folder / "topics.csv"), "label": ["one", "two"]},
    }


def bound(
    *tricks: Any, model: torch.nn.Module | None = None, seed: int = 0, init: bool = True, **training: Any
) -> Session:
    recipe, task = tiny.recipe(*tricks, **training), every.task_for("head_tail")
    splits, added = splits_of(recipe, task, recipe.stack())
    batches = loader(splits["train"], task.tokenizer, recipe.training.batch_size, shuffle=True, added=added)
    model = model or tiny.bert(seed=seed, blocks=2)
    return recipe.bind(model, batches, init=init, context=about(recipe, task), forward=partial(without, added))


# -- the rows ----------------------------------------------------------------------------------------------


def test_how_many_rows_of_each_set() -> None:
    assert rows_of_each(100, [400, 25], "size", 2.0) == [400, 25]
    assert rows_of_each(100, [400, 25], "temperature", 2.0) == [200, 50]  # 100 * sqrt(4), 100 * sqrt(1/4)
    assert rows_of_each(100, [400, 25], "temperature", 1.0) == [400, 25]
    assert rows_of_each(100, [400, 25], "equal", 2.0) == [100, 100]


def test_rows_are_drawn_once_or_repeated_as_evenly_as_can_be() -> None:
    assert draw(4, 4, seed=0) == [0, 1, 2, 3]
    some = draw(100, 10, seed=0)
    assert len(set(some)) == 10
    assert draw(100, 10, seed=1) != some
    assert sorted(draw(3, 7, seed=0).count(row) for row in range(3)) == [2, 2, 3]


def test_a_data_set_is_read_as_a_task_is(tasks: dict[str, Any]) -> None:
    mood, length, topics = (read_task(OtherTask(**task)) for task in tasks.values())
    assert (mood.problem, mood.outputs, mood.labels[:3]) == ("single_label_classification", 4, [[0], [1], [2]])
    assert (length.problem, length.outputs, length.labels[:3]) == ("regression", 1, [[0.0], [0.5], [1.0]])
    assert (topics.problem, topics.outputs, topics.labels[3]) == ("multi_label_classification", 2, [1.0, 1.0])


def test_the_task_stays_and_the_others_stand_below(tasks: dict[str, Any]) -> None:
    recipe, task = tiny.recipe(MultiTask(tasks=tasks)), every.task_for("head_tail")
    splits, added = splits_of(recipe, task, recipe.stack())
    train, own = splits["train"], every.ROWS
    assert set(added) == {"task", "task_label_0", "task_label_1"}
    assert train["task"][:] == [0] * own + [1] * 10 + [2] * 7 + [3] * 5
    assert train["labels"][:own] == task.splits["train"]["labels"][:]
    assert train["labels"][own:] == [0] * 22
    assert train["example_id"][own:] == [-1 - row for row in range(22)]
    assert train["task_label_0"][own:] == [row % 4 for row in range(10)] + [row / 2 for row in range(7)] + [
        0,
        1,
        0,
        1,
        0,
    ]
    assert train["task_label_1"][-5:] == [0, 0, 0, 1, 1]
    assert train["text"][-5] == "w1 w2 w3 w4 w5"
    assert max(map(len, train["input_ids"][own:])) == every.MAX_LENGTH  # some texts were longer
    assert all(ids[-1] == task.tokenizer.sep_token_id for ids in train["input_ids"])


def test_only_train_changes_and_few_shot_draws_from_the_task_alone(tasks: dict[str, Any]) -> None:
    task, alone, others = every.task_for("head_tail"), FewShot(k=2), MultiTask(tasks=tasks)
    whole = task.splits["train"]
    subset = alone.data(whole, "train", Context(seed=0))["example_id"][:]
    for tricks in ([alone, others], [others, alone]):
        recipe = tiny.recipe(*tricks)
        stack = recipe.stack()
        assert stack.data(whole, "valid", 0, **about(recipe, task)) is whole
        train = stack.data(whole, "train", 0, **about(recipe, task))
        assert train["example_id"][:] == [*subset, *(-1 - row for row in range(22))]


# -- the heads ---------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"vocab_size": 50, "num_labels": 3}
MODELS = {
    "roberta": lambda: RobertaForSequenceClassification(
        RobertaConfig(
            **SMALL, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, pad_token_id=0
        )
    ),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(**SMALL, dim=16, n_layers=2, n_heads=2, hidden_dim=16, seq_classif_dropout=0.0, dropout=0.0)
    ),
    "gpt2": lambda: GPT2ForSequenceClassification(
        GPT2Config(**SMALL, n_embd=16, n_layer=2, n_head=2, n_positions=32, pad_token_id=0)
    ),
    "llama": lambda: LlamaForSequenceClassification(
        LlamaConfig(
            **SMALL, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, pad_token_id=0
        )
    ),
    "bert": lambda: tiny.bert(blocks=2),
    "classifier": lambda: Classifier(tiny.bert(blocks=2)),
}


@pytest.mark.parametrize("kind", list(MODELS))
def test_the_heads_read_what_the_output_layer_reads(kind: str, tasks: dict[str, Any]) -> None:
    torch.manual_seed(0)
    session = bound(MultiTask(tasks=tasks), model=MODELS[kind]())
    model = session.model.eval()
    batch = next(session.batches())
    logits = session._forward(batch)["logits"]
    heads = getattr(model, HEADS)
    states = at_last_token(heads.take(), batch["input_ids"], model)
    output = output_layer(model)
    assert torch.allclose(output(states), logits, atol=1e-6)
    assert [tuple(scores.shape) for scores in heads(states)] == [(4, 4), (4, 1), (4, 2)]
    tiny.train(session, steps=2)
    assert not torch.equal(getattr(model, HEADS).heads[0].weight, torch.zeros(4, 16))


def test_they_belong_to_the_head_and_go_when_training_ends(tasks: dict[str, Any]) -> None:
    session = bound(MultiTask(tasks=tasks))
    assert {f"{HEADS}.heads.0.weight", "classifier.weight"} <= set(session.layers.parameters["head"])
    tiny.train(session, steps=1)
    copy.deepcopy(session.model)  # keeps no graph of the last pass
    model = session.finish()
    assert model.state_dict().keys() == tiny.bert(blocks=2).state_dict().keys()
    assert not model.classifier._forward_pre_hooks


def test_it_does_not_matter_which_trick_builds_first(tasks: dict[str, Any]) -> None:
    others, pooling = MultiTask(tasks=tasks), ConcatPooling()
    sessions = [bound(*tricks) for tricks in ([others, pooling], [pooling, others])]
    assert getattr(sessions[0].model, HEADS).heads[0].in_features == sessions[0].model.output.in_features != 16
    losses = [tiny.train(session) for session in sessions]
    assert losses[0] == losses[1]
    assert tiny.equal(sessions[0].finish(), sessions[1].finish())


def test_a_model_without_a_linear_output_layer_is_refused(tasks: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="multi_task puts heads beside the linear output layer.*BertModel is none"):
        tiny.recipe(MultiTask(tasks=tasks)).stack().build(tiny.bert().bert, 0)


# -- the loss ----------------------------------------------------------------------------------------------


def by_hand(session: Session, batch: Any, own: Any, weight: float = 1.0) -> torch.Tensor:
    """The sum over examples of their task's loss, over their number."""
    session.model.eval()
    logits = session._forward(batch)["logits"]
    scores = getattr(session.model, HEADS)(getattr(session.model, HEADS).take())
    first, second = batch["task_label_0"], batch["task_label_1"]
    total = torch.zeros(())
    for row, task in enumerate(batch["task"].tolist()):
        if task == 0:
            total = total + own(logits[row], batch["labels"][row])
        elif task == 1:
            total = total + weight * F.cross_entropy(scores[0][row], first[row].long())
        elif task == 2:
            total = total + weight * (scores[1][row, 0] - first[row]) ** 2
        else:
            both = torch.stack([first[row], second[row]])
            total = total + weight * F.binary_cross_entropy_with_logits(scores[2][row], both)
    return total / len(batch["task"])


OWNERS: dict[str, Any] = {
    "none": ([], F.cross_entropy),
    "cross_entropy": ([CrossEntropy()], F.cross_entropy),
    "label_smoothing": ([LabelSmoothing(smoothing=0.3)], partial(F.cross_entropy, label_smoothing=0.3)),
    "mse": ([MSE()], lambda logits, label: F.mse_loss(logits, torch.eye(3)[label])),
}


@pytest.mark.parametrize("owner", list(OWNERS))
def test_each_row_counts_by_its_own_task(owner: str, tasks: dict[str, Any]) -> None:
    tricks, own = OWNERS[owner]
    for order in ([*tricks, MultiTask(tasks=tasks, weight=0.5)], [MultiTask(tasks=tasks, weight=0.5), *tricks]):
        session = bound(*order, batch_size=11)
        seen = set()
        for batch in session._order.epoch(0, 0):
            seen |= set(batch["task"].tolist())
            expected = by_hand(session, batch, own, weight=0.5)
            assert session.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)
            session._micro_batch = 0
        assert seen == {0, 1, 2, 3}


def test_a_micro_batch_without_rows_of_the_task_is_no_trouble(tasks: dict[str, Any]) -> None:
    session = bound(MultiTask(tasks=tasks))
    batch = next(session.batches())
    batch["task"] = torch.tensor([1, 2, 2, 1])
    session.loss(batch).backward()
    model = session.model
    assert torch.isfinite(model.bert.embeddings.word_embeddings.weight.grad).all()
    assert not model.classifier.weight.grad.any()
    assert not getattr(model, HEADS).heads[2].weight.grad.any()  # in the graph, though it has no rows
    assert getattr(model, HEADS).heads[0].weight.grad.any()


def test_from_a_share_of_the_run_on_the_task_counts_alone(tasks: dict[str, Any]) -> None:
    session = bound(MultiTask(tasks=tasks, alone_from=0.5))
    batch = next(session.batches())
    batch["task"] = torch.tensor([0, 1, 0, 2])
    session.model.eval()
    rows = torch.tensor([0, 2])
    logits = session._forward(batch)["logits"][rows]
    half = session.plan.total_steps // 2
    session.global_step = half
    expected = F.cross_entropy(logits, batch["labels"][rows])
    assert session.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    session.global_step = half - 1
    assert session.loss(batch).item() != pytest.approx(expected.item(), rel=1e-3)
    session.global_step = half
    batch["task"] = torch.tensor([1, 1, 2, 2])
    nothing = session.loss(batch)
    nothing.backward()
    assert nothing.item() == 0
    assert not any(p.grad.any() for p in session.model.parameters() if p.grad is not None)


def test_what_other_tricks_add_is_kept_in_either_order(tasks: dict[str, Any]) -> None:
    others, lm = MultiTask(tasks=tasks), AuxiliaryLM(gamma=0.5)
    losses = []
    for tricks in ([others, lm], [lm, others], [others], [lm]):
        session = bound(*tricks, model=tiny.bert(blocks=2, dropout=0.0))
        if others in tricks:
            batch = next(session.batches())
            losses.append(session.loss(batch).item())
            continue
        del batch["task_label_0"], batch["task_label_1"], batch["task"]
        plain = session.model.eval()(**batch).loss.item()
        added = session.loss(batch).item() - plain
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] - losses[2] == pytest.approx(added, rel=1e-4)


# -- training ----------------------------------------------------------------------------------------------


def test_it_changes_training_without_other_tasks_it_is_absent_bit_for_bit(tasks: dict[str, Any]) -> None:
    def trained(*tricks: Any, **training: Any) -> dict[str, torch.Tensor]:
        session = bound(*tricks, **training)
        tiny.train(session)
        return session.finish().state_dict()

    plain = trained()
    assert every.same(trained(MultiTask(tasks={})), plain)
    assert not every.same(trained(MultiTask(tasks=tasks)), plain)
    accumulated = trained(MultiTask(tasks=tasks), accumulation=3)
    assert all(torch.isfinite(value).all() for value in accumulated.values())


@pytest.mark.parametrize("at", [2, 7, 13])
def test_resumed_is_uninterrupted_bit_for_bit(at: int, tasks: dict[str, Any], tmp_path: Path) -> None:
    trick = MultiTask(tasks=tasks, sampling="temperature", alone_from=0.5)
    whole, first, second = (bound(trick, seed=seed, init=not seed) for seed in (0, 0, 9))
    tiny.train(whole)
    tiny.train(first, steps=at)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    tiny.train(second)
    assert tiny.equal(second.model, whole.model)


def test_in_bf16(tasks: dict[str, Any]) -> None:
    session = bound(MultiTask(tasks=tasks), precision="bf16", epochs=1)
    assert all(torch.isfinite(torch.tensor(tiny.train(session))))


def test_the_trainer_gives_the_losses_of_the_loop(tasks: dict[str, Any], tmp_path: Path) -> None:
    recipe, task = tiny.recipe(MultiTask(tasks=tasks)), every.task_for("head_tail")
    plain, _ = splits_of(tiny.recipe(), task, tiny.recipe().stack())  # tokenised and cut, as the user's own are
    trainer = TrickTrainer(
        recipe=recipe,
        model=tiny.bert(blocks=2),
        args=recipe.training_arguments(
            tmp_path, disable_tqdm=True, save_strategy="no", use_cpu=True, logging_strategy="no"
        ),
        train_dataset=plain["train"],
        eval_dataset=plain["train"],
        processing_class=task.tokenizer,
    )
    in_trainer = losses_of(trainer)
    assert in_trainer == pytest.approx(tiny.train(bound(MultiTask(tasks=tasks))), abs=1e-6)
    assert not hasattr(trainer.model, HEADS)
    assert trainer.evaluate()["eval_loss"] > 0


def catalog() -> Catalog:
    return installed().with_classes([MultiTask])


# -- a run -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.write_task(tmp_path_factory.mktemp("task"))
    lines = [
        f"{bird} {where},{label}" for bird in ("wing", "beak") for where, label in (("reef", "low"), ("nest", "high"))
    ]
    (folder / "other.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return folder


def test_a_run_saves_a_plain_model_of_the_task_alone(folder: Path, tmp_path: Path) -> None:
    trick = MultiTask(tasks={"other": {"train": str(folder / "other.csv")}}, sampling="equal")
    result = run(recipe_in(folder, [trick]), tmp_path / "run")
    assert result.steps == 2 * 12  # (45 + 45) / 8
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert model.config.num_labels == 2
    frame = predict(tmp_path / "run", folder / "test.csv", catalog=catalog())
    assert set(frame["prediction"]) <= {"bird", "fish"}
    header = (tmp_path / "run" / "predictions" / "valid.csv").read_text().splitlines()
    assert len(header) == 16
    run(recipe_in(folder, [trick]), tmp_path / "again")  # the same bits
    assert (
        files_of(tmp_path / "run")["model/model.safetensors"] == files_of(tmp_path / "again")["model/model.safetensors"]
    )


def test_what_decides_while_training_decides_on_rows_of_the_task(folder: Path, tmp_path: Path) -> None:
    trick = MultiTask(tasks={"other": {"train": str(folder / "other.csv")}}, sampling="equal")
    recipe = recipe_in(folder, [trick, EarlyStopping()], epochs=1)
    splits, _ = splits_of(recipe, task_of(recipe), recipe.stack())
    assert min(splits["held_out"]["example_id"]) >= 0
    assert len(splits["train"]) + len(splits["held_out"]) == 90
    assert run(recipe, tmp_path / "run").steps == -(-len(splits["train"]) // 8)


def test_a_finished_run_is_loaded_when_the_other_data_are_gone(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "gone.csv"
    other.write_text((folder / "other.csv").read_text())
    run(recipe_in(folder, [MultiTask(tasks={"other": {"train": str(other)}})], epochs=1), tmp_path / "run")
    other.unlink()
    load(tmp_path / "run", catalog())
    stack = Recipe(tricks=[MultiTask(tasks={"other": {"train": str(other)}})]).stack()
    model = stack.build(tiny.bert(), 0)
    stack.finish(model)
    assert model.state_dict().keys() == tiny.bert().state_dict().keys()


# -- what it refuses ---------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_recipe_and_must_exist(folder: Path) -> None:
    text = "data: {train: train.csv}\ntricks:\n- multi_task: {tasks: {other: {train: NAME}}}\n"
    (folder / "relative.yaml").write_text(text.replace("NAME", "other.csv"))
    ((_, trick),) = Recipe.load(folder / "relative.yaml", catalog=catalog()).tricks
    assert trick.tasks["other"].train == str((folder / "other.csv").resolve())
    (folder / "missing.yaml").write_text(text.replace("NAME", "nowhere.csv"))
    with pytest.raises(RecipeError, match=r"missing.yaml:3 tricks.*no such file: .*nowhere.csv"):
        Recipe.load(folder / "missing.yaml", catalog=catalog())


def test_a_resolved_recipe_reads_back(tasks: dict[str, Any]) -> None:
    for trick in (MultiTask(tasks=tasks, alone_from=0.5), MultiTask(tasks={})):
        assert MultiTask.model_validate(trick.model_dump(mode="json")) == trick
        assert hash(MultiTask.model_validate(trick.model_dump(mode="json"))) == hash(trick)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": 0}, "greater than 0"),
        ({"alone_from": 1}, "less than 1"),
        ({"temperature": 5.0}, "sampling by size has no temperature"),
        ({"sampling": "temperature", "temperature": 0.5}, "greater than or equal to 1"),
        ({"tasks": {"a": {"train": "a.csv", "text": "x", "label": "x"}}}, "named twice in text and label: x, x"),
        ({"tasks": {"a": {"train": "a.csv", "label": ["x", "y"], "kind": "regression"}}}, "has one label column"),
        ({"tasks": {"a": {"train": "a.csv", "text": ["x", "y", "z"]}}}, "at most 2"),
        ({"tasks": {"a": {"text": "x"}}}, "train"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MultiTask(**({"tasks": {}} | values))


def test_data_that_cannot_be_used_are_refused(tasks: dict[str, Any], tmp_path: Path) -> None:
    train, context = every.task_for("head_tail").splits["train"], {"tokenizer": every.tokenizer(), "max_length": 12}

    def changed(dataset: Any, tasks: Any, **context: Any) -> Any:
        return Recipe(tricks=[MultiTask(tasks=tasks)]).stack().data(dataset, "train", 0, **context)

    with pytest.raises(DataError, match="no column 'word'"):
        changed(train, {"mood": {**tasks["mood"], "text": "word"}}, **context)
    with pytest.raises(InputError, match="no tokenizer"):
        changed(train, tasks, tokenizer=None)
    with pytest.raises(InputError, match="got a list and a tokenizer"):
        changed([1, 2], tasks, **context)
    with pytest.raises(InputError, match="puts their rows into a tokenised"):
        changed(datasets.Dataset.from_dict({"text": ["a"], "labels": [0]}), tasks, **context)


def test_batches_without_the_other_rows_are_refused_before_training(tasks: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="multi_task: the training batches have no `task`"):
        tiny.recipe(MultiTask(tasks=tasks)).bind(tiny.bert(), tiny.loader())
    gone = {"gone": {"train": "nowhere.csv"}}
    with pytest.raises(InputError, match=r"multi_task.tasks: no such file: .*nowhere.csv"):
        tiny.recipe(MultiTask(tasks=gone)).bind(tiny.bert(), tiny.loader())

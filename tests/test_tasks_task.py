"""A task from end to end: sources, splits, notes, lengths, fingerprint, and what is refused."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import BertConfig, BertModel, RobertaConfig

from finetricks.errors import DataError, InputError, ModelError, RecipeError
from finetricks.settings import Data
from finetricks.tasks import Task, load_task
from finetricks.tasks.encode import loader, truncate
from finetricks.tasks.metrics import METRICS, compute_metrics
from finetricks.tasks.models import load_tokenizer, resolve_model
from finetricks.tasks.predictions import score


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A folder with a tiny BERT and minilm's tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    load_tokenizer(resolve_model("minilm")).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def csv(tmp_path):
    """Writes rows as a CSV file, gives its path."""

    def write(name: str, header: str, rows: list[str]) -> str:
        (tmp_path / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return str(tmp_path / name)

    return write


ROWS = [f"text number {row},{'01' if row % 3 else '1'}" for row in range(60)]


def trained_a_step(task: Task) -> dict[str, float]:
    """Check that a task's batches, loss, scores and metrics go together; gives the metrics on valid."""
    model = task.model(0)
    train = truncate(task.splits["train"], task.tokenizer, task.max_length)
    batch = next(iter(loader(train, task.tokenizer, 4)))
    loss = model(**batch).loss
    assert loss.shape == ()
    loss.backward()
    valid = truncate(task.splits["valid"], task.tokenizer, task.max_length)
    scores = score(model, valid, task.tokenizer, kind=task.kind, batch_size=4)
    assert scores.shape == (len(valid), len(task.labels) or 1)
    metrics = compute_metrics(task.kind, scores, valid["labels"])
    assert tuple(metrics) == METRICS[task.kind]
    return metrics


def test_classification_with_a_drawn_valid_set(model, csv) -> None:
    test = csv("test.csv", "text,label", ["text number 1,1", "unseen,01"])
    data = Data(train=csv("train.csv", "text,label", ROWS), valid=0.2, test=test)
    task = load_task(model, data)
    assert (task.kind, task.labels, task.text_columns) == ("classification", ("01", "1"), ("text",))
    assert list(task.splits) == ["train", "valid", "test"]
    valid = task.splits["valid"]
    assert (len(task.splits["train"]), valid["labels"][:].count(0), valid["labels"][:].count(1)) == (48, 8, 4)
    for example in valid:  # an id is the row in the file
        text, label = ROWS[example["example_id"]].split(",")
        assert (example["text"], task.labels[example["labels"]]) == (text, label)
    assert not set(valid["example_id"]) & set(task.splits["train"]["example_id"])
    assert task.max_length == 512
    doubt, *more = task.notes
    assert doubt == "the labels '01' and '1' differ only in how they are written"
    assert len(more) == ("text number 1" in task.splits["train"]["text"][:])
    trained_a_step(task)


def test_valid_is_the_same_for_any_number_of_rows(model, csv) -> None:
    train = csv("train.csv", "text,label", ROWS)
    all_rows, few = (load_task(model, Data(train=train, valid=0.2, rows=rows)) for rows in (None, 12))
    assert few.splits["valid"]["example_id"][:] == all_rows.splits["valid"]["example_id"][:]
    assert len(few.splits["train"]) == 12
    assert set(few.splits["train"]["example_id"]) < set(all_rows.splits["train"]["example_id"])
    assert few.splits["train"]["labels"][:].count(1) == 4


def test_pairs(model, csv) -> None:
    train = csv("train.tsv", "premise\thypothesis\tgold", ["a b\tc\tyes", "d\te f\tno"] * 2 + ["x\ty\tno", "y\tx\tyes"])
    task = load_task(model, Data(train=train, valid=train, text=["premise", "hypothesis"], label="gold"))
    assert task.text_columns == ("premise", "hypothesis")
    assert task.splits["train"][0]["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert task.notes == ("4 texts of valid stand in train too",)
    trained_a_step(task)


def test_regression(model, csv) -> None:
    train = csv("train.csv", "text,label", [f"text {row},{row / 4}" for row in range(20)])
    task = load_task(model, Data(train=train))
    assert (task.kind, task.labels) == ("regression", ())
    assert task.notes == (
        "the labels are numbers with decimals, so this is a regression; `data.kind` can say otherwise",
    )
    assert len(task.splits["valid"]) == 2
    trained_a_step(task)
    assert load_task(model, Data(train=train, kind="classification", valid=train)).kind == "classification"


def test_several_labels(model, csv) -> None:
    train = csv("train.csv", "text,wet,cold", [f"text {row},{row % 2},{row // 10}" for row in range(20)])
    task = load_task(model, Data(train=train, label=["wet", "cold"]))
    assert (task.kind, task.labels) == ("multi_label", ("wet", "cold"))
    first = task.splits["train"][0]
    assert first["labels"] == [first["example_id"] % 2, first["example_id"] // 10]
    trained_a_step(task)


def test_the_embedded_data_set_and_the_packaged_model() -> None:
    task = load_task("minilm", Data(train="stdlib_docstrings", rows=64))
    assert len(task.labels) >= 10
    assert len(task.splits["train"]) == 64
    assert set(task.splits["train"]["labels"]) == set(range(len(task.labels)))
    batch = next(iter(loader(truncate(task.splits["train"], task.tokenizer, 32), task.tokenizer, 8)))
    assert task.model(0)(**batch).logits.shape == (8, len(task.labels))


def test_all_kinds_of_files_give_one_task(model, csv, tmp_path) -> None:
    train = csv("train.csv", "text,label", ROWS)
    rows = [{"text": text, "label": label} for text, label in (row.split(",") for row in ROWS)]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    Dataset.from_list(rows).to_parquet(tmp_path / "x.parquet")
    fingerprints = {
        load_task(model, Data(train=str(path))).fingerprint
        for path in (train, tmp_path / "x.jsonl", tmp_path / "x.parquet")
    }
    assert len(fingerprints) == 1


def test_the_fingerprint_is_that_of_the_content(model, csv) -> None:
    train = csv("train.csv", "text,label", ROWS)
    first = load_task(model, Data(train=train)).fingerprint
    assert len(first) == 64
    other_texts = csv("texts.csv", "text,label", [ROWS[0].replace("text", "texts"), *ROWS[1:]])
    other_labels = csv("labels.csv", "text,label", [ROWS[0].replace(",1", ",01"), *ROWS[1:]])
    different = [
        Data(train=other_texts),
        Data(train=other_labels),
        Data(train=train, split_seed=1),
        Data(train=train, rows=20),
        Data(train=train, valid=0.2),
        Data(train=train, test=other_texts),
    ]
    fingerprints = {load_task(model, data).fingerprint for data in different}
    assert len(fingerprints | {first}) == len(different) + 1
    copy = csv("copy.csv", "text,label", ROWS)
    assert load_task(model, Data(train=copy), max_length=16).fingerprint == first


def test_loading_leaves_the_global_random_state_alone(model, csv) -> None:
    data = Data(train=csv("train.csv", "text,label", ROWS), rows=20)
    before = torch.get_rng_state()
    load_task(model, data).model(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_that_a_split_lacks_are_noted(model, csv) -> None:
    task = load_task(model, Data(train=csv("train.csv", "text,label", [*ROWS, "alone,rare"])))
    assert task.notes[1:] == ("valid has no example of 'rare'",)
    assert "alone" in task.splits["train"]["text"][:]


# Lengths


def test_lengths(model, csv, tmp_path) -> None:
    data = Data(train=csv("train.csv", "text,label", ROWS))
    assert load_task(model, data, max_length=64).max_length == 64
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    folder = tmp_path / "roberta"
    RobertaConfig(**small, max_position_embeddings=130).save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    assert load_task(str(folder), data).max_length == 128
    with pytest.raises(RecipeError, match=r"^training\.max_length: 129, but .* sees at most 128 tokens"):
        load_task(str(folder), data, max_length=129)
    pairs = Data(
        train=csv("pairs.csv", "a,b,label", [f"x{row},y,{row % 2}" for row in range(9)]), text=["a", "b"], valid=0.5
    )
    with pytest.raises(RecipeError, match=r"^training\.max_length: 3, but 3 of an example's tokens are special ones"):
        load_task(model, pairs, max_length=3)


# Hugging Face data sets


@pytest.fixture
def folder(tmp_path, monkeypatch) -> str:
    """A data set as a local folder; it is loaded as one of the Hub is."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = Features({"text": Value("string"), "label": ClassLabel(names=["pos", "neg"])})
    (tmp_path / "reviews").mkdir()
    for split, first in (("train", 0), ("validation", 100), ("test", 200)):
        rows = {"text": [f"text {first + row}" for row in range(20)], "label": [row % 2 for row in range(20)]}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "reviews" / f"{split}.parquet")
    return str(tmp_path / "reviews")


def test_splits_of_a_data_set_are_used_by_name(model, folder, capfd) -> None:
    capfd.readouterr()
    task = load_task(model, Data(train=folder, valid="validation", test="test"))
    assert task.labels == ("neg", "pos")
    assert [split["text"][0] for split in task.splits.values()] == ["text 0", "text 100", "text 200"]
    assert [task.labels[label] for label in task.splits["test"]["labels"][:2]] == ["pos", "neg"]
    assert capfd.readouterr() == ("", "")
    drawn = load_task(model, Data(train=folder))
    assert (len(drawn.splits["train"]), len(drawn.splits["valid"])) == (18, 2)


def test_no_word_of_a_data_set_of_csv_files_means_missing(model, folder, tmp_path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.csv").write_text("text,label\nNA,x\nnull,y\nc,x\nd,NA\ne,y\nf,NA\n")
    task = load_task(model, Data(train=str(tmp_path / "texts"), valid=0.5))
    assert task.labels == ("NA", "x", "y")
    assert {text for split in task.splits.values() for text in split["text"]} == {"NA", "null", "c", "d", "e", "f"}


def test_what_a_data_set_lacks_is_named(model, folder) -> None:
    with pytest.raises(DataError) as error:
        load_task(model, Data(train=folder, valid="valdation", test="dev"))
    listed = "its splits are train, validation, test (a file works too)"
    assert {str(problem) for problem in error.value.problems} == {
        f"data.valid: reviews has no split 'valdation' (did you mean 'validation'?); {listed}",
        f"data.test: reviews has no split 'dev'; {listed}",
    }
    with pytest.raises(DataError, match=r"^reviews/train: no column 'txt' \(did you mean 'text'\?\)"):
        load_task(model, Data(train=folder, text="txt"))
    with pytest.raises(DataError, match="cannot load the data set .*reviews': BuilderConfig 'large' not found"):
        load_task(model, Data(train=folder, subset="large"))


def test_hidden_test_labels_are_refused(model, folder) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["pos", "neg"])})
    hidden = Dataset.from_dict({"text": ["a", "b"], "label": [-1, -1]}, features=features)
    hidden.to_parquet(f"{folder}/test.parquet")
    with pytest.raises(DataError, match=r"^reviews/test row 1: the column 'label' is empty in 2 rows \(rows 1, 2\)"):
        load_task(model, Data(train=folder, test="test"))


def test_a_data_set_that_cannot_be_reached_says_that_it_looked_offline(model) -> None:
    with pytest.raises(DataError) as error:
        load_task(model, Data(train="someone/some-data"))
    assert str(error.value).startswith("cannot load the data set 'someone/some-data': no file or folder of that name")
    assert "could not be reached (offline: HF_HUB_OFFLINE=1 is set)" in str(error.value)


def test_a_folder_that_is_no_data_set(model, folder, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot load the data set .*doesn't contain any data files"):
        load_task(model, Data(train=str(tmp_path / "empty")))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.csv").write_text("text,label\na,1\nb\n'c,d,e,f\n")
    with pytest.raises(DataError, match="cannot read the data set .*line 4"):
        load_task(model, Data(train=str(tmp_path / "broken")))


# What is refused


@pytest.mark.parametrize(
    ("lines", "settings", "message"),
    [
        (["text,label", "a,1", "b,1"], {}, "train.csv: all 2 rows have the same label (label=1)"),
        (
            ["text,lable", "a,1"],
            {},
            "train.csv: no column 'label' (did you mean 'lable'?); its columns are text, lable",
        ),
        (["text,label", "a,1", "b,"], {}, "train.csv:3: the column 'label' is empty"),
        (["text,label", "a,x", "b,0"], {"kind": "multi_label"}, "train.csv:2: the label column 'label' holds 'x'"),
        (["text,label", "a,1", "b,0"], {"valid": 0.1}, "data.valid: a share of 0.1 of 2 rows"),
        (["text,label", *ROWS], {"rows": 55}, "data.rows: 55 asked for, but train has 54"),
        (["text,label", *ROWS], {"rows": 1}, "data.rows: 1 is fewer than the 2 classes"),
        (
            ["text,label", *ROWS],
            {"valid": "dev"},
            "data.valid: no file 'dev', and only a Hugging Face data set in data",
        ),
        (["text,label", *ROWS], {"subset": "cola"}, "data.subset: only a Hugging Face data set has subsets"),
        (["text,label", *ROWS], {"text": "label"}, "data: the column 'label' is named twice in text and label"),
    ],
)
def test_data_that_cannot_be_used(model, csv, lines: list[str], settings, message: str) -> None:
    train = csv("train.csv", lines[0], lines[1:])
    with pytest.raises(DataError) as error:
        load_task(model, Data(train=train, **settings))
    assert message in str(error.value)


def test_problems_of_all_splits_are_told_at_once(model, csv, tmp_path) -> None:
    train = csv("train.csv", "text,label", ROWS)
    test = csv("test.csv", "text,label", ["a,1", "b,2", "c,3"])
    valid = csv("valid.csv", "text,label", ["a,x"])
    with pytest.raises(DataError) as error:
        load_task(model, Data(train=train, valid=valid, test=test))
    assert [str(problem) for problem in error.value.problems] == [
        "valid.csv:2: train lacks the label 'x' (it has '01', '1')",
        "test.csv:3: train lacks the labels '2', '3' (it has '01', '1') in 2 rows (lines 3, 4)",
    ]
    with pytest.raises(DataError) as error:
        load_task(model, Data(train=str(tmp_path / "absent.csv"), valid=train, test=str(tmp_path / "gone.tsv")))
    assert ["absent.csv" in str(error.value), "gone.tsv" in str(error.value)] == [True, True]


def test_a_model_that_does_not_exist(csv) -> None:
    data = Data(train=csv("train.csv", "text,label", ROWS))
    with pytest.raises(ModelError, match="could not be reached"):
        load_task("no-such-model", data)
    with pytest.raises(InputError, match="no model folder /no/such/folder"):
        load_task("/no/such/folder", data)
    with pytest.raises(InputError) as error:
        load_task("no-such-model", data.model_copy(update={"text": "txt"}))
    assert [str(problem)[:22] for problem in error.value.problems] == [
        "cannot load the model ",
        "train.csv: no column '",
    ]


def test_another_length_shares_the_tokens(model, csv) -> None:
    task = load_task(model, Data(train=csv("a.csv", "text,label", ROWS)))
    shorter = task.with_length(16)
    assert (shorter.max_length, shorter.fingerprint) == (16, task.fingerprint)
    assert shorter.splits["train"] is task.splits["train"]
    assert shorter.with_length(None).max_length == task.max_length
    with pytest.raises(RecipeError, match="training.max_length: 513, but tiny sees at most 512 tokens"):
        task.with_length(513, named="tiny")


def test_tokens_are_handed_to_a_worker_without_a_copy(model, csv) -> None:
    rows = [f"text number {row} of a longer and longer series,{row % 2}" for row in range(2000)]
    task = load_task(model, Data(train=csv("a.csv", "text,label", rows)))
    buffers: list[pickle.PickleBuffer] = []
    left = pickle.dumps((task, task.with_length(8)), protocol=5, buffer_callback=buffers.append)
    tokens = sum(sum(map(len, split["input_ids"])) for split in task.splits.values())
    outside = sum(buffer.raw().nbytes for buffer in buffers)
    assert 6 * tokens < outside < 20 * tokens  # 4 + 1 + 1 bytes a token, and the texts; once
    assert len(left) < len(pickle.dumps(task.tokenizer)) + 50_000

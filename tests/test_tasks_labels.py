"""The kind of a task, its label names, and their encoding."""

from __future__ import annotations

import pytest

from finetricks.errors import DataError
from finetricks.settings import Data
from finetricks.tasks.labels import doubts, encode, kind_of, names_of
from finetricks.tasks.table import Table


def table(**columns: list[str]) -> Table:
    return Table("train.csv", columns, lines=range(2, 2 + len(next(iter(columns.values())))))


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["0", "1"], "classification"),
        (["1.5", "2"], "regression"),
        (["-.5", "+2e-3"], "regression"),
        (["1.5", "two"], "classification"),
        (["nan", "1.5"], "classification"),
        (["01", "1"], "classification"),
    ],
)
def test_the_kind_follows_the_labels(labels: list[str], kind: str) -> None:
    assert kind_of(Data(train="x"), {"label": labels}) == kind


def test_the_kind_can_be_said() -> None:
    assert kind_of(Data(train="x", kind="classification"), {"label": ["1.5", "2"]}) == "classification"
    assert kind_of(Data(train="x", kind="regression"), {"label": ["1", "2"]}) == "regression"
    assert kind_of(Data(train="x", label=["a", "b"]), {"a": ["0"], "b": ["1"]}) == "multi_label"
    with pytest.raises(DataError, match=r"^data\.kind: regression has one label column, but data\.label names 2"):
        kind_of(Data(train="x", label=["a", "b"], kind="regression"), {})


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["1", "01", "1"], ("01", "1")),
        (["10", "9", "x"], ("10", "9", "x")),
    ],
)
def test_names_are_sorted_as_numbers_when_all_are(labels: list[str], names: tuple[str, ...]) -> None:
    data = table(label=labels)
    assert names_of("classification", data, data.columns) == names
    assert [names[index] for index in encode("classification", names, data, data.columns)] == labels


def test_values_and_flags() -> None:
    data = table(b=["1", "0", "true"], a=["0.0", "1.0", "False"])
    assert names_of("multi_label", data, data.columns) == ("b", "a")
    assert encode("multi_label", ("b", "a"), data, data.columns) == [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    data = table(label=["1", "-2.5", "3e-1"])
    assert names_of("regression", data, data.columns) == ()
    assert encode("regression", (), data, data.columns) == [1.0, -2.5, 0.3]


@pytest.mark.parametrize("kind", ["classification", "regression", "multi_label"])
def test_one_class_is_refused(kind) -> None:
    data = table(label=["1", "1", "1"])
    with pytest.raises(DataError) as error:
        names_of(kind, data, data.columns)
    assert str(error.value) == "train.csv: all 3 rows have the same label (label=1): nothing to learn"


@pytest.mark.parametrize(
    ("kind", "columns", "message"),
    [
        (
            "classification",
            {"label": ["a", "c", "b", "1", "c"]},
            "train.csv:3: train lacks the labels '1', 'c' (it has 'a', 'b') in 3 rows (lines 3, 5, 6)",
        ),
        ("regression", {"label": ["1", "x"]}, "train.csv:3: the label column 'label' holds 'x', expected a number"),
        ("regression", {"label": ["1e999"]}, "train.csv:2: the label column 'label' holds '1e999', expected a number"),
        (
            "multi_label",
            {"a": ["0", "2"], "b": ["yes", "1"]},
            "train.csv:3: the label column 'a' holds '2', expected 0 or 1\n"
            "train.csv:2: the label column 'b' holds 'yes', expected 0 or 1",
        ),
    ],
)
def test_labels_that_cannot_be_encoded(kind, columns, message: str) -> None:
    data = table(**columns)
    with pytest.raises(DataError) as error:
        encode(kind, ("a", "b"), data, data.columns)
    assert str(error.value) == message


def test_of_many_labels_the_first_are_listed() -> None:
    data = table(label=["x"])
    with pytest.raises(DataError, match=r"it has '0', .* '19' and 130 more\)"):
        encode("classification", [str(index) for index in range(150)], data, data.columns)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b"], []),
        (["1", "2"], []),
        (["0,5", "1.5"], ["'0,5' is no number as it is written"]),
        (["1'000", "2"], ['"1\'000" is no number as it is written']),
        (["01", "1", "1.0", "2"], ["'01' and '1' and '1.0' differ only"]),
        (["Ja", "ja ", "nein"], ["'Ja' and 'ja ' differ only"]),
        (["\u00e9", "e\u0301"], ["differ only"]),
        (["1" * 400, "2" * 400], []),  # too large to be compared as numbers
        (["inf", "nan"], []),
    ],
)
def test_classes_that_someone_may_not_have_meant_are_doubted(names: list[str], words: list[str]) -> None:
    found = doubts(names)
    assert len(found) == len(words)
    assert all(word in doubt for word, doubt in zip(words, found, strict=True))


def test_of_many_doubts_the_first_are_told() -> None:
    assert doubts([f"{space}{number}x" for number in range(50) for space in ("", " ")])[5:] == [
        "and 45 more such labels"
    ]

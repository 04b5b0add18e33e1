"""YAML with line numbers: safe, by YAML 1.2, and every value has a place."""

from __future__ import annotations

import pytest

from finetricks.errors import RecipeError
from finetricks.yaml_file import dump_yaml, load_yaml, override, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("2.0e-4", 2e-4),
        (".5", 0.5),
        ("10", 10),
        ("010", 10),
        ("1_000", "1_000"),
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("2019-01-02", "2019-01-02"),
        ("'10'", "10"),
        ("1:30", "1:30"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_yaml(f"key: {text}").data["key"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("value", ["off", "2e-4", "010", "true", "null", "", "~", "a: b", "- a", "é", "1:30", "0x1F"])
def test_dumped_text_is_read_back_as_text(value: str) -> None:
    assert parse_yaml(dump_yaml({"key": value})).data == {"key": value}


def test_a_place_names_file_line_and_key(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: x\ntraining:\n  epochs: 3\ntricks:\n  - stlr\n  - warmup: {steps: 1}\n")
    document = load_yaml(path)
    assert document.place(("training", "epochs")) == "recipe.yaml:3 training.epochs"
    assert document.place(("tricks", 1, "warmup", "steps")) == "recipe.yaml:6 tricks.1.warmup.steps"
    assert document.place(("training", "sed")) == "recipe.yaml:2 training.sed"  # absent: where it would stand


def test_yaml_cannot_execute_code(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: !!python/object/apply:os.system ['touch owned']\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:1: not YAML"):
        load_yaml(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: [1, 2\n", "recipe.yaml:3: not YAML"),
        (b"a: 1\na: 2\n", "recipe.yaml:2: the key 'a' stands twice"),
        (b"a: \xff\n", "recipe.yaml:1: not UTF-8: the byte 0xff"),
        (b"a: &x [*x]\n", "recipe.yaml:1"),
        (b"a: 1\n\tb: 2\n", "recipe.yaml:2: not YAML"),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_line(tmp_path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as error:
        load_yaml(path)
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read .*absent\.yaml: No such file"):
        load_yaml(tmp_path / "absent.yaml")


def test_override_sets_nested_values_and_entries_of_a_list_by_name() -> None:
    document = parse_yaml("training: {epochs: 3}\ntricks: [stlr, {warmup: {steps: 1}}]")
    changed = override(
        document, ["training.epochs=5", "data.train=x.csv", "tricks.stlr.ratio=10", "tricks.warmup.steps=2"]
    )
    assert changed.data == {
        "training": {"epochs": 5},
        "data": {"train": "x.csv"},
        "tricks": [{"stlr": {"ratio": 10}}, {"warmup": {"steps": 2}}],
    }
    assert changed.place(("training", "epochs")) == "--set training.epochs"
    assert changed.place(("tricks", 1, "warmup", "steps")) == "--set tricks.1.warmup.steps"
    assert changed.place(("data",)) == "--set data.train"
    assert document.data["training"] == {"epochs": 3}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epochs", "write it as name=value"),
        ("tricks.slr.ratio=1", "no entry 'slr' to set (did you mean 'stlr'?)"),
        ("model.a=1", "'a' lies within 'x'"),
    ],
)
def test_an_override_that_cannot_be_applied_says_why(setting: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        override(parse_yaml("model: x\ntricks: [stlr]"), [setting])
    assert message in str(error.value)

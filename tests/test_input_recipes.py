"""Recipes as people write them, and worse: read as YAML 1.2 has them, or refused with line, field and mend."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetricks.errors import InputError
from finetricks.recipe import Recipe
from finetricks.settings import MOST, MOST_SEED, Data, Training
from inputs import command, little_memory


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    with little_memory():
        yield


def laughs(levels: int) -> str:
    """A billion laughs: each level names the one before nine times."""
    first = "a0: &a0 [ha, ha, ha]\n"
    return first + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, levels))


BAD: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    # -- bytes
    "a NUL": ("training:\n  epochs: 3\0\n", ("recipe.yaml:2", "NUL")),
    "UTF-16": ("training: {}\n".encode("utf-16"), ("recipe.yaml:1", "UTF-16; save the file as UTF-8")),
    "latin-1": ("model: x\ndata: {train: für.csv}\n".encode("latin-1"), ("recipe.yaml:2", "0xfc")),
    "a gzip": (b"\x1f\x8b\x08\0", ("recipe.yaml:1", "a gzip archive")),
    "a PDF": (b"%PDF-1.4\n", ("recipe.yaml:1", "not text but a PDF")),
    "a bell": ("training:\n  epochs: \a3\n", ("recipe.yaml:2", "'\\x07' may not stand in it")),
    "an escape character": ("model: \x1b[31mred\n", ("recipe.yaml:1", "'\\x1b' may not stand in it")),
    "a delete character": ("\n\nmodel: \x7f\n", ("recipe.yaml:3", "'\\x7f'")),
    "an escaped NUL": ('model: "a\\0b"\n', ("recipe.yaml:1", "no character of a text")),
    "half of a pair": ('\nmodel: "\\ud800"\n', ("recipe.yaml:2", "'\\ud800', which is no character")),
    "half of a pair in a key": ('"\\ud800": 1\n', ("recipe.yaml:1", "no character")),
    "an escape of no character": ('model: "\\U00110000"\n', ("recipe.yaml", "not YAML")),
    # -- YAML
    "a tab": ("training:\n\tepochs: 3\n", ("recipe.yaml:2", "not YAML")),
    "a tab after spaces": ("training:\n  \tepochs: 3\n  seed: 1\n", ("recipe.yaml",)),
    "a key twice": ("training: {}\ntricks: []\ntraining: {}\n", ("recipe.yaml:3", "the key 'training' stands twice")),
    "a field twice": ("training:\n  seed: 1\n  seed: 2\n", ("recipe.yaml:3", "'seed' stands twice")),
    "a field twice, once in quotes": ("training: {seed: 1, 'seed': 2}\n", ("recipe.yaml:1", "'seed' stands twice")),
    "a colon without a space": ("training:\n  epochs:3\n", ("recipe.yaml", "training")),
    "a bracket that stays open": ("tricks: [stlr\n", ("recipe.yaml:2", "not YAML")),
    "a quote that stays open": ("model: 'x\n\n", ("recipe.yaml", "not YAML")),
    "an indentation that is none": ("training:\n   epochs: 3\n  seed: 1\n", ("recipe.yaml:3", "not YAML")),
    "a percent sign": ("%model: x\n", ("recipe.yaml", "not YAML")),
    "an at sign": ("model: @x\n", ("recipe.yaml:1", "not YAML")),
    "two documents": ("training: {}\n---\ntricks: []\n", ("recipe.yaml:2", "another document")),
    "YAML 2": ("%YAML 2.0\n---\ntraining: {}\n", ("recipe.yaml:1", "not YAML")),
    "a list": ("- stlr\n- warmup\n", ("recipe.yaml:1", "a recipe is a mapping with the keys model, data")),
    "a word": ("stlr\n", ("recipe.yaml:1", "a recipe is a mapping")),
    "a number": ("3\n", ("recipe.yaml:1", "a recipe is a mapping")),
    "an empty list": ("[]\n", ("recipe.yaml:1", "a recipe is a mapping")),
    "false": ("false\n", ("recipe.yaml:1", "a recipe is a mapping")),
    "an alias of nothing": ("model: *m\n", ("recipe.yaml:1", "undefined alias 'm'")),
    "an alias of itself": ("training: &t\n  seed: *t\n", ("recipe.yaml:1", "an alias that contains itself")),
    "an anchor twice": ("model: &m x\ndata: {train: &m y}\n", ("recipe.yaml",)),
    "a billion laughs": (laughs(10), ("recipe.yaml:", "more than 20,000 values")),
    "a quadratic blow-up": (
        "layers:\n  a: &a [" + "x, " * 5000 + "x]\n  b: {c: [*a, *a, *a, *a, *a, *a]}\n",
        ("recipe.yaml:", "more than 20,000 values"),
    ),
    "a merge key": ("training: &t {seed: 1}\nmore:\n  <<: *t\n", ("recipe.yaml:2 more", "unknown key 'more'")),
    "a merge into training": ("training:\n  <<: {seed: 1}\n", ("recipe.yaml:2 training.<<", "unknown key '<<'")),
    "a tag that runs code": (
        "model: !!python/object/apply:os.system ['touch owned']\n",
        ("recipe.yaml:1", "the tag '!!python/object/apply:os.system' is not known here"),
    ),
    "a tag that imports": ("model: !!python/name:os.system\n", ("recipe.yaml:1", "is not known here")),
    "a tag of one's own": ("training: {seed: !seed 1}\n", ("recipe.yaml:1", "the tag '!seed' is not known here")),
    "a set": ("tricks: !!set {stlr}\n", ("recipe.yaml:1", "the tag '!!set'")),
    "bytes": ("model: !!binary aGVsbG8=\n", ("recipe.yaml:1", "the tag '!!binary'")),
    "a date by tag": ("model: !!timestamp 2020-01-01\n", ("recipe.yaml:1", "the tag '!!timestamp'")),
    "a flag by tag that is none": ("model: !!bool maybe\n", ("recipe.yaml:1", "'maybe' is no bool")),
    "a number by tag that is none": ("training: {seed: !!int 0x1F}\n", ("recipe.yaml:1", "'0x1F' is no int")),
    "nothing by tag that is something": ("model: !!null x\n", ("recipe.yaml:1", "'x' is no null")),
    "a list for a key": ("? [a, b]\n: 1\n", ("recipe.yaml:1", "a key that is a list or a mapping")),
    "a mapping for a key": ("training:\n  ? {a: b}\n  : 1\n", ("recipe.yaml:2", "a key that is a list or a mapping")),
    "a number for a key": ("1: 2\n", ("recipe.yaml:1", "unknown key 1")),
    "a flag for a key": ("true: 2\n", ("recipe.yaml:1", "unknown key True")),
    "nothing for a key": ("? \n: 2\n", ("recipe.yaml:1", "unknown key None")),
    "a number for a field": ("training: {1: 2}\n", ("recipe.yaml:1 training",)),
    "a number for a trick's field": ("tricks: [{stlr: {1: 2}}]\n", ("recipe.yaml:1 tricks.0.stlr",)),
    "very deep": ("[" * 5000, ("recipe.yaml", "nested more than 50 deep")),
    "deep": ("layers: " + "[" * 60 + "]" * 60 + "\n", ("recipe.yaml:1", "nested more than 50 deep")),
    "deep by indentation": ("\n".join(" " * n + "a:" for n in range(60)), ("recipe.yaml:", "nested more than 50 deep")),
    "a key of 5,000 characters": ("k" * 5000 + ": 1\n", ("recipe.yaml", "")),
    "a key of 900 characters": ("? " + "k" * 900 + "\n: 1\n", ("recipe.yaml:1", "unknown key 'kkk", "...")),
    "a value of 900,000 characters": (
        "training: {seed: " + "x" * 900_000 + "}\n",
        ("recipe.yaml:1 training.seed", "..."),
    ),
    "a file of megabytes": ("# " + "x" * 2_000_000 + "\n", ("2,000,003 bytes; at most 1,000,000",)),
    "20,000 tricks": ("tricks: [" + "x, " * 20_001 + "x]\n", ("recipe.yaml:1", "more than 20,000 values")),
    "a change of direction in a key": ('"a\\u202eb": 1\n', ("recipe.yaml:1 a\ufffdb", "unknown key 'a\\u202eb'")),
    # -- scalars of YAML 1.1, and numbers that are none
    "yes": ("training: {seed: yes}\n", ("recipe.yaml:1 training.seed", "got 'yes'")),
    "on": ("training: {epochs: on}\n", ("training.epochs", "got 'on'")),
    "true for a number": ("training: {batch_size: true}\n", ("training.batch_size", "a number, not true or false")),
    "true for epochs": ("training: {epochs: true}\n", ("training.epochs", "a number, not true or false")),
    "false for a seed": ("training: {seed: false}\n", ("training.seed", "a number, not true or false, got False")),
    "true for a trick's number": (
        "tricks: [{warmup: {steps: true}}]\n",
        ("warmup.steps", "a number, not true or false"),
    ),
    "true for a share": ("data: {train: stdlib_docstrings, valid: true}\n", ("data.valid",)),
    "a sexagesimal": ("training: {seed: 1:30}\n", ("training.seed", "got '1:30'")),
    "an octal of 1.2": ("training: {seed: 0o17}\n", ("training.seed", "got '0o17'")),
    "a hexadecimal": ("training: {seed: 0x1F}\n", ("training.seed", "got '0x1F'")),
    "infinity": ("training: {epochs: .inf}\n", ("training.epochs", "finite", "got inf")),
    "a number that overflows": ("training: {learning_rate: 1e999}\n", ("training.learning_rate", "finite", "got inf")),
    "not a number": ("training: {learning_rate: .nan}\n", ("training.learning_rate", "got nan")),
    "infinity in a trick": ("tricks: [{stlr: {ratio: .inf}}]\n", ("tricks.0.stlr.ratio", "finite", "got inf")),
    "nan in a list": ("tricks: [{cross_entropy: {class_weights: [1, .nan]}}]\n", ("class_weights", "got nan")),
    "a date": ("training: {seed: 2020-01-01}\n", ("training.seed", "got '2020-01-01'")),
    "10**400 as a seed": (f"training: {{seed: {10**400}}}\n", ("training.seed", "less than or equal to", "...")),
    "10**400 as epochs": (f"training: {{epochs: {10**400}}}\n", ("training.epochs", "...")),
    "10**5000": (f"training: {{seed: {'1' + '0' * 5000}}}\n", ("recipe.yaml:1", "a number of 5,001 digits")),
    "negative zero as a rate": ("training: {learning_rate: -0.0}\n", ("training.learning_rate", "greater than 0")),
    "a fraction for a count": ("training: {batch_size: 2.5}\n", ("training.batch_size", "got 2.5")),
    "a comma for a point": ("training: {learning_rate: '2,5'}\n", ("training.learning_rate", "got '2,5'")),
    "a number in words": ("training: {epochs: three}\n", ("training.epochs", "got 'three'")),
    # -- keys and fields
    "a key that is misspelt": ("modle: x\n", ("recipe.yaml:1 modle", "(did you mean 'model'?)")),
    "a field that is misspelt": (
        "training:\n  learning_rat: 1\n",
        ("recipe.yaml:2", "(did you mean 'learning_rate'?)"),
    ),
    "a field at the top": ("epochs: 3\n", ("recipe.yaml:1 epochs", "unknown key 'epochs'; the keys are model")),
    "a field of data that is unknown": (
        "data: {train: stdlib_docstrings, txt: a}\n",
        ("data.txt", "did you mean 'text'"),
    ),
    "data without train": ("data: {valid: 0.1}\n", ("data.train", "is missing")),
    "data that are a word": ("data: train.csv\n", ("recipe.yaml:1 data", "a mapping with the keys train")),
    "data that are a list": ("data: [train.csv]\n", ("recipe.yaml:1 data", "a mapping with the keys train")),
    "train that is a list": ("data: {train: [a.csv, b.csv]}\n", ("data.train", "got ['a.csv', 'b.csv']")),
    "train that is empty": ("data: {train: ''}\n", ("data.train", "is empty: name a file")),
    "train that is nothing": ("data: {train: }\n", ("data.train",)),
    "three text columns": ("data: {train: stdlib_docstrings, text: [a, b, c]}\n", ("data.text", "2 items")),
    "no text column": ("data: {train: stdlib_docstrings, text: []}\n", ("data.text", "1 item")),
    "no label column": ("data: {train: stdlib_docstrings, label: []}\n", ("data.label", "1 item")),
    "a kind that is none": (
        "data: {train: stdlib_docstrings, kind: clasification}\n",
        ("data.kind", "'classification'"),
    ),
    "training that is a list": ("training: [epochs]\n", ("recipe.yaml:1 training", "a mapping with the keys epochs")),
    "training that is a number": ("training: 3\n", ("recipe.yaml:1 training", "got 3")),
    "an optimizer that is none": ("training: {optimizer: adam}\n", ("training.optimizer", "'adamw' or 'sgd'")),
    "one beta": ("training: {betas: [0.9]}\n", ("training.betas",)),
    "a beta of 1": ("training: {betas: [0.9, 1]}\n", ("training.betas", "less than 1")),
    "a model that is a number": ("model: 5\n", ("recipe.yaml:1 model", "got 5")),
    "a model that is a list": ("model: [a]\n", ("recipe.yaml:1 model", "got ['a']")),
    "a model that is empty": ("model: ''\n", ("recipe.yaml:1 model", "a Hub name, a local folder")),
    "a model that is not there": ("model: ./none\n", ("recipe.yaml:1 model", "no such folder")),
    "a model of another's home": ("model: ~nobody-of-this-name/x\n", ("recipe.yaml:1 model", "no such folder")),
    "a model of 5,000 characters": ("model: /" + "a" * 5000 + "\n", ("recipe.yaml:1 model", "no such folder", "...")),
    "several mistakes": ("modle: x\ntraining: {epochs: 0}\ntricks: [slr]\n", ("modle", "training.epochs", "'stlr'")),
    # -- tricks
    "tricks that are a word": ("tricks: stlr\n", ("recipe.yaml:1 tricks", "a list such as [stlr")),
    "tricks that are a mapping": ("tricks: {stlr: {}}\n", ("recipe.yaml:1 tricks", "a list such as [stlr")),
    "tricks that are a number": ("tricks: 5\n", ("recipe.yaml:1 tricks", "got 5")),
    "a trick that is unknown": ("tricks: [sltr]\n", ("tricks.0.sltr", "(did you mean 'stlr'?)")),
    "a trick in capitals": ("tricks: [STLR]\n", ("tricks.0.STLR", "unknown trick 'STLR'")),
    "a trick twice": ("tricks: [stlr, {stlr: {ratio: 10}}]\n", ("recipe.yaml:1 tricks", "stlr")),
    "a trick that is nothing": ("tricks: [~]\n", ("recipe.yaml:1 tricks.0", "got None")),
    "a trick that is a number": ("tricks: [1]\n", ("tricks.0", "got 1")),
    "a trick that is a list": ("tricks: [[stlr]]\n", ("tricks.0", "got ['stlr']")),
    "a trick that is empty": ("tricks: [{}]\n", ("tricks.0", "got {}")),
    "a trick without a name": ("tricks: ['']\n", ("tricks.0", "unknown trick ''")),
    "two tricks in one entry": ("tricks: [{stlr: {}, warmup: {steps: 1}}]\n", ("tricks.0", "one name with its values")),
    "values beside the name": ("tricks:\n  - stlr:\n    ratio: 10\n", ("recipe.yaml:2 tricks.0", "one name with its")),
    "a value for the trick": ("tricks: [{stlr: 10}]\n", ("tricks.0", "got {'stlr': 10}")),
    "a list for the trick": ("tricks: [{stlr: [10]}]\n", ("tricks.0", "got {'stlr': [10]}")),
    "a field that the trick lacks": ("tricks: [{stlr: {ratoi: 1}}]\n", ("tricks.0.stlr.ratoi", "did you mean 'ratio'")),
    "a trick without fields": ("tricks: [{full: {x: 1}}]\n", ("tricks.0.full.x", "it takes no values")),
    "a field that is missing": ("tricks: [activation]\n", ("tricks.0.activation.to", "is missing")),
    "two owners": (
        "tricks: [stlr, cosine_restarts]\n",
        ("recipe.yaml:1 tricks", "both own the 'schedule' hook; pick one"),
    ),
    "values of a study": ("tricks: [{stlr: {ratio: {values: [1, 2]}}}]\n", ("tricks.0.stlr.ratio",)),
    "a trick with a name of 10,000": (f"tricks: [{'s' * 10_000}]\n", ("tricks.0.sss", "unknown trick 'sss", "...")),
    "layers that are a list": ("layers: [a]\n", ("recipe.yaml:1 layers", "layer names, each with a list")),
    "layers of words": ("layers: {head: classifier}\n", ("recipe.yaml:1 layers", "layer names, each with a list")),
    # -- another kind of file
    "a study without factors": ("recipe: {tricks: [stlr]}\n", ("recipe.yaml", "factors", "is missing")),
    "factors in a recipe": ("model: minilm\nfactors: [stlr]\n", ("recipe.yaml:1 recipe", "is missing")),
    "a resolved study's key": ("model: minilm\nseeds: 5\n", ("recipe.yaml:2 seeds", "unknown key 'seeds'")),
}

GOOD: dict[str, tuple[str | bytes, dict[str, Any]]] = {
    "nothing": ("", {}),
    "comments only": ("# later\n", {}),
    "an empty document": ("---\n...\n", {}),
    "null": ("null\n", {}),
    "an empty mapping": ("{}\n", {}),
    "a byte order mark": (b"\xef\xbb\xbftraining: {seed: 3}\n", {"seed": 3}),
    "CRLF": (b"training:\r\n  seed: 3\r\n  epochs: 2\r\n", {"seed": 3, "epochs": 2}),
    "lone CR": (b"training:\r  seed: 3\r  epochs: 2\r", {"seed": 3, "epochs": 2}),
    "mixed line ends": (b"training:\r\n  seed: 3\n  epochs: 2\r", {"seed": 3, "epochs": 2}),
    "JSON": ('{"training": {"seed": 3, "learning_rate": 1e-4}}', {"seed": 3, "learning_rate": 1e-4}),
    "a merge by alias": ("training: &t {seed: 3}\n", {"seed": 3}),
    "an alias": ("training: {seed: &s 3, data_seed: *s}\n", {"seed": 3, "data_seed": 3}),
    "1e-4": ("training: {learning_rate: 1e-4}\n", {"learning_rate": 1e-4}),
    "1.e-4": ("training: {learning_rate: 1.e-4}\n", {"learning_rate": 1e-4}),
    ".5": ("training: {clip: .5}\n", {"clip": 0.5}),
    "a number in quotes": ("training: {learning_rate: '1e-4'}\n", {"learning_rate": 1e-4}),
    "a whole number as a fraction": ("training: {seed: 3.0}\n", {"seed": 3}),
    "a leading zero is no octal": ("training: {seed: 010}\n", {"seed": 10}),
    "a plus sign": ("training: {seed: +3}\n", {"seed": 3}),
    "underscores": ("training: {seed: 1_000}\n", {"seed": 1000}),
    "off is a word": ("training: {checkpoint: off}\n", {"checkpoint": "off"}),
    "negative zero": ("training: {clip: -0.0}\n", {"clip": 0.0}),
    "zero seeds": ("training: {seed: 0, init_seed: 0}\n", {"seed": 0, "init_seed": 0}),
    "the largest seed": (f"training: {{seed: {MOST_SEED}}}\n", {"seed": MOST_SEED}),
    "the smallest rate": ("training: {learning_rate: 5e-324}\n", {"learning_rate": 5e-324}),
    "an explicit tag": ("training: {seed: !!int 3, clip: !!float 2}\n", {"seed": 3, "clip": 2.0}),
    "training of nothing": ("training:\n", {}),
    "tricks of nothing": ("tricks:\n", {}),
    "a block that is folded": ("model: >-\n  a\n  b\n", {}),
    "a directive": ("%YAML 1.2\n---\ntraining: {seed: 3}\n", {"seed": 3}),
}


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("what", BAD)
def test_a_recipe_that_is_refused(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    content, told = BAD[what]
    command("check", write(tmp_path, content)).refuses(*told)
    assert os.listdir(tmp_path) == ["recipe.yaml"]  # nothing was run
    record_property("inputs tried", 1)


@pytest.mark.parametrize("what", GOOD)
def test_a_recipe_that_is_read(what: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    content, expected = GOOD[what]
    path = write(tmp_path, content)
    found = Recipe.load(path).training
    assert {key: getattr(found, key) for key in expected} == expected
    assert found == Training(**expected)
    assert command("check", path).code == 0
    record_property("inputs tried", 1)


# -- every numeric field at and beyond each bound --------------------------------------------------------


def bounds() -> Iterator[tuple[str, str, Any, bool]]:
    """Block, field, value, and whether it is taken: from the schema that `finetricks schema` prints."""
    for block, model in (("data", Data), ("training", Training)):
        for name, schema in model.model_json_schema()["properties"].items():
            for branch in schema.get("anyOf", [schema]):
                if branch.get("type") not in ("integer", "number"):
                    continue
                whole = branch["type"] == "integer"
                beside = (lambda v, s: v + s) if whole else (lambda v, s: math.nextafter(float(v), math.inf * s))
                for bound, inside, sign in (
                    ("minimum", True, -1),
                    ("exclusiveMinimum", False, -1),
                    ("maximum", True, 1),
                    ("exclusiveMaximum", False, 1),
                ):
                    if bound in branch:
                        yield block, name, branch[bound], inside
                        yield block, name, beside(branch[bound], sign), False
                        yield block, name, beside(branch[bound], -sign), True
                yield block, name, "some", name == "valid"
                yield block, name, [], False
                yield block, name, {}, False


def test_every_number_is_bounded_and_held_to_its_bounds(record_property: Callable[[str, object], None]) -> None:
    tried = list(bounds())
    assert len({name for _, name, _, _ in tried}) >= 18
    for block, name, value, taken in tried:
        given = {"train": "stdlib_docstrings"} if block == "data" else {}
        try:
            Recipe(**{block: given | {name: value}})
            refused = ""
        except InputError as error:
            refused = str(error)
        assert bool(refused) != taken, f"{block}.{name}={value!r}: {refused or 'taken'}"
        assert taken or f"{block}.{name}" in refused
    record_property("inputs tried", len(tried))


# -- overrides -------------------------------------------------------------------------------------------

BASE = "training: {epochs: 3}\ntricks: [stlr, {warmup: {steps: 1}}, ~, 5, [a]]\nlayers:\n"
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "no equals sign": ("training.epochs", ("--set training.epochs", "write it as name=value")),
    "nothing": ("", ("write it as name=value",)),
    "only an equals sign": ("=", ("write it as name=value",)),
    "no name": ("=3", ("write it as name=value",)),
    "spaces for a name": ("  =3", ("write it as name=value",)),
    "a dot": (".=3", ("--set .", "unknown key ''")),
    "dots": ("training..epochs=3", ("--set training.", "lies within"))
    if False
    else ("training..=3", ("--set training",)),
    "an unknown block": ("trainig.epochs=3", ("--set trainig", "(did you mean 'training'?)")),
    "an unknown field": ("training.epoch=3", ("--set training.epoch", "(did you mean 'epochs'?)")),
    "below a number": ("training.epochs.x=3", ("--set training.epochs.x", "'x' lies within 3")),
    "an unknown trick": ("tricks.slr.ratio=3", ("--set tricks.slr.ratio", "(did you mean 'stlr'?)")),
    "an index": ("tricks.0.ratio=3", ("--set tricks.0.ratio", "no entry '0' to set")),
    "a trick's unknown field": ("tricks.stlr.ratoi=3", ("--set tricks.0.stlr.ratoi", "did you mean 'ratio'")),
    "a trick out of bounds": ("tricks.stlr.ratio=0", ("--set tricks.0.stlr.ratio", "greater than")),
    "a trick for a value": ("tricks.stlr=3", ("--set tricks.0",)),
    "a value that is no YAML": ("training.epochs=[3", ("--set training.epochs", "not YAML")),
    "a value that is two documents": ("training.epochs=1\n---\n2", ("--set training.epochs", "not YAML")),
    "a value of code": ("model=!!python/name:os.system", ("--set model", "is not known here")),
    "a value with a tab": ("training=\t{", ("--set training", "not YAML")),
    "a value with a NUL": ('model="a\\0"', ("--set model", "no character of a text")),
    "a value of bytes that are no text": ("model=\udcff", ("--set model",)),
    "a bomb": (f"training={laughs(9)}", ("--set training",)),
    "a deep value": ("training=" + "[" * 5000, ("--set training", "nested more than 50 deep")),
    "a deep name": (".".join("a" * 2000) + "=1", ("--set a.a.a",)),
    "a name of 10,000": ("a" * 10_000 + "=1", ("--set aaa", "...")),
    "no number": ("training.epochs=many", ("--set training.epochs", "got 'many'")),
    "nothing for a number": ("training.epochs=", ("--set training.epochs", "got None")),
    "infinity": ("training.epochs=.inf", ("--set training.epochs", "finite")),
    "true": ("training.seed=true", ("--set training.seed", "not true or false")),
    "a file that is not there": ("data.train=none.csv", ("--set data.train", "no such file")),
    "a control character in a name": ("\x1b[31m=1", ("--set \u241b[31m",)),
    "a list for tricks": ("tricks=[[stlr]]", ("--set tricks", "got ['stlr']")),
    "layers that are a word": ("layers=x", ("--set layers", "each with a list")),
}


@pytest.mark.parametrize("what", SETTINGS)
def test_an_override_that_is_refused(what: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    setting, told = SETTINGS[what]
    command("check", write(tmp_path, BASE), "--set", setting).refuses(*told)
    record_property("inputs tried", 1)


def test_overrides_that_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {epochs: 3}\ntricks: [stlr, {warmup: {steps: 1}}]\n")
    settings = [
        "training.epochs=1",
        "training.epochs=2",
        " training.seed = 5",
        "tricks.stlr.ratio=10",
        "tricks.warmup={steps: 4}",
    ]
    found = Recipe.load(path, settings)
    assert (found.training.epochs, found.training.seed) == (2, 5)  # of one setting the last holds
    assert found.tricks[0][1].model_dump()["ratio"] == 10
    assert found.tricks[1][1].model_dump()["steps"] == 4


# -- places ----------------------------------------------------------------------------------------------


def test_a_recipe_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name, told in {
        "pipe.yaml": "is a pipe or a device; save what comes out of it",
        "zero.yaml": "is a pipe or a device",
        "loop.yaml": "cannot read",
        ".": "is a folder; name a file in it",
        "none.yaml": "No such file",
        "a" * 300: "File name too long",
    }.items():
        for known in ("check", "explain"):
            command(known, f"{tmp_path}/{name}").refuses(told)
    command("train", tmp_path / "pipe.yaml", "--out", tmp_path / "run").refuses("is a pipe or a device")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["a billion laughs", "a tag that runs code", "half of a pair"])
def test_a_program_of_its_own_answers_the_same(what: str, tmp_path: Path) -> None:
    content, told = BAD[what]
    path = write(tmp_path, content)
    done = subprocess.run(
        [sys.executable, "-m", "finetricks", "check", path.name],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert all(text in done.stderr for text in told)
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["recipe.yaml"]


def test_a_name_that_is_no_text_is_told_in_signs(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.yaml"
    Path(os.fsdecode(name)).write_text("modle: x\n")
    done = subprocess.run(
        [sys.executable, "-m", "finetricks", "check", name], check=False, capture_output=True, timeout=60
    )
    assert done.returncode == 2
    assert "\ufffd.yaml:1 modle" in done.stderr.decode()


def test_more_steps_than_a_plan_holds_are_refused() -> None:
    from finetricks.plan import MOST_STEPS, total_steps

    assert total_steps(MOST_STEPS, 1) == MOST_STEPS
    for epochs in (1e300, 1.7e308, MOST_STEPS + 0.5):
        with pytest.raises(InputError, match=r"training\.epochs: .* more than 10,000,000 steps; train for fewer"):
            total_steps(epochs, 1)
    assert MOST > MOST_STEPS

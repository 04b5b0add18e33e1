"""What must hold of anything that a person gives: it is read as what it says, or refused with a message that helps.

`TARGETS` are the readers, each a function of bytes: `fuzz.py` calls them with mutations, the tests with what it found.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from finetricks.checkpoint import MANIFEST, Checkpoints
from finetricks.cli import main
from finetricks.errors import InputError
from finetricks.folder import METRICS, RESULT, RunFolder
from finetricks.recipe import Recipe
from finetricks.settings import Data
from finetricks.tasks.examples import read_examples
from finetricks.yaml_file import override, parse_yaml
from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.learning import learning_curves
from finetricks_tuning.ledger import Trial
from finetricks_tuning.manifest import FILE as PLAN
from finetricks_tuning.manifest import Manifest, PlannedCell
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER, summarise

SECONDS = 30
"""How long any one input may take: far more than any does, and less than a person waits."""

MOST = 20_000
"""Characters of all that is said of one input: a message that shows a whole file helps nobody."""


@dataclass(frozen=True)
class Answer:
    """What a command line came to."""

    code: int
    out: str
    err: str

    def refuses(self, *told: str) -> None:
        """Assert that the input was refused as it should be: exit code 2, and every text of `told` in the message."""
        said = self.err + self.out
        assert self.code == 2, f"exit code {self.code}: {said[:1000]}"
        assert "Traceback" not in said
        assert len(said) < MOST
        assert self.err.startswith("error: "), said[:1000]
        for text in told:
            assert text in said, f"{text!r} is not in: {said[:1000]}"


def command(*arguments: str | Path) -> Answer:
    """Run a command line of finetricks in this process, within `SECONDS`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), at_most(SECONDS):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """End the block with a `TimeoutError` when it takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def little_memory(more: int = 3 * 2**30) -> Iterator[None]:
    """Give this process no more than `more` bytes of addresses beyond those that it has: a bomb is a MemoryError."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# -- the readers, as functions of bytes ------------------------------------------------------------------


def refused_well(error: InputError, *places: str) -> None:
    """Assert that every problem says something, and that one of `places` is named."""
    assert error.problems
    text = str(error)
    assert all(problem.message.strip() for problem in error.problems)
    assert len(text) < MOST * len(error.problems), f"{len(text)} characters"
    assert any(place in text for place in places), f"none of {places} is in: {text[:500]}"
    text.encode()


def recipe(content: bytes, folder: Path) -> None:
    """A recipe's text: what is read is read again from what it is written as."""
    path = folder / "recipe.yaml"
    path.write_bytes(content)
    try:
        found = Recipe.load(path)
    except InputError as error:
        return refused_well(error, "recipe.yaml")
    _comes_back(found, folder)


def _comes_back(found: Recipe, folder: Path) -> None:
    (folder / "again.yaml").write_text(found.to_yaml(), encoding="utf-8")
    again = Recipe.load(folder / "again.yaml")
    assert again == found
    assert again.fingerprint == found.fingerprint


def study(content: bytes, folder: Path) -> None:
    """A study's text: the configurations are those of what it is written as."""
    path = folder / "study.yaml"
    path.write_bytes(content)
    try:
        found = Study.load(path)
    except InputError as error:
        return refused_well(error, "study.yaml", "base.yaml", "factors")
    (folder / "again.yaml").write_text(found.to_yaml(), encoding="utf-8")
    again = Study.load(folder / "again.yaml")
    assert [c.name for c in again.configurations] == [c.name for c in found.configurations]
    assert again.to_dict() == found.to_dict()


SETTINGS = (
    "model: ./m\ndata: {train: train.csv, valid: 0.5}\ntraining: {epochs: 1}\ntricks: [stlr, {warmup: {steps: 2}}]\n"
)


def setting(content: bytes, folder: Path) -> None:
    """What stands after `--set`, on a recipe."""
    given = content.decode(errors="surrogateescape")
    document = parse_yaml(SETTINGS.replace("model: ./m\n", ""), folder / "recipe.yaml")
    try:
        found = Recipe.from_document(override(document, [given]))
    except InputError as error:
        return refused_well(error, "--set", "recipe.yaml")
    _comes_back(found, folder)


def data(name: str) -> Callable[[bytes, Path], None]:
    """The reader of data files called `name`."""

    def read(content: bytes, folder: Path) -> None:
        path = folder / name
        path.write_bytes(content)
        try:
            found = read_examples(Data(train=str(path), valid=0.5))
        except InputError as error:
            return refused_well(error, name, "data.valid")
        for part in found.splits.values():
            assert len(part.ids) == len(part.labels) == len(part.texts["text"]) > 0
            assert all(text.strip() for text in part.texts["text"])
            "".join(part.texts["text"]).encode()
            if found.kind == "classification":
                assert set(part.labels) <= set(range(len(found.names)))
        ids = [row for part in found.splits.values() for row in part.ids]
        assert sorted(ids) == list(range(len(ids)))

    return read


def ledger(content: bytes, folder: Path) -> None:
    """A study's ledger: what is no trial is said with its line, and the rest is summarised."""
    with _changed(study_folder(folder), LEDGER, content) as where:
        json.dumps(summarise(where).to_dict())


def plan(content: bytes, folder: Path) -> None:
    """A study's plan, cells.json."""
    with _changed(study_folder(folder), PLAN, content) as where:
        try:
            json.dumps(summarise(where).to_dict())
        except InputError as error:
            refused_well(error, PLAN, "strategy", "design")


def metrics(content: bytes, folder: Path) -> None:
    """A cell's metrics, of which a report draws curves."""
    where = study_folder(folder)
    with _changed(cell_folder(where, "baseline-0"), METRICS, content):
        curves = learning_curves(where, good_plan(), CONFIGURATIONS)
        assert all(
            isinstance(value, float) for curve in curves.values() for values in curve.values() for value in values
        )


def predictions(content: bytes, folder: Path) -> None:
    """A cell's predictions, of which a report makes intervals over the examples."""
    where = study_folder(folder)
    with _changed(cell_folder(where, "baseline-0"), "predictions/valid.csv", content):
        json.dumps(summarise(where).to_dict())


def result(content: bytes, folder: Path) -> None:
    """A run's result.json."""
    (folder / RESULT).write_bytes(content)
    try:
        found = RunFolder(folder).result()
    except InputError as error:
        return refused_well(error, RESULT)
    assert found is not None
    assert isinstance(found["seconds"], float)


def manifest(content: bytes, folder: Path) -> None:
    """A checkpoint's manifest: the checkpoint is whole by what it says, or the one before is used."""
    checkpoints = Checkpoints(folder / "checkpoints")
    if not checkpoints.folder.is_dir():
        for step in (1, 2):
            checkpoints.save(step, {"model": {"w": torch.zeros(2)}, "global_step": step})
    path = folder / "checkpoints" / "step-00000002" / MANIFEST
    good = path.read_bytes() if not (kept := path.with_suffix(".good")).exists() else kept.read_bytes()
    kept.write_bytes(good)
    path.write_bytes(content)
    state = checkpoints.newest()
    assert state is not None
    assert state["global_step"] == (2 if _same_facts(content, good) else 1)


def _same_facts(content: bytes, good: bytes) -> bool:
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(given, dict) and all(given.get(name) == facts for name, facts in json.loads(good).items())


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "recipe": recipe,
    "study": study,
    "setting": setting,
    "csv": data("train.csv"),
    "tsv": data("train.tsv"),
    "jsonl": data("train.jsonl"),
    "parquet": data("train.parquet"),
    "ledger": ledger,
    "plan": plan,
    "metrics": metrics,
    "predictions": predictions,
    "result": result,
    "manifest": manifest,
}


# -- mutations -------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 10**6, 2**31, 2**63, 10**400, 0.0, -0.0, 0.5, 1.0, 1.5, 1e-4, 1e-320, 1e308),
    *(
        math.inf,
        -math.inf,
        math.nan,
        "",
        " ",
        "x",
        "1",
        "0.5",
        "a" * 300,
        "\u202e",
        "e\u0301",
        "../x",
        "~nobody/x",
        ".",
    ),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}, {"values": []}, {"values": [0.1, 0.2]}, {"values": [1, 1]}),
    *(
        {"low": 0, "high": 1},
        {"low": 1, "high": 5, "log": True},
        {"low": 2, "high": 1},
        {"one_of": ["stlr", "constant"]},
    ),
    *(
        "stlr",
        "warmup",
        {"stlr": {"ratio": 10}},
        {"l2": None},
        "full",
        "ablation",
        "factorial",
        "minilm",
        "recipe.yaml",
    ),
    *(
        {"random": {"configurations": 4}},
        {"search": {"configurations": 3}},
        {"seed_search": {}},
        [0.9, 0.99],
        [1, 2, 3],
    ),
)
"""Values that are put in the places of others."""


def mutated(value: Any, draw: random.Random) -> Any:
    """A value with one or a few of its parts replaced, removed, doubled, renamed or moved."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        inner = list(_parts(value))
        if not inner:
            return draw.choice(ODD)
        holder, key = draw.choice(inner)
        what = draw.randrange(7)
        if what <= 2:
            holder[key] = copy.deepcopy(draw.choice(ODD))
        elif what == 3:
            del holder[key]
        elif what == 4:
            other, other_key = draw.choice(inner)
            holder[key] = copy.deepcopy(
                other.get(other_key) if isinstance(other, dict) else other[other_key % len(other)]
            )
        elif isinstance(holder, list):
            holder.insert(draw.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        else:
            name = draw.choice(
                [str(key)[:-1], f"{key}s", str(key).upper(), 7, draw.choice(["stlr", "values", "seeds"])]
            )
            holder[name] = holder.pop(key)
    return value


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    inside = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, part in inside:
        yield value, key
        yield from _parts(part)


def mutated_text(target: str, content: bytes, draw: random.Random) -> bytes | None:
    """A mutation by the structure of what a reader reads; `None` where it has none, or the content is not like it."""
    text = content.decode(errors="ignore")
    try:
        if target in ("recipe", "study"):
            return yaml.safe_dump(mutated(yaml.safe_load(text), draw), sort_keys=False).encode()
        if target in ("jsonl", "ledger", "metrics"):
            rows = [json.loads(line) for line in text.splitlines()]
            return "".join(f"{json.dumps(row)}\n" for row in mutated(rows, draw)).encode()
        if target in ("plan", "result", "manifest"):
            return json.dumps(mutated(json.loads(text), draw)).encode()
        if target in ("csv", "tsv", "predictions"):
            delimiter = "\t" if target == "tsv" else ","
            rows = mutated([line.split(delimiter) for line in text.split("\n")], draw)
            return "\n".join(
                delimiter.join(map(str, row)) if isinstance(row, list) else str(row) for row in rows
            ).encode()
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, yaml.YAMLError):
        pass  # the mutation itself came to nothing
    return None


# -- a study that was run, without running one -----------------------------------------------------------

CONFIGURATIONS = ("baseline", "stlr")
LEVELS = {"baseline": {"stlr": "off"}, "stlr": {"stlr": "stlr"}}


def good_plan() -> Manifest:
    return Manifest(
        study={"recipe": {"model": "m"}, "factors": ["stlr"], "design": "ablation", "strategy": "full"}
        | {"seeds": [0, 1, 2], "metric": "accuracy", "alpha": 0.05},
        configurations=LEVELS,
        cells=tuple(PlannedCell(f"{name}-{seed}", name, seed) for seed in range(3) for name in CONFIGURATIONS),
        left_out=(),
        greater_is_better=True,
        valid_examples=4,
        ended="every cell has a result",
    )


def good_ledger() -> list[Trial]:
    return [
        Trial(
            f"{name}-{seed}", name, LEVELS[name], {}, seed, "finished", {"valid": {"accuracy": 0.5 + 0.1 * seed}}, 1.0
        )
        for seed in range(3)
        for name in CONFIGURATIONS
    ]


PREDICTIONS = (
    "example_id,label,prediction,score:a,score:b\n0,a,a,0.9,0.1\n1,b,a,0.6,0.4\n2,b,b,0.2,0.8\n3,a,a,0.7,0.3\n"
)
CURVE = [{"step": 2 * n, "epoch": float(n), "valid": {"accuracy": 0.5}} for n in (1, 2)]


def study_folder(folder: Path) -> Path:
    """A study's folder with all that reports read, made once within `folder`."""
    made = folder / "study"
    if not made.is_dir():
        made.mkdir()
        good_plan().write(made)
        (made / LEDGER).write_text("".join(f"{trial.to_json()}\n" for trial in good_ledger()))
        for trial in good_ledger():
            cell = RunFolder(cell_folder(made, trial.key))
            cell.predictions("valid").parent.mkdir(parents=True)
            cell.predictions("valid").write_text(PREDICTIONS)
            (cell.path / METRICS).write_text("".join(f"{json.dumps(line)}\n" for line in CURVE))
    return made


@contextlib.contextmanager
def _changed(folder: Path, name: str, content: bytes) -> Iterator[Path]:
    """The folder with another content of one of its files, which is put back afterwards."""
    path = folder / name
    good = path.read_bytes()
    path.write_bytes(content)
    try:
        yield folder
    finally:
        path.write_bytes(good)


def parquet_of(columns: dict[str, object], **options: object) -> bytes:
    """A Parquet file of these columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **options)
    return bytes(sink.getvalue())


RECIPES = (
    "model: bert-base-uncased\ndata:\n  train: stdlib_docstrings\n  valid: 0.1\n  text: [a, b]\n  label: label\n"
    "  rows: 20\ntraining:\n  epochs: 3\n  learning_rate: 2e-5\n  betas: [0.9, 0.99]\n  seed: 7\ntricks:\n"
    "  - discriminative_lr: {decay: 1.3}\n  - stlr\n  - gradual_unfreezing: {over: run}\n",
    "training: {epochs: 1, evaluate: 5, checkpoint: off, precision: bf16, clip: 0}\n"
    "tricks: [{warmup: {steps: 3}}, {cross_entropy: {class_weights: [1, 2]}}, {dropout: {p: 0.2}}]\n"
    "layers: {embeddings: [a.b], head: [c]}\n",
)
STUDIES = (
    "recipe: {model: minilm, data: {train: stdlib_docstrings}, tricks: [linear_decay]}\nfactors:\n"
    "  - discriminative_lr: {decay: {values: [1.3, 2.6]}}\n  - one_of: [gradual_unfreezing, {two_stage: {}}]\n"
    "  - training.learning_rate: {values: [1e-4, 2e-4]}\n  - label_smoothing\ndesign: factorial\nseeds: [1, 2]\n"
    "metric: macro_f1\nalpha: 0.1\nequivalence: 0.01\ncorrection: benjamini_hochberg\nconfirm: 2\n",
    "recipe: {model: minilm, data: {train: stdlib_docstrings}}\nfactors: [stlr, warmup, l2, label_smoothing]\n"
    "design: {plackett_burman: {fold_over: true}}\nstrategy: sequential\nbudget: {cells: 60}\nseeds: 4\n"
    "data_sets: {one: {rows: 20}, two: {rows: 30}}\ntune_learning_rate: {values: [1e-4, 2e-4], seeds: 1}\n",
)
ROWS = [["text", "label"], ["a b", "x"], ["c", "y"], ['"d, ""e"""', "x"], ["f\u00fc", "01"], ["g", "1.5"]]
SEEDS: dict[str, list[bytes]] = {
    "recipe": [text.encode() for text in RECIPES],
    "study": [text.encode() for text in STUDIES],
    "setting": [b"training.epochs=2", b"tricks.warmup.steps=3", b"tricks=[stlr]", b"data={train: stdlib_docstrings}"],
    "csv": ["\n".join(map(",".join, ROWS)).encode()],
    "tsv": ["\n".join(map("\t".join, ROWS)).encode()],
    "jsonl": [
        b'{"text": "a", "label": "x"}\n{"text": "b\\u00e9", "label": 1}\n'
        b'{"label": true, "text": "c"}\n{"text": "d", "label": 1.5}\n'
    ],
    "parquet": [
        parquet_of({"text": ["a", "b", "c"], "label": ["x", "y", "x"]}),
        parquet_of({"text": ["a", "b"], "label": [1, 2]}),
    ],
    "ledger": ["".join(f"{trial.to_json()}\n" for trial in good_ledger()).encode()],
    "plan": [json.dumps(asdict(good_plan())).encode()],
    "metrics": ["".join(f"{json.dumps(line)}\n" for line in CURVE).encode()],
    "predictions": [PREDICTIONS.encode()],
    "result": [b'{"valid": {"accuracy": 0.5}, "test": null, "seconds": 1.5, "steps": 4, "notes": [], "decisions": {}}'],
    "manifest": [b'{"model.safetensors": {"bytes": 80, "sha256": "ab"}, "state.pt": {"bytes": 1, "sha256": "cd"}}'],
}
"""Good inputs of each reader, from which others are made by mutation."""

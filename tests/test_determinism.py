"""A run is a function of its inputs, and leaves the process that it runs in as it was."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import default_data_collator

import every
import fresh_run
import tiny
from finetricks import Recipe, TrickTrainer, predict
from finetricks.cli import main
from finetricks.determinism import CUBLAS, Facts, not_deterministic, record
from finetricks.runner import run
from finetricks.tasks import load_task
from finetricks.tasks.encode import loader

TOGETHER = every.together()


# -- same inputs, same bits ------------------------------------------------------------------------------

TRICK = """\
from finetricks import Trick, hookimpl
import random, numpy, torch
random.seed(1); numpy.random.seed(1); torch.manual_seed(1)

class Other(Trick):
    @hookimpl
    def schedule(self, progress):
        return 0.5
"""


def install(folder: Path, module: str, source: str, trick: str) -> None:
    """Put a distribution that announces a trick on the path `folder`, as pip would."""
    (folder / f"{module}.py").write_text(source)
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[finetricks]\n{trick} = {module}:Other\n")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh process finds: another order of the runs, another hash seed, other plugins, one of them broken."""
    folder = tmp_path_factory.mktemp("plugins")
    install(folder, "other_tricks", TRICK, "other")
    install(folder, "broken_tricks", "raise RuntimeError('broken at import')", "broken")
    path = os.pathsep.join([str(folder), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, fresh_run.__file__],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "17"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: f"{names[0]} and {len(names) - 1} more")
def test_the_same_bits_in_another_process_after_other_runs_beside_other_plugins(
    names: tuple[str, ...], elsewhere: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    assert fresh_run.left(names) == elsewhere["left"][",".join(names)]
    record_property("recipes run in two processes", 1)


def test_the_other_plugins_were_there(elsewhere: dict[str, Any]) -> None:
    assert {"other", "broken"} <= set(elsewhere["names"])
    assert "broken at import" in elsewhere["broken"]["broken"]
    assert "other" not in elsewhere["broken"]


def test_every_trick_is_in_one_of_the_recipes() -> None:
    assert sorted(name for names in TOGETHER for name in names) == sorted(every.CASES)


def test_the_same_bits_twice_in_a_process_and_others_with_another_seed() -> None:
    names = TOGETHER[0]
    random.seed(1)
    first = fresh_run.left(names)
    random.seed(2), np.random.seed(3), torch.manual_seed(4)
    assert fresh_run.left(names) == first
    assert fresh_run.left(names, seed=4) != first


# -- three streams ---------------------------------------------------------------------------------------

SEVERAL = ("concat_pooling", "kaiming", "dropout", "auxiliary_lm", "further_pretraining", "label_smoothing")


def drawn(**seeds: int) -> dict[str, Any]:
    """What each stream gives to a run of several tricks: the weights that it begins with, the order of its batches, and
    the dropout of a batch that is always the same."""
    recipe = every.recipe(*SEVERAL, **seeds)
    session = every.bound(recipe, *SEVERAL, seed=recipe.streams.init)
    weights = {name: value.clone() for name, value in session.model.state_dict().items()}
    order = [batch["input_ids"].tolist() for batch in session._order.epoch(0)]
    fixed = next(iter(loader(every.task_for(*SEVERAL).splits["train"], every.tokenizer(), 4)))
    masks: list[torch.Tensor] = []
    for module in session.model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_pre_hook(lambda _, inputs: (torch.ones_like(inputs[0]), *inputs[1:]))
            module.register_forward_hook(lambda _, inputs, output: masks.append(output.detach().clone()))
    session.model.train()
    session.loss(fixed)
    assert masks
    assert any(len(mask.unique()) == 2 for mask in masks)
    return {"init": weights, "data": order, "dropout": masks}


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return drawn()


@pytest.mark.parametrize("stream", ["init", "data", "dropout"])
def test_a_stream_with_another_seed_leaves_the_others_bit_equal(stream: str, base: dict[str, Any]) -> None:
    other = drawn(**{f"{stream}_seed": 99})
    differing = {name for name in base if every_bit(base[name]) != every_bit(other[name])}
    assert differing == {stream}


def every_bit(drawn: Any) -> Any:
    if isinstance(drawn, torch.Tensor):
        return drawn.numpy().tobytes()
    if isinstance(drawn, dict):
        return {name: every_bit(value) for name, value in drawn.items()}
    return [every_bit(value) for value in drawn] if isinstance(drawn, list) else drawn


# -- the caller's process --------------------------------------------------------------------------------


def process() -> dict[str, Any]:
    """What of the process's global state a caller may rely on."""
    return {
        "python": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "torch": torch.get_rng_state().tolist(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        ),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "warnings": list(warnings.filters),
        "directory": Path.cwd(),
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
    }


@pytest.fixture
def untouched() -> Iterator[None]:
    """Whatever the test does, the process is afterwards as it was."""
    random.seed(11), np.random.seed(12), torch.manual_seed(13)
    before = process()
    yield
    after = process()
    assert {name for name in before if before[name] != after[name]} == set()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def recipe(task: Path) -> Recipe:
    return Recipe(
        model=str(task / "model"),
        data={"train": str(task / "train.csv"), "test": str(task / "test.csv")},
        training={"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "threads": 2},
        tricks=["stlr", "concat_pooling", "kaiming", {"dropout": {"p": 0.3}}, {"further_pretraining": {"steps": 2}}],
    )


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(recipe, tmp_path_factory.mktemp("finished") / "run").folder


@pytest.mark.usefixtures("finished")  # modules are imported by then: theirs to change are the filters of warnings
@pytest.mark.usefixtures("untouched")
class TestTheCallersProcessIsLeftAsItWas:
    @pytest.mark.parametrize("names", TOGETHER, ids=lambda names: names[0])
    def test_by_a_loop(self, names: tuple[str, ...]) -> None:
        every.final(every.bound(every.recipe(*names), *names))

    def test_by_a_run(self, recipe: Recipe, tmp_path: Path) -> None:
        run(recipe, tmp_path / "run")

    def test_by_a_trainer(self, tmp_path: Path) -> None:
        recipe = tiny.recipe(tiny.Unfreeze(), tiny.Noise())
        args = recipe.training_arguments(
            str(tmp_path), use_cpu=True, disable_tqdm=True, eval_strategy="epoch", report_to=[]
        )
        rows = tiny.rows()
        trainer = TrickTrainer(
            recipe=recipe,
            model=tiny.bert(),
            args=args,
            train_dataset=rows,
            eval_dataset=rows[:6],
            data_collator=default_data_collator,
        )
        torch.manual_seed(13)  # the model has drawn from it
        trainer.train()
        trainer.evaluate()
        trainer.predict(rows[:4])

    def test_by_predict(self, finished: Path, task: Path) -> None:
        predict(finished, task / "test.csv")

    def test_by_explain(self, finished: Path, tmp_path: Path) -> None:
        with pytest.raises(SystemExit, match="0"):
            main(["explain", str(finished / "recipe.yaml"), "--out", str(tmp_path / "plan.png")])
        assert (tmp_path / "plan.png").is_file()

    def test_by_loading_a_task(self, recipe: Recipe) -> None:
        assert recipe.model is not None
        assert recipe.data is not None
        load_task(recipe.model, recipe.data)


class Drawing:
    """A collator that draws from the global states, as those for masked language modelling do."""

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def __call__(self, rows: list[Any]) -> Any:
        self.drawn += [torch.rand(()).item(), random.random(), float(np.random.rand())]
        return default_data_collator(rows)


def test_a_trainers_collator_draws_the_same_whatever_the_caller_has_drawn(tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        recipe, collator, model = tiny.recipe(tiny.Decay()), Drawing(), tiny.bert()
        args = recipe.training_arguments(str(tmp_path), use_cpu=True, disable_tqdm=True, save_strategy="no")
        trainer = TrickTrainer(recipe=recipe, model=model, args=args, train_dataset=tiny.rows(), data_collator=collator)
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        trainer.train()
        found.append(collator.drawn)
    assert len(found[0]) > 30
    assert found[0] == found[1]


# -- what is written down of it --------------------------------------------------------------------------


def test_a_run_on_a_cpu_writes_down_what_its_bits_depend_on(finished: Path) -> None:
    written = json.loads((finished / "versions.json").read_text())["determinism"]
    assert written == {**record(), "threads": 2}
    assert written["device"] == "cpu"
    assert written["device_name"] == torch.backends.cpu.get_cpu_capability()
    assert written["not_deterministic"] == []


GPU = Facts("cuda", "H100", 8)


@pytest.mark.parametrize(
    ("facts", "left"),
    [
        (GPU, ["atomic", "attention", CUBLAS, "convolutions"]),
        (Facts("cuda", "H100", 8, "off", cudnn_deterministic=True), ["atomic", "attention", CUBLAS]),
        (Facts("cuda", "H100", 8, "warn_only", cublas_workspace=":16:8"), ["warn_only"]),
        (Facts("cuda", "H100", 8, "on", cudnn_benchmark=True, cublas_workspace=":4096:8"), ["benchmark"]),
        (Facts("cuda", "H100", 8, "on", cublas_workspace=":0:0"), [CUBLAS]),
        (Facts("cuda", "H100", 8, "on", cublas_workspace=":4096:8"), []),
        (Facts("cpu", "AVX512", 8, cudnn_benchmark=True), []),
    ],
)
def test_on_cuda_what_can_still_move_the_bits_is_named_with_its_cure(facts: Facts, left: list[str]) -> None:
    found = not_deterministic(facts)
    assert len(found) == len(left)
    assert all(word in line for word, line in zip(left, found, strict=True))


def test_the_settings_of_this_process_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS, ":16:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        seen = record()
        torch.use_deterministic_algorithms(True)
        assert record()["deterministic_algorithms"] == "on"
    finally:
        torch.use_deterministic_algorithms(False)
    assert (seen["deterministic_algorithms"], seen["cublas_workspace"], seen["cudnn_benchmark"]) == (
        "warn_only",
        ":16:8",
        True,
    )
    assert record()["deterministic_algorithms"] == "off"

"""Whatever a third party's trick does, its own run fails of it, with an error that names it; see bad_plugins.py."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import tiny
from bad_plugins import CLASSES, HEADER, TRAINED, Bad
from finetricks import Diverged, InputError, ParamOptions, Recipe, Trick, TrickError, hookimpl
from finetricks.catalog import Catalog, Entry, UnknownTrick, installed
from finetricks.cli import main
from finetricks.distributed import describe
from finetricks.runner import run, task_of
from finetricks.tasks import Task


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "corpus.py"
    path.write_text(HEADER + "\n\n" + "\n\n".join(case.source for case in TRAINED))
    return path


def recipe_of(task: Path, catalog: Catalog, *tricks: Any, **training: Any) -> Recipe:
    return Recipe(
        model=str(task / "model"),
        data={"train": str(task / "train.csv"), "valid": 0.5},
        training={"epochs": 1, "batch_size": 15, "learning_rate": 1e-3, "checkpoint": "off", **training},
        tricks=tricks,
        catalog=catalog,
    )


@pytest.fixture(scope="module")
def loaded(task: Path) -> Task:
    return task_of(recipe_of(task, installed()))


def state() -> list[Any]:
    """The process's global state that a run must leave as it was."""
    drawn = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    return [*drawn, torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()]


def whole_run(recipe: Recipe, model: torch.nn.Module) -> None:
    """Every hook once, as a run calls it."""
    stack = recipe.stack()
    rows = datasets.Dataset.from_dict({"input_ids": [[1, 2]], "labels": [0]})
    assert stack.data(rows, "train", 0) is rows
    session = recipe.bind(model, tiny.loader())
    tiny.train(session, steps=2)
    session.evaluated({"loss": 0.5})
    session.state_dict()
    session.finish()


def test_a_run_of_good_tricks_comes_to_its_end() -> None:
    whole_run(tiny.recipe(*(trick() for trick in tiny.ALL)), tiny.bert())


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_a_run_fails_of_its_own_trick_and_says_which(case: Bad, plugin: Path) -> None:
    recipe = Recipe(tricks=[case.name, "weight_decay"], catalog=installed().with_file(plugin))
    model = tiny.bert(blocks=1)
    before = state()
    with pytest.raises(Exception) as failure:  # noqa: PT011
        whole_run(recipe, model)
    told = describe(failure.value)
    assert f"trick {case.name!r} of {plugin}" in told
    assert case.words in told
    if case.hook:
        assert f"hook {case.hook!r}" in told
    assert "trick 'weight_decay'" not in told
    assert state() == before


@pytest.mark.parametrize("case", CLASSES, ids=lambda case: case.name)
def test_a_class_that_cannot_be_used_takes_only_itself_down(
    case: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert issubclass(installed().get("stlr"), Trick)  # its import may take its time
    monkeypatch.setattr("finetricks.loading._given_up", {})
    monkeypatch.setenv("FINETRICKS_LOAD_SECONDS", "0.5" if case.name == "takes_for_ever" else "60")
    monkeypatch.syspath_prepend(tmp_path)
    module = f"bad_{case.name}"
    (tmp_path / f"{module}.py").write_text(f"{HEADER}\n\n{case.source}")
    entry = Entry(case.name, "their-tricks", "1.2", f"{module}:{case.name}")
    catalog = Catalog({case.name: entry, "stlr": installed().entries["stlr"]})
    with pytest.raises(UnknownTrick) as error:
        catalog.get(case.name)
    assert f"trick {case.name!r} of their-tricks 1.2" in str(error.value)
    assert case.words in str(error.value)
    assert case.hook in str(error.value)
    assert list(catalog.broken()) == [case.name]
    assert issubclass(catalog.get("stlr"), Trick)
    with pytest.raises(InputError, match=str(tmp_path)) as error:  # the same as a plugin file
        installed().with_file(tmp_path / f"{module}.py")
    assert case.words in str(error.value)


@pytest.mark.parametrize(
    ("given", "loads"), [("five", False), ("nan", False), ("0", False), ("inf", True), ("1e30", True)]
)
def test_the_time_that_an_import_may_take_is_a_number_of_seconds(
    given: str, loads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETRICKS_LOAD_SECONDS", given)
    monkeypatch.setattr("finetricks.loading.SAID_AFTER", 0.0)
    (tmp_path / "own.py").write_text(TAKEN.format("Own"))
    if loads:
        assert issubclass(installed().with_file(tmp_path / "own.py").get("own"), Trick)
    else:
        with pytest.raises(InputError, match=f"FINETRICKS_LOAD_SECONDS is '{given}'; give a number of seconds"):
            installed().with_file(tmp_path / "own.py")


ASKING = """
from finetricks.catalog import Catalog, Entry
entry = Entry("own", "their-tricks", "1", "their_trick:Own")
FOUND = Catalog({"own": entry}).get("own")
"""


def test_a_module_may_ask_at_import_for_a_trick_that_imports_it(tmp_path: Path) -> None:
    (tmp_path / "their_app.py").write_text(ASKING)
    (tmp_path / "their_trick.py").write_text("import their_app\n" + TAKEN.format("Own"))
    command = [sys.executable, "-c", "import their_app; print(their_app.FOUND.__name__)"]
    environment = {**os.environ, "FINETRICKS_LOAD_SECONDS": "5", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert (done.stdout, done.returncode) == ("Own\n", 0), done.stderr


# -- names ------------------------------------------------------------------------------------------------

TAKEN = "from finetricks import Trick, hookimpl\n\nclass {}(Trick):\n    @hookimpl\n    def finish(self): pass\n"


def test_a_file_may_not_take_the_name_of_another_trick(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(TAKEN.format("WeightDecay"))
    with pytest.raises(InputError, match=r"one.py defines 'weight_decay', which is a trick of finetricks \d.*; rename"):
        installed().with_file(tmp_path / "one.py")
    for name in ("two", "three"):
        (tmp_path / f"{name}.py").write_text(TAKEN.format("Own"))
    catalog = installed().with_file(tmp_path / "two.py")
    with pytest.raises(InputError, match=r"three.py defines 'own', which is a trick of .*two.py; rename"):
        catalog.with_file(tmp_path / "three.py")
    (tmp_path / "four.py").write_text(TAKEN.format("AuxLM") + TAKEN.format("Aux_LM"))
    with pytest.raises(InputError, match=r"four.py defines 'aux_lm', which is a trick of"):
        installed().with_file(tmp_path / "four.py")


def test_an_instance_may_not_pass_for_another_trick() -> None:
    class WeightDecay(Trick):
        """Would be read back as the built-in one."""

        @hookimpl
        def finish(self) -> None:
            pass

    with pytest.raises(InputError, match=r"WeightDecay is called 'weight_decay', as a trick of finetricks \d"):
        Recipe(tricks=[WeightDecay()])


def test_a_validator_that_raises_anything_is_a_problem_of_the_recipe() -> None:
    class Validates(Trick):
        """Raises what pydantic does not take for a refusal."""

        def model_post_init(self, context: Any) -> None:
            raise SystemExit(5)

        @hookimpl
        def finish(self) -> None:
            pass

    with pytest.raises(InputError, match=r"trick 'validates' of .* cannot be made: SystemExit: 5"):
        Recipe(tricks=["validates"], catalog=installed().with_classes([Validates]))


def test_the_command_line_says_what_a_bad_trick_did(
    task: Path, plugin: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe_of(task, installed()).to_yaml())
    options = ["--plugin", str(plugin), "--out", str(tmp_path / "run"), "--set", "tricks=[exits_in_regularize]"]
    assert main(["train", str(tmp_path / "recipe.yaml"), *options]) == 1
    said = capfd.readouterr().err
    assert f"error: trick 'exits_in_regularize' of {plugin}, hook 'regularize': raised SystemExit: 3" in said
    assert "Traceback" not in said


# -- what is looked at when -------------------------------------------------------------------------------


class Late(Trick):
    """Changes a weight, but not before the step `at`."""

    at: int

    @hookimpl
    def regularize(self, model: Any, step: Any) -> None:
        if step.progress.step == self.at:
            model.classifier.weight.data.mul_(2)


@pytest.mark.parametrize(
    ("at", "every", "noticed"), [(0, 1000, True), (1, 1, False), (6, 1, True), (6, 7, False), (6, 1000, False)]
)
def test_a_hooks_surroundings_are_looked_at_in_the_first_step_and_at_an_epochs_start_not_too_often(
    at: int, every: int, noticed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetricks.session.LOOK_EVERY", every)
    session = tiny.recipe(Late(at=at)).bind(tiny.bert(), tiny.loader())
    assert session.plan.steps_per_epoch == 6
    if noticed:
        with pytest.raises(TrickError, match="hook 'regularize': changed the weight 'classifier.weight'"):
            tiny.train(session)
        assert session.global_step == at
    else:
        assert len(tiny.train(session)) == 12


def test_what_names_layers_may_be_an_iterator() -> None:
    class Lazy(Trick):
        """Gives an iterator, which is empty once it was gone through."""

        @hookimpl
        def freeze(self, layers: Any) -> Any:
            return (name for name in layers.names if name != "head")

    plan = tiny.recipe(Lazy()).bind(tiny.bert(), tiny.loader()).plan
    assert plan.stages[0].frozen == set(plan.layers) - {"head"}


def test_each_trick_is_told_the_metrics_that_were_measured() -> None:
    class Spoils(Trick):
        """Changes what it was given, and keeps it."""

        @hookimpl
        def evaluated(self, metrics: Any) -> None:
            metrics["loss"] = 0.0

    class Reads(Trick):
        """Remembers what it was told."""

        @hookimpl
        def evaluated(self, metrics: Any, state: Any) -> None:
            state["told"] = metrics["loss"]

    session = tiny.recipe(Spoils(), Reads()).bind(tiny.bert(), tiny.loader())
    assert session.evaluated({"loss": 0.5})
    assert session.state["reads"] == {"told": 0.5}


def test_a_diverged_run_names_the_first_that_was_not_finite(
    task: Path, loaded: Task, plugin: Path, tmp_path: Path
) -> None:
    catalog = installed().with_file(plugin)
    with pytest.raises(Diverged) as diverged:
        run(recipe_of(task, catalog, "loss_becomes_infinite", "cross_entropy"), tmp_path / "run", task=loaded)
    assert str(diverged.value) == "diverged at step 0: the loss is not finite"
    assert diverged.value.__notes__ == [
        f"the first value that is not finite is what trick 'loss_becomes_infinite' of {plugin} gave in its hook 'loss'"
    ]


class Adds(Trick):
    """Changes a loss by a little, whatever it is."""

    @hookimpl(wrapper=True)
    def loss(self):
        return (yield) + 0.1


class Owns(Trick):
    """A loss that is finite where the outputs are."""

    @hookimpl
    def loss(self, outputs: Any) -> torch.Tensor:
        return outputs.logits.mean()


@pytest.mark.parametrize("trick", [Adds, Owns])
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("classifier.bias", float("nan"), "the weight classifier.bias is not finite"),
        ("classifier.weight", 3e38, "the first values that are not finite are the model's own outputs"),
    ],
)
def test_nobody_is_blamed_for_what_was_not_finite_before(
    trick: type[Trick], name: str, value: float, told: str
) -> None:
    session = tiny.recipe(trick()).bind(tiny.bert(), tiny.loader())
    session.model.get_parameter(name).data.fill_(value)
    session.model.bert.pooler.dense.bias.data.fill_(9.0)  # tanh gives 1: the logits are 16 times the weight
    with pytest.raises(Diverged) as diverged:
        tiny.train(session)
    assert diverged.value.__notes__ == [told]


class Waits(Trick):
    """Is sent a signal while it computes."""

    number: int

    @hookimpl
    def regularize(self) -> None:
        os.kill(os.getpid(), self.number)


class Swallows(Trick):
    """Lets nothing through."""

    @hookimpl(wrapper=True)
    def loss(self):
        try:
            return (yield)
        except BaseException:
            return torch.zeros(())


def test_whoever_ends_the_process_is_not_taken_for_the_trick() -> None:
    def preempted(*_: Any) -> None:
        sys.exit("preempted")

    # Of a process that a shell began in the background, SIGINT is ignored until somebody asks for it.
    before = [signal.signal(signal.SIGTERM, preempted), signal.signal(signal.SIGINT, signal.default_int_handler)]
    try:
        with pytest.raises(SystemExit, match="^preempted$"):
            tiny.train(tiny.recipe(Waits(number=signal.SIGTERM)).bind(tiny.bert(), tiny.loader()))
        with pytest.raises(KeyboardInterrupt):
            tiny.train(tiny.recipe(Waits(number=signal.SIGINT)).bind(tiny.bert(), tiny.loader()))
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)


def test_a_wrapper_does_not_keep_an_interrupt_to_itself() -> None:
    def interrupted(outputs: Any, batch: Any) -> torch.Tensor:
        raise KeyboardInterrupt

    session = tiny.recipe(Swallows()).bind(tiny.bert(), tiny.loader(), criterion=interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny.train(session)


def test_numbers_of_numpy_are_factors() -> None:
    class Numpy(Trick):
        """Computes with numpy."""

        @hookimpl
        def param_groups(self) -> dict[str, ParamOptions]:
            return {"head": ParamOptions(lr_factor=np.float32(0.5))}

        @hookimpl
        def schedule(self) -> Any:
            return np.float32(0.25)

    plan = tiny.recipe(Numpy()).bind(tiny.bert(), tiny.loader()).plan
    assert type(plan.groups[-1].lr_factor) is float
    assert (plan.groups[-1].lr_factor, plan.schedule[0]) == (0.5, 0.25)


def test_a_weight_that_is_written_to_and_put_back_is_said_to_be() -> None:
    class Perturbs(Trick):
        """Adversarial weight perturbation, in place."""

        @hookimpl(wrapper=True)
        def loss(self, step: Any):
            loss = yield
            with torch.no_grad():
                step.model.classifier.bias.add_(1).sub_(1)
            return loss

    with pytest.raises(
        TrickError, match=r"wrote to the weight 'classifier.bias', even if .*torch.func.functional_call"
    ):
        tiny.train(tiny.recipe(Perturbs()).bind(tiny.bert(), tiny.loader()))


def test_a_batch_may_be_made_in_inference_mode() -> None:
    session = tiny.recipe(tiny.TwicePass()).bind(tiny.bert(), tiny.loader())
    batch = next(session.batches())
    with torch.inference_mode():
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    assert session.loss(batch).isfinite()

"""`finetricks doctor`: for each check a case that it must find, and a sound one that passes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tiny
from finetricks import Recipe, installed
from finetricks.doctor import INSTALLATION, Finding, examine, gpu, space, threads, versions
from finetricks.doctor.case import Case, peak_rate, with_rates
from finetricks.doctor.rates import RangeTest, judged, smoothed
from finetricks.doctor.training import TRAINING
from test_cli import Cli, cli, install, known_afterwards  # noqa: F401  (fixtures)

TRICKS = '''
import itertools
import torch
from torch import nn
from finetricks import Trick, hookimpl

def after(model, change):
    """Change what the first block gives."""
    def hook(module, given, out):
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
    model.bert.encoder.layer[0].register_forward_hook(hook)

class DeadUnits(Trick):
    """ReLUs that are never on."""

    @hookimpl
    def build(self, model):
        for block in model.bert.encoder.layer:
            block.intermediate.intermediate_act_fn = nn.ReLU()

    @hookimpl
    def init(self, model):
        with torch.no_grad():
            model.bert.encoder.layer[1].intermediate.dense.bias.fill_(-100)

class Deaf(Trick):
    """Its loss tells the weights nothing."""

    @hookimpl(wrapper=True)
    def loss(self, step):
        loss = yield
        return loss.detach() + 0 * sum(p.sum() for p in step.model.parameters())

class Backwards(Trick):
    """Its gradient points uphill."""

    @hookimpl(wrapper=True)
    def loss(self):
        loss = yield
        return 2 * loss.detach() - loss

class Cut(Trick):
    """Nothing comes back to the first block."""

    @hookimpl
    def build(self, model):
        after(model, lambda out: out.detach())

class Detached(Trick):
    """Its scores depend on no weight."""

    @hookimpl
    def build(self, model):
        model.classifier.register_forward_hook(lambda module, given, out: out.detach())

class Vanishing(Trick):
    """Little comes back to the first block."""

    @hookimpl
    def build(self, model):
        after(model, lambda out: 1e-7 * out + ((1 - 1e-7) * out).detach())

class Exploding(Trick):
    """A head with huge weights."""

    @hookimpl
    def init(self, model):
        with torch.no_grad():
            model.classifier.weight.mul_(1e6)

class Restless(Trick):
    """Gives something else in every forward pass, and anything but nearly the same."""

    @hookimpl
    def build(self, model):
        passes = itertools.count()
        after(model, lambda out: out + next(passes) % 2 * torch.arange(out.shape[-1]))
'''
RECIPE = """\
model: model
data: {train: train.csv, test: test.csv, valid: 0.25}
training: {epochs: 2, batch_size: 8, learning_rate: 2.0e-3}
tricks: [stlr, gradual_unfreezing]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.write_task(tmp_path_factory.mktemp("task"))
    (folder / "tricks.py").write_text(TRICKS)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what other distributions check: one start of Ray is enough."""
    monkeypatch.setattr(sys.modules["finetricks.cli.doctor"], "announced", lambda group, taken: {})


def case(folder: Path, *settings: str) -> Case:
    catalog = installed().with_file(folder / "tricks.py")
    return Case(Recipe.load(folder / "recipe.yaml", settings, catalog))


def training(name: str, folder: Path, *settings: str) -> list[Finding]:
    return list(examine(TRAINING[name], case(folder, *settings)))


def installation(name: str) -> list[Finding]:
    return list(examine(INSTALLATION[name], installed()))


def only(findings: list[Finding], level: str) -> Finding:
    (finding,) = findings
    assert finding.level == level, finding
    assert (finding.do == "") == (level == "ok")
    return finding


# -- the command -----------------------------------------------------------------------------------------


def test_a_sound_recipe_passes_every_check(
    cli: Cli,  # noqa: F811
    folder: Path,
    tmp_path: Path,
    without_ray: None,
) -> None:
    files, state = sorted(folder.rglob("*")), torch.get_rng_state()
    picture = tmp_path / "rates.png"
    answer = cli("doctor", folder / "recipe.yaml", "--out", picture, "--json")
    found = json.loads(answer.out)
    assert answer.code == 0, found
    assert [one for one in found if one["level"] == "wrong"] == []
    assert {one["check"] for one in found} == {*INSTALLATION, *TRAINING}
    assert {one["check"] for one in found if one["level"] == "ok"} >= {*TRAINING, "plugins"}
    assert f"picture: {picture}" in [one["what"] for one in found]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(folder.rglob("*")) == files
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_wrong_is_said_with_what_to_do_and_fails(cli: Cli, folder: Path, without_ray: None) -> None:  # noqa: F811
    plugin = ("--plugin", folder / "tricks.py")
    answer = cli("doctor", folder / "recipe.yaml", *plugin, "--set", "tricks=[detached]")
    assert answer.code == 1
    assert "wrong  gradients" in answer.out
    assert "do: let the output depend on what is trained" in answer.out
    assert answer.out.splitlines()[-1].startswith("3 wrong, ")


def test_wrong_input_is_told_as_elsewhere(cli: Cli, folder: Path, without_ray: None) -> None:  # noqa: F811
    for arguments, words in (
        (["missing.yaml"], "missing.yaml"),
        ([folder / "recipe.yaml", "--out", "rates.gif"], "suffix"),
        ([folder / "recipe.yaml", "--set", "data=null"], "no model or no data"),
        (["--out", "rates.png"], "name a recipe"),
    ):
        answer = cli("doctor", *arguments)
        assert answer.code == 2, arguments
        assert words in answer.err


@pytest.mark.waits
def test_ray_starts_here() -> None:
    from finetricks_tuning.doctor import check_ray

    finding = only(list(examine(check_ray, installed())), "ok")
    assert "starts, with" in finding.what


def test_a_ray_that_does_not_start_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from finetricks_tuning.doctor import check_ray

    def init(**options: object) -> None:
        raise RuntimeError("no ports are left")

    monkeypatch.setattr(ray, "init", init)
    assert "no ports are left" in only(list(examine(check_ray, installed())), "wrong").what


def test_a_check_that_raises_is_a_finding() -> None:
    def raises(subject: object) -> Iterator[Finding]:
        raise ZeroDivisionError("one over none")
        yield

    assert "ZeroDivisionError: one over none" in only(list(examine(raises, None)), "wrong").what


# -- the installation ------------------------------------------------------------------------------------


def test_a_library_below_its_bound_or_missing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    only(installation("versions"), "ok")
    there = versions._version
    monkeypatch.setattr(versions, "_version", lambda name: {"torch": "1.13", "pluggy": None}.get(name, there(name)))
    found = {finding.what: finding.do for finding in installation("versions")}
    assert found == {
        "torch 1.13, and finetricks needs >=2.13": "pip install 'torch>=2.13'",
        "pluggy is not installed, and finetricks needs it": "pip install 'pluggy>=1.7'",
    }
    monkeypatch.setattr(versions, "_version", lambda name: None)
    assert list(versions.unmet_versions("tune")) == []  # an extra that nobody asked for
    monkeypatch.setattr(versions, "_version", lambda name: "2.0" if name == "ray" else "99")
    assert only(list(versions.unmet_versions("tune")), "wrong").what == "ray 2.0, and finetricks[tune] needs >=2.60"


def test_a_python_that_is_too_old_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions.platform, "python_version", lambda: "3.9.1")
    assert "Python 3.9.1, and finetricks needs >=3.11" in [finding.what for finding in installation("versions")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees the GPU")
def test_a_gpu_that_torch_does_not_see_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DEVICES", tmp_path)
    monkeypatch.delenv(gpu.VISIBLE, raising=False)
    assert "no NVIDIA GPU" in only(installation("gpu"), "ok").what
    (tmp_path / "nvidia0").touch()
    assert "nvidia0 on this machine, and torch" in only(installation("gpu"), "wrong").what
    monkeypatch.setenv(gpu.VISIBLE, "")
    assert "hidden by CUDA_VISIBLE_DEVICES=''" in only(installation("gpu"), "look").what


def test_more_threads_than_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(threads, "QUOTA", quota)
    assert threads.cores() >= 1  # no quota
    quota.write_text("100000 100000\n")
    assert threads.cores() == 1
    only(installation("threads"), "ok")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert "OMP_NUM_THREADS is 64, and this process may use 1 cores" in only(installation("threads"), "look").what
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert "no number of threads" in only(installation("threads"), "look").what


def test_room_in_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETRICKS_CACHE", str(tmp_path / "not" / "there"))
    monkeypatch.setattr(
        space, "shutil", SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=int(5.5 * 2**30)))
    )
    ours, hub = installation("space")
    assert (ours.level, hub.level) == ("ok", "ok")
    assert "has 5.5 GiB of room" in ours.what
    assert list(tmp_path.iterdir()) == []
    for gibibytes, level in ((3, "look"), (0.5, "wrong")):
        free = int(gibibytes * 2**30)
        monkeypatch.setattr(space.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert installation("space")[0].level == level
    (tmp_path / "file").touch()
    monkeypatch.setenv("FINETRICKS_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot be written" in installation("space")[0].what


def test_a_plugin_that_does_not_load_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known_afterwards: object,  # noqa: F811
) -> None:
    assert "tricks load, of finetricks" in installation("plugins")[0].what
    points = "[finetricks]\nsnapped = no_such_module:Snapped\n[finetricks.commands]\nlost = no_such_module:lost\n"
    install(tmp_path, monkeypatch, "their-tricks", points)
    found = [finding.what for finding in installation("plugins")]
    assert [what for what in found if "trick 'snapped' of their-tricks 1.2 does not load: ModuleNotFoundError" in what]
    assert [what for what in found if "the command 'lost' of their-tricks 1.2 does not load" in what]


# -- the training ----------------------------------------------------------------------------------------


def test_labels_that_are_rare_or_absent(folder: Path, tmp_path: Path) -> None:
    assert "the most frequent" in only(training("labels", folder), "ok").what
    lines = (folder / "train.csv").read_text().splitlines()
    birds, fish = lines[1::2], lines[2::2]
    (tmp_path / "train.csv").write_text("\n".join([lines[0], *birds, *fish[:2]]) + "\n")
    found = training("labels", folder, f"data.train={tmp_path / 'train.csv'}", f"data.valid={folder / 'test.csv'}")
    few, rare = [finding.what for finding in found]
    assert few == "fewer than 5 examples of 'fish'"
    assert "32 examples of 2 labels: the most frequent, bird, has 30 (94%), the rarest, fish, 2 (6%)" in rare
    assert "judge by macro_f1 or mcc, not by accuracy" in found[1].do


def test_values_that_a_head_does_not_begin_near(folder: Path, tmp_path: Path) -> None:
    for scale, level in ((1, "ok"), (1000, "look")):
        rows = [f"big{' wing' * (row + 1)},{scale * (row / 4 - 1)}" for row in range(9)]
        (tmp_path / "values.csv").write_text("\n".join(["text,label", *rows]) + "\n")
        found = training("labels", folder, f"data.train={tmp_path / 'values.csv'}", "data.test=null", "tricks=[]")
        only(found, level)


def test_texts_that_are_cut(folder: Path) -> None:
    assert "no text is longer than max_length, 32 tokens" in only(training("truncation", folder), "ok").what
    task = case(folder).task.splits["train"]
    long = [len(ids) for ids in task["input_ids"][:] if len(ids) > 7]
    found = only(training("truncation", folder, "training.max_length=7"), "look")
    assert f"{len(long)} of {len(task)} texts of train ({len(long) / len(task):.0%})" in found.what
    lost = sum(length - 7 for length in long) / sum(len(ids) for ids in task["input_ids"][:])
    assert f"which lose {lost:.0%} of all tokens" in found.what
    kept = only(training("truncation", folder, "training.max_length=7", "tricks=[head_tail]"), "ok")
    assert "up to head_tail" in kept.what


def test_dead_units(folder: Path) -> None:
    only(training("dead units", folder), "ok")
    found = only(training("dead units", folder, "tricks=[dead_units]"), "wrong")
    assert "bert.encoder.layer.1.intermediate.intermediate_act_fn (ReLU) 32 of 32 (100%)" in found.what
    assert "layer.0" not in found.what


def test_gradients(folder: Path) -> None:
    assert "norms by layer: embeddings " in only(training("gradients", folder, "tricks=[stlr]"), "ok").what
    cut = only(training("gradients", folder, "tricks=[cut]"), "wrong")
    assert "no gradient reaches embeddings, block.0; norms" in cut.what
    detached = only(training("gradients", folder, "tricks=[detached]"), "wrong")
    assert "depends on nothing that is trained" in detached.what
    vanishing = only(training("gradients", folder, "tricks=[vanishing]"), "look")
    assert "vanishes in embeddings, block.0; norms" in vanishing.what
    assert "explodes" in only(training("gradients", folder, "tricks=[exploding]"), "wrong").what


def test_one_batch_is_learnt_by_heart(folder: Path) -> None:
    found = only(training("overfit", folder), "ok")
    assert "fell at each of 10 steps" in found.what
    for trick in ("deaf", "backwards"):
        found = only(training("overfit", folder, f"tricks=[{trick}]"), "wrong")
        assert "falls at no rate: at 0.002 not at steps 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 (" in found.what
    found = only(training("overfit", folder, "training.learning_rate=100"), "wrong")
    assert "at the highest rate of the recipe, 1e+02, the loss of one batch did not fall at step" in found.what
    assert "lower training.learning_rate" in found.do


def test_a_loss_that_draws_by_itself_is_told(folder: Path) -> None:
    found = training("overfit", folder, "tricks=[restless]")
    assert "something draws" in found[0].what


def test_dropout_and_noise_are_off_for_one_batch(folder: Path) -> None:
    """With the model's dropout at a half, and a loss that masks other words at each step, it falls all the same."""
    settings = ("tricks=[{dropout: {p: 0.5}}, auxiliary_lm]",)
    only(training("overfit", folder, *settings), "ok")


def test_rates(folder: Path) -> None:
    assert "the recipe's highest rate is 0.002" in only(training("rates", folder), "ok").what
    assert "where training explodes" in only(training("rates", folder, "training.learning_rate=100"), "wrong").what
    deaf = only(training("rates", folder, "tricks=[deaf]"), "look")
    assert "falls at no rate" in deaf.what


def test_a_range_test_by_hand() -> None:
    assert smoothed([2.0, 1.0]) == pytest.approx([2.0, (0.75 * 2 + 1) / 1.75])
    test = RangeTest(rates=(1e-3, 1e-2, 1e-1, 1.0), losses=(2.0, 1.0, 1.0, 50.0), recipe=1e-2)
    assert (test.lowest, test.steepest, test.explodes) == (1e-1, 1e-3, 1.0)
    assert RangeTest((1e-3, 1e-2), (2.0, float("inf")), 1e-2).explodes == 1e-2
    for recipe, level, words in (
        (1e-2, "ok", "fastest at 0.001"),
        (1e-5, "look", "which is low"),
        (0.5, "look", "beyond where the loss falls"),
        (1.0, "wrong", "where training explodes"),
    ):
        assert words in only([judged(replace(test, recipe=recipe))], level).what


def test_a_recipe_that_trains_nothing_is_left_alone(folder: Path) -> None:
    for check in ("gradients", "overfit", "rates"):
        found = only(training(check, folder, "tricks=[predict_only]"), "ok")
        assert found.what == "the recipe trains no layer"


def test_sessions_of_a_case_begin_alike_and_follow_the_plan_that_they_are_given(folder: Path) -> None:
    given = case(folder, "tricks=[glorot_normal]")
    one, other = given.session(), given.session()
    assert tiny.equal(one.model, other.model)
    assert peak_rate(one.plan) == 2e-3
    one.hold(with_rates(one.plan, [1e-3, 1e-1]))
    rates = []
    one.model.train()
    for batch in one.batches():
        rates += [group["lr"] for group in one.optimizer.param_groups[:1]]
        one.backward(one.loss(batch))
        one.step()
    assert rates == pytest.approx([1e-3, 1e-1])


def test_long_texts_make_smaller_batches_on_a_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetricks.doctor.case.MOST_TOKENS", 40)
    given = case(folder)
    size = given.recipe.training.batch_size
    assert 2 <= size < 8
    assert f"with batches of {size}, for the time that 8 would take" in given.smaller or torch.cuda.is_available()


def test_the_installation_is_examined_without_torch() -> None:
    """Where torch does not load it is said; `finetricks doctor --help` needs nothing heavy."""
    import subprocess

    code = "import sys, finetricks.doctor, finetricks.cli.doctor; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

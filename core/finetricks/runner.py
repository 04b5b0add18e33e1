"""One run: a recipe trained on its task, in a folder that can be resumed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetricks.compiled import fresh_compiler
from finetricks.distributed import ALONE, OtherRankFailed, Ranks
from finetricks.errors import CheckpointError, Diverged, FinetricksError, InputError, NotFinite
from finetricks.folder import RunFolder
from finetricks.layer_pass import without
from finetricks.layers import find_layers
from finetricks.lengths import token_counts
from finetricks.order import first_batch
from finetricks.plan import Plan, compile_plan, total_steps
from finetricks.prefix import unlike_any
from finetricks.replay.replaying import Replaying
from finetricks.session import Session
from finetricks.stems import SharedRun, Sharing, Start
from finetricks.storage import StorageError, storage_problem
from finetricks.tasks import Task, load_task
from finetricks.tasks.encode import Padding, added_columns, loader, truncate
from finetricks.tasks.held_out import hold_out
from finetricks.tasks.metrics import METRICS, compute_metrics
from finetricks.tasks.models import write_model
from finetricks.tasks.predictions import score, write_predictions

if TYPE_CHECKING:
    import datasets
    from torch import nn
    from torch.utils.data import DataLoader

    from finetricks.layers import Layers
    from finetricks.recipe import Recipe
    from finetricks.stack import Stack

logger = logging.getLogger(__name__)

OnProgress = Callable[[int, int, dict[str, float] | None], None]


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        valid: metrics by name.
        test: metrics by name; `None` without a test split.
        seconds: of training and evaluation, over all its resumptions.
        steps: optimizer steps done.
        notes: what the user should know of data and plan, a sentence each.
        decisions: what tricks decided while training, with the first step at which each holds.
        replay: what replay came to since the run was last begun or resumed: see `Session.replay`.
        branched: where this run went on from another's work: the `step`, the name of the run that did the steps
            before (`stem`), and the `seconds` that these had taken, which are not among this run's. `None` for a run
            that did all of its steps itself.
    """

    valid: dict[str, float]
    test: dict[str, float] | None
    seconds: float
    steps: int
    notes: tuple[str, ...]
    folder: Path
    decisions: Mapping[str, int] = field(default_factory=dict)
    replay: Mapping[str, Any] = field(default_factory=dict, compare=False)
    branched: Mapping[str, Any] | None = None


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    task: Task | None = None,
    save_model: bool = True,
    upto: float = 1.0,
    on_progress: OnProgress | None = None,
    trust_remote_code: bool = False,
    sharing: Sharing | None = None,
) -> Result:
    """Train `recipe` and write the run's folder `out`.

    In an initialised process group of torch each process calls this, and they train one model together, data-parallel:
    the recipe's batch is shared out among them, rank 0 writes, and all get the result. All must be able to read `out`.

    A recipe without data whose tricks learn from text of their own (`further_pretraining` on a corpus) comes to a model
    without a head, and a result without metrics: see `finetricks.pretraining`.

    Args:
        resume: continue from the newest whole checkpoint in `out`; a finished run is given as it is.
        overwrite: replace the run in `out`.
        task: the recipe's task, if it was loaded already.
        save_model: write `model/`.
        upto: the share of the steps after which the run is put down, with a checkpoint and the metrics on valid so far;
            `resume` goes on from there, and comes to what a run in one go does.
        on_progress: called with (steps done, total steps, the metrics on valid if it was evaluated or None).
        trust_remote_code: execute code that comes with the model. No recipe can ask for it.
        sharing: other runs that do the same first steps: this one goes on from what they have left, and leaves what
            they go on from. It comes to the same as without, bit for bit.

    Raises:
        InputError: the recipe, its data, its model or the folder cannot be used.
        CheckpointError: on resuming, for a run of another recipe or of other data.
        Diverged: the loss, the gradient or a score is no longer finite.
        OtherRankFailed: another process of the group failed.
        StorageError: `out` can no longer be written; the run can be resumed from its last checkpoint once it can.
    """
    folder, ranks = RunFolder(out), Ranks.current()
    if task is None and recipe.only_pretrains:
        from finetricks.pretraining import pretrain

        with _threads(recipe.training.threads), _telling(folder.path):
            return pretrain(recipe, out, resume=resume, overwrite=overwrite, trust_remote_code=trust_remote_code)
    ranks.of_first(lambda: folder.check(recipe, resume=resume, overwrite=overwrite))
    if resume and (done := ranks.of_first(folder.result)) is not None:
        return Result(**{**done, "notes": tuple(done["notes"])}, folder=folder.path)
    with _threads(recipe.training.threads), fresh_compiler(recipe.training.compile is not False):
        with ranks.together():
            task = task or task_of(recipe, trust_remote_code)
        with _telling(folder.path):
            begun = _Run(recipe, task, folder, ranks, resume=resume, sharing=sharing)
            return begun.train(save_model, upto, on_progress)


def task_of(recipe: Recipe, trust_remote_code: bool = False) -> Task:
    """Load the task that a recipe names. Raises `InputError` when it names no model or no data."""
    if recipe.model is None or recipe.data is None:
        raise InputError("a run needs `model` and `data`: the recipe names only tricks, for a loop of your own")
    return load_task(
        recipe.model, recipe.data, max_length=recipe.training.max_length, trust_remote_code=trust_remote_code
    )


def plan_of(recipe: Recipe, task: Task | None = None) -> Plan:
    """The plan that `run` would follow. Loads the model and the data; trains nothing."""
    plan, model, layers, about_input = _first_plan(recipe, task or task_of(recipe))
    return Replaying(model, layers, recipe.stack(), recipe.training, **about_input).planned(plan)


def plans_of(recipes: Sequence[Recipe], task: Task) -> list[Plan]:
    """The plans of recipes that differ in nothing but what acts through the plan. Loads the model; trains nothing."""
    first, model, layers, _ = _first_plan(recipes[0], task)
    return [first, *(_compiled(recipe, model, layers, first.steps_per_epoch) for recipe in recipes[1:])]


def _first_plan(recipe: Recipe, task: Task) -> tuple[Plan, nn.Module, Layers, dict[str, Any]]:
    """The plan, the model and its layers, and what the model is given."""
    stack, streams = recipe.stack(), recipe.streams
    splits, added = splits_of(recipe, task, stack)
    model = stack.build(task.model(streams.init), streams.init, **about(recipe, task))
    batches = batches_of(recipe, task, splits["train"], added)
    sample, forward = first_batch(batches), partial(without, added)
    layers = find_layers(model, sample, recipe.layers, forward)
    plan = _compiled(recipe, model, layers, -(-len(batches) // recipe.training.accumulation))
    return plan, model, layers, {"batch": sample, "forward": forward, "examples": len(splits["train"])}


def _compiled(recipe: Recipe, model: nn.Module, layers: Layers, per_epoch: int) -> Plan:
    return compile_plan(
        recipe.stack(),
        model,
        layers,
        total_steps=total_steps(recipe.training.epochs, per_epoch),
        steps_per_epoch=per_epoch,
        learning_rate=recipe.training.learning_rate,
    )


def about(recipe: Recipe, task: Task) -> dict[str, Any]:
    """What tricks are told of the task, in `Context`."""
    return {
        "tokenizer": task.tokenizer,
        "max_length": task.max_length,
        "text_columns": task.text_columns,
        "explicit_layers": recipe.layers,
        "labels": task.labels,
        "metrics": METRICS[task.kind],
    }


def splits_of(recipe: Recipe, task: Task, stack: Stack) -> tuple[dict[str, datasets.Dataset], tuple[str, ...]]:
    """The splits as the model will see them: changed by the tricks, then cut to the model's length.

    `held_out` is among them where a trick decides while training. The names of the columns that tricks added come with
    them.
    """
    given = dict(task.splits)
    changed = {split: _changed(recipe, task, stack, split, given[split]) for split in given}
    if stack.judges:
        seed = recipe.data.split_seed if recipe.data else 0
        changed["train"], held = hold_out(task, changed["train"], recipe.training.held_out, seed)
        changed["held_out"] = _changed(recipe, task, stack, "held_out", held)
    added = added_columns(given["train"], changed["train"])
    if not stack.bounds_length:
        changed = {split: truncate(part, task.tokenizer, task.max_length) for split, part in changed.items()}
    return changed, added


def batches_of(recipe: Recipe, task: Task, train: datasets.Dataset, added: Sequence[str]) -> DataLoader[Any]:
    """The loader of the training batches, over a split that `splits_of` gave with the columns `added`."""
    size = recipe.training.batch_size
    return loader(train, task.tokenizer, size, shuffle=True, added=added, padding=padding_of(recipe, task))


def lengths_for_groups(task: Task, train: datasets.Dataset) -> list[int]:
    """By what the training examples are grouped: the tokens that each had before tricks and `max_length` cut it.

    So configurations that cut differently see the examples in one order.
    """
    whole = task.splits["train"]
    before = dict(zip(whole["example_id"][:], token_counts(whole), strict=True))
    return [before.get(row, own) for row, own in zip(train["example_id"][:], token_counts(train), strict=True)]


def padding_of(recipe: Recipe, task: Task) -> Padding:
    return Padding(recipe.training.pad_to_multiple_of, task.max_length)


def _changed(recipe: Recipe, task: Task, stack: Stack, split: str, given: datasets.Dataset) -> datasets.Dataset:
    changed = stack.data(given, split, recipe.streams.data, **about(recipe, task))
    if not len(changed):
        raise InputError(f"no example is left in {split} after the tricks {', '.join(stack.implementing('data'))}")
    return changed


def bound(
    recipe: Recipe, task: Task, ranks: Ranks = ALONE, *, init: bool = True
) -> tuple[dict[str, datasets.Dataset], tuple[str, ...], Session]:
    """The splits, the columns that tricks added to them, and the session of a new model."""
    stack, streams = recipe.stack(), recipe.streams
    splits, added = splits_of(recipe, task, stack)
    context = about(recipe, task)
    model = stack.build(task.model(streams.init), streams.init, **context).to(device())
    session = Session.bind(
        recipe,
        model,
        batches_of(recipe, task, splits["train"], added),
        forward=partial(without, added),
        build=False,
        init=init,
        context=context,
        lengths=lengths_for_groups(task, splits["train"]) if recipe.training.group_by_length else None,
        ranks=ranks,
    )
    return splits, added, session


class _Run:
    """The state of a run between its steps."""

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        folder: RunFolder,
        ranks: Ranks,
        *,
        resume: bool,
        sharing: Sharing | None = None,
    ) -> None:
        self.recipe = recipe
        self.task = task
        self.folder = folder
        self.ranks = ranks
        saved = self._checkpoint() if resume else None
        self.start: Start | None = None
        self.shared: SharedRun | None = None
        if sharing is not None and sharing.start is not None:
            self.start = Start(sharing.start, recipe, task, sharing.start_binds)
        if sharing is not None and sharing.folder is not None and not unlike_any(recipe):
            self.shared = SharedRun(sharing, sharing.folder, recipe, task, ranks)
        stems = self.shared is not None and self.shared.any()
        self.splits, self.added, self.session = self._begun(init=saved is None and not stems)
        self.branched: dict[str, Any] | None = None
        if self.shared is not None:
            saved = self._enter(self.shared, saved, stems=stems)
        self.wrapped = ranks.wrap(self.session.model)  # before what the checkpoint says is frozen
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []  # since the last evaluation
        self.seconds_before = 0.0
        if saved is not None:
            if self.shared is not None and "prefix" in saved:
                self.session.branch(saved, self.shared.prefix)
                self.branched = {"step": saved["global_step"], "stem": saved["from"], "seconds": saved["seconds"]}
            else:
                self.session.load_state_dict(saved)
                self.branched = saved.get("branched")
            self.history, self.losses, self.seconds_before = (
                saved["history"],
                saved["losses"],
                saved["seconds"],
            )
        ranks.of_first(lambda: self._begin(resume))  # only now: what cannot be used leaves nothing behind
        self.started = time.perf_counter()

    def _enter(self, shared: SharedRun, saved: dict[str, Any] | None, *, stems: bool) -> dict[str, Any] | None:
        """What this run goes on from: its own checkpoint, or what another has left, if that is further on."""
        stem = shared.furthest(self.session, -1 if saved is None else saved["global_step"])
        if stems and stem is None and saved is None:  # none of them fits: the weights are this run's to make
            self.splits, self.added, self.session = self._begun(init=True)
        saved = saved if stem is None else stem
        shared.settle(self.session, _compiled, 0 if saved is None else saved["global_step"])
        return saved

    def _checkpoint(self) -> dict[str, Any] | None:
        """The newest whole checkpoint.

        Raises:
            CheckpointError: not all ranks see the same one, or it was trained on other data.
        """
        with self.ranks.together():
            saved = self.folder.checkpoints.newest()
        steps = self.ranks.gather(saved["global_step"] if saved else None)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"the processes find different checkpoints in {self.folder.path} (of steps {steps}, by rank): the "
                "folder must lie on storage that all of them share"
            )
        if saved is not None and saved.get("data", self.task.fingerprint) != self.task.fingerprint:
            raise CheckpointError(
                f"the data is no longer what the checkpoint in {self.folder.path} was trained on; bring it back, or "
                "start again with --overwrite"
            )
        return saved

    def _begun(self, *, init: bool) -> tuple[dict[str, datasets.Dataset], tuple[str, ...], Session]:
        """`bound`, where others that begin with the same weights may have made them already."""
        if init and self.start is not None and self.ranks.of_first(self.start.is_there):
            try:
                with self.ranks.together():
                    made = bound(self.recipe, self.task, self.ranks, init=False)
                    self.start.fill(made[2])
                    return made
            except (CheckpointError, OtherRankFailed) as error:
                logger.warning("the weights that another run began with are not taken: %s", error)
                self.ranks.of_first(self.start.clear)
        with self.ranks.together():
            made = bound(self.recipe, self.task, self.ranks, init=init)
        if init and self.start is not None:
            self.ranks.of_first(partial(self.start.keep, made[2]))
        return made

    def _begin(self, resume: bool) -> None:
        self.folder.begin(self.recipe, resume=resume, ranks=self.ranks.size)
        self.folder.write_metrics(self.history)

    def train(self, save_model: bool, upto: float, on_progress: OnProgress | None) -> Result:
        try:
            return self._train(save_model, upto, on_progress)
        except Diverged as diverged:
            self._record({}, diverged)
            raise

    def _train(self, save_model: bool, upto: float, on_progress: OnProgress | None) -> Result:
        session, plan = self.session, self.session.plan
        session.model.train()
        last = math.ceil(upto * plan.total_steps)
        for batch in session.batches() if session.global_step < last else ():
            with self.ranks.together():
                loss = session.loss(batch, self.wrapped)
            value = self.ranks.mean(loss.item() * session.weight)
            if math.isfinite(value):
                self.losses.append(value)
            session.backward(loss)
            if not session.step():
                continue
            metrics = self._evaluation() if self._due(self.recipe.training.evaluate) else None
            if self.shared is not None:  # before the checkpoint: what lies before one is never gone through again
                self.shared.leave(session, self._state)
            if self._due(self.recipe.training.checkpoint):
                self._save()
            if on_progress is not None and self.ranks.rank == 0:
                on_progress(session.global_step, plan.total_steps, metrics)
            if session.global_step >= last:
                break
        return self._end(save_model) if session.ended or upto >= 1 else self._put_down()

    def _due(self, interval: int | str) -> bool:
        """Whether what happens at this interval is due now; the run's end is always an interval's end."""
        if interval == "off":
            return False
        plan, step = self.session.plan, self.session.global_step
        every = plan.steps_per_epoch if interval == "epoch" else int(interval)
        return step % every == 0 or self.session.ended

    def _evaluation(self) -> dict[str, float]:
        """Let the tricks decide on the held-out slice, if they do; then score valid, and record it."""
        if "held_out" in self.splits:
            self.session.evaluated(self._evaluate("held_out"))
        metrics = self._evaluate("valid")
        self._record(metrics)
        return metrics

    def _evaluate(self, split: str) -> dict[str, float]:
        """Score a split; at the run's end keep the predictions, example by example."""
        dataset, task = self.splits[split], self.task
        ranks = self.ranks
        try:
            scores = score(
                self.session.model,
                dataset,
                task.tokenizer,
                kind=task.kind,
                batch_size=self.recipe.training.eval_batch_size,
                ranks=ranks,
                added=self.added,
                padding=padding_of(self.recipe, task),
                around=partial(self.session.replayed, training=False),
            )
        except NotFinite:  # the last step before an evaluation can do it, with a loss that was finite
            raise Diverged(self.session.global_step, f"score of an example of {split}") from None
        if self.session.ended and split in task.splits:
            path = self.folder.predictions(split)
            ranks.of_first(lambda: write_predictions(path, dataset, scores, kind=task.kind, labels=task.labels))
        return compute_metrics(task.kind, scores, dataset["labels"][:])

    def _record(self, metrics: dict[str, float], diverged: Diverged | None = None) -> None:
        session = self.session
        self.history.append(
            metrics_line(
                session.plan,
                session.global_step,
                self.losses,
                metrics,
                seconds=self._seconds(),
                skipped=session.skipped.total,
            )
            | ({"loss_scale": session.loss_scale} if self.recipe.training.precision == "fp16" else {})
            | ({"diverged": {"step": diverged.step, "what": diverged.what}} if diverged else {})
        )
        self.losses = []
        self.ranks.of_first(lambda: self.folder.write_metrics(self.history))

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def _save(self) -> None:
        self.session.check_weights()  # a checkpoint that is there can be gone on from
        state = self._state()  # all ranks have a part in it
        self.ranks.of_first(lambda: self.folder.checkpoints.save(self.session.global_step, state))

    def _state(self) -> dict[str, Any]:
        return {
            **self.session.state_dict(),
            "data": self.task.fingerprint,
            "history": self.history,
            "losses": self.losses,
            "seconds": self._seconds(),
            "branched": self.branched,
        }

    def _put_down(self) -> Result:
        """Save, and score valid: the score is no part of the run, which may be evaluated elsewhere."""
        self._save()
        return self._result(self._evaluate("valid"), None)

    def _end(self, save_model: bool) -> Result:
        if not self.history or self.history[-1]["step"] < self.session.global_step:
            self._evaluation()  # no step was done at the run's end: everything is frozen then
        valid = self.history[-1]["valid"]  # the end is always evaluated, with its predictions kept
        test = self._evaluate("test") if "test" in self.splits else None
        with self.ranks.together():
            model = self.session.finish()
        return self.ranks.of_first(lambda: self._write(model, valid, test, save_model))

    def _write(self, model: Any, valid: dict[str, float], test: dict[str, float] | None, save_model: bool) -> Result:
        """Write the model and the result."""
        session = self.session
        if save_model:
            write_model(
                model,
                self.task.tokenizer,
                self.folder.model,
                max_length=self.task.max_length,
                rebuilt=session.stack.changes_structure,
            )
        result = self._result(valid, test)
        left_out = {"folder"} if result.branched else {"folder", "branched"}
        self.folder.write_result({key: value for key, value in vars(result).items() if key not in left_out})
        self.folder.checkpoints.clear()  # there is nothing left to resume, and they are large
        return result

    def _result(self, valid: dict[str, float], test: dict[str, float] | None) -> Result:
        plan = self.session.plan
        return Result(
            valid=valid,
            test=test,
            seconds=self._seconds() - (self.branched["seconds"] if self.branched else 0.0),
            steps=self.session.global_step,
            notes=(*self.task.notes, *plan.warnings()),
            folder=self.folder.path,
            decisions=dict(plan.decisions),
            replay=self.session.replay,
            branched=self.branched,
        )


def metrics_line(
    plan: Plan, step: int, losses: Sequence[float], valid: Mapping[str, float], *, seconds: float, skipped: int = 0
) -> dict[str, Any]:
    """A line of metrics.jsonl.

    Args:
        step: optimizer steps done.
        losses: of the micro-batches since the last evaluation.
        valid: the metrics on valid.
        seconds: since the run began.
        skipped: how many steps were not finite.
    """
    last = max(step - 1, 0)
    return {
        "step": step,
        "epoch": step / plan.steps_per_epoch,
        "train_loss": sum(losses) / len(losses) if losses else None,
        "valid": valid,
        "learning_rate": {group.name: plan.rate(group, last) for group in plan.groups},
        "frozen": sorted(plan.stage_at(last).frozen),
        "decisions": dict(plan.decisions),
        "skipped_steps": skipped,
        "seconds": seconds,
    }


def device() -> torch.device:
    """Where a model is trained: on this process's GPU, or on the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Within the block, whatever comes of a disk that cannot be written is a `StorageError`."""
    try:
        yield
    except FinetricksError:
        raise
    except Exception as failure:
        if reason := storage_problem(failure, folder):
            raise StorageError(folder, reason, "run") from failure
        raise


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if wanted is not None:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)

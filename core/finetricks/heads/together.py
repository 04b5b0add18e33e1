"""Runs whose body never thaws, trained together: one pass over the examples, then all heads at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from finetricks.errors import FinetricksError, NotFinite, in_words
from finetricks.folder import RunFolder
from finetricks.fresh import fresh_parameters
from finetricks.heads.apart import Apart, reason_of_settings
from finetricks.heads.features import Features
from finetricks.heads.members import Body, Member, first_of, next_of
from finetricks.heads.training import Stacked
from finetricks.layer_pass import without
from finetricks.lengths import token_counts
from finetricks.runner import Result, _telling, _threads, metrics_line, padding_of
from finetricks.step import Step
from finetricks.streams import child, kept, seeded
from finetricks.tasks.encode import TOKENS
from finetricks.tasks.metrics import compute_metrics
from finetricks.tasks.models import write_model
from finetricks.tasks.predictions import scores_of, write_predictions

if TYPE_CHECKING:
    from finetricks.recipe import Recipe
    from finetricks.tasks import Task

CLOSE = 1e-3
"""How far a loss or a gradient of the first steps may be from the run's own, relative to the largest value. Rounding
comes to 1e-6; what is more, and so wrong, keeps the runs apart."""


def run_together(
    recipes: Sequence[Recipe], outs: Sequence[str | Path], *, task: Task, save_model: bool = False
) -> list[Result | Apart]:
    """Train runs together that differ in seeds, learning rates, schedules and first weights of their heads.

    Each run's folder comes to hold what it holds after `finetricks.runner.run`, to about 1e-6. A run that cannot be
    trained with the others is given as an `Apart` with the reason, and its folder is left as it was, or without a run
    where training had begun; so are all, where what their heads compute does not allow it. Nothing is saved on the way:
    a group that was interrupted is begun anew.

    Args:
        outs: the runs' folders. Runs that are in them are replaced.
        task: that of all recipes.
        save_model: write `model/` of each.

    Raises:
        InputError: a folder holds something else, or the data or the model cannot be used.
        StorageError: a folder can no longer be written.
    """
    found: list[Result | Apart | None] = [None] * len(recipes)
    todo = []
    for place, (recipe, out) in enumerate(zip(recipes, outs, strict=True)):
        if reason := reason_of_settings(recipe):
            found[place] = Apart(reason)
        else:
            RunFolder(out).check(recipe, resume=False, overwrite=True)
            todo.append((place, recipe, Path(out)))
    if todo:
        with _threads(todo[0][1].training.threads), _telling(todo[0][2]), kept():
            for (place, _, _), result in zip(todo, _Group(task, save_model).run(todo), strict=True):
                found[place] = result
    return [each if each is not None else Apart("it was not run") for each in found]


class _FixedStep(Step):
    """A step of which a trick may not ask what differs from one to the next."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("progress", "seed", "state", "generator", "state_of"):
            raise Apart(f"`step.{name}` differs from step to step, and one loss is computed for all")
        return super().__getattribute__(name)


class _Group:
    def __init__(self, task: Task, save_model: bool) -> None:
        self._task = task
        self._save_model = save_model
        self._body: Body | None = None
        self._began = time.perf_counter()

    def run(self, todo: Sequence[tuple[int, Recipe, Path]]) -> list[Result | Apart]:
        members = [self._member(recipe, out) for _, recipe, out in todo]
        able = [member for member in members if isinstance(member, Member)]
        if able and self._body is not None:
            try:
                self._train(self._body, able)
            except FinetricksError as error:
                if not isinstance(error, Apart):
                    raise
                reason = _told(error)
                for member in able:
                    member.apart = member.apart or reason
        seconds = (time.perf_counter() - self._began) / max(len(able), 1)
        return [each if isinstance(each, Apart) else self._result(each, seconds) for each in members]

    def _member(self, recipe: Recipe, out: Path) -> Member | Apart:
        try:
            if self._body is None:
                self._body, member = first_of(recipe, out, self._task)
                return member
            return next_of(recipe, out, self._task, self._body)
        except Apart as apart:
            return apart

    # -- training ----------------------------------------------------------------------------------------

    def _train(self, body: Body, members: list[Member]) -> None:
        with _Explained():
            train = self._features(body, members[0], "train")
            size = train.size
            trainable = [
                index
                for index in sorted(train.tape(size).read)
                if isinstance(body.tracked[index], torch.nn.Parameter) and body.tracked[index].requires_grad
            ]
            stacked = Stacked(members, body, train, trainable)
            self._check(body, members[0], stacked)
            scored = {split: self._features(body, members[0], split) for split in body.splits if split != "train"}
            stacked.check_scores(scored["valid"], lambda: self._logits(body, self._batch(body, "valid", range(2))))
        for member in members:
            member.folder.begin(member.recipe, resume=False)
            member.begun = True
            member.folder.write_metrics([])
        plan, interval = body.session.plan, body.recipe.training.evaluate
        every = plan.steps_per_epoch if interval == "epoch" else interval
        for step in range(plan.total_steps):
            stacked.step(step)
            done = step + 1
            if done % every == 0 or done == plan.total_steps:
                ended = done == plan.total_steps
                valid = self._evaluate(body, members, stacked, scored["valid"], "valid", ended=ended)
                for member, metrics in zip(members, valid, strict=True):
                    self._record(member, done, metrics, len(members))
        tested = [None] * len(members)
        if "test" in scored:
            tested = self._evaluate(body, members, stacked, scored["test"], "test", ended=True)
        self._tested = {id(member): metrics for member, metrics in zip(members, tested, strict=True)}
        for index, member in enumerate(members):
            member.head = stacked.head(index)

    def _evaluate(
        self, body: Body, members: Sequence[Member], stacked: Stacked, features: Features, split: str, *, ended: bool
    ) -> list[Any]:
        """The metrics of each run on a split; at the end its predictions are written."""
        dataset, task = body.splits[split], self._task
        labels = dataset["labels"][:]
        found: list[Any] = []
        for member, logits in zip(members, stacked.scores(features), strict=True):
            try:
                scores = scores_of(logits.to("cpu", torch.float64), task.kind)
            except NotFinite:
                member.apart = member.apart or f"a score of an example of {split} is not finite"
                found.append({})
                continue
            if ended and not member.apart:
                path = member.folder.predictions(split)
                write_predictions(path, dataset, scores, kind=task.kind, labels=task.labels)
            found.append(compute_metrics(task.kind, scores, labels))
        return found

    def _record(self, member: Member, step: int, valid: Mapping[str, float], runs: int) -> None:
        seconds = (time.perf_counter() - self._began) / runs
        member.history.append(metrics_line(member.plan, step, member.losses, dict(valid), seconds=seconds))
        member.losses = []
        member.folder.write_metrics(member.history)

    def _result(self, member: Member, seconds: float) -> Result | Apart:
        if member.apart or self._body is None:
            if member.begun:
                member.folder.clear()
            return Apart(member.apart)
        if self._save_model:
            self._write_model(member)
        result = Result(
            valid=member.history[-1]["valid"],
            test=self._tested[id(member)],
            seconds=seconds,
            steps=member.plan.total_steps,
            notes=(*self._task.notes, *member.plan.warnings()),
            folder=member.folder.path,
        )
        left_out = ("folder", "branched")
        member.folder.write_result({key: value for key, value in vars(result).items() if key not in left_out})
        return result

    def _write_model(self, member: Member) -> None:
        """Make the run's model once more, as a resumed run does, and give it its head."""
        from finetricks.heads.members import _bound, _head_of

        _, _, session = _bound(member.recipe, self._task)
        _, tracked = _head_of(session)
        with torch.no_grad():
            for tensor, value in zip(tracked, member.head, strict=True):
                tensor.copy_(value)
        write_model(
            session.finish(),
            self._task.tokenizer,
            member.folder.model,
            max_length=self._task.max_length,
            rebuilt=session.stack.changes_structure,
        )

    # -- what is computed --------------------------------------------------------------------------------

    def _features(self, body: Body, first: Member, split: str) -> Features:
        training = body.recipe.training
        body.model.train(split == "train")
        lengths = token_counts(body.splits[split])
        compute: Callable[[Any], Tensor] = (
            (lambda b: self._loss(body, b)) if split == "train" else (lambda b: self._logits(body, b))
        )
        return Features(
            compute,
            body.tracked,
            lambda rows, length: self._batch(body, split, rows, length),
            lengths,
            longest=padding_of(body.recipe, self._task).length(max(lengths)),
            size=training.batch_size if split == "train" else training.eval_batch_size,
            restore=lambda: body.restore(first.head),
        )

    def _batch(self, body: Body, split: str, rows: Sequence[int], length: int | None = None) -> dict[str, Tensor]:
        dataset = body.splits[split]
        labels = ("labels",) if split == "train" else ()
        columns = [name for name in (*TOKENS, *labels, *body.added) if name in dataset.column_names]
        examples = dataset.select_columns(columns)
        batch = body.session.order.loader.collate_fn([examples[int(row)] for row in rows])
        device = body.tracked[0].device
        return {name: self._padded(name, tensor.to(device), length) for name, tensor in batch.items()}

    def _padded(self, name: str, tensor: Tensor, length: int | None) -> Tensor:
        if length is None or name not in TOKENS or tensor.shape[1] >= length:
            return tensor
        tokenizer, missing = self._task.tokenizer, length - tensor.shape[1]
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}.get(name, 0)
        sides = (missing, 0) if tokenizer.padding_side == "left" else (0, missing)
        return F.pad(tensor, sides, value=fill)

    def _logits(self, body: Body, batch: Any) -> Tensor:
        return without(body.added, body.model, batch).logits  # type: ignore[no-any-return]

    def _loss(self, body: Body, batch: Any) -> Tensor:
        """The loss of a batch as the session makes it, of a step that tells nothing of itself."""
        session, model = body.session, body.model
        stack, criterion = session.stack, session.stack.criterion()
        step = _FixedStep(
            progress=session.plan.progress(0),
            model=model,
            forward=lambda b: without(body.added, model, b),
            criterion=lambda outputs, b: criterion(outputs=outputs, batch=b, step=step),
            layers=session.layers,
            seed=0,
            stack=stack,
            state={},
            fresh=fresh_parameters(model, session.layers),
        )
        loss = stack.loss(step.forward(batch), batch, step)
        penalty = stack.regularize(model, step)
        return loss if penalty is None else loss + penalty

    def _check(self, body: Body, first: Member, stacked: Stacked) -> None:
        """Compare the loss and the gradients of two of the first run's batches with those of its own model."""
        body.restore(first.head)
        body.model.train()
        batches = first.order.rows(0)
        for rows in dict.fromkeys((tuple(batches[0]), tuple(batches[-1]))):
            with seeded(child(first.recipe.streams.dropout, 0, 0, 0)):
                own = self._loss(body, self._batch(body, "train", rows))
            weights = [body.tracked[index] for index in stacked.trainable]
            gradients = torch.autograd.grad(own, weights, allow_unused=True)
            with stacked.untouched():
                losses, grads = stacked.gradients(0, 0, torch.tensor([rows] * stacked.count))
            body.restore(first.head)
            pairs = [(losses[0], own.detach()), *((g[0], o) for g, o in zip(grads, gradients, strict=True))]
            for mine, alone in pairs:
                theirs = torch.zeros_like(mine) if alone is None else alone
                if not bool((mine - theirs).abs().max() <= CLOSE * (theirs.abs().max() + 1e-3)):
                    raise Apart("the gradients of all heads at once are not those of one alone")


class _Explained:
    """Within the block whatever a head does that cannot be taken down, or played for many, keeps the runs apart."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, Apart):
            lines = in_words(error).splitlines()
            raise Apart(f"its head or its loss cannot be computed for many at once: {lines[0]}") from error


def _told(error: Apart) -> str:
    return "; ".join([str(error), *getattr(error, "__notes__", ())])

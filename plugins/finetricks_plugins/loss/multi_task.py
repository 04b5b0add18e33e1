"""Multi-task learning: other labelled data sets, trained together with the task's own."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from finetricks import Choice, Context, InputError, Step, Trick, hookimpl
from finetricks.streams import child
from finetricks_plugins.build.head import output_layer
from finetricks_plugins.loss.other_tasks import OtherTask, Sampling, draw, read_task, rows_of_each
from finetricks_plugins.loss.targets import Problem, Targets, standard_loss, targets_of
from finetricks_plugins.loss.task_heads import TaskHeads, at_last_token
from finetricks_plugins.loss.task_rows import TASK, add_tasks, check_batch, labels_in, take_rows

if TYPE_CHECKING:
    import datasets

NAME = "multi_task"
HEADS = "multi_task_heads"
TEMPERATURE = 2.0


class MultiTask(Trick):
    """Train on other labelled data sets too, with a head for each; then, if asked, on the task's own alone.

    L = mean over the examples of a micro-batch of their own task's loss, that of other tasks times `weight`. The heads
    read what the model's output layer reads, and the rows of all sets are shuffled together: beside the task's N rows
    stand n of another set that has n (`size`), or N (`equal`), or N * (n/N)^(1/T) (`temperature`); some drawn, some
    repeated. The task's loss is whatever owns the loss; the others' is their standard one (cross-entropy, binary
    cross-entropy, squared error). From `alone_from` on only the task's examples count, and the mean is over them; the
    others' still pass through the model. Evaluation and predictions see the task alone, and the heads are taken off
    when training ends. Other tasks' texts are cut to the model's length, whatever tricks do with long ones.

    Traps: an epoch is longer by the rows that are added, and so is the schedule. The authors' code starts its loader
    anew at every step, so that it draws with replacement and some rows are never seen; here each stands in each epoch.
    In the paper each task is then fine-tuned alone at a smaller rate: `alone_from`, with a schedule that falls. A trick
    that computes the criterion of a whole batch once more counts rows of other tasks as well, with a label of 0.

    Source: Sun, Qiu, Xu & Huang 2019, How to Fine-Tune BERT for Text Classification? (arXiv 1905.05583), on multi-task
    fine-tuning (table 7: IMDb 5.40 to 5.36 % error). Temperature 2 is a common default.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"tasks": {}}

    tasks: dict[str, OtherTask] = Field(description="The other data sets by name, each with train, text, label, kind.")
    sampling: Annotated[Sampling, Choice("size", "temperature", "equal")] = Field(
        default="size", description="How many rows of each other set an epoch holds."
    )
    temperature: Annotated[float, Field(ge=1, allow_inf_nan=False), Choice(2.0, 5.0)] = Field(
        default=TEMPERATURE, description="T, for temperature: 1 is size; the higher, the more alike the sets count."
    )
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False), Choice(0.1, 0.3, 1.0)] = Field(
        default=1.0, description="Factor on the losses of the other tasks."
    )
    alone_from: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Share of the run after which only the task's own examples count."
    )

    @model_validator(mode="after")
    def _the_temperature_is_used(self) -> Self:
        # By value: a resolved recipe holds the defaults too, and is read again.
        if self.temperature != TEMPERATURE and self.sampling != "temperature":
            raise ValueError(f"sampling by {self.sampling} has no temperature; say `sampling: temperature`")
        return self

    @hookimpl
    def data(self, dataset: datasets.Dataset, split: str, context: Context) -> datasets.Dataset:
        if not self.tasks or split != "train":
            return dataset
        others = [read_task(task) for task in self.tasks.values()]
        sizes = [len(other.labels) for other in others]
        wanted = rows_of_each(len(dataset), sizes, self.sampling, self.temperature)
        seeds = [child(context.seed, name) for name in self.tasks]
        return add_tasks(dataset, others, list(map(draw, sizes, wanted, seeds)), context, NAME)

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> None:
        if not self.tasks or self._missing():
            return  # a finished run's model is built again to be loaded, where the heads come off at once
        output = output_layer(model)
        if getattr(model, "loss_type", None) != "ForSequenceClassification" or output is None:
            raise InputError(
                f"{NAME} puts heads beside the linear output layer of a transformers model for sequence "
                f"classification; {type(model).__name__} is none"
            )
        others = [read_task(task) for task in self.tasks.values()]
        heads = TaskHeads(
            output,
            [other.problem for other in others],
            [other.outputs for other in others],
            std=getattr(model.config, "initializer_range", 0.02),
            seed=context.seed,
        )
        model.add_module(HEADS, heads)

    @hookimpl
    def init(self, context: Context) -> None:
        if not self.tasks:
            return
        if missing := self._missing():
            raise InputError(f"{NAME}.tasks: no such file: {', '.join(missing)}")
        if context.batches is not None:
            check_batch(next(iter(context.batches()), {}), NAME)

    @hookimpl(wrapper=True)
    def loss(self, outputs: Any, batch: Mapping[str, Any], step: Step) -> Generator[None, Tensor, Tensor]:
        if not self.tasks:
            return (yield)
        check_batch(batch, NAME)
        heads: TaskHeads = getattr(step.model, HEADS)
        states = heads.take()  # before a trick within this one runs the model again
        whole = yield
        added = whole - step.criterion(outputs, batch)  # by tricks within this one, to the criterion of all rows
        return added + self._split(outputs, batch, heads, states, step)

    @hookimpl
    def finish(self, model: nn.Module) -> None:
        if hasattr(model, HEADS):
            getattr(model, HEADS).detach_from_output()
            delattr(model, HEADS)

    def _split(self, outputs: Any, batch: Mapping[str, Any], heads: TaskHeads, states: Tensor, step: Step) -> Tensor:
        """The loss of a micro-batch, each row by its own task's."""
        task: Tensor = batch[TASK]
        own = (task == 0).nonzero()[:, 0]
        alone = self.alone_from is not None and step.progress.fraction >= self.alone_from
        counted = len(own) if alone else len(task)
        loss: Tensor = outputs["logits"][own].sum()  # nothing but a place in the graph, where no row is the task's own
        if len(own):
            loss = len(own) / counted * self._own_loss(outputs, batch, own, step)
        # Every head has its place in the graph, also without rows: DistributedDataParallel waits for all of them.
        labels = labels_in(batch, heads.label_columns)
        scores = heads(at_last_token(states, batch["input_ids"], step.model))
        for number, (problem, logits) in enumerate(zip(heads.problems, scores, strict=True), start=1):
            rows = own[:0] if alone else (task == number).nonzero()[:, 0]
            share = self.weight * len(rows) / max(counted, 1)
            loss = loss + share * _loss_of(problem, logits[rows], labels[rows])
        return loss

    def _own_loss(self, outputs: Any, batch: Mapping[str, Any], own: Tensor, step: Step) -> Tensor:
        """The mean loss of the task's own rows, by what owns the loss."""
        size = len(batch[TASK])
        targets = targets_of(outputs, batch, step.model, NAME)
        rows = take_rows(outputs, own, size)
        rows["loss"] = standard_loss(Targets(targets.problem, targets.logits[own], targets.labels[own]))
        return step.criterion(rows, take_rows(dict(batch), own, size))

    def _missing(self) -> list[str]:
        return [str(task.train) for task in self.tasks.values() if not Path(task.train).exists()]


def _loss_of(problem: Problem, logits: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of another task's rows: logits [rows, outputs], labels [rows, numbers]. 0 where there are none."""
    if not len(logits):
        return logits.sum()
    if problem == "multi_label_classification":
        return standard_loss(Targets(problem, logits, labels[:, : logits.shape[-1]]))
    first = labels[:, 0]
    return standard_loss(Targets(problem, logits, first if problem == "regression" else first.long()))

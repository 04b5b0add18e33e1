"""The plan at work in a Hugging Face Trainer.

`TrickMixin` goes first among the bases of any Trainer (`class MyTrainer(TrickMixin, SFTTrainer)`); `TrickTrainer` is
the mixin over `transformers.Trainer`. The Trainer keeps its loop, its arguments and its callbacks; the session supplies
the optimizer's groups, the schedule, the freezing, the loss and the random streams.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler, Subset
from transformers import Trainer, TrainingArguments, get_scheduler, set_seed
from transformers.trainer_utils import rotate_checkpoints

from finetricks.arguments import check_arguments
from finetricks.checkpoint import no_code
from finetricks.compiled import Options, many_codes, refuse_compiled, uncompiled
from finetricks.distributed import Ranks
from finetricks.errors import CheckpointError, FinetricksError, in_words
from finetricks.layer_pass import taken, undisturbed, without
from finetricks.layers import find_layers
from finetricks.optimizers import named_groups
from finetricks.order import EpochSampler
from finetricks.plan import compile_plan
from finetricks.recipe import Recipe
from finetricks.replay.replaying import Replaying
from finetricks.session import Session
from finetricks.stack import Criterion, Stack
from finetricks.streams import Streams, child, kept, seeded
from finetricks.tasks.encode import added_columns
from finetricks.tasks.splits import draw_rows
from finetricks.trainer_checkpoint import load_tricks, save_tricks, seal, usable_checkpoint

logger = logging.getLogger(__name__)


class TrickMixin(Trainer):
    """A Trainer that trains by a recipe. Training settings come from `args`; the recipe's are not used.

    All arguments but the recipe are the Trainer's own.

    Args:
        recipe: the tricks; seeds of single streams where the recipe sets them.

    Raises:
        RecipeError: a trick and `args` set the same thing.
        CheckpointError: on resuming, for a checkpoint that lacks a part or belongs to another run.
    """

    model: Any
    train_dataset: Any
    eval_dataset: Any

    def __init__(self, *positional: Any, recipe: Recipe, **keywords: Any) -> None:
        self.recipe = recipe
        self.session: Session | None = None
        self._length: tuple[int, int] | None = None
        self._checkpoint: Path | None = None
        self._sampler: EpochSampler | None = None
        self._limit: int | None = None  # what args says, while old checkpoints must be kept
        self._micro: int | None = None
        self._fresh = True
        self._decided_at: int | None = None
        self._in_training_step = False
        stack = recipe.stack()
        args = keywords.get("args", positional[1] if len(positional) > 1 else None)
        if isinstance(args, TrainingArguments):
            check_arguments(stack, args)
            if stack.implementing("freeze", "build") and args.ddp_find_unused_parameters is None:
                # Rule 9; and what tricks build may leave weights unread. The default flips under checkpointing.
                args.ddp_find_unused_parameters = True
        with self._callers_randomness():
            super().__init__(*positional, **keywords)
        if not isinstance(args, TrainingArguments):
            check_arguments(stack, self.args)
        given = self.train_dataset
        self.train_dataset = self._changed(stack, given, "train")
        self._added = _added(given, self.train_dataset)
        self.eval_dataset = self._changed(stack, self.eval_dataset, "valid")
        self.held_out: Any = None
        if stack.judges and given is not None:  # without it there is nothing to decide on: it only evaluates
            self.train_dataset, self.held_out = self._hold_out(stack, given, self.train_dataset)
        if self.model_init is None:
            refuse_compiled(self.model)
            self.model = self.model_wrapped = self._built(self.model)
            if self.place_model_on_device:
                self._move_model_to_device(self.model, self.args.device)

    # -- what tricks change before training --------------------------------------------------------------

    @property
    def streams(self) -> Streams:
        """The run's random streams, from `args` and what the recipe overrides."""
        own = self.recipe.training
        data = self.args.data_seed if own.data_seed is None else own.data_seed
        return Streams.derive(self.args.seed, init=own.init_seed, data=data, dropout=own.dropout_seed)

    @property
    def _plain(self) -> bool:
        return self.recipe.training.streams == "none"

    def _callers_randomness(self) -> contextlib.AbstractContextManager[None]:
        """The block after which the global random states are the caller's again: the Trainer seeds them, and draws."""
        return contextlib.nullcontext() if self._plain else kept()

    def _context(self) -> dict[str, Any]:
        # The Trainer calls `model_init` once before it knows its tokenizer, and again when training begins.
        tokenizer = getattr(self, "processing_class", None)
        return {
            "tokenizer": tokenizer,
            "max_length": getattr(tokenizer, "model_max_length", None),
            "explicit_layers": self.recipe.layers,
        }

    def _changed(self, stack: Stack, dataset: Any, split: str) -> Any:
        if dataset is None or not stack.implementing("data"):
            return dataset
        if isinstance(dataset, Mapping):
            return {name: self._changed(stack, part, split) for name, part in dataset.items()}
        return stack.data(_numbered(dataset), split, self.streams.data, **self._context())

    def _built(self, model: Any) -> Any:
        return self.recipe.stack().build(model, self.streams.init, **self._context())

    def _hold_out(self, stack: Stack, given: Any, changed: Any) -> tuple[Any, Any]:
        """What is left to train on, and the slice on which tricks decide: rows drawn from the data stream.

        Args:
            given: the training set of the user's.
            changed: as the tricks changed it; the slice is drawn from what is left there of the user's examples.
        """
        if isinstance(changed, IterableDataset):
            raise FinetricksError(
                f"{', '.join(stack.judges)} decides on a slice held out of train, and "
                "an iterable data set cannot be parted; give one with a length"
            )
        numbered = isinstance(changed, datasets.Dataset) and "example_id" in changed.column_names
        numbers = changed["example_id"][:] if numbered else range(len(changed))
        own = [row for row, number in enumerate(numbers) if number >= 0]  # the others were added
        if len(own) < 2:
            raise FinetricksError(
                f"{', '.join(stack.judges)} decides on a slice held out of train, and train has {len(own)} example; "
                "give more"
            )
        places = draw_rows(None, len(own), self._share(len(own)), child(self.streams.data, "held out"))
        drawn = {own[place] for place in places}
        kept = [row for row in range(len(changed)) if row not in drawn]
        held = _rows(changed, sorted(drawn))
        if numbered and isinstance(given, datasets.Dataset):  # the examples as the user has them
            ids, whole = set(held["example_id"][:]), _numbered(given)
            mine = [row for row, number in enumerate(whole["example_id"][:]) if number in ids]
            held = self._changed(stack, whole.select(mine), "held_out")
        return _rows(changed, kept), held

    def _share(self, rows: int) -> int:
        return min(max(round(self.recipe.training.held_out * rows), 1), rows - 1)

    def call_model_init(self, trial: Any = None) -> Any:
        self._fresh = True
        return self._built(super().call_model_init(trial))

    # -- training ----------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **keywords: Any) -> Any:
        self._checkpoint = self._usable(resume_from_checkpoint)
        self._decided_at = None
        if self.session is not None and self.model_init is None:
            self.model = self.model_wrapped = self._built(self.model)  # the training before took off what it had put on
        with self._callers_randomness():
            if not self._plain:
                set_seed(self.args.seed)  # for what is no stream of ours: a collator that draws, say
            return self._train(keywords)

    def _train(self, keywords: dict[str, Any]) -> Any:
        output = super().train(resume_from_checkpoint=str(self._checkpoint) if self._checkpoint else None, **keywords)
        if self._decided_at != self.state.global_step:
            self._decide()  # the run's end is an evaluation, too
        if self.session is not None:
            self.session.finish()
        return output

    def set_initial_training_values(self, args: TrainingArguments, dataloader: Any) -> Any:
        values = super().set_initial_training_values(args, dataloader)
        _, steps_per_epoch, *_, max_steps = values
        self._length = (max_steps, steps_per_epoch)
        return values

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self._length is None:
            raise FinetricksError("the optimizer of a recipe is made by trainer.train(), which knows the run's length")
        if self.args.n_gpu > 1 and self._replaces_loss:
            raise FinetricksError(
                "DataParallel copies the model, and the tricks' loss with it; start with torchrun instead"
            )
        self._micro = None
        sample = self._sample()
        if self._replaces_loss or not self._normalises_by_items(sample):
            self.model_accepts_loss_kwargs = False
        forward = partial(without, self._added)
        layers = find_layers(self.model, sample, self.recipe.layers, forward)
        stack = self.recipe.stack()
        self._check_output_layer(stack, sample)
        if self._fresh and self._checkpoint is None:
            stack.init(self.model, layers, self.streams.init, batches=self._batches, **self._context())
        self._fresh = False
        max_steps, steps_per_epoch = self._length
        stack = Stack(self.recipe.tricks, schedule=self._schedule(stack, max_steps), criterion=self._criterion())
        compiled = partial(
            compile_plan,
            stack,
            self.model,
            layers,
            total_steps=max_steps,
            steps_per_epoch=steps_per_epoch,
            learning_rate=self.args.learning_rate,
            weight_decay=dict.fromkeys(self.get_decay_parameter_names(self.model), self.args.weight_decay)
            if self.args.weight_decay
            else None,
        )
        plan = compiled()
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        if "params" in options or "optimizer_dict" in options or not isinstance(kind, type):
            raise FinetricksError(
                f"optim={self.args.optim} chooses its own parameter groups; a plan cannot rule over them"
            )
        optimizer: torch.optim.Optimizer = kind(named_groups(plan, self.model), **options)
        self.optimizer = optimizer
        self.session = Session(
            model=self.model,
            stack=stack,
            layers=layers,
            plan=plan,
            optimizer=optimizer,
            streams=None if self._plain else self.streams,
            accumulation=self.args.gradient_accumulation_steps,
            nonfinite_patience=self.recipe.training.nonfinite_patience,
            compile_options=self._compile_options(),
            forward=forward,
            replan=lambda decisions: compiled(decisions=decisions),
            peers=Ranks(self.args.process_index, self.args.world_size),
            replaying=Replaying(
                self.model,
                layers,
                stack,
                self.recipe.training,
                batch=sample,
                forward=forward,
                examples=self._examples(),
                off=self._no_replay(),
            ),
        )
        for warning in self.session.plan.warnings():
            logger.warning(warning)
        return optimizer

    def _examples(self) -> int | None:
        """How many examples an epoch has; `None` where the data set does not tell."""
        return None if isinstance(self.train_dataset, IterableDataset) else len(self.train_dataset)

    def _no_replay(self) -> str:
        """Why nothing can be replayed, for a reason that lies with the Trainer; empty where it can."""
        if self.args.torch_compile or self.accelerator.state.dynamo_plugin.backend != "NO":
            return "the forward pass is compiled"
        if self.args.n_gpu > 1:
            return "DataParallel copies the model"
        if self.accelerator.distributed_type.value not in ("NO", "MULTI_GPU", "MULTI_CPU"):
            return f"the model is taken apart by {self.accelerator.distributed_type.value}"
        if self.args.neftune_noise_alpha:
            return "NEFTune adds noise to the embeddings"
        return ""

    def _compile_options(self) -> Options | None:
        """How the session is to compile the model, where it computes the loss; else the Trainer does."""
        plugin = self.accelerator.state.dynamo_plugin
        if not self._replaces_loss or plugin.backend == "NO" or plugin.use_regional_compilation:
            return None
        return dict(plugin.to_kwargs())

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        assert self.session is not None
        self.lr_scheduler = self.session.scheduler
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _sample(self) -> Any:
        """Two examples of the training set as a batch, to find the layers with; draws nothing from the global state."""
        dataset = self.train_dataset
        with seeded(0):
            rows = iter(dataset) if isinstance(dataset, IterableDataset) else (dataset[i] for i in range(len(dataset)))
            collate = self._get_collator_with_removed_columns(self.data_collator)
            batch = collate(list(itertools.islice(rows, 2)))
        return self._prepare_inputs(batch)

    def _batches(self) -> Iterator[Any]:
        """The training batches once, unshuffled."""
        collate = self._get_collator_with_removed_columns(self.data_collator)
        size = self.args.per_device_train_batch_size
        yield from map(self._prepare_inputs, DataLoader(self.train_dataset, batch_size=size, collate_fn=collate))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        known = getattr(self, "_signature_columns", None) or []
        self._signature_columns = list(dict.fromkeys([*known, *self._added]))

    def _normalises_by_items(self, sample: Any) -> bool:
        """Whether the model divides its loss by `num_items_in_batch`.

        The Trainer goes by the signature and is wrong for most classification heads, which take the number, ignore it
        and average: under accumulation their gradients would be too large by the number of micro-batches.
        """
        if not self.model_accepts_loss_kwargs or not isinstance(sample, Mapping) or "labels" not in sample:
            return bool(self.model_accepts_loss_kwargs)
        with undisturbed(self.model), torch.no_grad():
            given = [{**sample, "num_items_in_batch": torch.tensor(items)} for items in (1, 2)]
            losses = [without(self._added, self.model, batch).loss for batch in given]
        return not torch.equal(*losses)

    def _check_output_layer(self, stack: Stack, sample: Any) -> None:
        """Raise `FinetricksError` where tricks act on a language model's output layer and the Trainer passes it by.

        TRL's trainers do: they read the layer's weight and never call it. Where a trick has a part in the loss, it is
        computed from the model's own outputs.
        """
        head = getattr(self.model, "get_output_embeddings", lambda: None)()
        if self._replaces_loss or head is None:
            return
        if not (head._forward_pre_hooks or head._forward_hooks or next(head.children(), None) is not None):
            return
        calls: list[bool] = []
        handle = head.register_forward_hook(lambda *_: calls.append(True))
        try:
            with undisturbed(self.model), torch.no_grad():
                super().compute_loss(self.model, dict(sample))
        finally:
            handle.remove()
        if not calls:
            raise FinetricksError(
                f"{', '.join(stack.implementing('build')) or 'something'} acts on the model's output layer, and this "
                "trainer computes its loss from that layer's weight without calling it: it would have no effect. Leave "
                "it out, or add the trick cross_entropy, whose loss is computed from the model's own outputs"
            )

    def _schedule(self, stack: Stack, steps: int) -> list[float] | None:
        """The factor at each step of the schedule that `args` name, when no trick owns the schedule."""
        if stack.owner("schedule") is not None:
            return None
        stand_in = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
        scheduler = get_scheduler(
            self.args.lr_scheduler_type,
            optimizer=stand_in,
            num_warmup_steps=self.args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
        )
        if not isinstance(scheduler, LambdaLR):
            raise FinetricksError(
                f"lr_scheduler_type={self.args.lr_scheduler_type.value!r} decides while training; a plan cannot hold it"
            )
        return [scheduler.lr_lambdas[0](step) for step in range(steps)]

    def _criterion(self) -> Criterion | None:
        """What `args` and the Trainer's caller make of outputs and labels, for tricks that wrap it."""
        if self.compute_loss_func is not None:
            return lambda outputs, batch: self.compute_loss_func(outputs, batch["labels"], num_items_in_batch=None)
        if self.label_smoother is not None:
            return lambda outputs, batch: self.label_smoother(outputs, batch["labels"])
        return None

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        sampler: Sampler[int] | None = super()._get_train_sampler(train_dataset)
        if self._plain or not isinstance(sampler, RandomSampler):
            return sampler
        self._sampler = EpochSampler(len(sampler), self.streams.data)
        return self._sampler

    # -- a step ------------------------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        assert self.session is not None
        step = self.state.global_step
        self._micro = self._micro + 1 if self._micro is not None and step == self.session.global_step else 0
        self.session.enter(step, self._micro)
        if not self.session.plan.trains(step):
            return torch.zeros((), device=self.args.device)
        self._in_training_step = True
        try:
            with many_codes() if self.args.torch_compile else contextlib.nullcontext():
                loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._in_training_step = False
        return loss

    @cached_property
    def _replaces_loss(self) -> bool:
        return bool(self.recipe.stack().implementing("loss"))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self._in_training_step and self.session is not None and self._replaces_loss:
            # The session compiles what is within.
            return self.session.carried(self.session.loss(inputs, uncompiled(model)))
        inputs = taken(self._added, self.model, inputs)
        if not self._in_training_step or self.session is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        whole = super().compute_loss
        with self.session.dropout_stream():
            result = self.session.replayed(
                lambda: whole(model, inputs, return_outputs, num_items_in_batch),
                # Not through a wrapper, whose processes talk to each other at each pass.
                partial(whole, self.accelerator.unwrap_model(model), dict(inputs), return_outputs, num_items_in_batch),
            )
        penalty = self.session.penalty()
        loss = result[0] if return_outputs else result
        loss = self.session.carried(loss if penalty is None else loss + penalty)
        return (loss, result[1]) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        whole = super().prediction_step
        if self.session is None:
            return whole(model, inputs, *arguments, **keywords)
        return self.session.replayed(
            lambda: whole(model, inputs, *arguments, **keywords),
            partial(whole, self.accelerator.unwrap_model(model), dict(inputs), *arguments, **keywords),
            training=False,
        )

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip a whole optimizer step's gradient, once the tricks have seen it."""
        if self.session is None or not self.session.watches:
            return super()._clip_grad_norm(model)
        norm = self._whole_norm(model)
        self._after_backward(norm)
        # The Trainer's own would unscale it again, which torch refuses.
        return torch.nn.utils.clip_grad_norm_(list(model.parameters()), self.args.max_grad_norm)

    def _whole_norm(self, model: Any) -> Any:
        """The norm of the gradient, unscaled and averaged, which stays as it is."""
        return super()._get_grad_norm(model)

    def _after_backward(self, norm: Any) -> None:
        assert self.session is not None
        if self.session.plan.trains(self.session.global_step):
            self.session.after_backward(norm)
            if self.session.stopped:
                self.control.should_training_stop = True

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The norm of a whole optimizer step's gradient, which the Trainer wants to know before it updates."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if grad_norm is None and self.session is not None and self.session.watches:  # nothing is clipped
            self._after_backward(norm)
        if self.session is not None and self.session.plan.trains(self.session.global_step):
            scaler = getattr(self.accelerator, "scaler", None)
            self.session.check_gradient(norm, None if scaler is None else scaler.get_scale())
        return norm

    def evaluate(self, *arguments: Any, **keywords: Any) -> Any:
        with self._callers_randomness():
            return super().evaluate(*arguments, **keywords)

    def predict(self, *arguments: Any, **keywords: Any) -> Any:
        with self._callers_randomness():
            return super().predict(*arguments, **keywords)

    # -- decisions ---------------------------------------------------------------------------------------

    def _run_epoch(self, **keywords: Any) -> None:
        if self.session is not None and self.session.stopped:
            self.control.should_training_stop = True  # resumed from where a trick had ended the run
            return
        if (
            self._sampler is not None
        ):  # neither accelerate nor the Trainer reach it where a rank resumes within an epoch
            self._sampler.set_epoch(keywords["epoch"])
        super()._run_epoch(**keywords)

    def _evaluate(self, *arguments: Any, **keywords: Any) -> Any:
        """Let the tricks decide on the held-out slice, if they do, before the Trainer's own evaluation."""
        self._decide()
        return super()._evaluate(*arguments, **keywords)

    def _decide(self) -> None:
        if self.held_out is not None and self.session is not None:
            self._decided_at = self.state.global_step
            self.session.enter(self._decided_at)
            self._micro = None
            found = self.evaluate(self.held_out, metric_key_prefix="held_out")
            metrics = {
                name.removeprefix("held_out_"): value for name, value in found.items() if isinstance(value, int | float)
            }
            if not self.session.evaluated(metrics):
                self.control.should_training_stop = True

    # -- checkpoints -------------------------------------------------------------------------------------

    def _usable(self, asked: str | bool | None) -> Path | None:
        """The checkpoint to resume from. One process reads it all, and tells the others."""
        if self.args.world_size <= 1 or not asked:
            return usable_checkpoint(asked, self.args)
        told: list[Any] = [None, ""]
        try:
            if self.args.process_index == 0:
                told[0] = usable_checkpoint(asked, self.args)
        except Exception as error:
            told[1] = in_words(error)
            raise
        finally:
            broadcast_object_list(told)
        if told[1]:
            raise CheckpointError(f"no resume: {told[1]}")
        found: Path | None = told[0]
        return found

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.session is not None
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        self.session.check_weights()
        if self.args.should_save:
            save_tricks(folder, self.session)
        self._limit, self.args.save_total_limit = self.args.save_total_limit, None  # until the new one is sealed
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._limit, self.args.save_total_limit = None, self._limit
        if not self.args.push_to_hub:
            self._seal(folder)
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(folder.parent),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _seal(self, folder: Path) -> None:
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self._as_the_user_gave_them():
            super().save_model(output_dir, _internal_call)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self._seal(Path(checkpoint_folder))
        with self._as_the_user_gave_them():
            super()._push_from_checkpoint(checkpoint_folder)

    @contextmanager
    def _as_the_user_gave_them(self) -> Iterator[None]:
        """Within the block `args` may be written to a file."""
        now = self.args.save_total_limit
        self.args.save_total_limit = now if self._limit is None else self._limit
        try:
            yield
        finally:
            self.args.save_total_limit = now

    def _load_from_checkpoint(self, *args: Any, **keywords: Any) -> None:
        with no_code(f"the weights in {self._checkpoint}"):
            super()._load_from_checkpoint(*args, **keywords)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with no_code(f"the random state in {checkpoint}"):
            super()._load_rng_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.session is not None:
            load_tricks(Path(checkpoint), self.session)
        with no_code(f"the optimizer's or the scheduler's state in {checkpoint}"):
            super()._load_optimizer_and_scheduler(checkpoint)


def _added(given: Any, changed: Any) -> tuple[str, ...]:
    """The columns of numbers that tricks added to the user's data set, where it is one of `datasets`."""
    if not isinstance(given, datasets.Dataset):
        return ()
    return tuple(name for name in added_columns(given, changed) if name != "example_id")


def _numbered(dataset: Any) -> Any:
    """One of `datasets` with the column `example_id`, which tricks are promised."""
    if isinstance(dataset, datasets.Dataset) and "example_id" not in dataset.column_names:
        return dataset.add_column("example_id", list(range(len(dataset))))
    return dataset


def _rows(dataset: Any, rows: list[int]) -> Any:
    return dataset.select(rows) if isinstance(dataset, datasets.Dataset) else Subset(dataset, rows)


class TrickTrainer(TrickMixin, Trainer):
    """A `transformers.Trainer` that trains by a recipe: `TrickTrainer(recipe=..., model=..., args=..., ...)`."""

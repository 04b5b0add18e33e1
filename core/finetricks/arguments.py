"""`transformers.TrainingArguments` beside a recipe: made from it, and checked against it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from finetricks.errors import Problem, RecipeError

if TYPE_CHECKING:
    from finetricks.settings import Training
    from finetricks.stack import Stack


def training_arguments(training: Training, output_dir: str | Path, **more: Any) -> TrainingArguments:
    """The arguments with which a Trainer trains as `training` says; `more` goes on top."""
    optimizer: dict[str, Any] = {"optim": "adamw_torch_fused"}
    if training.optimizer == "sgd":
        optimizer = {
            "optim": "sgd",
            "optim_args": f"momentum={training.momentum}" if training.momentum else None,
        }
    saving: dict[str, Any] = {"save_strategy": "no" if training.checkpoint == "off" else training.checkpoint}
    if isinstance(training.checkpoint, int):
        saving = {"save_strategy": "steps", "save_steps": training.checkpoint}
    settings = {
        "output_dir": str(output_dir),
        "num_train_epochs": training.epochs,
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": training.eval_batch_size,
        "gradient_accumulation_steps": training.accumulation,
        "train_sampling_strategy": "group_by_length" if training.group_by_length else "random",
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "adam_beta1": training.betas[0],
        "adam_beta2": training.betas[1],
        "adam_epsilon": training.eps,
        "max_grad_norm": training.clip,
        "bf16": training.precision == "bf16",
        "fp16": training.precision == "fp16",
        "activation_checkpointing": training.gradient_checkpointing,
        "torch_compile": training.compile is not False,
        "torch_compile_backend": None if isinstance(training.compile, bool) else training.compile,
        "seed": training.seed,
        "data_seed": training.data_seed,
        "report_to": "none",
        **optimizer,
        **saving,
    }
    return TrainingArguments(**(settings | more))


def check_arguments(stack: Stack, args: TrainingArguments) -> None:
    """Raise `RecipeError` for what both a trick and the arguments set, and for what would make resume inexact."""
    problems: list[str] = []
    owner = stack.owner("schedule")
    if owner and str(args.lr_scheduler_type.value) not in ("linear", "constant"):  # linear is the default
        problems.append(f"lr_scheduler_type={args.lr_scheduler_type.value!r}, but {owner} owns the schedule")
    if args.get_warmup_steps(100) > 0 and "warmup" in stack.implementing("schedule"):
        problems.append("warm-up, but so does the trick warmup")
    if args.label_smoothing_factor > 0 and (owner := stack.owner("loss")):
        problems.append(f"label_smoothing_factor={args.label_smoothing_factor}, but {owner} owns the loss")
    if args.weight_decay > 0 and "weight_decay" in stack.implementing("param_groups"):
        problems.append(f"weight_decay={args.weight_decay}, but so does the trick weight_decay")
    if args.neftune_noise_alpha is not None and "neftune" in dict(stack.tricks):
        problems.append(f"neftune_noise_alpha={args.neftune_noise_alpha}, but so does the trick neftune")
    if args.load_best_model_at_end and getattr(dict(stack.tricks).get("early_stopping"), "restore_best", False):
        problems.append("load_best_model_at_end, but early_stopping goes back to the best weights, by another slice")
    if stack.judges and args.eval_strategy.value == "no":
        raise RecipeError(
            Problem("args", f"{', '.join(stack.judges)} decides at evaluations, and eval_strategy is 'no'; set it")
        )
    if args.fp16 and args.device.type == "cpu":
        raise RecipeError(
            Problem(
                "args",
                "fp16=True, and on a CPU the Trainer would compute in fp32 without a word; use bf16=True, or "
                "`finetricks train` or a loop of your own with `precision: fp16`",
            )
        )
    if problems:
        raise RecipeError([Problem("args", f"sets {what}; set it once") for what in problems])

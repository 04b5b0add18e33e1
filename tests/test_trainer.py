"""The plan at work in a Hugging Face Trainer: what a loop does, it does; with nothing asked, it is the plain one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import Trainer, TrainerCallback, default_data_collator, set_seed

import tiny
from attacks import Attack
from finetricks import (
    CheckpointError,
    Progress,
    Recipe,
    RecipeError,
    Trick,
    TrickMixin,
    TrickTrainer,
    hookimpl,
    trainer_checkpoint,
)
from finetricks import trainer as trainer_module
from finetricks.trainer_checkpoint import usable_checkpoint


def losses_of(trainer: Trainer) -> list[float]:
    """Train, and give the loss of each micro-batch as the loop sees it (the Trainer gives it divided)."""
    losses, step = [], trainer.training_step

    def record(*arguments: Any, **keywords: Any) -> torch.Tensor:
        loss = step(*arguments, **keywords)
        losses.append(loss.item() * trainer.current_gradient_accumulation_steps)
        return loss

    trainer.training_step = record
    trainer.train()
    return losses


def trainer_of(
    recipe: Recipe, folder: Path, model: nn.Module | None = None, kind: type[Trainer] = TrickTrainer, **args: Any
) -> Trainer:
    quiet = {"disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "logging_strategy": "no"}
    options: dict[str, Any] = {"recipe": recipe} if issubclass(kind, TrickMixin) else {}
    model = tiny.bert() if model is None else model
    set_seed(recipe.training.seed)
    return kind(
        model=model,
        args=recipe.training_arguments(folder, **(quiet | args)),
        train_dataset=tiny.rows(),
        eval_dataset=tiny.rows(6),
        data_collator=default_data_collator,
        **options,
    )


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("streams", ["derived", "none"])
@pytest.mark.parametrize("tricks", [(), tiny.ALL], ids=["empty", "tricks"])
def test_loop_and_trainer_give_the_same_losses(tmp_path: Path, accumulation: int, streams: str, tricks: Any) -> None:
    recipe = tiny.recipe(*(trick() for trick in tricks), accumulation=accumulation, streams=streams, epochs=3)
    model = tiny.bert()
    set_seed(recipe.training.seed)
    in_loop, model = tiny.trained(recipe, model)
    trainer = trainer_of(recipe, tmp_path)
    in_trainer = losses_of(trainer)
    assert in_trainer == pytest.approx(in_loop, abs=1e-6)
    assert len(in_loop) == 18
    if accumulation == 1:  # otherwise the Trainer adds the gradients of losses that it divided in another order
        assert tiny.equal(trainer.model, model)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    "args",
    [
        {},
        {"lr_scheduler_type": "cosine", "warmup_steps": 3, "weight_decay": 0.1},
        {"optim": "adafactor"},
        {"optim": "sgd", "lr_scheduler_type": "linear", "max_grad_norm": 0.1},
        {"bf16": True},
        {"label_smoothing_factor": 0.1},
        {"activation_checkpointing": True},
        {"train_sampling_strategy": "sequential"},
    ],
    ids=lambda args: "-".join(args) or "plain",
)
def test_an_empty_recipe_equals_the_plain_trainer_bit_for_bit(tmp_path: Path, accumulation: int, args: Any) -> None:
    recipe = tiny.recipe(streams="none", accumulation=accumulation)
    ours = trainer_of(recipe, tmp_path, **args)
    losses = losses_of(ours)
    plain = trainer_of(recipe, tmp_path, kind=Trainer, **args)
    plain.model_accepts_loss_kwargs = False  # the head averages whatever it is told, and must not be believed otherwise
    assert losses == losses_of(plain)
    assert tiny.equal(ours.model, plain.model)
    assert len(set(losses)) > 1


class Steps(TrainerCallback):
    """What the optimizer really holds at each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[float], frozenset[str]]] = []

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **rest: Any
    ) -> None:
        rates = [group["lr"] for group in optimizer.param_groups]
        frozen = frozenset(name for name, p in model.named_parameters() if not p.requires_grad)
        self.seen.append((rates, frozen))


def test_the_plan_holds_at_every_step_of_the_trainer(tmp_path: Path) -> None:
    trainer = trainer_of(tiny.recipe(tiny.Unfreeze(), tiny.Decay(), epochs=3), tmp_path)
    steps = Steps()
    trainer.add_callback(steps)
    trainer.train()
    session = trainer.session
    for step, (rates, frozen) in enumerate(steps.seen):
        assert rates == [session.plan.rate(group, step) for group in session.plan.groups]
        layers = session.plan.stage_at(step).frozen
        assert frozen == {name for layer in layers for name in session.layers.parameters[layer]}
    assert len(steps.seen) == session.plan.total_steps == 18


def test_the_schedule_of_args_enters_the_plan(tmp_path: Path) -> None:
    trainer = trainer_of(tiny.recipe(), tmp_path, lr_scheduler_type="linear", warmup_steps=2)
    trainer.train()
    assert trainer.session.plan.schedule[:3] == (0.0, 0.5, 1.0)
    assert trainer.session.plan.schedule[-1] == pytest.approx(1 / 10)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type='cosine', but decay owns the schedule"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1, but smooth owns the loss"),
    ],
)
def test_a_thing_set_twice_is_an_error(tmp_path: Path, args: Any, message: str) -> None:
    from finetricks import Trick, hookimpl

    class Smooth(Trick):
        """Owns the loss."""

        @hookimpl
        def loss(self, outputs: Any) -> torch.Tensor:
            return outputs.loss

    with pytest.raises(RecipeError) as error:
        trainer_of(tiny.recipe(tiny.Decay(), Smooth()), tmp_path, **args)
    assert message in str(error.value)


def test_weight_decay_of_args_is_in_the_plan_and_spares_what_the_trainer_spares(tmp_path: Path) -> None:
    trainer = trainer_of(tiny.recipe(), tmp_path, weight_decay=0.1)
    trainer.train()
    for group in trainer.session.plan.groups:
        spared = all("bias" in name or "LayerNorm" in name for name in group.parameters)
        assert group.weight_decay == (0.0 if spared else 0.1)
        assert group.set_by["weight_decay"] == (() if spared else ("training settings",))


# -- resuming ------------------------------------------------------------------------------------------------

CHILD = """
    import sys, pathlib
    sys.path.insert(0, {tests!r})
    import torch; torch.set_num_threads(1)
    import test_trainer, tiny
    test_trainer.run_child(pathlib.Path(sys.argv[1]), sys.argv[2])
"""


def resumable(folder: Path, **args: Any) -> Trainer:
    saving = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 4}
    recipe = tiny.recipe(*(trick() for trick in tiny.ALL), epochs=4)
    return trainer_of(recipe, folder, **(saving | args))


def run_child(folder: Path, mode: str) -> None:
    trainer = resumable(folder)

    class Kill(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step == 13:
                os.kill(os.getpid(), signal.SIGKILL)

    if mode == "killed":
        trainer.add_callback(Kill())
    trainer.train(resume_from_checkpoint=True if mode == "resumed" else None)
    torch.save(trainer.model.state_dict(), folder / "final.pt")


def test_resume_after_kill_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    code = textwrap.dedent(CHILD.format(tests=str(Path(__file__).parent)))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "killed"], env=environment, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]
    subprocess.run([sys.executable, "-c", code, str(tmp_path), "resumed"], env=environment, check=True)
    whole = resumable(tmp_path / "whole")
    whole.train()
    final = torch.load(tmp_path / "final.pt", weights_only=True)
    assert all(torch.equal(value, final[name]) for name, value in whole.model.state_dict().items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints of a training; copy it before use."""
    folder = tmp_path_factory.mktemp("trained")
    resumable(folder).train()
    return folder


PARTS = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "finetricks.pt"]


@pytest.mark.parametrize("part", [*PARTS, "trainer_state.json"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_offered_or_used(
    trained: Path, tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(trained, tmp_path / "trained")
    path = folder / "checkpoint-24" / part
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    trainer = resumable(folder)
    with pytest.raises(CheckpointError, match=rf"{part} differs .*; the newest whole one is .*checkpoint-20$"):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-24"))
    assert usable_checkpoint(True, trainer.args) == folder / "checkpoint-20"
    assert f"checkpoint-24 is damaged ({part} differs from the manifest); resuming from" in caplog.text


def test_one_that_was_torn_before_it_was_sealed_is_no_checkpoint(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "trained")
    (folder / "checkpoint-24" / "finetricks.json").unlink()
    assert usable_checkpoint(True, resumable(folder).args) == folder / "checkpoint-20"


def test_old_checkpoints_go_once_the_new_one_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def sealing(folder: Path) -> None:
        seen.append(sorted(path.name for path in tmp_path.glob("checkpoint-*")))
        trainer_checkpoint.seal(folder)

    monkeypatch.setattr(trainer_module, "seal", sealing)
    resumable(tmp_path, save_total_limit=1, max_steps=15).train()
    assert seen == [["checkpoint-5"], ["checkpoint-10", "checkpoint-5"], ["checkpoint-10", "checkpoint-15"]]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-15"]


def test_what_callbacks_add_replace_or_remove_is_no_damage(trained: Path, tmp_path: Path) -> None:
    """As those of peft do: an adapter takes the place of the weights."""
    folder = shutil.copytree(trained, tmp_path / "trained") / "checkpoint-24"
    (folder / "adapter_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    (folder / "notes.txt").touch()
    assert usable_checkpoint(True, resumable(folder.parent).args) == folder


def test_a_shard_of_the_weights_is_looked_at(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "trained") / "checkpoint-24"
    shard = (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    trainer_checkpoint.seal(folder)
    assert trainer_checkpoint.why_not_whole(folder) == ""
    shard.unlink()
    assert trainer_checkpoint.why_not_whole(folder) == f"is damaged ({shard.name} is missing, or is no file)"


def test_what_is_pushed_is_sealed_and_what_is_written_is_as_the_user_gave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = []

    def push(self: Any, folder: str) -> None:
        pushed.append((trainer_checkpoint.why_not_whole(Path(folder)), self.args.save_total_limit))

    monkeypatch.setattr(transformers.Trainer, "_push_from_checkpoint", push)
    trainer = resumable(tmp_path, save_total_limit=1, max_steps=10)
    trainer.args.push_to_hub = True
    trainer.train()
    assert pushed == [("", 1), ("", 1)]
    (last,) = tmp_path.glob("checkpoint-*")
    assert torch.load(last / "training_args.bin", weights_only=False).save_total_limit == 1


@pytest.mark.parametrize("form", ["pickle", "torch"])
@pytest.mark.parametrize("part", [*PARTS, "pytorch_model.bin"])
def test_opening_a_checkpoint_that_somebody_sent_executes_nothing(
    trained: Path, tmp_path: Path, part: str, form: str
) -> None:
    folder = shutil.copytree(trained, tmp_path / "trained") / "checkpoint-20"
    attack = Attack(tmp_path / "owned")
    if part == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / part).write_bytes(attack.as_file(form))
    trainer_checkpoint.seal(folder)
    wanted = Exception if part == "model.safetensors" else CheckpointError
    with pytest.raises(wanted):
        resumable(folder.parent).train(resume_from_checkpoint=str(folder))
    attack.check_harmless_but_armed(folder / part)


def test_the_arguments_that_a_trainer_has_pickled_are_never_opened(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "trained") / "checkpoint-20"
    attack = Attack(tmp_path / "owned")
    (folder / "training_args.bin").write_bytes(attack.as_file("torch"))
    trainer_checkpoint.seal(folder)
    again = resumable(folder.parent)
    again.train(resume_from_checkpoint=str(folder))
    assert again.state.global_step == 24
    attack.check_harmless_but_armed(folder / "training_args.bin")


@pytest.mark.parametrize("part", PARTS)
def test_a_checkpoint_that_lacks_a_part_is_refused_and_a_whole_one_offered(
    trained: Path, tmp_path: Path, part: str
) -> None:
    folder = shutil.copytree(trained, tmp_path / "trained")
    (folder / "checkpoint-20" / part).unlink()
    with pytest.raises(CheckpointError) as error:
        resumable(folder).train(resume_from_checkpoint=str(folder / "checkpoint-20"))
    assert f"lacks {part}" in str(error.value)
    assert f"the newest whole one is {folder / 'checkpoint-24'}" in str(error.value)


def test_resume_true_takes_the_newest_whole_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = resumable(tmp_path)
    whole.train()
    (tmp_path / "checkpoint-24" / "optimizer.pt").unlink()
    again = resumable(tmp_path)
    again.train(resume_from_checkpoint=True)
    assert "checkpoint-24 lacks optimizer.pt; resuming from" in caplog.text
    assert tiny.equal(again.model, whole.model)


def test_another_recipes_checkpoint_is_refused(tmp_path: Path) -> None:
    resumable(tmp_path).train()
    other = trainer_of(tiny.recipe(tiny.Unfreeze(), epochs=4), tmp_path)
    with pytest.raises(CheckpointError, match=r"tricks\.anchor"):
        other.train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="ignore_data_skip"):
        resumable(tmp_path, ignore_data_skip=True).train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        resumable(tmp_path / "empty").train(resume_from_checkpoint=True)


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    trainer = resumable(
        tmp_path, eval_steps=5, load_best_model_at_end=True, metric_for_best_model="eval_loss", learning_rate=0.05
    )
    trainer.train()
    from safetensors.torch import load_file

    best = load_file(Path(trainer.state.best_model_checkpoint) / "model.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in trainer.model.state_dict().items() if name in best)
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses))


# -- other shapes --------------------------------------------------------------------------------------------


def test_model_init_and_a_second_training(tmp_path: Path) -> None:
    trainer = TrickTrainer(
        recipe=tiny.recipe(tiny.Unfreeze()),
        model_init=lambda: tiny.bert(seed=0),
        args=tiny.recipe().training_arguments(tmp_path, disable_tqdm=True, save_strategy="no", use_cpu=True),
        train_dataset=tiny.rows(),
        data_collator=default_data_collator,
    )
    trainer.train()
    first = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert all(torch.equal(value, first[name]) for name, value in trainer.model.state_dict().items())


def test_a_second_training_does_not_draw_weights_anew(tmp_path: Path) -> None:
    drawn: list[bool] = []

    class Draws(Trick):
        """Would throw away what was learnt."""

        @hookimpl
        def init(self, model: nn.Module) -> None:
            drawn.append(True)

    trainer_of(tiny.recipe(Draws()), tmp_path, save_strategy="epoch").train()
    resumed = trainer_of(tiny.recipe(Draws()), tmp_path)
    resumed.train(resume_from_checkpoint=True)
    resumed.train()
    assert len(drawn) == 1  # by the training that was not resumed


def test_every_training_ends_with_an_evaluation_to_decide_on(tmp_path: Path) -> None:
    seen: list[int] = []

    class Sees(Trick):
        """Notes when it was asked."""

        @hookimpl
        def evaluated(self, progress: Progress) -> None:
            seen.append(progress.step)

    trainer = trainer_of(tiny.recipe(Sees()), tmp_path, eval_strategy="epoch", eval_delay=5)
    trainer.train()
    trainer.train()
    assert seen == [10, 10]


def test_the_mixin_fits_other_trainers(tmp_path: Path) -> None:
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration

    class TrickSeq2Seq(TrickMixin, Seq2SeqTrainer):
        pass

    def model() -> T5ForConditionalGeneration:
        torch.manual_seed(0)
        config = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
        return T5ForConditionalGeneration(T5Config(**config, decoder_start_token_id=0))

    data = [{"input_ids": torch.arange(i, i + 6), "labels": torch.arange(i, i + 4)} for i in range(1, 13)]

    def train(kind: type[Trainer], **options: Any) -> Trainer:
        args = Seq2SeqTrainingArguments(
            str(tmp_path), per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=2,
            disable_tqdm=True, report_to="none", save_strategy="no", use_cpu=True, predict_with_generate=True, seed=1,
        )  # fmt: skip
        own = model()
        set_seed(1)
        trainer = kind(
            model=own,
            args=args,
            train_dataset=data,
            eval_dataset=data[:2],
            data_collator=default_data_collator,
            **options,
        )
        if kind is Seq2SeqTrainer:
            trainer.model_accepts_loss_kwargs = False  # T5 averages, whatever number of items it is told
        trainer.train()
        return trainer

    empty = train(TrickSeq2Seq, recipe=tiny.recipe(streams="none"))
    assert tiny.equal(empty.model, train(Seq2SeqTrainer).model)
    frozen = train(TrickSeq2Seq, recipe=tiny.recipe(tiny.Unfreeze()))
    assert torch.equal(frozen.model.shared.weight, model().shared.weight)
    assert frozen.evaluate(max_length=4)["eval_loss"] > 0


def test_data_tricks_change_the_trainers_data(tmp_path: Path) -> None:
    import datasets
    from transformers import AutoTokenizer, DataCollatorWithPadding

    tokenizer = AutoTokenizer.from_pretrained(tiny.write_task(tmp_path) / "model", model_max_length=6)
    long = {"input_ids": [[2, *range(5, 13), 3]] * 8, "attention_mask": [[1] * 10] * 8, "labels": [0, 1] * 4}
    data = datasets.Dataset.from_dict(long)
    recipe = Recipe(tricks=[{"head_tail": {"head_fraction": 0.25}}], training={"epochs": 1, "batch_size": 4})
    trainer = TrickTrainer(
        recipe=recipe,
        model=tiny.bert(),
        args=recipe.training_arguments(tmp_path, disable_tqdm=True, save_strategy="no", use_cpu=True),
        train_dataset=data,
        eval_dataset={"one": data},
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    assert trainer.train_dataset[0]["input_ids"] == trainer.eval_dataset["one"][0]["input_ids"] == [2, 5, 10, 11, 12, 3]


def test_columns_that_tricks_add_reach_only_what_names_them(tmp_path: Path) -> None:
    import datasets

    class Extra(Trick):
        """Adds a column."""

        @hookimpl
        def data(self, dataset: datasets.Dataset) -> datasets.Dataset:
            return dataset.add_column("extra", [5.0] * len(dataset))

    class Plain(nn.Module):
        """Takes no other columns."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny.bert()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Any:
            return self.inner(input_ids, attention_mask, labels=labels)

    class Reads(Plain):
        """Reads the column."""

        def forward(self, input_ids, attention_mask, labels, extra):
            assert (extra == 5).all()
            return super().forward(input_ids, attention_mask, labels)

    rows = [{**row, "input_ids": row["input_ids"].tolist()} for row in tiny.rows()]
    data = datasets.Dataset.from_list([{**row, "attention_mask": [1] * 8} for row in rows])
    for kind in (Plain, Reads):
        trainer = TrickTrainer(
            recipe=tiny.recipe(Extra()),
            model=kind(),
            args=tiny.recipe().training_arguments(tmp_path, disable_tqdm=True, save_strategy="no", use_cpu=True),
            train_dataset=data,
            eval_dataset=data,
        )
        trainer.train()
        assert trainer.evaluate()["eval_loss"] > 0


def test_a_stream_of_examples_trains_by_max_steps(tmp_path: Path) -> None:
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            while True:
                yield from tiny.rows()

    import datasets

    columns = {key: [row[key] for row in tiny.rows()] for key in ("input_ids", "attention_mask", "labels")}
    for stream in (Endless(), datasets.Dataset.from_dict(columns).to_iterable_dataset().repeat(None)):
        trainer = TrickTrainer(
            recipe=tiny.recipe(tiny.Decay()),
            model=tiny.bert(),
            args=tiny.recipe().training_arguments(
                tmp_path, max_steps=5, disable_tqdm=True, save_strategy="no", use_cpu=True
            ),
            train_dataset=stream,
            data_collator=default_data_collator,
        )
        trainer.train()
        assert trainer.session.plan.schedule == (1.0, 0.8, 0.6, 0.4, pytest.approx(0.2))

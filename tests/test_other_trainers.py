"""Other trainers do what a loop of one's own does: TRL's and transformers' by the mixin, Lightning, Accelerate."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tr
from torch import nn
from torch.utils.data import DataLoader
from transformers import default_data_collator, set_seed

import accelerate_worker
import every
import tiny
from finetricks import (
    CheckpointError,
    FinetricksError,
    InputError,
    Recipe,
    Session,
    Trick,
    TrickConflict,
    TrickMixin,
    hookimpl,
)
from finetricks.testing.bench import TRAINING, tokenizer
from test_trainer import losses_of

QUIET = {"disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "logging_strategy": "no"}
BODY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}


def drawn(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make()


def in_a_loop(recipe: Recipe, model: nn.Module, data: Any, collate: Any) -> tuple[list[float], nn.Module]:
    """The losses and the model of the hand-written loop."""
    loader = DataLoader(data, batch_size=recipe.training.batch_size, shuffle=True, collate_fn=collate)
    session = recipe.bind(model, loader)
    return tiny.train(session), session.model


# -- TRL -----------------------------------------------------------------------------------------------


def llama() -> Any:
    return drawn(lambda: tr.LlamaForCausalLM(tr.LlamaConfig(**BODY, pad_token_id=0, bos_token_id=2, eos_token_id=3)))


def gpt2() -> Any:
    config = {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 50, "bos_token_id": 2, "eos_token_id": 3}
    return drawn(lambda: tr.GPT2LMHeadModel(tr.GPT2Config(**config)))


def sequences() -> Any:
    import datasets

    return datasets.Dataset.from_list(
        [{"input_ids": row["input_ids"][: 4 + i % 5].tolist()} for i, row in enumerate(tiny.rows())]
    )


def sft(recipe: Recipe, folder: Path, model: nn.Module, *, tricks: bool = True, more: Any = None, **args: Any) -> Any:
    """TRL's trainer for supervised fine-tuning, under the mixin or as it is."""
    trl = pytest.importorskip("trl", reason="SFTTrainer is TRL's, which is not installed")

    class TrickSFT(TrickMixin, trl.SFTTrainer):
        pass

    set_seed(recipe.training.seed)
    return (TrickSFT if tricks else trl.SFTTrainer)(
        model=model,
        args=recipe.training_arguments(folder, **(QUIET | args)),
        train_dataset=sequences(),
        processing_class=tokenizer(),
        **({"recipe": recipe} if tricks else {}),
        **(more or {}),
    )


def test_sft_has_the_losses_of_the_loop(tmp_path: Path) -> None:
    recipe = tiny.recipe(tiny.Unfreeze(), tiny.Decay(), tiny.Anchor(), epochs=3)
    trainer = sft(recipe, tmp_path, llama())
    in_trainer = losses_of(trainer)
    in_loop, looped = in_a_loop(recipe, llama(), trainer.train_dataset, trainer.data_collator)
    # TRL sums log-probabilities token by token, the model takes their mean: another order of rounding.
    assert in_trainer == pytest.approx(in_loop, abs=1e-5)
    assert len(set(in_loop)) == len(in_loop) == 18
    for name, weight in trainer.model.state_dict().items():
        assert torch.allclose(weight, looped.state_dict()[name], atol=1e-3)  # AdamW makes much of little
    before = llama().get_input_embeddings().weight
    assert torch.equal(trainer.model.get_input_embeddings().weight, before)  # these do not thaw within three epochs


@pytest.mark.parametrize("model", [llama, gpt2])
def test_sft_with_a_trick_that_owns_the_loss_has_its_losses_too(model: Callable[[], Any], tmp_path: Path) -> None:
    recipe = Recipe(
        tricks=["label_smoothing", "stlr", {"discriminative_lr": {"decay": 1.3}}],
        training={"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "accumulation": 2},
    )
    trainer = sft(recipe, tmp_path, model())
    in_trainer = losses_of(trainer)
    in_loop, _ = in_a_loop(recipe, model(), trainer.train_dataset, trainer.data_collator)
    assert in_trainer == pytest.approx(in_loop, abs=1e-6)


def test_with_an_empty_recipe_sft_is_what_it_is(tmp_path: Path) -> None:
    recipe = tiny.recipe(streams="none", accumulation=2)
    ours, plain = (sft(recipe, tmp_path, llama(), tricks=tricks) for tricks in (True, False))
    assert losses_of(ours) == losses_of(plain)
    assert tiny.equal(ours.model, plain.model)


class KeepLowest(Trick):
    """Embeddings and the lowest block stay as they are."""

    @hookimpl
    def freeze(self) -> tuple[str, ...]:
        return ("embeddings", "block.0")


@pytest.mark.parametrize("ours", [True, False], ids=["lora", "peft_config"])
def test_sft_with_adapters_trains_these_alone(ours: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="adapters are peft's, which is not installed")
    lora: list[Any] = [{"lora": {"r": 2, "targets": ["q_proj"]}}] if ours else []
    recipe = Recipe(
        tricks=[*lora, {"discriminative_lr": {"decay": 2.0}}, KeepLowest()],
        training={"epochs": 3, "batch_size": 4, "learning_rate": 1e-3},
    )
    more = {} if ours else {"peft_config": peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")}
    trainer = sft(recipe, tmp_path, llama(), more=more)
    before = {}
    create = trainer.create_optimizer

    def noted(*arguments: Any) -> Any:
        before.update({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
        return create(*arguments)

    trainer.create_optimizer = noted
    finish = Session.finish
    with pytest.MonkeyPatch.context() as patch:
        after: dict[str, torch.Tensor] = {}
        patch.setattr(
            Session,
            "finish",
            lambda session: (
                after.update({n: p.detach().clone() for n, p in session.model.named_parameters()}) or finish(session)
            ),
        )
        trainer.train()
    moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
    assert {name.split("layers.")[1].partition(".")[0] for name in moved} == {"2", "1"}
    assert all(".lora_" in name for name in moved)
    assert len(moved) == 4
    plan = trainer.session.plan
    assert {g.layer: g.lr_factor for g in plan.groups if any(n in moved for n in g.parameters)} == {
        "block.1": 0.25,
        "block.2": 0.5,
    }


def test_adapters_alone_cannot_learn_while_only_the_head_is_thawed(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="lora is built on peft, which is not installed")
    recipe = Recipe(tricks=["lora", "gradual_unfreezing"], training={"epochs": 3, "batch_size": 4})
    message = "gradual_unfreezing: nothing would be trained in the steps 0 to 5, in which only head can be"
    with pytest.raises(TrickConflict, match=message):  # a norm and an output layer that were pretrained
        sft(recipe, tmp_path, llama()).train()


NO_CLASSIFIER = "reads the states of a transformers model of text with a classification head; LlamaForCausalLM is none"
NOTHING_NEW = "no linear or convolutional layer of LlamaForCausalLM is new"
REFUSED = {
    "bi_attention": NO_CLASSIFIER,
    "concat_pooling": NO_CLASSIFIER,
    "feature_based": NO_CLASSIFIER,
    "glorot_normal": NOTHING_NEW,
    "hierarchical": NO_CLASSIFIER,
    "kaiming": NOTHING_NEW,
    "layer_pooling": NO_CLASSIFIER,
    "lstm_forget_bias": "LlamaForCausalLM has no LSTM",
    "lstm_orthogonal": "LlamaForCausalLM has no recurrent network",
    "multi_task": "a transformers model for sequence classification; LlamaForCausalLM is none",
    "task_layers": NO_CLASSIFIER,
}
"""The tricks that have nothing to act on in a causal language model, and what they say."""


@pytest.mark.parametrize("name", sorted(every.CASES))
def test_every_trick_acts_on_a_causal_language_model_or_says_why_not(name: str) -> None:
    values = {"cross_entropy": {}, "hierarchical": {"fraction_length": 4}}.get(name, every.CASES[name].values)
    recipe = Recipe(tricks=[{name: values}], training=TRAINING)
    data = [{**row, "labels": row["input_ids"]} for row in tiny.rows(8)]
    loader = DataLoader(data, batch_size=4, shuffle=True, collate_fn=default_data_collator)
    if name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name]) as caught:
            recipe.bind(llama(), loader)
        assert name in str(caught.value)
        return
    session = recipe.bind(llama(), loader)
    losses = tiny.train(session, steps=2)
    assert all(map(math.isfinite, losses))
    assert len(losses) == (2 if session.plan.trains(0) else 0)


@pytest.mark.parametrize("name", ["output_layer_norm", "output_dropout"])
def test_what_sft_would_pass_by_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(FinetricksError, match=f"{name} acts on the model's output layer, and this trainer computes"):
        sft(every.recipe(name), tmp_path, llama()).train()
    trainer = sft(Recipe(tricks=[name, "cross_entropy"], training={"epochs": 1}), tmp_path, llama())
    assert math.isfinite(trainer.train().training_loss)


# -- transformers' Seq2SeqTrainer ------------------------------------------------------------------------


def test_seq2seq_has_the_losses_of_the_loop(tmp_path: Path) -> None:
    class TrickSeq2Seq(TrickMixin, tr.Seq2SeqTrainer):
        pass

    def model() -> Any:
        config = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
        return drawn(lambda: tr.T5ForConditionalGeneration(tr.T5Config(**config, decoder_start_token_id=0)))

    data = [{"input_ids": torch.arange(i, i + 6), "labels": torch.arange(i, i + 4)} for i in range(1, 23)]
    recipe = tiny.recipe(tiny.Unfreeze(), tiny.Decay(), tiny.TwicePass(), epochs=3)
    args = recipe.training_arguments(tmp_path, **QUIET).to_dict() | {"predict_with_generate": True}
    trainer = TrickSeq2Seq(
        recipe=recipe,
        model=model(),
        args=tr.Seq2SeqTrainingArguments(**args),
        train_dataset=data,
        eval_dataset=data[:2],
        data_collator=default_data_collator,
    )
    in_trainer = losses_of(trainer)
    in_loop, looped = in_a_loop(recipe, model(), data, default_data_collator)
    assert in_trainer == in_loop
    assert len(set(in_loop)) == 18
    assert tiny.equal(trainer.model, looped)
    assert trainer.evaluate(max_length=4)["eval_loss"] > 0


# -- Lightning -------------------------------------------------------------------------------------------


def lightning() -> Any:
    warnings.filterwarnings("ignore", module="lightning")
    return pytest.importorskip("lightning", reason="TrickModule is for Lightning, which is not installed")


def fitted(session: Session, folder: Path, *, callbacks: Any = (), ckpt: Any = None, **options: Any) -> Any:
    """The session trained by Lightning's Trainer; gives the module with the losses that its steps gave."""
    pl = lightning()
    from finetricks.lightning import TrickModule

    class Noted(TrickModule):
        def __init__(self, session: Session) -> None:
            super().__init__(session)
            self.losses: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            self.losses.append(loss.item())
            return loss

    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"max_epochs": 3, "enable_checkpointing": bool(callbacks)} | options
    module = Noted(session)
    pl.Trainer(**quiet, callbacks=list(callbacks), default_root_dir=folder, **options).fit(
        module, ckpt_path=ckpt, **({"weights_only": True} if ckpt else {})
    )
    return module


def bound(accumulation: int = 1, seed: int = 0) -> Session:
    recipe = tiny.recipe(*(trick() for trick in tiny.ALL), epochs=3, accumulation=accumulation)
    return recipe.bind(tiny.bert(seed=seed), tiny.loader())


@pytest.mark.parametrize("accumulation", [1, 4])
def test_lightning_has_the_losses_of_the_loop_bit_for_bit(accumulation: int, tmp_path: Path) -> None:
    looped = bound(accumulation)
    losses = tiny.train(looped)
    session = bound(accumulation)
    session.model.eval()  # as `from_pretrained` gives it
    module = fitted(session, tmp_path, accumulate_grad_batches=accumulation)
    assert module.losses == losses
    assert len(set(losses)) == 18
    assert module.session.ended
    assert module.trainer.global_step == module.session.global_step == (18 if accumulation == 1 else 6)
    assert tiny.equal(module.session.finish(), looped.model)


def test_lightning_resumes_within_an_epoch_bit_for_bit(tmp_path: Path) -> None:
    from finetricks.lightning import TrickModule

    checkpoints = lightning().pytorch.callbacks.ModelCheckpoint(
        dirpath=tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1
    )
    looped = bound()
    losses = tiny.train(looped)
    fitted(bound(), tmp_path, callbacks=[checkpoints])
    resumed = fitted(bound(seed=5), tmp_path, ckpt=tmp_path / "step=8.ckpt")
    assert resumed.losses == losses[8:]
    assert tiny.equal(resumed.session.model, looped.model)
    assert resumed.trainer.global_step == 18
    with pytest.raises(CheckpointError, match="belongs to another run"):
        other = tiny.recipe(tiny.Decay(), epochs=3).bind(tiny.bert(), tiny.loader())
        fitted(other, tmp_path, ckpt=tmp_path / "step=8.ckpt")
    with pytest.raises(CheckpointError, match="holds no session of finetricks"):
        TrickModule(bound()).on_load_checkpoint({"state_dict": {}})
    with pytest.raises(CheckpointError, match="weights alone"):
        TrickModule(bound()).on_load_checkpoint({"finetricks": {}, "state_dict": {}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 2}, "it would train for 12 steps and the plan for 18: give max_epochs=3"),
        ({"max_steps": 5}, "it would train for 5 steps and the plan for 18"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2, give 1"),
        ({"gradient_clip_val": 1.0}, "gradient_clip_val=1.0, leave it out"),
        ({"precision": "bf16-mixed"}, "precision='bf16-mixed', leave it out"),
        ({"limit_train_batches": 2}, "limit_train_batches or overfit_batches, leave them out"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_lightnings_trainer_would_do_otherwise_is_refused(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(FinetricksError, match=message):
        fitted(bound(), tmp_path, **options)


def test_lightning_cannot_be_given_a_run_that_trains_nothing(tmp_path: Path) -> None:
    session = every.bound(every.recipe("predict_only", epochs=3))
    with pytest.raises(FinetricksError, match="every layer is frozen at some steps"):
        fitted(session, tmp_path)


def test_lightning_stops_where_a_trick_ends_the_run(tmp_path: Path) -> None:
    class Enough(Trick):
        """Ends the run after its eighth step."""

        @hookimpl
        def after_backward(self, progress: Any) -> str | None:
            return "stop" if progress.step == 7 else None

    session = tiny.recipe(Enough(), epochs=3).bind(tiny.bert(), tiny.loader())
    module = fitted(session, tmp_path)
    assert module.session.global_step == len(module.losses) == 8


# -- Accelerate ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 4])
def test_with_accelerate_the_loop_has_the_same_losses_bit_for_bit(accumulation: int) -> None:
    from accelerate import Accelerator

    looped = bound(accumulation)
    losses = tiny.train(looped)
    accelerator = Accelerator(cpu=True)
    session = bound(accumulation)
    assert accelerate_worker.train(session, accelerator) == losses
    assert tiny.equal(session.finish(), looped.model)


@pytest.mark.nightly
def test_with_accelerate_two_processes_train_as_one(tmp_path: Path) -> None:
    worker = Path(__file__).parent / "accelerate_worker.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, str(worker), str(tmp_path)], check=True, timeout=300)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["losses"] != ranks[1]["losses"]
    losses, _ = tiny.trained(accelerate_worker.RECIPE, tiny.bert(dropout=0.0))
    both = [(one + other) / 2 for one, other in zip(*(rank["losses"] for rank in ranks), strict=True)]
    assert both == pytest.approx(losses, abs=1e-5)  # the mean of two halves, in another order of rounding


# -- none of them is needed ------------------------------------------------------------------------------


def test_finetricks_itself_imports_none_of_them() -> None:
    code = "import sys, finetricks.cli; print(sorted({'trl', 'lightning', 'peft', 'accelerate'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_lightning_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "finetricks.lightning", raising=False)
    with pytest.raises(FinetricksError, match=r'pip install "finetricks\[lightning\]"'):
        import finetricks.lightning  # noqa: F401

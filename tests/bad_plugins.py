"""The corpus of bad tricks, a table: what each does wrong, in which hook, and the words that its error must hold.

A case is a line of `CASES`: a name, the body of a trick's class, the hook that its error names, and words of the error.
The bodies may use the names that `HEADER` imports. `tests/test_bad_plugins.py` runs each; a study runs as many as fit.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

HEADER = """\
import ctypes, math, os, random, sys, time
from dataclasses import replace
from typing import Any, ClassVar
import numpy as np
import torch
from torch import nn
from finetricks import ParamOptions, Trick, hookimpl

class Own(BaseException):
    "No Exception."

class Unreadable(Exception):
    def __str__(self):
        raise ValueError("no")

class Frozen(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(name)

CALLS = []

def forever(n):
    return forever(n + 1)
"""


@dataclass(frozen=True)
class Bad:
    """A bad trick.

    Attributes:
        name: of the trick.
        body: of its class.
        hook: that the error names; empty where it does so before there is one.
        words: that the error holds.
    """

    name: str
    body: str
    hook: str
    words: str

    @property
    def source(self) -> str:
        return f"class {self.name}(Trick):\n{textwrap.indent(self.body, '    ')}\n"


def plain(name: str, hook: str, arguments: str, statement: str, words: str) -> Bad:
    """A trick of one hook."""
    body = f"@hookimpl\ndef {hook}(self{arguments and ', ' + arguments}):\n    {statement}"
    return Bad(name, body, hook, words)


def wrapper(name: str, hook: str, statements: str, words: str) -> Bad:
    """A trick that wraps a hook."""
    return Bad(name, f"@hookimpl(wrapper=True)\ndef {hook}(self):\n    {statements}", hook, words)


HOOKS = (
    "data",
    "build",
    "init",
    "param_groups",
    "freeze",
    "schedule",
    "loss",
    "regularize",
    "after_backward",
    "evaluated",
    "finish",
)

RAISING = [
    case
    for hook in HOOKS
    for case in (
        plain(f"raises_in_{hook}", hook, "", "raise ZeroDivisionError('no')", "ZeroDivisionError: no"),
        plain(f"exits_in_{hook}", hook, "", "sys.exit(3)", "raised SystemExit: 3"),
        plain(f"raises_its_own_in_{hook}", hook, "", "raise Own('odd')", "raised Own: odd"),
    )
]

ODD = [
    plain("closes", "regularize", "", "raise GeneratorExit", "raised GeneratorExit"),
    plain("stops", "regularize", "", "raise StopIteration(1)", "raised StopIteration: 1"),
    plain("recurs", "regularize", "", "forever(0)", "RecursionError"),
    plain("unreadable", "regularize", "", "raise Unreadable", "raised Unreadable (its message cannot be read)"),
    plain("takes_no_note", "regularize", "", "raise Frozen('x')", "raised Frozen: x"),
    wrapper("before_its_yield", "loss", "raise ZeroDivisionError('no')\n    yield", "ZeroDivisionError: no"),
    wrapper("after_its_yield", "loss", "yield\n    raise ZeroDivisionError('no')", "ZeroDivisionError: no"),
    wrapper("exits_after_its_yield", "loss", "yield\n    sys.exit(1)", "raised SystemExit: 1"),
    wrapper("wraps_schedule", "schedule", "yield\n    raise Own('odd')", "raised Own: odd"),
    wrapper("never_yields", "loss", "if CALLS: yield\n    return 1", "a wrapper yields once, and this one did not"),
    wrapper("yields_twice", "loss", "yield\n    yield", "a wrapper yields once, and this one did so twice"),
    wrapper("yields_a_value", "loss", "yield 3", "a wrapper yields nothing, got int"),
]

GIVING = [
    plain("data_gives_none", "data", "", "pass", "gave NoneType instead of a data set"),
    plain("data_gives_a_list", "data", "", "return [1]", "gave list instead of a data set"),
    plain(
        "data_drops_labels", "data", "dataset", "return dataset.remove_columns('labels')", "without the column 'labels'"
    ),
    plain("build_gives_text", "build", "", "return 'model'", "gave str instead of a model"),
    plain("build_leaves_meta", "build", "model", "return model.to('meta')", "on the device 'meta'"),
    plain("groups_give_none", "param_groups", "", "pass", "gave NoneType; it gives {layer or parameter"),
    plain("groups_give_numbers", "param_groups", "", "return {'head': 0.1}", "gave 0.1 for 'head'; give ParamOptions"),
    plain(
        "groups_give_nan", "param_groups", "", "return {'head': ParamOptions(math.nan)}", "lr_factor of 'head' is nan"
    ),
    plain("groups_give_complex", "param_groups", "", "return {'head': ParamOptions(1j)}", "lr_factor of 'head' is 1j"),
    plain("groups_give_text", "param_groups", "", "return {'head': ParamOptions('1')}", "lr_factor of 'head' is '1'"),
    plain("groups_name_nothing", "param_groups", "", "return {7: ParamOptions(1.0)}", "no layer or parameter 7"),
    plain("freeze_gives_none", "freeze", "", "pass", "gave None; it gives the names of layers"),
    plain("freeze_gives_text", "freeze", "", "return 'head'", "gave 'head'; it gives the names of layers"),
    plain("freeze_gives_numbers", "freeze", "", "return [3, 'head']", "no layer 3"),
    plain("schedule_gives_none", "schedule", "", "pass", "gave None; it gives a finite factor"),
    plain("schedule_gives_nan", "schedule", "", "return math.nan", "gave nan"),
    plain("schedule_gives_infinity", "schedule", "", "return math.inf", "gave inf"),
    plain("schedule_gives_complex", "schedule", "", "return 1j", "gave 1j"),
    plain("schedule_gives_a_tensor", "schedule", "", "return torch.ones(2)", "gave tensor([1., 1.])"),
    wrapper(
        "schedule_forgets", "schedule", "yield", "gave None; it gives a finite factor of at least 0; does a wrapper"
    ),
    plain("loss_gives_none", "loss", "", "pass", "gave NoneType instead of a tensor"),
    plain("loss_gives_a_number", "loss", "", "return 1.0", "gave float instead of a tensor"),
    plain("loss_gives_rows", "loss", "outputs", "return outputs.logits", "instead of a scalar"),
    plain("loss_gives_whole", "loss", "", "return torch.tensor(1)", "gave a tensor of torch.int64"),
    plain("loss_gives_complex", "loss", "outputs", "return outputs.loss * 1j", "gave a tensor of torch.complex64"),
    plain("loss_gives_meta", "loss", "", "return torch.tensor(1.0, device='meta')", "on the device 'meta'"),
    plain("loss_gives_detached", "loss", "outputs", "return outputs.loss.detach()", "detached from the model"),
    wrapper("loss_detaches", "loss", "return (yield).detach()", "detached from the model"),
    wrapper("loss_forgets", "loss", "yield", "gave NoneType instead of a tensor; does a wrapper return?"),
    plain(
        "loss_gives_nan", "loss", "outputs", "return outputs.loss * math.nan", "the first value that is not finite is"
    ),
    wrapper("loss_becomes_infinite", "loss", "return (yield) + math.inf", "the first value that is not finite is"),
    plain("penalty_is_a_number", "regularize", "", "return 1.0", "gave float instead of a tensor"),
    plain(
        "penalty_is_infinite",
        "regularize",
        "",
        "return torch.tensor(math.inf)",
        "the first value that is not finite is",
    ),
    plain("penalty_is_meta", "regularize", "", "return torch.zeros((), device='meta')", "on the device 'meta'"),
    plain("penalty_is_complex", "regularize", "", "return torch.zeros((), dtype=torch.cfloat)", "torch.complex64"),
    plain("penalty_has_rows", "regularize", "", "return torch.zeros(2)", "shape (2,) instead of a scalar"),
    plain("decides_on_a_number", "evaluated", "", "return 1", "gave 1; it gives a word or None"),
    plain("decides_on_a_gradient", "after_backward", "", "return 1", "gave 1; it gives a word or None"),
]

WRITES = "with torch.no_grad(): MODEL.classifier.weight.add_(1)"
CHANGING = [
    plain("groups_write", "param_groups", "model", WRITES.replace("MODEL", "model"), "changed the weight"),
    plain("penalty_writes", "regularize", "model", WRITES.replace("MODEL", "model"), "changed the weight"),
    plain("penalty_writes_data", "regularize", "model", "model.classifier.weight.data.mul_(2)", "changed the weight"),
    plain("loss_writes", "loss", "outputs, step", WRITES.replace("MODEL", "step.model"), "changed the weight"),
    wrapper("loss_seeds", "loss", "random.seed(1)\n    return (yield)", "the global random state of Python"),
    plain("penalty_draws", "regularize", "", "np.random.rand()", "the global random state of numpy"),
    plain(
        "penalty_freezes", "regularize", "model", "model.classifier.bias.requires_grad_(False)", "set requires_grad of"
    ),
    plain("penalty_adds", "regularize", "model", "model.extra = nn.Linear(1, 1)", "'extra' in the model"),
    plain(
        "penalty_replaces", "regularize", "model", "model.classifier = nn.Linear(16, 3)", "'classifier' in the model"
    ),
    plain("penalty_sets_threads", "regularize", "", "torch.set_num_threads(3)", "set torch's number of threads"),
    plain("schedule_sets_dtype", "schedule", "", "torch.set_default_dtype(torch.float64); return 1.0", "default dtype"),
    plain("schedule_draws", "schedule", "", "return float(torch.rand(()))", "the global random state of torch"),
    plain("freeze_seeds", "freeze", "", "np.random.seed(5); return ()", "the global random state of numpy"),
    plain(
        "freeze_edits_layers", "freeze", "layers", "layers.parameters['head'] = ()", "does not support item assignment"
    ),
    plain(
        "schedule_decides", "schedule", "progress", "progress.decisions['x'] = 1", "does not support item assignment"
    ),
    plain("init_replaces", "init", "model", "model.classifier = nn.Linear(16, 3)", "'classifier' in the model"),
    plain("watching_draws", "after_backward", "", "torch.rand(1)", "the global random state of torch"),
    plain("evaluated_adds", "evaluated", "model", "model.extra = nn.Linear(1, 1)", "'extra' in the model"),
    plain("evaluated_draws", "evaluated", "", "torch.rand(1)", "the global random state of torch"),
    plain(
        "evaluated_freezes", "evaluated", "model", "model.classifier.bias.requires_grad_(False)", "set requires_grad of"
    ),
    Bad(
        "loss_relabels",
        "@hookimpl(wrapper=True)\ndef loss(self, batch):\n    batch['labels'].zero_()\n    return (yield)",
        "loss",
        "changed 'labels' of the batch",
    ),
    Bad(
        "loss_pops",
        "@hookimpl(wrapper=True)\ndef loss(self, batch):\n"
        "    loss = yield\n    batch.pop('attention_mask')\n    return loss",
        "loss",
        "changed 'attention_mask' of the batch",
    ),
    Bad(
        "changes_itself",
        "seen: list[int] = []\n\n@hookimpl\ndef regularize(self):\n    self.seen.append(1)",
        "",
        "has changed itself",
    ),
    plain("assigns_itself", "regularize", "", "self.x = 1", "frozen"),
]

IMPURE = [
    plain("schedule_counts", "schedule", "", "CALLS.append(1); return 1 / len(CALLS)", "does not give the same"),
    plain(
        "freeze_counts", "freeze", "", "CALLS.append(1); return ['head'][: len(CALLS) % 2]", "does not give the same"
    ),
    wrapper(
        "schedule_jitters", "schedule", "return (yield) * (1 + time.perf_counter_ns() % 999)", "does not give the same"
    ),
]

TRAINED = (*RAISING, *ODD, *GIVING, *CHANGING, *IMPURE)
"""Those that a run fails of."""

CLASSES = (
    Bad("no_annotation", "strength = 0.1\n@hookimpl\ndef regularize(self): pass", "", "Annotate each hyper-parameter"),
    Bad(
        "undefined_annotation", "x: 'Nowhere' = 1\n@hookimpl\ndef finish(self): pass", "", "names what cannot be found"
    ),
    Bad("older_argument", "@hookimpl\ndef loss(self, labels): pass", "loss", "no argument 'labels'"),
    Bad("removed_hook", "@hookimpl\ndef on_epoch(self): pass", "on_epoch", "is not a hook"),
    Bad("no_hooks", "x: int = 1", "", "implements no hook"),
    Bad("mutable", "model_config = {'frozen': False}\n@hookimpl\ndef finish(self): pass", "", "a trick is immutable"),
    Bad(
        "bad_conflicts", "conflicts: ClassVar = ['stlr']\n@hookimpl\ndef finish(self): pass", "", "each with the reason"
    ),
    Bad(
        "bad_neutral",
        "neutral: ClassVar = {'y': 1}\n@hookimpl\ndef finish(self): pass",
        "",
        "values of its fields by name",
    ),
    Bad("body_raises", "raise ZeroDivisionError('in the body')", "", "ZeroDivisionError: in the body"),
    Bad("body_exits", "sys.exit(4)", "", "SystemExit: 4"),
    Bad("body_interrupts", "raise KeyboardInterrupt", "", "KeyboardInterrupt"),
    Bad("body_is_odd", "raise Own('odd')", "", "Own: odd"),
    Bad("body_unreadable", "raise Unreadable", "", "Unreadable (its message cannot be read)"),
    Bad("takes_for_ever", "time.sleep(60)", "", "its import has not ended after 0.5 seconds"),
)
"""Those that cannot be used at all: each is a module of its own."""

"""For each check of the kit a trick that fails exactly that check.

Each body but one uses what `HEADER` imports. They are written to a module, so that they can be pickled.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

HEADER = """\
import itertools, random
from typing import Annotated, Any, ClassVar
import numpy as np
import torch
from pydantic import Field, field_serializer
from torch import nn
from finetricks import Choice, ParamOptions, Trick, hookimpl

SEEN, COUNTED = {}, itertools.count()
"""


@dataclass(frozen=True)
class Broken:
    """A trick that fails one check.

    Attributes:
        check: that it fails.
        words: of the failure.
        body: of its class, after the docstring.
        name: of the class.
        doc: its docstring.
    """

    check: str
    words: str
    body: str
    name: str = ""
    doc: str = "What a broken trick does.\n\nSource: written for this test."

    @property
    def kind(self) -> str:
        return self.name or "".join(word.capitalize() for word in f"broken_{self.check}".split("_"))

    @property
    def source(self) -> str:
        body = textwrap.indent(textwrap.dedent(self.body).strip(), "    ")
        return f'class {self.kind}(Trick):\n    """{self.doc}"""\n\n{body}\n'


PENALTY = "@hookimpl\ndef regularize(self, model, step):\n"
SHRINKS = f"{PENALTY}    return 0.1 * model.classifier.weight.square().sum()"

BROKEN = [
    Broken("name", "its name is 'größe'; name it in lower case", SHRINKS, name="Größe"),
    Broken("docstring", "its docstring has no source", SHRINKS, doc="Shrinks the head."),
    Broken("docstring", "it has no docstring", SHRINKS, name="Undocumented", doc=""),
    Broken("docstring", "first line has 120 characters", SHRINKS, name="Verbose", doc="w" * 120 + "\n\nSource: none."),
    Broken(
        "fields",
        "the field 'strength' takes any number; bound it",
        f"strength: float = Field(default=0.1, description='Of the pull.')\n\n{SHRINKS}",
    ),
    Broken(
        "fields",
        "the field 'strength' has no description",
        f"strength: Annotated[float, Field(ge=0)] = 0.1\n\n{SHRINKS}",
        name="Undescribed",
    ),
    Broken(
        "fields",
        "the field 'strength' refuses 2.0, its default or a Choice",
        f"strength: Annotated[float, Field(le=1), Choice(2.0)] = Field(default=0.1, description='x')\n\n{SHRINKS}",
        name="SearchesOutside",
    ),
    Broken(
        "fields",
        "the field 'strength' takes anything",
        f"strength: Any = Field(default=0.1, description='Of the pull.')\n\n{SHRINKS}",
        name="TakesAnything",
    ),
    Broken(
        "json_and_pickle",
        "written as JSON it comes back as",
        f"""
        strength: Annotated[float, Field(ge=0)] = Field(default=0.125, description="Of the pull.")

        @field_serializer("strength", when_used="json")
        def _rounded(self, value):
            return round(value, 1)

{textwrap.indent(SHRINKS, " " * 8)}
        """,
    ),
    Broken(
        "signatures",
        "the argument 'progress' may not have a default",
        "@hookimpl\ndef schedule(self, progress=None):\n    return 0.5",
    ),
    Broken(
        "schedule",  # a run of a single step
        "ZeroDivisionError",
        "@hookimpl\ndef schedule(self, progress):\n    return 1 - progress.step / (progress.total_steps - 1)",
    ),
    Broken(
        "schedule",
        "it gives a finite factor of at least 0",
        "@hookimpl\ndef schedule(self, progress):\n    return 1 - progress.step / 20",
        name="Undershoots",
    ),
    Broken(
        "freeze",
        "no layer 'block.1'",
        "@hookimpl\ndef freeze(self):\n    return ['block.0', 'block.1']",
    ),
    Broken(
        "freeze",  # a run of a single epoch
        "every layer is frozen at step 0 of 1",
        "@hookimpl\ndef freeze(self, progress, layers):\n"
        "    return layers.names[: len(layers.names) - 1] if progress.total_steps > 1 else layers.names",
        name="FreezesShortRuns",
    ),
    Broken(
        "data",
        "in predict it takes out, or relabels, the example",
        "@hookimpl\ndef data(self, dataset, split):\n"
        "    return dataset.select(range(10)) if split in ('train', 'predict') else dataset",
    ),
    Broken(
        "data",
        "it does not change valid as it did before",
        "@hookimpl\ndef data(self, dataset, split):\n"
        "    order = list(range(len(dataset)))\n"
        "    random.SystemRandom().shuffle(order) if split == 'valid' else order.reverse()\n"
        "    return dataset.select(order)",
        name="ShufflesAnew",
    ),
    Broken(
        "build",
        "its structure depends on the values alone",
        "@hookimpl\ndef build(self, model):\n"
        "    model.classifier = nn.Sequential(model.classifier)\n"
        "    model.classifier.add_module(f'scale_{next(COUNTED)}', nn.LayerNorm(3))",
    ),
    Broken(
        "groups",
        "no layer or parameter 'block.1'",
        "@hookimpl\ndef param_groups(self):\n    return {'block.1': ParamOptions(lr_factor=0.5)}",
    ),
    Broken(
        "groups",
        "would teach a tensor of shape (3,) that no optimizer holds",
        "@hookimpl\ndef build(self, model):\n"
        "    scale = torch.full((3,), 2.0, requires_grad=True)\n"
        "    model.classifier.register_forward_hook(lambda module, given, found: found * scale)",
        name="HidesWhatItLearns",
    ),
    Broken(
        "loss",
        "for 1 example the loss is nan",
        "@hookimpl(wrapper=True)\ndef loss(self, outputs):\n"
        "    loss = yield\n    return loss + 0.1 * outputs.logits.var(0).sum()",
    ),
    Broken(
        "penalty",
        "its gradient at 'classifier.weight' is not finite",
        f"{PENALTY}    return 0.1 * model.classifier.weight.square().sum().sqrt()",
    ),
    Broken("loop", "raised by trick", f"{PENALTY}    if step.progress.step == 7: raise ValueError('no')"),
    Broken("acts", "it comes to the weights of a run without it", "@hookimpl\ndef finish(self):\n    pass"),
    Broken(
        "leaves_the_rest_alone",
        "the global random state of numpy",
        f"{PENALTY}    if step.progress.step == 3: np.random.rand()\n"
        "    return 0.1 * model.classifier.weight.square().sum()",
    ),
    Broken(
        "leaves_the_rest_alone",
        "changed the weight 'classifier.bias'",
        f"{PENALTY}    if step.progress.step == 3: model.classifier.bias.data.add_(1)",
        name="WritesLater",
    ),
    Broken(
        "same_seed",
        "a second run of the same seed differs",
        f"{PENALTY}    return random.SystemRandom().random() * model.classifier.weight.square().sum()",
    ),
    Broken(
        "neutral",
        "a run differs from one without the trick",
        "strength: Annotated[float, Field(ge=0)] = Field(default=0.1, description='Of the second pass.')\n"
        "neutral: ClassVar = {'strength': 0.0}\n\n"
        "@hookimpl(wrapper=True)\ndef loss(self, batch, step):\n"
        "    loss = yield\n    second = step.criterion(step.forward(batch), batch)\n"
        "    return (1 - self.strength) * second + self.strength * loss",
    ),
    Broken(
        "interleaved",
        "two runs in one process disturb one another",
        f"{PENALTY}    weight = model.classifier.weight\n"
        "    if step.progress.step == 0: SEEN['before'] = torch.zeros_like(weight)\n"
        "    before, SEEN['before'] = SEEN['before'], weight.detach().clone()\n"
        "    return 0.1 * (weight - before).square().sum()",
    ),
    Broken(
        "resume",
        "resumed at step 2 it comes to other weights than in one go",
        f"{PENALTY}    weight = model.classifier.weight\n"
        "    if not hasattr(model, '_began'): model._began = weight.detach().clone()\n"
        "    return 0.1 * (weight - model._began).square().sum()",
    ),
    Broken(
        "finish",
        "after `finish` scores differ by up to",
        "@hookimpl\ndef finish(self, model):\n    with torch.no_grad(): model.classifier.weight.mul_(2)",
    ),
    Broken(
        "trainer",  # which knows no names of the classes
        "IndexError",
        "@hookimpl\ndef data(self, dataset, split, context):\n"
        "    return dataset.select(range(14)) if split == 'train' and context.labels[0] else dataset",
    ),
    Broken(
        "beside_each",
        "beside 'stlr'; if they exclude one another",
        "@hookimpl(wrapper=True)\ndef schedule(self):\n    factor = yield\n    assert factor == 1\n    return 0.5",
    ),
    Broken(
        "beside_each",
        "beside 'stlr' it is refused without a reason: 'no'",
        f"conflicts: ClassVar = {{'stlr': 'no'}}\n\n{SHRINKS}",
        name="GivesNoReason",
    ),
]

"""What the experiments behind docs/explanation/arguments/ share: a small net, small data, intervals, and their pages.

Each script prints the table of its page. With `--write` it puts the table between the marks of the page, and the
picture beside the others; a nightly test runs it and compares.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader

import finetricks as ft

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "explanation" / "arguments"
PICTURES = ROOT / "docs" / "pictures" / "arguments"
END = "<!-- end of figures -->"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "finetricks",
}


# ----------------------------------------------------------------------------------------------------
# Nets and data
# ----------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Layers one after the other; its loss is the cross-entropy where classes are given, else the squared error."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.body(x)
        if labels is None:
            return {"logits": logits}
        if labels.is_floating_point():
            return {"loss": nn.functional.mse_loss(logits.reshape(labels.shape), labels), "logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    @property
    def layers(self) -> dict[str, list[str]]:
        """Each linear layer with what follows it; the last one is the head."""
        groups: list[list[str]] = []
        for place, layer in enumerate(self.body):
            if isinstance(layer, nn.Linear):
                groups.append([])
            groups[-1].append(f"body.{place}")
        return {f"block.{number}": names for number, names in enumerate(groups[:-1])} | {"head": groups[-1]}


def mlp(widths: Sequence[int], activation: type[nn.Module], seed: int, dropout: float | None = None) -> Net:
    """A multi-layer perceptron, its weights drawn by torch's defaults from `seed`."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(wide, narrow), activation()]
        layers += [] if dropout is None else [nn.Dropout(dropout)]
    return Net(*layers, nn.Linear(widths[-2], widths[-1]))


@dataclass(frozen=True)
class Split:
    """Examples [rows, features] and their classes [rows]."""

    x: Tensor
    y: Tensor

    def first(self, rows: int) -> Split:
        return Split(self.x[:rows], self.y[:rows])

    def loader(self, batch_size: int) -> DataLoader[Any]:
        rows = [{"x": x, "labels": y} for x, y in zip(self.x, self.y, strict=True)]
        return DataLoader(rows, batch_size=batch_size, shuffle=True, collate_fn=_stacked)


def _stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)


def digits(seed: int, train: int = 1200) -> tuple[Split, Split]:
    """Handwritten digits, 8 x 8 values in [0, 1] (bundled with scikit-learn): `train` rows, and the rest for valid."""
    x, y = _digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return Split(x[order[:train]], y[order[:train]]), Split(x[order[train:]], y[order[train:]])


# ----------------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------------


def fit(
    model: Net,
    train: Split,
    tricks: Sequence[Any] = (),
    *,
    seed: int,
    each_epoch: Callable[[nn.Module, int], Mapping[str, float] | None] | None = None,
    batch_size: int = 64,
    **training: Any,
) -> nn.Module:
    """Train by a recipe of tricks. `each_epoch` sees the model, in eval mode, before the first and after each epoch;
    what it gives are metrics that tricks may decide on."""
    settings = {"batch_size": batch_size, "seed": seed, "clip": 0.0} | training
    loader = train.loader(batch_size)
    session = ft.Recipe(tricks=tricks, layers=model.layers, training=settings).bind(model, loader)
    see = each_epoch or (lambda model, epoch: None)
    see(session.model.eval(), 0)
    session.model.train()
    for batch in session.batches():
        session.backward(session.loss(batch))
        session.step()
        if session.global_step % len(loader) == 0:
            metrics = see(session.model.eval(), session.global_step // len(loader))
            session.model.train()
            if metrics:
                session.evaluated(metrics)  # what it decides ends the batches
    return session.finish().eval()


@torch.no_grad()
def score(model: nn.Module, split: Split) -> dict[str, float]:
    """Accuracy and mean cross-entropy of a model in eval mode."""
    logits = model(split.x)["logits"]
    loss = nn.functional.cross_entropy(logits, split.y)
    return {"accuracy": (logits.argmax(-1) == split.y).float().mean().item(), "loss": loss.item()}


# ----------------------------------------------------------------------------------------------------
# Intervals, tables, pages
# ----------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the 95 % interval of Student's t over seeds."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def told(values: Sequence[float], digits: int = 3, sign: bool = False) -> str:
    """Mean and interval in words."""
    plus = "+" if sign else ""
    mean, low, high = (format(value, f"{plus}.{digits}f") for value in interval(values))
    return f"{mean} ({low} to {high})"


def against(values: Sequence[float], others: Sequence[float], digits: int = 3) -> str:
    """The difference over paired seeds in words."""
    return told([one - other for one, other in zip(values, others, strict=True)], digits, sign=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@contextmanager
def drawing(panels: int, height: float = 2.6, width: float = 3.2) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure of so many panels, side by side."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width * panels, height), layout="constrained")
        yield figure, figure.subplots(1, panels, squeeze=False)[0]


@dataclass(frozen=True)
class Experiment:
    """The experiment of a page.

    Attributes:
        name: of the page, of the picture and of the script, `name.py`.
        measure: gives the figures; by keyword it takes what makes it smaller.
        shown: the figures as Markdown.
        drawn: the figures as a picture.
    """

    name: str
    measure: Callable[..., Any]
    shown: Callable[[Any], str]
    drawn: Callable[[Any], Figure]

    @property
    def page(self) -> Path:
        return PAGES / f"{self.name.replace('_', '-')}.md"

    def figures_of_page(self) -> str:
        """What stands between the marks of the page."""
        return self._split()[1]

    def _split(self) -> tuple[str, str, str]:
        text = self.page.read_text()
        found = re.fullmatch(rf"(.*<!-- figures: [^\n]* -->\n)(.*?)\n*({END}.*)", text, re.DOTALL)
        if not found:
            raise SystemExit(f"{self.page} has no place for the figures: <!-- figures: ... --> and {END}")
        return found[1], found[2].strip("\n"), found[3]

    def write(self, figures: Any) -> None:
        before, _, after = self._split()
        self.page.write_text(f"{before}\n{self.shown(figures)}\n\n{after}")
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.drawn(figures).savefig(PICTURES / f"{self.name.replace('_', '-')}.png", dpi=110)

    def main(self, **options: Any) -> None:
        """The command line of the script; `options` of its own go to `measure`: their defaults, by name."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--write", action="store_true", help="put the figures and the picture into the docs")
        for name, default in options.items():
            parser.add_argument(f"--{name}", default=default, help=f"({default})")
        given = vars(parser.parse_args())
        write = given.pop("write")
        torch.set_num_threads(1)
        figures = self.measure(**given)
        print(self.shown(figures))
        if write:
            self.write(figures)

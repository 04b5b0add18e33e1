"""A plan as tables: what they say, and in how few words."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from finetricks import Group, Plan, Stage
from finetricks.explain import groups_table, runs_of, stages_table, trained

LAYERS = ("embeddings", "block.0", "block.1", "head")


def plan() -> Plan:
    """Eight steps, four an epoch; the head alone for two steps, then block.1 too, then the head alone again."""
    groups = (
        Group("embeddings", "embeddings", ("e.weight", "e.bias"), 0.125, 0.0, {"lr_factor": ("by_depth",)}),
        Group("block.0", "block.0", ("0.weight",), 0.25, 0.0, {"lr_factor": ("by_depth",)}),
        Group("block.1/wd=0.1", "block.1", ("1.weight",), 0.5, 0.1, {"weight_decay": ("weight_decay",)}),
        Group("block.1/wd=0", "block.1", ("1.bias",), 0.5, 0.0, {"lr_factor": ("a", "b"), "weight_decay": ("c",)}),
        Group("head", "head", ("h[0].weight",), 1.0, 0.0, {}),
    )
    head_only = frozenset(LAYERS[:3])
    stages = (Stage(0, 0, 2, head_only), Stage(1, 2, 6, frozenset(LAYERS[:2])), Stage(2, 6, 8, head_only))
    # The highest factor, 1, falls into a stretch in which block.1 is frozen.
    return Plan(groups, stages, (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), 0.01, 4, LAYERS)


def rows(table: Table) -> list[list[str]]:
    return list(map(list, zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)))


def test_the_stretches_in_which_a_layer_is_trained() -> None:
    assert trained(plan(), "block.0") == []
    assert trained(plan(), "block.1") == [(2, 6)]
    assert trained(plan(), "head") == [(0, 8)]
    apart = Plan(
        plan().groups, (Stage(0, 0, 1), Stage(1, 1, 5, frozenset(LAYERS)), Stage(2, 5, 8)), (1.0,) * 8, 1, 4, LAYERS
    )
    assert trained(apart, "head") == [(0, 1), (5, 8)]


def test_a_row_for_each_group() -> None:
    assert rows(groups_table(plan())) == [
        ["embeddings", "2", "0.125", "", "0", "never", "by_depth", ""],
        ["block.0", "1", "0.25", "", "0", "never", "by_depth", ""],
        # 0.01 x 0.5 x 0.8: the highest rate while it is trained, not the highest of the run.
        ["block.1", "1", "0.5", "0.004", "0.1", "2–6", "", "weight_decay"],
        ["block.1", "1", "0.5", "0.004", "0", "2–6", "a, b", "c"],
        ["head", "1", "1", "0.01", "0", "0–8", "", ""],
    ]


def test_a_row_for_each_stage() -> None:
    assert rows(stages_table(plan())) == [
        ["0–2", "0–0.5", "head", "embeddings to block.1"],
        ["2–6", "0.5–1.5", "block.1 to head", "embeddings to block.0"],
        ["6–8", "1.5–2", "head", "embeddings to block.1"],
    ]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (set(), "none"),
        (set(LAYERS), "all"),
        ({"head"}, "head"),
        ({"block.0", "block.1"}, "block.0 to block.1"),
        ({"embeddings", "block.1", "head"}, "embeddings, block.1 to head"),
    ],
)
def test_neighbouring_layers_are_named_by_their_ends(chosen: set[str], words: str) -> None:
    assert runs_of(LAYERS, chosen) == words


def test_names_with_brackets_are_shown_as_they_are() -> None:
    odd = Group("block[/].0", "block[/].0", ("w",), 1.0, 0.0, {"lr_factor": ("my[bold]trick",)})
    console = Console(width=120, file=StringIO())
    console.print(groups_table(Plan((odd,), (Stage(0, 0, 1),), (1.0,), 1.0, 1, ("block[/].0",))))
    assert "block[/].0" in console.file.getvalue()
    assert "my[bold]trick" in console.file.getvalue()


def test_no_figure_is_cut_on_a_narrow_terminal() -> None:
    group = Group("block.0", "block.0", ("w",), 0.1594, 0.0, {"lr_factor": ("discriminative_lr",)})
    console = Console(width=60, file=StringIO())
    console.print(groups_table(Plan((group,), (Stage(0, 0, 1),), (1.0,), 3.27e-5, 1, ("block.0",))))
    assert "\u2026" not in console.file.getvalue()

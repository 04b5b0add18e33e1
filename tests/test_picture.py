"""The picture of a plan: what is drawn, where, and that it is the same each time."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from finetricks import Group, InputError, Plan, Stage
from finetricks.picture import MOST_POINTS, WIDTH, draw, save_picture


def plan(*, blocks: int = 2, decay: float = 2.0, steps: int = 12, freeze: bool = True, groups_a_layer: int = 2) -> Plan:
    """Linear decay; each layer above the lowest but one thaws four steps after the one above it."""
    layers = ("embeddings", *(f"block.{i}" for i in range(blocks)), "head")
    top = len(layers) - 1
    groups = tuple(
        Group(f"{layer}/wd={wd}", layer, (f"{layer}.{wd}",), decay ** (i - top), wd, {})
        for i, layer in enumerate(layers)
        for wd in range(groups_a_layer)
    )
    stages = tuple(
        Stage(n, start, min(start + 4, steps), frozenset(layers[: max(top - n, 0)] if freeze else ()))
        for n, start in enumerate(range(0, steps, 4))
    )
    return Plan(groups, stages, tuple(1 - step / steps for step in range(steps)), 1e-3, 4, layers)


def lines(figure: Figure) -> list[tuple[list[float], list[float]]]:
    """The curves of the upper panel; the marks of the epochs have axes coordinates and are left out."""
    axes = figure.axes[0]
    curves = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    return [(list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in curves]


def rows_of(figure: Figure, *, hatched: bool) -> list[list[Any]]:
    """The stretches of each row of the lower panel, from the input's row up, as (from, to)."""
    found = []
    for bars in figure.axes[1].collections:
        if isinstance(bars, PolyCollection) and bool(bars.get_hatch()) is hatched:
            found.append([(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in bars.get_paths()])
    return found


def test_a_line_for_each_layer_where_it_is_trained_at_the_plans_rates() -> None:
    figure = draw(plan())
    block, head = lines(figure)[-2:]
    assert len(lines(figure)) == 3  # the embeddings never thaw; groups that differ in weight decay share a line
    assert head[0] == [*range(12), 12]
    assert head[1] == pytest.approx([*(1e-3 * (1 - step / 12) for step in range(12)), 1e-3 / 12])
    assert block[0] == [*range(4, 12), 12]
    assert block[1][0] == pytest.approx(1e-3 * 0.5 * (1 - 4 / 12))


def test_a_notebook_shows_it() -> None:
    shown = plan()._repr_png_()
    assert shown == plan()._repr_png_()
    assert shown != plan(freeze=False)._repr_png_()
    picture = plt.imread(io.BytesIO(shown), format="png")
    assert picture.shape[1] == round(WIDTH * 110)


def test_a_row_for_each_layer_hatched_where_it_is_frozen() -> None:
    figure = draw(plan())
    assert rows_of(figure, hatched=True) == [[(0, 4), (4, 8), (8, 12)], [(0, 4), (4, 8)], [(0, 4)], []]
    assert rows_of(figure, hatched=False) == [[], [(8, 12)], [(4, 12)], [(0, 12)]]
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == [
        "head",
        "block.1",
        "block.0",
        "embeddings",
    ]
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["frozen"]


def test_one_line_where_all_layers_share_one_rate() -> None:
    figure = draw(plan(decay=1.0, freeze=False))
    assert len(lines(figure)) == 1
    assert figure.axes[0].get_ylabel().startswith("learning rate of all layers")
    assert figure.axes[1].get_legend() is None


@pytest.mark.parametrize(("decay", "scale"), [(1.2, "linear"), (2.6, "log")])
def test_rates_that_lie_far_apart_get_a_logarithmic_axis(decay: float, scale: str) -> None:
    figure = draw(plan(blocks=6, decay=decay, freeze=False))
    assert figure.axes[0].get_yscale() == scale


def test_a_schedule_that_is_nothing_at_all_can_be_drawn() -> None:
    still = plan(decay=2.6)
    draw(Plan(still.groups, still.stages, (0.0,) * 12, 1e-3, 4, still.layers)).draw_without_rendering()


@pytest.mark.parametrize("blocks", [0, 12, 48, 120])
def test_no_text_overlaps_or_is_clipped(blocks: int) -> None:
    figure = draw(plan(blocks=blocks, decay=1.1, steps=40))
    figure.draw_without_rendering()
    labels = [label.get_window_extent() for label in figure.axes[1].get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(labels))
    steps = [label.get_window_extent() for label in figure.axes[1].get_xticklabels()]
    legend = figure.axes[1].get_legend().get_window_extent()
    assert not any(legend.overlaps(label) for label in [*steps, figure.axes[1].xaxis.label.get_window_extent()])
    whole, drawn = figure.bbox, figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert drawn.x0 >= whole.x0
    assert drawn.y0 >= whole.y0
    assert drawn.x1 <= whole.x1
    assert drawn.y1 <= whole.y1


def test_a_long_run_is_drawn_with_few_points_and_every_edge_of_a_stage() -> None:
    longest = plan(steps=20 * MOST_POINTS, decay=1.5, blocks=1)
    longest = Plan(
        longest.groups,
        (Stage(0, 0, 33_333, frozenset({"embeddings"})), Stage(1, 33_333, 40_000)),
        longest.schedule,
        1e-3,
        1000,
        longest.layers,
    )
    embeddings, _, head = lines(draw(longest))
    assert embeddings[0][0] == 33_333
    assert len(head[0]) <= MOST_POINTS + 5


@pytest.mark.parametrize("name", ["plan.png", "plan.svg", "plan.PDF", "new folder/plan.svg"])
def test_equal_plans_give_equal_files_by_suffix(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    save_picture(plan(), path)
    first = path.read_bytes()
    magic = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[path.suffix.lower()]
    assert first.startswith(magic)
    save_picture(plan(), path)
    assert path.read_bytes() == first
    if path.suffix == ".svg":
        assert b">block.1<" in first  # text stays text


def test_another_suffix_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"plan\.gif: .*one of \.png, \.svg, \.pdf"):
        save_picture(plan(), tmp_path / "plan.gif")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_in_pyplot() -> None:
    before = (plt.get_fignums(), plt.rcParams["font.size"])
    draw(plan())
    assert (plt.get_fignums(), plt.rcParams["font.size"]) == before

"""A plan as tables for a terminal: who is trained how fast, and who is frozen when."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from finetricks.plan import Group, Plan


def trained(plan: Plan, layer: str) -> list[tuple[int, int]]:
    """The stretches of steps over which `layer` is trained, as (from, to), `to` exclusive."""
    stretches: list[tuple[int, int]] = []
    for stage in plan.stages:
        if layer in stage.frozen:
            continue
        if stretches and stretches[-1][1] == stage.start:
            stretches[-1] = (stretches[-1][0], stage.end)
        else:
            stretches.append((stage.start, stage.end))
    return stretches


def groups_table(plan: Plan) -> Table:
    """A row for each parameter group: how many tensors it holds, how fast and in which steps they are trained."""
    table = Table(title="Parameter groups, from input to output", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("layer", no_wrap=True)
    for header in ("params", "LR factor", "peak LR", "weight decay"):
        table.add_column(header, justify="right", overflow="fold")  # a figure in two lines is better than half of one
    table.add_column("trained", min_width=len("trained"))
    for header in ("LR set by", "decay set by"):
        table.add_column(header, overflow="fold")
    for group in plan.groups:
        table.add_row(
            escape(group.layer),
            f"{len(group.parameters)}",
            f"{group.lr_factor:.4g}",
            _peak(plan, group),
            f"{group.weight_decay:g}",
            ", ".join(f"{start}–{end}" for start, end in trained(plan, group.layer)) or "never",
            *(escape(", ".join(group.set_by.get(what, ()))) for what in ("lr_factor", "weight_decay")),
        )
    return table


def stages_table(plan: Plan) -> Table:
    """A row for each stretch of steps with the same frozen layers."""
    table = Table(
        title=f"Stages of {plan.total_steps} steps, {plan.steps_per_epoch} an epoch",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for header in ("steps", "epochs"):
        table.add_column(header, justify="right")
    table.add_column("trained")
    table.add_column("frozen")
    replayed = _replayed(plan)
    if replayed:
        table.add_column("replayed")
        table.caption, table.caption_justify = replay_in_words(plan), "left"
    for index, stage in enumerate(plan.stages):
        epochs = [f"{step / plan.steps_per_epoch:.3g}" for step in (stage.start, stage.end)]
        table.add_row(
            f"{stage.start}–{stage.end}",
            "–".join(epochs),
            escape(runs_of(plan.layers, set(plan.layers) - stage.frozen)),
            escape(runs_of(plan.layers, stage.frozen)),
            *((escape(replayed[index]),) if replayed else ()),
        )
    return table


def replay_in_words(plan: Plan) -> str:
    """What replay leaves out over the run, and what it needs; empty where it leaves out nothing."""
    course = plan.replay
    if course is None or not course.saved:
        return ""
    room = f", in {math.ceil(course.size / 2**20):,} MiB at the most" if course.size else ""
    exact = {0.0: "exact", None: "how exact is measured in the run"}.get(course.tolerance)
    room += f"; {exact or f'states to {course.tolerance:.0e}'}"
    return (
        f"Replay leaves out {course.saved:,} of {course.passes:,} block passes of training (forward 1, backward 2): "
        f"{course.passes / (course.passes - course.saved):.3g}x{room}"
        if course.passes > course.saved
        else f"Replay leaves out all of {course.passes:,} block passes of training{room}"
    )


def _replayed(plan: Plan) -> list[str]:
    """By stage the frozen blocks whose states are kept, from the stage's second epoch on or from an earlier stage's."""
    course = plan.replay
    if course is None or not course.saved:
        return []
    return [runs_of(plan.layers, plan.layers[: span.up_to(plan.layers)]) for span in course.spans]


def runs_of(layers: Sequence[str], chosen: Collection[str]) -> str:
    """The chosen layers in few words: neighbours as `embeddings to block.4`, and `all` or `none` of them."""
    if not chosen:
        return "none"
    if set(chosen) >= set(layers):
        return "all"
    runs = [list(run) for is_chosen, run in groupby(layers, key=lambda layer: layer in chosen) if is_chosen]
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _peak(plan: Plan, group: Group) -> str:
    """The highest learning rate that the group is trained with."""
    steps = [step for start, end in trained(plan, group.layer) for step in range(start, end)]
    return f"{max(plan.rate(group, step) for step in steps):.3g}" if steps else ""

"""What `finetricks check` says of a study file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from finetricks.catalog import Catalog
from finetricks_tuning.design_facts import facts_of
from finetricks_tuning.study import Study


def check(file: Path, overrides: Sequence[str], catalog: Catalog) -> Mapping[str, str]:
    """Check a study file, and give what it would run, by name. Raises `InputError` with all that is wrong."""
    study = Study.load(file, overrides, catalog)
    seeds = len(study.settings.seeds)
    levels = {configuration.name: configuration.levels for configuration in study.configurations}
    facts = facts_of(study.design, levels, len(study.left_out))
    said = {
        "design": facts.label,
        "estimates": " ".join([f"each level's effect, {facts.estimand}."] * study.design.varies + list(facts.notes)),
        "configurations": ", ".join(configuration.name for configuration in study.configurations),
        "cells": f"{len(study.configurations) * seeds} ({len(study.configurations)} configurations x {seeds} seeds)",
    }
    if study.left_out:
        said["left out"] = "; ".join(f"{out.name}: {out.reason}" for out in study.left_out)
    return said

"""How reports write numbers."""

from __future__ import annotations

from typing import Any

from finetricks_tuning.effects import EQUIVALENT, HELPS, HURTS, UNDECIDED

SIGNS = {HELPS: "▲", HURTS: "▼", EQUIVALENT: "≈", UNDECIDED: "○"}


def signed(value: float | None) -> str:
    """`+0.0123`, with a minus sign that is as wide as the plus."""
    return "–" if value is None else f"{value:+z.4f}".replace("-", "−")


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def p_value(value: float | None) -> str:
    return "–" if value is None else "< .001" if value < 0.001 else f"{value:.3f}"


def interval(ends: tuple[float, float] | None) -> str:
    """`−0.0100 to +0.0210`."""
    return "–" if ends is None else f"{signed(ends[0])} to {signed(ends[1])}"


def duration(seconds: Any) -> str:
    """`48 s`, `12 min`, `3 h 05 min`."""
    minutes = round(float(seconds) / 60)
    if float(seconds) < 90:
        return f"{float(seconds):.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"

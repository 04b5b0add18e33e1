"""Strategies: which cells of a design are run, and when a comparison has seen enough."""

from finetricks_tuning.strategies.base import Results, Round, Strategy
from finetricks_tuning.strategies.full import Full

STRATEGIES: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in (Full,)}

__all__ = ["STRATEGIES", "Results", "Round", "Strategy"]

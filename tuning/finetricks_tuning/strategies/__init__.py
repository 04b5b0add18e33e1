"""Strategies: which cells of a design are run, and when a comparison has seen enough."""

from finetricks_tuning.strategies.base import Results, Round, Strategy
from finetricks_tuning.strategies.full import Full
from finetricks_tuning.strategies.halving import Halving
from finetricks_tuning.strategies.race import Race
from finetricks_tuning.strategies.sequential import Sequential

STRATEGIES: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in (Full, Sequential, Race, Halving)}

__all__ = ["STRATEGIES", "Results", "Round", "Strategy"]

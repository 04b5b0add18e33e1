"""Replay of the frozen prefix."""

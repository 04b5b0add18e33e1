"""Shared fixtures: no network, one thread, and a tiny model that the tests can save and load."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

import pytest
import torch

import plans

torch.set_num_threads(1)
plans.watch()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETRICKS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _global_state_is_left_alone() -> None:
    """Every test may assume that the global random state is the seed 0's; what it does to it is its own affair."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def watched() -> Iterator[plans.Watch]:
    """Every optimizer step of every session is compared with its plan, whatever becomes of the error it raises."""
    plans.WATCH.broken.clear()
    yield plans.WATCH
    assert plans.WATCH.broken == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest and mostly waits, so that it is not what the others wait for at the end."""
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Add up what the tests went through: kills, recipes, bytes compared."""
    counted: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        if report.when == "call":
            for name, value in report.user_properties:
                counted[name] += value if isinstance(value, int) else 0
    for name, count in sorted(counted.items()):
        terminalreporter.write_line(f"{name}: {count}")

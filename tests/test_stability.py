"""What of the hooks changes is announced to whoever implements it, at their line, and `list` says what is for what."""

from __future__ import annotations

import json
import linecache
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

import tiny
from finetricks import Recipe, __version__, installed
from finetricks.catalog import Catalog, Entry
from finetricks.cli import main
from finetricks.hooks import HOOKS, HookChange, Hooks

STABILITY = (Path(__file__).parent.parent / "docs" / "stability.md").read_text()
TOLD = "since 0.2 `state` is called `memory`; 0.3 no longer gives it"
PLUGIN = '''\
"""Tricks of a third party."""

from finetricks import Trick, hookimpl


class OldNames(Trick):
    """Written for an older version."""

    @hookimpl
    def evaluated(self, metrics, state):
        state["told"] = True


class NewNames(Trick):
    """Takes nothing that changes."""

    @hookimpl
    def evaluated(self, metrics):
        pass
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "their_tricks.py"
    path.write_text(PLUGIN)
    return path


def change(monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    specification = Hooks.evaluated.finetricks_spec
    for name, value in options.items():
        monkeypatch.setitem(specification, name, value)


def warned(plugin: Path, name: str, times: int = 1) -> list[warnings.WarningMessage]:
    recipe = Recipe(tricks=[name], catalog=installed().with_file(plugin))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(times):
            recipe.stack()
    return [warning for warning in found if issubclass(warning.category, HookChange)]


def test_a_changed_argument_is_announced_at_the_plugins_line_once(
    plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, warn_on_impl_args={"state": HookChange(TOLD)})
    (found,) = warned(plugin, "old_names", times=3)
    assert str(found.message) == f"OldNames.evaluated: {TOLD}"
    assert found.filename == str(plugin)
    lines = [linecache.getline(found.filename, found.lineno + offset).strip() for offset in (0, 1)]
    assert lines == ["@hookimpl", "def evaluated(self, metrics, state):"]
    assert warned(plugin, "new_names") == []


def test_a_changed_hook_is_announced_to_all_that_implement_it(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, warn_on_impl=HookChange("0.3 ends it"))
    (found,) = warned(plugin, "new_names")
    assert str(found.message) == "NewNames.evaluated: 0.3 ends it"
    assert "def evaluated(self, metrics):" in linecache.getline(found.filename, found.lineno + 1)


def test_a_trick_that_takes_what_changes_works_until_then(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, warn_on_impl_args={"state": HookChange(TOLD)})
    recipe = Recipe(tricks=["old_names"], catalog=installed().with_file(plugin))
    with pytest.warns(HookChange, match=re.escape(TOLD)):
        session = recipe.bind(tiny.bert(), tiny.loader())
    assert session.evaluated({"loss": 0.5})
    assert session.state["old_names"] == {"told": True}


def test_every_hook_says_since_when_it_is_so() -> None:
    for hook in HOOKS:
        (since,) = re.findall(r"^ {8}Since: (\d+\.\d+)\.", getattr(Hooks, hook).__doc__, re.MULTILINE)
        assert tuple(map(int, since.split("."))) <= tuple(map(int, __version__.split(".")[:2]))


def test_nothing_changes_now_or_the_page_says_so() -> None:
    for hook in HOOKS:
        specification = getattr(Hooks, hook).finetricks_spec
        changing = [*(specification["warn_on_impl_args"] or {}), *([hook] if specification["warn_on_impl"] else [])]
        assert [name for name in changing if f"`{name}`" not in STABILITY] == []


# -- which plugin is for which version --------------------------------------------------------------------

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n{requires}"


@pytest.fixture
def distributions(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two installed distributions: one for this version, one for another; and one that does not say."""
    entries = dict(list(installed().entries.items())[:1])
    for name, requires, trick in (
        ("for-this", f"Requires-Dist: Finetricks >=0.1,!={__version__}.1", "their_tricks:OldNames"),
        ("for-another", "Requires-Dist: torch\nRequires-Dist: finetricks<0.0.9", "their_tricks:NewNames"),
        ("for-any", "Requires-Dist: torch", "their_tricks:NewNames"),
    ):
        folder = tmp_path / f"{name.replace('-', '_')}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(METADATA.format(name=name, requires=requires))
        entries[name.replace("-", "_")] = Entry(name.replace("-", "_"), name, "1.5", trick)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("finetricks.catalog.installed", lambda: Catalog(entries))


def said_by(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 0
    return capsys.readouterr()


@pytest.mark.usefixtures("distributions")
def test_list_shows_for_which_version_a_plugin_was_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown, said = said_by("list", capsys)
    assert "for-this 1.5, for finetricks" in shown
    warning = f"for-another 1.5 was written for finetricks <0.0.9, and this is {__version__}: look for another version"
    assert warning in " ".join(said.split())
    assert said.count("warning") == 1
    found = {trick["name"]: trick["written_for"] for trick in json.loads(said_by("list --json", capsys)[0])}
    assert found["for_another"] == "<0.0.9"
    assert found["for_any"] is None
    assert sum(versions is None for versions in found.values()) == len(found) - 2
    assert "from for-another 1.5, for finetricks <0.0.9" in said_by("show for_another", capsys)[0]

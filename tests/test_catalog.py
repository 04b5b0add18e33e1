"""Which tricks are installed; broken and contested ones take only themselves down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finetricks import InputError, Trick, hookimpl
from finetricks.catalog import Catalog, Entry, UnknownTrick, installed, snake_case

MODULE = '''
from finetricks import Trick, hookimpl

class MyDecay(Trick):
    """Decays."""
    @hookimpl
    def schedule(self, progress):
        return 0.5
'''


def test_the_built_in_tricks_come_through_the_entry_points() -> None:
    catalog = installed()
    for name in catalog.entries:
        if catalog.entries[name].distribution == "finetricks":
            assert issubclass(catalog.get(name), Trick)
            assert catalog.name_of(catalog.get(name)) == name
    assert {"stlr", "gradual_unfreezing", "discriminative_lr", "auxiliary_lm"} <= set(catalog.names())


def test_knowing_the_names_imports_no_trick() -> None:
    code = (
        "import sys, finetricks; finetricks.installed().names();"
        "print([m for m in sys.modules if m.split('.')[0] in ('finetricks_plugins','torch','transformers','ray')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module_anywhere:Trick", "does not load: ModuleNotFoundError"),
        ("json:loads", "json:loads is not a subclass of Trick"),
        ("finetricks:Trick", "cannot be used: Trick implements no hook"),
    ],
)
def test_a_broken_entry_point_is_reported_with_its_distribution(target: str, reason: str) -> None:
    good = installed().entries["stlr"]
    catalog = Catalog({"bad": Entry("bad", "their-tricks", "1.2", target), "stlr": good})
    (message,) = catalog.broken().values()
    assert "trick 'bad' of their-tricks 1.2" in message
    assert reason in message
    assert catalog.get("stlr")
    with pytest.raises(UnknownTrick, match=r"their-tricks 1\.2"):
        catalog.get("bad")


def test_a_name_that_two_distributions_claim_is_refused_with_both(tmp_path: Path) -> None:
    for name in ("first", "second"):
        info = tmp_path / f"{name}_tricks-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-tricks\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[finetricks]\ncontested = mine:MyDecay\n")
    (tmp_path / "mine.py").write_text(MODULE)
    code = "import finetricks; c = finetricks.installed(); print(c.refused['contested']); print('stlr' in c.entries)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path)}
    ).stdout.splitlines()
    assert output[0] == "trick 'contested' is claimed by first-tricks 1.0 and by second-tricks 1.0; uninstall one"
    assert output[1] == "True"


def test_a_plugin_file_needs_no_packaging(tmp_path: Path) -> None:
    path = tmp_path / "my_decay.py"
    path.write_text(MODULE)
    catalog = installed().with_file(path)
    assert catalog.get("my_decay").__doc__ == "Decays."
    assert catalog.files == (path,)
    assert catalog.with_file(path).get("my_decay") is catalog.get("my_decay")
    assert str(path) in catalog.origin_of("my_decay")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such plugin file"),
        ("x = 1", "defines no trick"),
        ("raise SystemExit(3)", "does not run: SystemExit: 3"),
        ("import nowhere", "does not run: ModuleNotFoundError"),
        (MODULE.replace("schedule", "shedule"), "is not a hook (did you mean 'schedule'?)"),
    ],
)
def test_a_plugin_file_that_cannot_be_used_says_why(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "broken.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as error:
        installed().with_file(path)
    assert message in str(error.value)


def test_names_of_unannounced_classes_are_their_own_in_snake_case() -> None:
    class AuxiliaryLMHead(Trick):
        """A class of this test."""

        @hookimpl
        def freeze(self) -> list[str]:
            return []

    assert installed().name_of(AuxiliaryLMHead) == "auxiliary_lm_head"
    assert snake_case("SlantedTriangular") == "slanted_triangular"
    assert snake_case("L2SP") == "l2_sp"

"""The embedded data set: real, deterministic, and without the answer in the question."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from finetricks.errors import DataError
from finetricks.tasks.stdlib_docstrings import MASK, PACKAGES, stdlib_docstrings


def test_a_few_thousand_texts_that_do_not_name_their_label() -> None:
    table, _ = stdlib_docstrings()
    texts, labels = table.columns["text"], table.columns["label"]
    assert 1500 < len(table) < 5000  # fewer where an installation leaves packages out (tkinter, test)
    assert len(set(texts)) == len(texts)
    assert set(labels) <= set(PACKAGES)
    assert len(set(labels)) >= 10
    assert min(Counter(labels).values()) > 50
    assert not [label for text, label in zip(texts, labels, strict=True) if label in text.lower()]
    assert all(text == " ".join(text.split()) for text in texts)


def test_it_is_the_same_each_time_and_imports_nothing() -> None:
    before = set(sys.modules)
    assert stdlib_docstrings(["turtle", "http"]) == stdlib_docstrings(["turtle", "http"])
    assert not {"turtle", "tkinter"} & (set(sys.modules) - before)


@pytest.fixture
def library(tmp_path):
    """A small standard library: one module, one package with tests."""
    (tmp_path / "alpha.py").write_text(
        f'"""The ALPHA module,   which is about\n\n  {"a" * 40}."""\n'
        f'class A:\n    """Common to both packages: {"c" * 40}."""\n'
        f'    async def f(self):\n        """A method: {"m" * 40}."""\n'
        f'def g():\n    """Too short."""\n'
    )
    (tmp_path / "beta" / "tests").mkdir(parents=True)
    (tmp_path / "beta" / "__init__.py").write_text(f'def f():\n    """Common to both packages: {"c" * 40}."""\n')
    (tmp_path / "beta" / "b.py").write_text(f'"""Of alpha\'s kin: {"b" * 40}."""\n')
    (tmp_path / "beta" / "tests" / "test_b.py").write_text(f'"""A test: {"t" * 40}."""\n')
    return tmp_path


def test_what_is_kept_masked_and_dropped(library) -> None:
    table, notes = stdlib_docstrings(["alpha", "beta"], library)
    assert table.columns == {
        "text": [
            f"The {MASK} module, which is about {'a' * 40}.",
            f"A method: {'m' * 40}.",
            f"Of alpha's kin: {'b' * 40}.",  # another package's name may stand there
        ],
        "label": ["alpha", "alpha", "beta"],
    }
    assert notes == ()


def test_a_package_that_is_not_installed_is_left_out_and_named(library) -> None:
    table, notes = stdlib_docstrings(["alpha", "beta", "gamma"], library)
    assert set(table.columns["label"]) == {"alpha", "beta"}
    assert notes == ("stdlib_docstrings: this Python lacks gamma; the label is left out",)


def test_an_installation_without_sources_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"no source of alpha, beta in .*; name a data file instead"):
        stdlib_docstrings(["alpha", "beta"], tmp_path)


def test_what_is_defined_within_other_statements_is_found_in_the_order_of_depth(tmp_path) -> None:
    def told(name: str, indent: str) -> str:
        return f'{indent}def {name}():\n{indent}    """The function {name} {"x" * 40}."""\n'

    (tmp_path / "beta.py").write_text(f'"""Beta {"b" * 40}."""\n')
    (tmp_path / "alpha.py").write_text(
        "try:\n" + told("a", "    ") + "except ImportError:\n" + told("b", "    ") + "else:\n" + told("c", "    ")
        + "match 1:\n    case 1:\n" + told("d", "        ") + "if 1:\n    with 2:\n" + told("e", " " * 8)
        + told("f", "")
    )  # fmt: skip
    table, _ = stdlib_docstrings(["alpha", "beta"], tmp_path)
    # ast.walk's order: by depth, where a handler and a case are a level of their own.
    assert [text.split()[2] for text in table.columns["text"][:-1]] == ["f", "a", "c", "b", "d", "e"]

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetricks.cache import cache_folder
from finetricks.cli import main


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINETRICKS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("FINETRICKS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "finetricks"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "finetricks"


def cache(*arguments: str) -> object:
    try:
        return main(["cache", *arguments])
    except SystemExit as end:
        return end.code


def test_the_cache_is_shown_and_cleared_by_kind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "cache"
    monkeypatch.setenv("FINETRICKS_CACHE", str(root))
    assert cache() == 0
    for kind, size in (("further_pretraining", 2**20), ("replay", 2**21)):
        (root / kind / "key").mkdir(parents=True)
        (root / kind / "key" / "file").write_bytes(bytes(size))
    capsys.readouterr()
    assert cache() == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in shown if line[:1] == ["replay"]] == [["replay", "1", "2.0"]]
    assert cache("--clear", "replay", "--json") == 0
    (left,) = json.loads(capsys.readouterr().out)["kinds"]
    assert (left["kind"], left["files"], left["bytes"]) == ("further_pretraining", 1, 2**20)
    assert [path.name for path in root.iterdir()] == ["further_pretraining"]


@pytest.mark.parametrize("kind", ["replay", "..", ""])
def test_only_what_is_there_is_cleared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.setenv("FINETRICKS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "further_pretraining").mkdir(parents=True)
    assert cache("--clear", kind) == 2
    assert "there is: further_pretraining" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "cache" / "further_pretraining").is_dir()


def test_a_link_in_the_cache_is_not_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINETRICKS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "cache" / "replay").mkdir(parents=True)
    (tmp_path / "cache" / "replay" / "link").symlink_to(tmp_path / "mine")
    assert cache("--clear", "replay") == 2
    assert (tmp_path / "mine").is_dir()

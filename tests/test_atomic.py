"""Files that are replaced as a whole, whoever else writes them, and folders that hold no way out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finetricks import InputError
from finetricks.atomic import holds_nothing, is_partial, refuse_links, remove_partials, write_atomically

WRITER = """
import sys
from pathlib import Path
from finetricks.atomic import write_atomically
print("ready", flush=True)
sys.stdin.readline()
for _ in range(300):
    write_atomically(Path(sys.argv[1]), sys.argv[2] * 50_000)
"""

KILLED = """
import os, signal, sys
from pathlib import Path
from finetricks import atomic
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
atomic.write_atomically(Path(sys.argv[1]), "new")
"""


def test_two_processes_may_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    command = [sys.executable, "-c", WRITER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, letter], **pipes) for letter in "ab"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_text())
    for writer in writers:
        _, said = writer.communicate()
        assert writer.returncode == 0, said
    assert seen <= {"a" * 50_000, "b" * 50_000}
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]


def test_what_a_killed_writer_leaves_is_recognised_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    left = [found for found in tmp_path.iterdir() if found != path]
    assert [is_partial(found.name) for found in left] == [True]
    assert holds_nothing(tmp_path, {"recipe.yaml"})
    assert not holds_nothing(tmp_path)
    remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert not is_partial("recipe.yaml")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "result.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert [(found, found.read_text()) for found in tmp_path.iterdir()] == [(path, "old")]


def test_a_file_may_be_read_by_all_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_a_link_in_the_files_place_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "x").symlink_to(tmp_path / "precious")
    write_atomically(tmp_path / "x", "new")
    assert ((tmp_path / "precious").read_text(), (tmp_path / "x").read_text()) == ("kept", "new")


def test_a_long_name_in_any_script_can_be_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("数" * 80), "new")
    assert (tmp_path / ("数" * 80)).read_text() == "new"


@pytest.mark.parametrize("name", ["link", "within/link"])
def test_a_link_in_a_folder_is_refused_but_the_folder_may_be_one(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / "within").mkdir(parents=True)
    (tmp_path / "to_folder").symlink_to(folder)
    refuse_links(tmp_path / "to_folder")
    (folder / name).symlink_to(tmp_path)
    with pytest.raises(InputError, match="link is a symbolic link"):
        refuse_links(tmp_path / "to_folder")

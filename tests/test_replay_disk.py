"""The store of states on disk, by itself: real files, real processes, real kills and disks that are really full."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from finetricks.replay import segment
from finetricks.replay.disk import DiskStore, default_folder
from finetricks.replay.room import stored
from killing import in_child
from recorded import may_mount, wait_until
from test_storage import may_mount_here, shell

NAMESPACE, OTHER = "ab" * 16, "cd" * 16
MIB = 2**20


def key(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=32).digest()


def state(number: int, tokens: int | None = None, width: int = 24, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A state that can be told from all others."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(tokens or 1 + number % 7, width, generator=generator).to(dtype)


def large(number: int) -> torch.Tensor:
    """64 KiB."""
    return state(number, tokens=16, width=1024)


def put(store: DiskStore, numbers: Sequence[int], make: Callable[[int], torch.Tensor] = state) -> None:
    store.put([key(number) for number in numbers], [make(number) for number in numbers])


def found(store: DiskStore, numbers: Sequence[int], make: Callable[[int], torch.Tensor] = state) -> list[int]:
    """Which of the states are there. What is there must be right to the bit."""
    got = store.get([key(number) for number in numbers])
    there = [(number, tensor) for number, tensor in zip(numbers, got, strict=True) if tensor is not None]
    for number, tensor in there:
        expected = make(number)
        assert tensor.dtype == expected.dtype
        assert tensor.shape == expected.shape
        assert torch.equal(tensor.view(torch.uint8), expected.view(torch.uint8))
    return [number for number, _ in there]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "replay"


def files(root: Path) -> list[Path]:
    return [one.path for one in stored(root)]


def size(root: Path) -> int:
    """Bytes of all files in the folder, the sparse ones as long as they say."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


# -- what is put is found --------------------------------------------------------------------------------


def test_what_is_put_is_found_by_this_store_by_another_and_after_closing(root: Path) -> None:
    store, beside = DiskStore(root, NAMESPACE, MIB), DiskStore(root, NAMESPACE, MIB)
    put(store, range(100))
    assert found(store, range(-5, 105)) == [*range(100)]
    assert found(beside, range(-5, 105)) == [*range(100)]
    put(beside, range(90, 200))
    assert found(store, range(300)) == [*range(200)]
    store.close()
    store.close()
    beside.close()
    again = DiskStore(root, NAMESPACE, MIB)
    assert again.nbytes == sum(state(number).nbytes for number in range(200))
    assert found(again, range(300)) == [*range(200)]


def test_namespaces_do_not_see_one_another(root: Path) -> None:
    put(DiskStore(root, NAMESPACE, MIB), [1])
    assert found(DiskStore(root, OTHER, MIB), [1]) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 24, 384])
def test_bits_are_kept_of_each_dtype_and_width_nan_included(root: Path, dtype: torch.dtype, width: int) -> None:
    def make(number: int) -> torch.Tensor:
        made = state(number, width=width, dtype=dtype)
        made[0, 0] = (float("nan"), float("-inf"), -0.0)[number % 3]
        return made

    put(DiskStore(root, NAMESPACE, MIB), range(9), make)
    assert found(DiskStore(root, NAMESPACE, MIB), range(9), make) == [*range(9)]


def test_a_key_that_is_there_is_left_and_a_state_of_no_token_is_not_kept(root: Path) -> None:
    store = DiskStore(root, NAMESPACE, MIB)
    put(store, [1])
    store.put([key(1), key(2)], [state(5), torch.empty(0, 24)])
    assert found(store, [1, 2]) == [1]
    (path,) = files(root)
    assert store.nbytes == state(1).nbytes
    store.close()
    assert path.stat().st_size == segment.size_of([state(1)])


@pytest.mark.parametrize(
    "states",
    [
        [torch.zeros(3)],
        [torch.zeros(2, 3, dtype=torch.float64)],
        [torch.zeros(2, 3), torch.zeros(2, 4)],
        [torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float16)],
        [torch.zeros(2, 3)] * 3,
    ],
)
def test_what_is_no_state_is_refused(root: Path, states: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="of one width|as many keys"):
        DiskStore(root, NAMESPACE, MIB).put([key(1), key(2)][: len(states)], states)


@pytest.mark.parametrize("namespace", ["", "../../etc", "AB" * 16, "ab/cd" * 4])
def test_a_namespace_leads_nowhere(root: Path, namespace: str) -> None:
    with pytest.raises(ValueError, match="hex digest"):
        DiskStore(root, namespace, MIB)


def test_the_default_folder_lies_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINETRICKS_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "replay"


def test_who_writes_to_a_state_changes_nothing_for_others(root: Path) -> None:
    store = DiskStore(root, NAMESPACE, MIB)
    put(store, [1])
    (mine,) = store.get([key(1)])
    assert mine is not None
    mine.zero_()
    assert found(DiskStore(root, NAMESPACE, MIB), [1]) == [1]


def test_reading_makes_no_file(root: Path) -> None:
    store = DiskStore(root, NAMESPACE, MIB)
    assert found(store, [1]) == []
    store.close()
    assert not root.exists()


# -- processes and threads -------------------------------------------------------------------------------


def test_two_writers_two_readers_and_one_that_is_killed(root: Path, tmp_path: Path) -> None:
    """The killed one dies in the middle of a write, with a torn frame on the disk. Nobody ever sees a wrong state."""

    def writer(numbers: range) -> None:
        store = DiskStore(root, NAMESPACE, 64 * MIB)
        for start in numbers:
            put(store, range(start, start + 8))
        store.close()

    def reader() -> None:
        store, wanted = DiskStore(root, NAMESPACE, 64 * MIB), range(408)
        wait_until(lambda: len(found(store, wanted)) == len(wanted))

    def torn() -> None:
        store = DiskStore(root, NAMESPACE, 64 * MIB)
        put(store, range(1000, 1008))
        write, left = segment._write, [1]

        def dies(descriptor: int, content: bytes, start: int) -> None:
            if not left:
                write(descriptor, content[: len(content) // 2], start)
                os.kill(os.getpid(), signal.SIGKILL)
            left.pop()
            write(descriptor, content, start)

        segment._write = dies
        put(store, range(2000, 2008))

    def many() -> None:
        acts = [
            lambda: writer(range(0, 300, 8)),
            lambda: writer(range(200, 408, 8)),
            reader,
            reader,
        ]
        children = [os.fork() for _ in acts if os.getpid() == parent] if (parent := os.getpid()) else []
        del children

    threads = [
        threading.Thread(target=lambda act=act: ends.append(in_child(act, tmp_path)))  # type: ignore[misc]
        for act in (lambda: writer(range(0, 300, 8)), lambda: writer(range(200, 408, 8)), reader, reader, torn)
    ]
    ends: list[int] = []
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == [0, 0, 0, 0, signal.SIGKILL]
    after = DiskStore(root, NAMESPACE, 64 * MIB)
    assert found(after, range(3000)) == [*range(408), *range(1000, 1008)]
    put(after, range(2000, 2008))
    assert found(DiskStore(root, NAMESPACE, 64 * MIB), range(2000, 2008)) == [*range(2000, 2008)]

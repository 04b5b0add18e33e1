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
from finetricks.replay.room import alone, stored
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
    with alone(root):
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


def at_once(*acts: Callable[[], None]) -> list[int]:
    """Do each in a process of its own, all at once; the signals that killed them, or 0."""
    children = []
    for act in acts:
        if not (child := os.fork()):
            code = 1
            with contextlib.suppress(BaseException):
                torch.set_num_threads(1)
                act()
                code = 0
            os._exit(code)
        children.append(child)
    ends = [os.waitpid(child, 0)[1] for child in children]
    assert not any(map(os.WIFEXITED, ends)) or {os.WEXITSTATUS(end) for end in ends if os.WIFEXITED(end)} == {0}
    return [os.WTERMSIG(end) if os.WIFSIGNALED(end) else 0 for end in ends]


@pytest.mark.parametrize("whole_parts", [0, 1])  # of a frame's two: rows, then header with table
def test_two_writers_two_readers_and_one_that_is_killed_in_the_middle_of_a_write(root: Path, whole_parts: int) -> None:
    def writes(numbers: range) -> None:
        store = DiskStore(root, NAMESPACE, 64 * MIB)
        for start in numbers:
            put(store, range(start, start + 8))
        store.close()

    def reads() -> None:
        store, wanted = DiskStore(root, NAMESPACE, 64 * MIB), range(408)
        wait_until(lambda: len(found(store, wanted)) == len(wanted))

    def is_killed() -> None:
        store = DiskStore(root, NAMESPACE, 64 * MIB)
        put(store, range(1000, 1008))
        write, left = segment._write, whole_parts

        def tears(descriptor: int, content: bytes, start: int) -> None:
            nonlocal left
            if not left:
                write(descriptor, content[: len(content) // 2], start)
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            write(descriptor, content, start)

        segment._write = tears
        put(store, range(2000, 2008))

    ends = at_once(lambda: writes(range(0, 300, 8)), lambda: writes(range(200, 408, 8)), reads, reads, is_killed)
    assert ends == [0, 0, 0, 0, signal.SIGKILL]
    after = DiskStore(root, NAMESPACE, 64 * MIB)
    assert found(after, range(3000)) == [*range(408), *range(1000, 1008)]
    put(after, range(2000, 2008))
    assert found(DiskStore(root, NAMESPACE, 64 * MIB), range(2000, 2008)) == [*range(2000, 2008)]


def test_after_a_fork_both_sides_go_on_writing(root: Path) -> None:
    store = DiskStore(root, NAMESPACE, 64 * MIB)
    put(store, range(8))

    def child() -> None:
        put(store, range(100, 150))
        assert found(store, range(200)) == [*range(8), *range(100, 150)]
        store.close()

    assert at_once(child, child) == [0, 0]
    put(store, range(8, 16))
    assert found(store, range(200)) == [*range(16), *range(100, 150)]


def test_threads_share_a_store(root: Path) -> None:
    store = DiskStore(root, NAMESPACE, 64 * MIB)
    seen: list[list[int]] = []

    def act(first: int) -> None:
        for number in range(first, 200, 4):
            put(store, [number])
        seen.append(found(store, range(first, 200, 4)))

    threads = [threading.Thread(target=act, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [[*range(first, 200, 4)] for first in range(4)]


# -- the bound -------------------------------------------------------------------------------------------


def test_what_was_not_used_for_the_longest_time_goes_first(root: Path) -> None:
    """Room for 8 of 16 states; each of four namespaces has 4 of them."""
    names = [f"{number:02x}" * 8 for number in range(4)]
    limit = 8 * segment.size_of([large(0)]) + 1000
    for age, name in enumerate(names[:2]):
        store = DiskStore(root, name, limit)
        put(store, range(4), large)
        store.close()
        for path in files(root):
            if path.parent.name == name:
                os.utime(path, (1000 + age, 1000 + age))
    used = DiskStore(root, names[0], limit)
    assert found(used, range(4), large) == [0, 1, 2, 3]
    used.close()
    store = DiskStore(root, names[2], limit)
    put(store, range(4), large)
    store.close()
    left = [found(DiskStore(root, name, limit), range(4), large) for name in names]
    assert left == [[0, 1, 2, 3], [], [0, 1, 2, 3], []]
    assert size(root) <= limit


def test_what_is_open_stays_and_the_store_says_once_that_there_is_no_room(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 20 * segment.size_of([large(0)])
    reader = DiskStore(root, NAMESPACE, limit)
    put(reader, range(16), large)
    for name in (OTHER, OTHER, "ef" * 16):
        late = DiskStore(root, name, limit)
        for number in range(16):
            put(late, [number], large)
        late.close()
        assert size(root) <= limit
    assert found(reader, range(16), large) == [*range(16)]
    assert said(caplog) == [
        f"{root}: no more states are stored there: there is no room within {limit} bytes, or on the disk. The run goes "
        "on without"
    ]
    assert len(found(DiskStore(root, "ef" * 16, limit), range(16), large)) == 4


def test_who_writes_to_a_file_that_was_removed_begins_another(root: Path) -> None:
    store = DiskStore(root, NAMESPACE, MIB)
    put(store, [1])
    for path in files(root):
        path.unlink()
    put(store, [2])
    assert found(store, [1, 2]) == [1, 2]
    assert found(DiskStore(root, NAMESPACE, MIB), [1, 2]) == [2]


def test_a_state_that_is_removed_while_somebody_reads_it_stays_readable(root: Path) -> None:
    store = DiskStore(root, NAMESPACE, MIB)
    put(store, range(4), large)
    store.get([key(0)])
    for path in files(root):
        path.unlink()
    assert found(store, range(4), large) == [0, 1, 2, 3]
    (held,) = store.get([key(3)])
    store.close()
    assert held is not None
    assert torch.equal(held, large(3))


def test_a_state_that_somebody_still_has_keeps_its_file_from_eviction(root: Path) -> None:
    limit = 4 * segment.size_of([large(0)])
    store = DiskStore(root, NAMESPACE, limit)
    put(store, range(3), large)
    (held,) = store.get([key(2)])
    store.close()
    late = DiskStore(root, OTHER, limit)
    put(late, range(3), large)
    assert found(late, range(3), large) == []
    del held, store
    later = DiskStore(root, OTHER, limit)
    put(later, range(3), large)
    assert found(later, range(3), large) == [0, 1, 2]


def test_several_writers_at_once_stay_within_the_bound(root: Path) -> None:
    limit = 3 * MIB

    def writes(name: str) -> None:
        store = DiskStore(root, name, limit)
        for number in range(30):
            put(store, [number], large)
            assert size(root) <= limit
        store.close()

    assert at_once(*(lambda name=name: writes(name) for name in (NAMESPACE, OTHER, "ef" * 16))) == [0, 0, 0]  # type: ignore[misc]
    assert MIB < size(root) <= limit


def test_the_room_that_a_killed_writer_did_not_fill_is_given_back(root: Path) -> None:
    limit = 16 * MIB

    def is_killed(number: int) -> None:
        put(DiskStore(root, NAMESPACE, limit), [number])
        os.kill(os.getpid(), signal.SIGKILL)

    ends = at_once(*(lambda number=number: is_killed(number) for number in range(16)))  # type: ignore[misc]
    assert ends == [signal.SIGKILL] * 16
    assert size(root) == limit
    store = DiskStore(root, OTHER, limit)
    put(store, range(16), large)
    assert found(store, range(16), large) == [*range(16)]
    assert found(DiskStore(root, NAMESPACE, limit), range(16)) == [*range(16)]
    assert size(root) <= limit


def test_many_small_files_become_few(root: Path) -> None:
    """A study's runs each add a little: a file each, and each open file costs descriptors."""
    early = DiskStore(root, NAMESPACE, 64 * MIB)
    put(early, [0])
    for number in range(1, 60):
        store = DiskStore(root, NAMESPACE, 64 * MIB)
        put(store, [number])
        assert found(store, range(100)) == [*range(number + 1)]
        assert store.nbytes == sum(state(other).nbytes for other in range(number + 1))
        store.close()
        assert len(files(root)) <= 17
    assert found(early, range(100)) == [*range(60)]
    put(early, [60])
    before = len(os.listdir("/proc/self/fd"))
    late = DiskStore(root, NAMESPACE, 64 * MIB)
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * 17
    assert found(late, range(100)) == [*range(61)]


def test_many_small_files_of_several_kinds_and_a_damaged_one_are_merged(root: Path) -> None:
    makes = [state, large, lambda number: state(number, dtype=torch.bfloat16)]
    for number in range(15):
        store = DiskStore(root, NAMESPACE, 64 * MIB)
        put(store, [number], makes[number % 3])
        store.close()
        if number == 4:
            damaged = files(root)[-1]
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1000] + bytes(1000))
    for number in (15, 18, 21):
        store = DiskStore(root, NAMESPACE, 64 * MIB)
        put(store, [number], makes[0])
        store.close()
    after = DiskStore(root, NAMESPACE, 64 * MIB)
    assert len(files(root)) == 2
    assert found(after, range(0, 22, 3), makes[0]) == [*range(0, 22, 3)]
    assert found(after, range(1, 15, 3), makes[1]) == [1, 7, 10, 13]
    assert found(after, range(2, 15, 3), makes[2]) == [*range(2, 15, 3)]


# -- what is torn, altered or not trusted ----------------------------------------------------------------


def with_file(root: Path, numbers: Sequence[int] = range(8)) -> Path:
    """A closed file of states, each in a frame of its own."""
    store = DiskStore(root, NAMESPACE, 64 * MIB)
    for number in numbers:
        put(store, [number])
    store.close()
    (path,) = files(root)
    return path


@pytest.mark.parametrize("length", [0, 1, 31, 300, 1000])
def test_a_file_that_was_cut_off_gives_what_is_whole(root: Path, length: int) -> None:
    path = with_file(root)
    os.truncate(path, length)
    whole = [sum(segment.size_of([state(number)]) for number in range(last + 1)) <= length for last in range(8)]
    store = DiskStore(root, NAMESPACE, 64 * MIB)
    assert found(store, range(8)) == [number for number in range(8) if whole[number]]
    put(store, range(8))
    assert found(store, range(8)) == [*range(8)]


def test_each_bit_of_a_file_may_be_wrong(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit in every 23rd byte, in turn: never a state that was not put, and the store heals itself."""
    path = with_file(root, range(3))
    content = path.read_bytes()
    lost = 0
    for at in range(0, len(content), 23):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        store = DiskStore(root, NAMESPACE, 64 * MIB)
        lost += 3 - len(found(store, range(3)))
        put(store, range(3))
        assert found(store, range(3)) == [0, 1, 2]
        store.close()
        assert found(DiskStore(root, NAMESPACE, 64 * MIB), range(3)) == [0, 1, 2]
        for left in files(root):
            left.unlink()
    assert lost > len(content) // 23 // 2
    assert set(said(caplog)) == {
        f"{path}: a stored state was altered; the file is removed, and what it held computed anew"
    }


@pytest.mark.parametrize(
    "put_there", [Path.mkdir, os.mkfifo, lambda path: path.write_bytes(os.urandom(5000)), lambda path: path.touch()]
)
def test_what_else_lies_in_the_folder_is_passed_over(root: Path, put_there: Callable[[Path], object]) -> None:
    path = with_file(root)
    put_there(path.with_name("x.states"))
    (root / "notes.txt").write_text("mine")
    store = DiskStore(root, NAMESPACE, 64 * MIB)
    put(store, range(8, 16))
    assert found(store, range(16)) == [*range(16)]


def test_a_link_in_place_of_a_file_or_a_namespace_is_not_followed(root: Path, tmp_path: Path) -> None:
    path = with_file(root)
    path.rename(tmp_path / "elsewhere.states")
    path.symlink_to(tmp_path / "elsewhere.states")
    assert found(DiskStore(root, NAMESPACE, MIB), range(8)) == []
    path.unlink()
    path.parent.rename(tmp_path / "folder")
    (tmp_path / "elsewhere.states").rename(tmp_path / "folder" / "x.states")
    path.parent.symlink_to(tmp_path / "folder")
    store = DiskStore(root, NAMESPACE, MIB)
    put(store, range(8, 16))
    assert found(store, range(16)) == []
    assert [one.name for one in (tmp_path / "folder").iterdir()] == ["x.states"]


def test_the_folder_itself_may_be_a_link_of_ones_own(root: Path, tmp_path: Path) -> None:
    (tmp_path / "large_disk").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "large_disk")
    put(DiskStore(root, NAMESPACE, MIB), range(8))
    assert found(DiskStore(root, NAMESPACE, MIB), range(8)) == [*range(8)]


def test_only_the_owner_may_read_what_is_stored(root: Path) -> None:
    before = os.umask(0)
    try:
        path = with_file(root)
    finally:
        os.umask(before)
    modes = [one.stat().st_mode & 0o777 for one in (root, path.parent, path)]
    assert modes == [0o700, 0o700, 0o600]


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
@pytest.mark.parametrize("which", ["root", "namespace"])
def test_a_folder_where_others_may_write_is_neither_read_nor_written(
    root: Path, mode: int, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_file(root)
    open_to_others = root if which == "root" else path.parent
    open_to_others.chmod(mode)
    for _ in range(2):
        store = DiskStore(root, NAMESPACE, MIB)
        put(store, range(8, 16))
        assert found(store, range(16)) == []
        store.close()
    assert files(root) == [path]
    assert said(caplog) == [
        f"{open_to_others}: no states are read or stored there: it is somebody else's, or others may write there. The "
        "run computes them itself"
    ]


def test_a_file_that_others_may_write_is_not_read(root: Path) -> None:
    with_file(root).chmod(0o620)
    assert found(DiskStore(root, NAMESPACE, MIB), range(8)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("which", ["root", "namespace", "file"])
def test_what_is_somebody_elses_is_not_read(root: Path, which: str) -> None:
    path = with_file(root)
    os.chown({"root": root, "namespace": path.parent, "file": path}[which], 12345, 12345)
    assert found(DiskStore(root, NAMESPACE, MIB), range(8)) == []


# -- a disk that is lost ---------------------------------------------------------------------------------


@pytest.mark.skipif(not may_mount(), reason="needs a mount namespace")
@pytest.mark.parametrize(
    ("lose", "reason"),
    [
        ("dd if=/dev/zero of={disk}/ballast bs=4k status=none 2>/dev/null || true", "No space left on device"),
        ("mount -o remount,ro {disk}", "Read-only file system"),
    ],
)
def test_a_disk_that_is_full_or_read_only_ends_the_storing_and_nothing_else(
    tmp_path: Path, lose: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    def act() -> None:
        may_mount_here()
        shell(f"mount -t tmpfs -o size=8m tmpfs {disk}")
        store = DiskStore(disk / "replay", NAMESPACE, 64 * MIB)
        put(store, range(16), large)
        store.close()
        store = DiskStore(disk / "replay", NAMESPACE, 64 * MIB)
        if "remount" not in lose:  # a disk with a file open for writing is not made read-only
            put(store, range(16, 20), large)
        shell(lose.format(disk=disk))
        for number in range(20, 100):
            put(store, [number], large)
        kept = found(store, range(100), large)
        assert kept[:16] == [*range(16)]
        assert len(kept) < 100
        store.close()
        late = DiskStore(disk / "replay", NAMESPACE, 64 * MIB)
        put(late, range(200, 210), large)
        assert found(late, range(100), large) == kept
        (tmp_path / "said").write_text("\n".join(said(caplog)))

    assert in_child(act, tmp_path / "run") == 0
    told = (tmp_path / "said").read_text().splitlines()
    assert told[0] == f"{disk / 'replay'}: no more states are stored there: {reason}. The run goes on without"


def test_files_that_may_not_grow_end_the_storing(root: Path, tmp_path: Path) -> None:
    def act() -> None:
        store = DiskStore(root, NAMESPACE, 64 * MIB)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        put(store, range(4), large)
        assert found(store, range(4), large) == []
        assert files(root) == []

    assert in_child(act, tmp_path / "run") == 0


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE])
@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "statvfs", "open", "pread", "utime"])
def test_whatever_the_system_refuses_is_no_error_of_the_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    with_file(root)

    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    store = DiskStore(root, NAMESPACE, 64 * MIB)
    put(store, range(8, 12))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        store.get([key(1), key(50)])
        put(store, range(12, 100))
        DiskStore(root, NAMESPACE, 64 * MIB).get([key(1)])
        store.close()
    assert found(DiskStore(root, NAMESPACE, 64 * MIB), range(12)) == [*range(12)]


def test_a_folder_that_is_a_file_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "replay").touch()
    store = DiskStore(tmp_path / "replay", NAMESPACE, MIB)
    put(store, [1])
    assert found(store, [1]) == []
    assert len(said(caplog)) == 1

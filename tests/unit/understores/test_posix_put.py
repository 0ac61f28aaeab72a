"""Objects of a directory store: pieces on their way to the medium, and copies that cost no bytes."""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from understores import posix_put
from understores.credentials import SecretOptions
from understores.posix import open_posix
from understores.posix_put import Putting


@pytest.fixture
def putting(tmp_path: Path) -> Iterator[Putting]:
    put = Putting(os.open(tmp_path, os.O_RDONLY), "k")
    yield put
    put.close()


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, *, how: int) -> None:
    """Let the kernel refuse calls of one kind."""

    def call(descriptor: int, offset_bytes: int, size_bytes: int, flags: int) -> int:
        if flags != how:
            return 0
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(posix_put, "_libc", SimpleNamespace(sync_file_range=call))


def test_pieces_are_whole_under_the_name(putting: Putting, tmp_path: Path) -> None:
    pieces = [os.urandom(5000), os.urandom(1), b"", os.urandom(70_000)]
    for piece in pieces:
        putting.add(memoryview(piece), to_medium=True)
    assert putting.finish().st_size == sum(map(len, pieces))
    assert (tmp_path / "k").read_bytes() == b"".join(pieces)


def test_no_write_is_so_large_that_the_kernel_takes_huge_pages_for_it(
    putting: Putting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(2 * posix_put.WRITE_BYTES_MAX + 5)
    lengths: list[int] = []
    real = os.write

    def write(descriptor: int, piece: memoryview) -> int:
        lengths.append(len(piece))
        return real(descriptor, piece)

    monkeypatch.setattr(os, "write", write)
    putting.add(data)
    putting.finish()
    assert (tmp_path / "k").read_bytes() == data
    assert max(lengths) == posix_put.WRITE_BYTES_MAX <= 1 << 20


@pytest.mark.parametrize("how", [posix_put._START, posix_put._COMPLETE])
def test_a_failed_write_is_told_when_the_medium_says_it(
    putting: Putting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: int
) -> None:
    """The kernel says it once: fsync at the end would find nothing wrong any more."""
    refuse(monkeypatch, errno.EIO, how=how)
    with pytest.raises(OSError, match="Input/output error"):
        for _ in range(2):
            putting.add(b"piece", to_medium=True)
    putting.close()
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_that_cannot_start_it_is_waited_for(putting: Putting, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    refuse(monkeypatch, errno.ENOSYS, how=posix_put._START)
    monkeypatch.setattr(os, "fdatasync", waited.append)
    for _ in range(2):
        putting.add(b"piece", to_medium=True)
    assert len(waited) == 2


@pytest.mark.parametrize("source", ["own", "linked elsewhere", "a symbolic link", "links refused"])
async def test_a_copy_shares_the_bytes_only_of_a_file_with_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Others may write to a file in place by another name of theirs, and must not change our copy with it."""
    store = open_posix(f"file://{tmp_path}", {}, SecretOptions())
    (tmp_path / "file").write_bytes(b"bytes")
    (tmp_path / "target").write_bytes(b"in the way")
    key = "file"
    if source == "linked elsewhere":
        (tmp_path / "other").hardlink_to(tmp_path / "file")
    elif source == "a symbolic link":
        key = "link"
        (tmp_path / key).symlink_to("file")
    elif source == "links refused":

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)

    info = await store.copy(key, "target")

    assert (tmp_path / "target").read_bytes() == b"bytes"
    assert (tmp_path / "file").samefile(tmp_path / "target") == (source == "own")
    assert info == await store.head("target")
    assert not list(tmp_path.glob(f"{posix_put.TEMPORARY_PREFIX}*"))
    await store.close()


async def test_a_copy_that_is_there_already_is_made_again_without_leftovers(tmp_path: Path) -> None:
    """As after a crash between the copy and the removal of the old name."""
    (tmp_path / "file").write_bytes(b"bytes")
    (tmp_path / "target").hardlink_to(tmp_path / "file")
    descriptor, directory = os.open(tmp_path / "file", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    assert posix_put.link(descriptor, directory, "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "target"]
    os.close(descriptor)
    os.close(directory)

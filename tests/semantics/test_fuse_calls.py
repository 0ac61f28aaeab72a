"""The table of calls in SEMANTICS.md, row by row, on the mount and on a local disk beside it."""

import ctypes
import errno
import fcntl
import mmap
import os
import re
import shutil
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import fuse
from tests.builders.both_backends import BothBackends
from tests.exercise.twins import tree

pytestmark = pytest.mark.mount

BACKENDS = {"raw": 0, "pyfuse3": 1}
AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_PUNCH_HOLE, FALLOC_KEEP_SIZE = 2, 1
FS_IOC_GETFLAGS = 0x80086601
SEEK_DATA, SEEK_HOLE = 3, 4
LIBC = ctypes.CDLL(None, use_errno=True)
FILL = {"file": b"0123456789", "other": b"other", "dir/inner": b"inner"}


def libc(name: str, *arguments: object) -> int:
    result = int(getattr(LIBC, name)(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def rename(source: Path, target: Path, flags: int) -> None:
    libc("renameat2", AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags)


def opened(path: Path | str, flags: int, act: Callable[[int], object]) -> object:
    descriptor = os.open(path, flags, 0o644)
    try:
        return act(descriptor)
    finally:
        with suppress(OSError):
            os.close(descriptor)


def reading(act: Callable[[int], object]) -> Callable[[Path], object]:
    return lambda d: opened(d / "file", os.O_RDONLY, act)


def writing(act: Callable[[int], object]) -> Callable[[Path], object]:
    return lambda d: opened(d / "file", os.O_RDWR, act)


def in_directory(act: Callable[[int], object]) -> Callable[[Path], object]:
    return lambda d: opened(d / "dir", os.O_RDONLY | os.O_DIRECTORY, act)


def removed(d: Path, act: Callable[[int], object]) -> object:
    def remove_and_act(descriptor: int) -> object:
        (d / "empty").rmdir()
        return act(descriptor)

    return opened(d / "empty", os.O_RDONLY | os.O_DIRECTORY, remove_and_act)


def opening(path: str, flags: int) -> Callable[[Path], object]:
    return lambda d: opened(plain(path)(d), flags, lambda _: None)


def plain(path: str) -> Callable[[Path], str]:
    """With its dots and slashes, which Path would take away."""
    return lambda d: f"{d}/{path}"


def twice_closed(descriptor: int) -> None:
    os.close(descriptor)
    os.close(descriptor)


def copied(d: Path) -> object:
    def copy(source: int) -> object:
        return opened(d / "other", os.O_WRONLY, lambda target: os.copy_file_range(source, target, 10))

    return opened(d / "file", os.O_RDONLY, copy)


def bound(d: Path) -> None:
    # A relative name, because an address holds 108 bytes at most.
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(d)
        try:
            listener.bind("socket")
        finally:
            os.chdir(before)


def mapped_writing(descriptor: int) -> None:
    with mmap.mmap(descriptor, 10) as view:
        view[:5] = b"map--"
        view.flush()


CASES: dict[tuple[str, str], Callable[[Path], object]] = {
    ("open", "there is no such name"): opening("none", os.O_RDONLY),
    ("open", "a file is taken for a directory in the path"): opening("file/x", os.O_RDONLY),
    ("open", "a file's name ends in a slash"): opening("file/", os.O_RDONLY),
    ("open", "a directory for writing"): opening("dir", os.O_WRONLY),
    ("open", "O_DIRECTORY of a file"): opening("file", os.O_RDONLY | os.O_DIRECTORY),
    ("open", "O_CREAT and O_EXCL of a name that is taken"): opening("file", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    ("open", "O_CREAT of a directory"): opening("dir", os.O_CREAT | os.O_WRONLY),
    ("open", "O_CREAT in a directory that is not there"): opening("none/x", os.O_CREAT | os.O_WRONLY),
    ("open", "O_CREAT in a removed directory"): lambda d: removed(
        d, lambda fd: os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    ),
    ("open", "O_CREAT with mode 0"): lambda d: os.close(os.open(d / "new", os.O_CREAT | os.O_WRONLY, 0)),
    ("open", "O_TRUNC"): opening("file", os.O_WRONLY | os.O_TRUNC),
    ("open", "a name of 256 bytes"): opening("x" * 256, os.O_RDONLY),
    ("open", "O_TMPFILE"): opening("dir", os.O_TMPFILE | os.O_RDWR),
    ("open", "O_PATH"): opening("file", os.O_PATH),
    ("close", "twice"): reading(twice_closed),
    ("read", "of a directory"): in_directory(lambda fd: os.read(fd, 1)),
    ("read", "of a file opened for writing only"): lambda d: opened(d / "file", os.O_WRONLY, lambda fd: os.read(fd, 1)),
    ("read", "behind the end"): reading(lambda fd: os.pread(fd, 10, 1000)),
    ("write", "to a file opened for reading only"): reading(lambda fd: os.write(fd, b"x")),
    ("write", "behind the end"): writing(lambda fd: os.pwrite(fd, b"x", 100_000)),
    ("write", "at the largest offset there is"): writing(lambda fd: os.pwrite(fd, b"xx", 2**63 - 2)),
    ("lseek", "before the start"): reading(lambda fd: os.lseek(fd, -1, os.SEEK_SET)),
    ("lseek", "SEEK_DATA behind the end"): reading(lambda fd: os.lseek(fd, 100, SEEK_DATA)),
    ("mmap", "shared, for reading"): reading(lambda fd: mmap.mmap(fd, 10, prot=mmap.PROT_READ).close()),
    ("mmap", "shared, for writing"): writing(mapped_writing),
    ("mmap", "for writing, of a file opened for reading only"): reading(lambda fd: mmap.mmap(fd, 10)),
    ("truncate", "shorter"): lambda d: os.truncate(d / "file", 3),
    ("truncate", "longer"): lambda d: os.truncate(d / "file", 30_000),
    ("truncate", "a negative size"): lambda d: os.truncate(d / "file", -1),
    ("truncate", "of a directory"): lambda d: os.truncate(d / "dir", 0),
    ("truncate", "there is no such name"): lambda d: os.truncate(d / "none", 0),
    ("ftruncate", "of a file opened for reading only"): reading(lambda fd: os.ftruncate(fd, 0)),
    ("fsync", "of a file opened for reading only"): reading(os.fsync),
    ("fsync", "of a directory"): in_directory(os.fsync),
    ("fdatasync", "of a file"): writing(os.fdatasync),
    ("syncfs", "of a file"): writing(lambda fd: libc("syncfs", fd)),
    ("stat", "there is no such name"): lambda d: (d / "none").stat(),
    ("stat", "a file is taken for a directory in the path"): lambda d: (d / "file" / "x").stat(),
    ("access", "of a file"): lambda d: os.access(d / "file", os.R_OK | os.W_OK) or 1 / 0,
    ("statfs", "of a directory"): os.statvfs,
    ("readdir", "of a file"): lambda d: list((d / "file").iterdir()),
    ("readdir", "of a removed directory"): lambda d: removed(d, os.listdir),
    ("mkdir", "of a new name"): lambda d: (d / "new").mkdir(),
    ("mkdir", "the name is taken"): lambda d: (d / "file").mkdir(),
    ("mkdir", "in a directory that is not there"): lambda d: (d / "none" / "x").mkdir(),
    ("mkdir", "in a file"): lambda d: (d / "file" / "x").mkdir(),
    ("mkdir", "in a removed directory"): lambda d: removed(d, lambda fd: os.mkdir("x", dir_fd=fd)),
    ("mkdir", "with mode 0"): lambda d: (d / "new").mkdir(0),
    ("rmdir", "of an empty directory"): lambda d: (d / "empty").rmdir(),
    ("rmdir", "of a directory that is not empty"): lambda d: (d / "dir").rmdir(),
    ("rmdir", "of a file"): lambda d: (d / "file").rmdir(),
    ("rmdir", "there is no such name"): lambda d: (d / "none").rmdir(),
    ("rmdir", "of `.`"): lambda d: os.rmdir(plain("empty/.")(d)),  # noqa: PTH106  # see plain()
    ("rmdir", "of `..`"): lambda d: os.rmdir(plain("dir/..")(d)),  # noqa: PTH106
    ("unlink", "of a file"): lambda d: (d / "file").unlink(),
    ("unlink", "of a directory"): lambda d: (d / "empty").unlink(),
    ("unlink", "there is no such name"): lambda d: (d / "none").unlink(),
    ("unlink", "a file's name ends in a slash"): lambda d: os.unlink(plain("file/")(d)),  # noqa: PTH108
    ("rename", "of a file onto a file"): lambda d: (d / "file").rename(d / "other"),
    ("rename", "of a file onto itself"): lambda d: (d / "file").rename(d / "file"),
    ("rename", "of a file onto a directory"): lambda d: (d / "file").rename(d / "empty"),
    ("rename", "of a directory onto a file"): lambda d: (d / "dir").rename(d / "file"),
    ("rename", "of a directory onto an empty directory"): lambda d: (d / "dir").rename(d / "empty"),
    ("rename", "of a directory onto one that is not empty"): lambda d: (d / "empty").rename(d / "dir"),
    ("rename", "of a directory into itself"): lambda d: (d / "dir").rename(d / "dir" / "x"),
    ("rename", "there is no such name"): lambda d: (d / "none").rename(d / "x"),
    ("rename", "into a directory that is not there"): lambda d: (d / "file").rename(d / "none" / "x"),
    ("rename", "into a removed directory"): lambda d: removed(d, lambda fd: os.rename(d / "file", "x", dst_dir_fd=fd)),
    ("rename", "RENAME_NOREPLACE, the name is taken"): lambda d: rename(d / "file", d / "other", RENAME_NOREPLACE),
    ("rename", "RENAME_NOREPLACE, the name is free"): lambda d: rename(d / "file", d / "new", RENAME_NOREPLACE),
    ("rename", "RENAME_EXCHANGE"): lambda d: rename(d / "file", d / "other", RENAME_EXCHANGE),
    ("rename", "RENAME_WHITEOUT"): lambda d: rename(d / "file", d / "new", RENAME_WHITEOUT),
    ("symlink", "to anything"): lambda d: (d / "new").symlink_to("file"),
    ("symlink", "the name is taken"): lambda d: (d / "file").symlink_to("other"),
    ("readlink", "of a file"): lambda d: (d / "file").readlink(),
    ("link", "of a file"): lambda d: (d / "new").hardlink_to(d / "file"),
    ("link", "there is no such name"): lambda d: (d / "new").hardlink_to(d / "none"),
    ("mknod", "of a regular file"): lambda d: os.mknod(d / "new", stat.S_IFREG | 0o644),
    ("mknod", "of a pipe"): lambda d: os.mkfifo(d / "new"),
    ("bind", "of a socket's name"): bound,
    ("chmod", "another mode of a committed file"): lambda d: (d / "file").chmod(0o600),
    ("chmod", "another mode of a directory"): lambda d: (d / "dir").chmod(0o700),
    ("chmod", "mode 0 of a committed file"): lambda d: (d / "file").chmod(0),
    ("chmod", "the mode it has"): lambda d: (d / "file").chmod(0o644),
    ("fchmod", "another mode of a file being written"): writing(lambda fd: os.fchmod(fd, 0o600)),
    ("fchmod", "mode 0 of a file being written"): writing(lambda fd: os.fchmod(fd, 0)),
    ("chown", "to another owner"): lambda d: os.chown(d / "file", 12345, -1),
    ("chown", "to the owner it has"): lambda d: os.chown(d / "file", os.getuid(), os.getgid()),
    ("utimensat", "of a committed file"): lambda d: os.utime(d / "file", ns=(1, 1)),
    ("setxattr", "of any name"): lambda d: os.setxattr(d / "file", "user.new", b"x"),
    ("getxattr", "of a name that is not there"): lambda d: os.getxattr(d / "file", "user.none"),
    ("removexattr", "of a name that is not there"): lambda d: os.removexattr(d / "file", "user.none"),
    ("fallocate", "any room"): writing(lambda fd: libc("fallocate64", fd, 0, ctypes.c_long(0), ctypes.c_long(4096))),
    ("fallocate", "FALLOC_FL_PUNCH_HOLE"): writing(
        lambda fd: libc("fallocate64", fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(4))
    ),
    ("copy_file_range", "between two files"): copied,
    ("lseek", "SEEK_HOLE"): reading(lambda fd: os.lseek(fd, 0, SEEK_HOLE)),
    ("flock", "of a file"): writing(lambda fd: fcntl.flock(fd, fcntl.LOCK_EX)),
    ("fcntl", "F_SETLK of a file"): writing(lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)),
    ("ioctl", "FS_IOC_GETFLAGS"): reading(lambda fd: fcntl.ioctl(fd, FS_IOC_GETFLAGS, struct.pack("l", 0))),
}


def answer(act: Callable[[Path], object], directory: Path) -> str:
    try:
        act(directory)
    except OSError as error:
        return errno.errorcode[error.errno or 0].replace("ENOTSUP", "EOPNOTSUPP")
    return "done"


def filled(directory: Path) -> Path:
    for name in ("dir", "empty"):
        (directory / name).mkdir(parents=True)
    for name, data in FILL.items():
        (directory / name).write_bytes(data)
    return directory


def declared() -> dict[tuple[str, str], tuple[str, str]]:
    """The rows of the table: the mount's answer and a local disk's."""
    text = (Path(fuse.__file__).parent / "SEMANTICS.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (\w+) \| (\w*) \|$", text, re.MULTILINE)
    return {(call, when): (mount, disk or mount) for call, when, mount, disk in rows}


def answers(place: Path) -> dict[tuple[str, str], str]:
    """What each case answers; a directory that was changed is not used again, and one refused must not be changed."""
    found: dict[tuple[str, str], str] = {}
    number, directory, before = 0, filled(place / "0"), {}
    before = tree(directory)
    for key, act in CASES.items():
        found[key] = answer(act, directory)
        if tree(directory) != before:
            is_removed = "removed directory" in key[1]
            assert found[key] == "done" or is_removed, f"{key} was refused with {found[key]}, and changed something"
            number += 1
            directory = filled(place / str(number))
    return found


def test_the_table_has_every_case() -> None:
    assert set(declared()) == set(CASES)


def test_a_local_disk_answers_as_the_table_says(tmp_path: Path) -> None:
    assert answers(tmp_path) == {key: disk for key, (_, disk) in declared().items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_mount_answers_as_the_table_says(both_backends: BothBackends, backend: str) -> None:
    place = both_backends.mounts[BACKENDS[backend]] / f"calls-{backend}"
    place.mkdir()
    assert answers(place) == {key: mount for key, (mount, _) in declared().items()}
    shutil.rmtree(place)

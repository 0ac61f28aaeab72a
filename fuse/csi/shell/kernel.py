"""Mounts and paths by the kernel's own calls, each on descriptors.

Owns openat2, open_tree, mount_setattr, move_mount and umount2. Why these: a path is walked once, without following
symbolic links, and what was opened is what gets mounted; a bind mount gets its flags before anyone can see it (a
plain bind is writable until it is remounted). Needs Linux 5.12 and CAP_SYS_ADMIN.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fuse.node.syscalls import call

# The same numbers on every architecture.
_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_OPENAT2: Final = 437
_MOUNT_SETATTR: Final = 442

_AT_EMPTY_PATH: Final = 0x1000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_EMPTY_PATHS: Final = 0x04 | 0x40
_MOUNT_ATTR_RDONLY: Final = 0x1
_MOUNT_ATTR_NOSUID: Final = 0x2
_MOUNT_ATTR_NODEV: Final = 0x4
_MOUNT_ATTR_IDMAP: Final = 0x100000
_AT_FDCWD: Final = -100
_AT_STATX_FORCE_SYNC: Final = 0x2000
_STATX_BASIC: Final = 0x7FF
_STATX_BYTES: Final = 256
_MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8

_RESOLVE_NO_XDEV: Final = 0x01
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08

_PATH_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
TARGET_MODE: Final = 0o750


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class _MountAttributes(ctypes.Structure):
    _fields_ = [
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    ]


_libc: Final = ctypes.CDLL(None, use_errno=True)


def open_root(path: str) -> int:
    """Open the folder everything else is opened below; links in its own path are followed. OSError."""
    return os.open(path, _PATH_FLAGS)


def open_beneath(folder: int, relative: str, *, same_file_system: bool = False) -> int:
    """Open a directory below a descriptor; a symbolic link anywhere is ELOOP, another file system EXDEV if that is
    asked for. OSError."""
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    if same_file_system:
        resolve |= _RESOLVE_NO_XDEV
    how = _OpenHow(_PATH_FLAGS, 0, resolve)
    name = os.fsencode(relative)
    return call(relative, _OPENAT2, folder, name, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))


@contextmanager
def parent_of(folder: int, relative: str) -> Iterator[tuple[int, str]]:
    """Give the open parent of a path below a descriptor, and its last name. OSError as `open_beneath`."""
    head, _, name = relative.rpartition("/")
    parent = open_beneath(folder, head or ".")
    try:
        yield parent, name
    finally:
        os.close(parent)


def clone_directory(directory: int, *, read_only: bool, owners: int | None = None) -> int:
    """Return a mount of this directory that is attached nowhere; closing the descriptor ends it. `owners`: a user
    namespace that maps who its files belong to (idmap.py). OSError."""
    tree = call("open_tree", _OPEN_TREE, directory, b"", _OPEN_TREE_CLONE | _AT_EMPTY_PATH | os.O_CLOEXEC)
    try:
        # Private first: a copy in the peer group of its source would be mounted again wherever that is.
        flags = _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV | (_MOUNT_ATTR_RDONLY if read_only else 0)
        mapping = 0 if owners is None else _MOUNT_ATTR_IDMAP
        attributes = _MountAttributes(flags | mapping, 0, _MS_PRIVATE, owners or 0)
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        call("mount_setattr", _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
    except OSError:
        os.close(tree)
        raise
    return tree


def attach(tree: int, folder: int, relative: str) -> None:
    """Mount a clone at an existing directory below a descriptor, on top of what is there. OSError."""
    target = open_beneath(folder, relative)
    try:
        call(relative, _MOVE_MOUNT, tree, b"", target, b"", _MOVE_MOUNT_EMPTY_PATHS)
    finally:
        os.close(target)


def ask(path: str) -> None:
    """Have the file system at a path answer for its root, whatever the kernel remembers of it. For our daemon the
    root is no question to anybody else, unlike statfs. OSError: ENOTCONN, ECONNABORTED when it is dead."""
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    if _libc.statx(_AT_FDCWD, os.fsencode(path), _AT_STATX_FORCE_SYNC, _STATX_BASIC, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def make_target(folder: int, relative: str) -> None:
    """Make a directory below a descriptor, if it is not there. OSError."""
    with parent_of(folder, relative) as (parent, name):
        try:
            os.mkdir(name, TARGET_MODE, dir_fd=parent)
        except FileExistsError:
            return


def remove_target(folder: int, relative: str) -> None:
    """Remove an empty directory below a descriptor; nothing when it is not there. OSError."""
    try:
        with parent_of(folder, relative) as (parent, name):
            os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return


def detach(folder: int, relative: str) -> bool:
    """Take away the top mount at a path below a descriptor, lazily: the name is free at once. Never looks at the
    file system itself, which may be dead. False when nothing is mounted there. OSError."""
    try:
        with parent_of(folder, relative) as (parent, name):
            path = os.fsencode(f"/proc/self/fd/{parent}/{name}")
            if _libc.umount2(path, _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
                return True
            number = ctypes.get_errno()
    except FileNotFoundError:
        return False
    if number in {errno.EINVAL, errno.ENOENT}:
        return False
    raise OSError(number, os.strerror(number), relative)

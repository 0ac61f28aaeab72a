"""Mounts that show another owner: what is user 0's and group 0's in a dataset is somebody else's at a target.

Owns the user namespace such a mount is made with (mount_setattr(2), MOUNT_ATTR_IDMAP). A dataset is one file system for
all pods of a node, and each of its mounts may have its own mapping. Owner and 0 change places, all other ids stay what
they are: whatever user a container runs as, it can make files. Needs Linux 6.12, where FUSE learned it.
"""

import errno
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fuse.csi.core.owners import NOBODY_ELSE, Owner, id_map

LINUX_MIN: Final = (6, 12)
CHILD_SECONDS: Final = 20.0
"""For an interpreter that starts and imports next to nothing."""
_IN_A_NAMESPACE: Final = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
failed = libc.unshare(0x10000000) and ctypes.get_errno()
os.write(1, bytes([failed]))
os.read(0, 1)
"""
"""A process of its own: a process with threads cannot enter a user namespace. 0x10000000 is CLONE_NEWUSER."""


@contextmanager
def user_namespace(owner: Owner) -> Iterator[int]:
    """Give a descriptor of a user namespace with this mapping. OSError: the kernel makes none (ENOSPC: its limit)."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    waits, go = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", _IN_A_NAMESPACE],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, waits, 0), (os.POSIX_SPAWN_DUP2, tell, 1)],
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGPIPE],
        )
        os.close(tell)
        tell = -1
        try:
            if not select.select([told], [], [], CHILD_SECONDS)[0]:
                os.kill(pid, signal.SIGKILL)
            answer = os.read(told, 1)
            if answer != b"\0":
                number = answer[0] if answer else errno.ETIMEDOUT
                raise OSError(number, f"no user namespace is made: {os.strerror(number)}")
            Path(f"/proc/{pid}/uid_map").write_text(id_map(owner.uid), encoding="ascii")
            Path(f"/proc/{pid}/gid_map").write_text(id_map(owner.gid), encoding="ascii")
            descriptor = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(go)
            go = -1
            os.waitpid(pid, 0)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    finally:
        for end in (told, tell, waits, go):
            if end >= 0:
                os.close(end)


def is_possible() -> bool:
    """Whether this machine makes such mounts of FUSE file systems."""
    release = os.uname().release.split(".")
    try:
        if (int(release[0]), int(release[1].partition("-")[0])) < LINUX_MIN:
            return False
        with user_namespace(NOBODY_ELSE):
            return True
    except (ValueError, IndexError, OSError):
        return False

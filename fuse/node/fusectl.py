"""The kernel's controls of one FUSE connection (its fusectl file system), without mounting it anywhere.

A mounted fusectl would stay behind when its user is killed. Needs CAP_SYS_ADMIN and Linux 5.2 (fsopen, fsmount).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fuse.node.syscalls import call

_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
"""System call numbers, the same on every architecture (include/uapi/asm-generic/unistd.h)."""
_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_CREATE: Final = 6


def write(connection: int, name: str, text: str) -> None:
    """Write a control of a connection, which is named by the minor number of its mount's device. OSError."""
    with _file_system() as root:
        descriptor = os.open(f"{connection}/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=root)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


@contextmanager
def _file_system() -> Iterator[int]:
    """Yield a descriptor of the file system's root."""
    context = call("fsopen", _FSOPEN, b"fusectl", _FSOPEN_CLOEXEC)
    try:
        call("fsconfig", _FSCONFIG, context, _CREATE, None, None, 0)
        root = call("fsmount", _FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        yield root
    finally:
        os.close(root)

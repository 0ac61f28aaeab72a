"""/dev/fuse without a library: mount(2), the first handshake, backing files, messages to the kernel.

Owns the system calls. Needs CAP_SYS_ADMIN and Linux 6.9 (protocol 7.40: passthrough and resend). Used by the
daemon and by the keeper, so it imports little.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import stat
import struct
import time
from pathlib import Path
from typing import Final

from fuse.backends.base import MountError
from fuse.core import protocol
from fuse.core.protocol import Init, InitFlag, Opcode

FILE_SYSTEM_NAME: Final = "headrace"
MAX_BACKGROUND: Final = 128
"""Readahead requests in flight; the kernel's 12 are too few for a worker that fetches from far."""
HANDSHAKE_SECONDS: Final = 10.0
_BACKING_OPEN: Final = 0x4010E501
_BACKING_CLOSE: Final = 0x4004E502
_BACKING_MAP: Final = struct.Struct("<iIQ")
_BACKING_ID: Final = struct.Struct("<I")
_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MNT_DETACH: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)


def mount(mount_point: Path, *, allow_other: bool, read_only: bool = False) -> int:
    """Mount at `mount_point`; return the connection's descriptor. MountError."""
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MountError(f"/dev/fuse cannot be opened: {error.strerror}") from error
    mode = stat.S_IFMT(mount_point.stat().st_mode)
    options = f"fd={descriptor},rootmode={mode:o},user_id={os.getuid()},group_id={os.getgid()},default_permissions"
    if allow_other:
        options += ",allow_other"
    source, kind = FILE_SYSTEM_NAME.encode(), f"fuse.{FILE_SYSTEM_NAME}".encode()
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
    if _libc.mount(source, os.fsencode(mount_point), kind, flags, options.encode()) != 0:
        number = ctypes.get_errno()
        os.close(descriptor)
        raise MountError(f"cannot mount at {mount_point}: {os.strerror(number)} (mount(2) needs CAP_SYS_ADMIN)")
    return descriptor


def mounted(
    mount_point: Path, *, allow_other: bool, read_only: bool = False, request_timeout_seconds: int = 0
) -> tuple[int, Init]:
    """Mount and shake hands; return the connection's descriptor and the kernel's offer. MountError."""
    descriptor = mount(mount_point, allow_other=allow_other, read_only=read_only)
    try:
        return descriptor, handshake(descriptor, request_timeout_seconds)
    except (MountError, OSError):
        unmount(mount_point)
        os.close(descriptor)
        raise


def handshake(descriptor: int, request_timeout_seconds: int) -> Init:
    """Answer the kernel's INIT; return its offer. MountError when it is too old or says nothing."""
    buffer = bytearray(protocol.BUFFER_BYTES)
    deadline = time.monotonic() + HANDSHAKE_SECONDS
    while True:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise MountError(f"the kernel sent no INIT within {HANDSHAKE_SECONDS} s")
        try:
            count = os.readv(descriptor, [buffer])
        except InterruptedError:
            continue
        except OSError as error:
            raise MountError(f"/dev/fuse cannot be read: {error.strerror}") from error
        break
    opcode, unique, _ = protocol.decode_header(buffer)
    if opcode != Opcode.INIT:
        raise MountError(f"the kernel began with request {opcode}, expected INIT")
    init = protocol.decode_init(memoryview(buffer)[protocol.IN_HEADER.size : count])
    needed = InitFlag.HAS_RESEND | InitFlag.PASSTHROUGH
    if init.major != protocol.MAJOR or init.minor < protocol.MINOR_MIN or init.taken & needed != needed:
        raise MountError(f"the kernel speaks FUSE {init.major}.{init.minor}; Linux 6.9 with passthrough is needed")
    answer = protocol.encode_init(init, max_background=MAX_BACKGROUND, request_timeout_seconds=request_timeout_seconds)
    os.write(descriptor, protocol.encode_answer(unique, answer))
    return init


def unmount(mount_point: Path) -> None:
    """Unmount lazily: the name is free at once. Says nothing when nothing is mounted there; OSError."""
    if _libc.umount2(os.fsencode(mount_point), _MNT_DETACH) != 0 and ctypes.get_errno() != errno.EINVAL:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(mount_point))


def open_backing(descriptor: int, file: int) -> int:
    """Return a backing id for an open file; OSError."""
    # A bytearray: of immutable bytes Python passes a copy, and returns it instead of the id.
    argument = bytearray(_BACKING_MAP.pack(file, 0, 0))
    backing_id: int = fcntl.ioctl(descriptor, _BACKING_OPEN, argument)
    return backing_id


def close_backing(descriptor: int, backing_id: int) -> None:
    """Let a backing id go; one the kernel does not know any more is ignored."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, _BACKING_CLOSE, bytearray(_BACKING_ID.pack(backing_id)))

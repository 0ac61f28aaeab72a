"""The mount point and the kernel's tunables of the mount.

Owns stale mounts, lazy unmounts, readahead and max_background. Needs root for the tunables; without it the mount
works, slower, and says so.
"""

import ctypes
import errno
import os
import subprocess
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger()

READ_AHEAD_KIB: Final = 4096
"""The kernel begins at 128 KiB, which halves sequential reads (measured: 0.4–2.0 against 2.0–4.0 GB/s)."""
MAX_BACKGROUND: Final = 128
"""Readahead requests in flight; the kernel begins at 12, too few for a worker that fetches from far."""
STALE_MOUNTS_MAX: Final = 16
"""Mounts stack; more than a few dead ones on top of each other are not ours."""
UNMOUNT_SECONDS: Final = 10.0
_MNT_DETACH: Final = 2
# The same numbers on every architecture.
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6


def prepare(mount_point: Path) -> None:
    """Make the directory, after unmounting what dead daemons left there. OSError when it cannot be used, EBUSY
    when a living daemon has it."""
    for _ in range(STALE_MOUNTS_MAX):
        if not is_stale(mount_point):
            break
        log.warning("stale_mount_removed", mount=str(mount_point))
        detach(mount_point)
    mount_point.mkdir(parents=True, exist_ok=True)
    if is_mounted(mount_point):
        raise OSError(errno.EBUSY, "something is mounted there; unmount it first", str(mount_point))


def is_stale(mount_point: Path) -> bool:
    """Whether a FUSE mount without a daemon is there. Asks by statfs, which the kernel never answers itself."""
    try:
        os.statvfs(mount_point)
    except OSError as error:
        return error.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    return False


def is_mounted(mount_point: Path) -> bool:
    """Whether anything is mounted exactly there."""
    wanted = str(mount_point.absolute())
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
        return any(_unescape(line.split(" ")[4]) == wanted for line in lines)


def detach(mount_point: Path) -> None:
    """Unmount lazily: the name is free at once, open files end when they are closed. OSError."""
    if os.geteuid() != 0:
        command = ["fusermount3", "-u", "-z", str(mount_point)]
        subprocess.run(command, check=False, timeout=UNMOUNT_SECONDS, capture_output=True)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mount_point), _MNT_DETACH) != 0:
        number = ctypes.get_errno()
        if number != errno.EINVAL:  # not mounted any more
            raise OSError(number, os.strerror(number), str(mount_point))


def tune(mount_point: Path) -> None:
    """Raise readahead and max_background of a fresh mount; logs what was not permitted."""
    device = mount_point.stat().st_dev
    major, minor = os.major(device), os.minor(device)
    try:
        Path(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb").write_text(f"{READ_AHEAD_KIB}\n")
    except OSError as error:
        log.warning("readahead_not_raised", wanted_kib=READ_AHEAD_KIB, error=error.strerror)
    try:
        _raise_max_background(minor)
    except OSError as error:
        log.warning("max_background_not_raised", wanted=MAX_BACKGROUND, error=str(error))


def _raise_max_background(connection: int) -> None:
    name = f"{connection}/max_background"
    connections = Path("/sys/fs/fuse/connections")
    if (connections / str(connection)).is_dir():
        (connections / name).write_text(f"{MAX_BACKGROUND}\n")
        return
    # Where fusectl is not mounted, a mount that is attached nowhere: it ends with its descriptor, so also when we are
    # killed here. A mount in a temporary directory would stay.
    root = _fusectl()
    try:
        file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=root)
        try:
            os.write(file, f"{MAX_BACKGROUND}\n".encode())
        finally:
            os.close(file)
    finally:
        os.close(root)


def _fusectl() -> int:
    """Return the root of the kernel's fusectl file system. OSError; it needs Linux 5.2."""
    context = _syscall(_FSOPEN, b"fusectl", _FSOPEN_CLOEXEC)
    try:
        _syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _unescape(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field

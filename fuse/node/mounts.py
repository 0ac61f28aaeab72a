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

from fuse.core import mount_table
from fuse.core.mount_table import MountTable
from fuse.node import fusectl

log = structlog.get_logger()

READ_AHEAD_KIB: Final = 4096
"""The kernel begins at 128 KiB, which halves sequential reads (measured: 0.4–2.0 against 2.0–4.0 GB/s)."""
MAX_BACKGROUND: Final = 128
"""Readahead requests in flight; the kernel begins at 12, too few for a worker that fetches from far."""
STALE_MOUNTS_MAX: Final = 16
"""Mounts stack; more than a few dead ones on top of each other are not ours."""
UNMOUNT_SECONDS: Final = 10.0
SERVED_SECONDS: Final = 10.0
_MNT_DETACH: Final = 2


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
    return device_of(mount_point) is not None


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


def wait_until_served(mount_point: Path) -> None:
    """Return when kernel and server have agreed (FUSE_INIT), or after a while. That agreement sets readahead back to
    what the server's library says: who raises it before has raised nothing.

    Another process asks: a thread of the server's own that waits for its answer could not be killed with it."""
    try:
        subprocess.run(["stat", str(mount_point)], check=False, timeout=SERVED_SECONDS, capture_output=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("not_served_yet", mount=str(mount_point), error=str(error))


def tune(mount_point: Path) -> None:
    """Raise readahead and max_background of a fresh mount; logs what was not permitted. Asks nothing of the mount: who
    serves it may do this, and be killed in the middle of it."""
    device = device_of(mount_point)
    if device is None:
        log.warning("not_tuned", mount=str(mount_point), error="nothing is mounted there")
        return
    major, minor = device
    try:
        Path(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb").write_text(f"{READ_AHEAD_KIB}\n")
    except OSError as error:
        log.warning("readahead_not_raised", wanted_kib=READ_AHEAD_KIB, error=error.strerror)
    try:
        fusectl.write(minor, "max_background", f"{MAX_BACKGROUND}\n")
    except OSError as error:
        log.warning("max_background_not_raised", wanted=MAX_BACKGROUND, error=error.strerror)


def read_mount_table(mountinfo: Path = Path("/proc/self/mountinfo")) -> MountTable:
    """Return the mounts of our mount namespace."""
    text = mountinfo.read_bytes().decode("utf-8", "surrogateescape")
    return mount_table.parse(text.split("\n"))


def device_of(mount_point: Path) -> tuple[int, int] | None:
    """Return the device number (major, minor) of what is mounted exactly there, the topmost if there are several."""
    found = read_mount_table().at(str(mount_point.absolute()))
    if not found:
        return None
    major, _, minor = found[-1].device.partition(":")
    return int(major), int(minor)

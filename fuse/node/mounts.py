"""The mount point and the kernel's tunables of the mount.

Owns stale mounts, lazy unmounts, readahead and max_background. Needs root for the tunables; without it the mount
works, slower, and says so.
"""

import ctypes
import errno
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
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
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("max_background_not_raised", wanted=MAX_BACKGROUND, error=str(error))


def _raise_max_background(connection: int) -> None:
    connections = Path("/sys/fs/fuse/connections")
    if (connections / str(connection)).is_dir():
        (connections / str(connection) / "max_background").write_text(f"{MAX_BACKGROUND}\n")
        return
    # Where fusectl is not mounted, for as long as the write takes, out of everyone's way.
    with TemporaryDirectory(prefix="headrace-fusectl-") as directory:
        mount = ["mount", "-t", "fusectl", "none", directory]
        subprocess.run(mount, check=True, timeout=UNMOUNT_SECONDS, capture_output=True)
        try:
            (Path(directory) / str(connection) / "max_background").write_text(f"{MAX_BACKGROUND}\n")
        finally:
            subprocess.run(["umount", directory], check=True, timeout=UNMOUNT_SECONDS, capture_output=True)


def _unescape(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field

"""Mounts below a cluster's folder.

Owns finding and lazily removing them, so that a FUSE daemon that died leaves
nothing behind. Does not mount. Invariant: nothing outside the given folder is
touched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from fuse.node.mounts import read_mount_table
from headrace.errors import ClusterError

UNMOUNT_SECONDS = 10.0


def below(folder: Path) -> list[Path]:
    """Mount points at or below a folder, the innermost first."""
    # Not resolve(): asking a mount whose daemon is dead anything fails.
    root = folder.parent.resolve() / folder.name
    points = [Path(mount.point) for mount in read_mount_table().mounts]
    found = [point for point in points if point == root or root in point.parents]
    return sorted(found, key=lambda point: len(point.parts), reverse=True)


def is_mounted(point: Path) -> bool:
    """True when something is mounted at exactly this path."""
    real = point.parent.resolve() / point.name
    return real in below(point)


def unmount(point: Path) -> None:
    """Detach one mount now; who has files open in it keeps them. Raises ClusterError when refused."""
    argv = ["umount", "-l", "--", str(point)]
    if os.geteuid() != 0:
        argv = ["fusermount3", "-u", "-z", "--", str(point)]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=UNMOUNT_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{point} cannot be unmounted: {error}") from error
    if done.returncode != 0 and is_mounted(point):
        raise ClusterError(f"{point} cannot be unmounted: {done.stderr.strip()}")


def unmount_below(folder: Path) -> list[Path]:
    """Detach every mount at or below a folder; what was detached."""
    points = below(folder)
    for point in points:
        unmount(point)
    return points

"""Control groups of real nodes.

Owns making a node's root in every hierarchy, and removing it with all that kubelet made below it. Knows both layouts:
one hierarchy a controller (version 1) and one for all (version 2). Invariant: only groups of the given name are
touched; removing is for when their processes are gone."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from headrace.errors import ClusterError

ROOT = Path("/sys/fs/cgroup")
#: What a new group of version 1's cpuset needs before a process may enter.
CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")
#: Of version 1's cpu: the weight of one process.
PROCESS_SHARES = 1024
#: The kernel lets go of a group a moment after its last process.
BUSY_SECONDS = 10.0


def hierarchies(root: Path = ROOT) -> list[Path]:
    """The mounted hierarchies: one of version 2, or each of version 1 (and `unified` beside them)."""
    if (root / "cgroup.controllers").exists():
        return [root]
    # `cpu` and `cpuacct` may be links to one hierarchy of both.
    return sorted({entry.resolve() for entry in root.iterdir() if (entry / "cgroup.procs").exists()})


def named(prefix: str, root: Path = ROOT) -> set[str]:
    """The groups right below the root whose names begin like this, in any hierarchy."""
    return {entry.name for hierarchy in hierarchies(root) for entry in hierarchy.glob(f"{prefix}*") if entry.is_dir()}


def make(name: str, root: Path = ROOT) -> None:
    """Make the node's root group in every hierarchy. May be called again. Raises ClusterError."""
    try:
        for hierarchy in hierarchies(root):
            group = hierarchy / name
            group.mkdir(exist_ok=True)
            for file in CPUSET_FILES:
                inherited = hierarchy / file
                if inherited.exists() and (group / file).exists():
                    (group / file).write_text(inherited.read_text(encoding="ascii"), encoding="ascii")
            weight = group / "cpu.shares"
            if weight.exists():
                # As much as that many busy processes beside it: else a whole node would count for one of them.
                weight.write_text(str(PROCESS_SHARES * (os.cpu_count() or 1)), encoding="ascii")
            _delegate(hierarchy, group)
    except OSError as error:
        raise ClusterError(f"control groups for real nodes cannot be made below {root}: {error}") from error


def _delegate(hierarchy: Path, group: Path) -> None:
    """Version 2: every controller the machine has is the group's children's too."""
    if not (hierarchy / "cgroup.controllers").exists():
        return
    for folder in (hierarchy, group):
        wanted = (folder / "cgroup.controllers").read_text(encoding="ascii").split()
        for controller in wanted:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")


def remove(name: str, root: Path = ROOT) -> None:
    """Remove the group of that name, and all below it, from every hierarchy. Raises ClusterError when one is in use."""
    for hierarchy in hierarchies(root):
        group = hierarchy / name
        if group.exists():
            # A group is removed like an empty directory, though its files are there.
            for folder, _, _ in os.walk(group, topdown=False):
                _remove_one(Path(folder))


def _remove_one(group: Path) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise ClusterError(f"the control group {group} cannot be removed: {error.strerror}") from error
        time.sleep(0.05)

"""The mount table as /proc/self/mountinfo shows it.

Owns parsing and questions to it. A table is a snapshot: whoever acts on it holds the lock of what it acts on.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

FILE_SYSTEM: Final = "fuse.headrace"
"""Type of the daemon's mounts, and of all their binds."""
_GONE: Final = "//deleted"
"""What the kernel puts behind the root of a mount whose directory is no longer found where it was."""
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line. `device` is major:minor of the file system, `root` the directory of it that is mounted."""

    device: str
    root: str
    point: str
    read_only: bool
    fs_type: str

    @property
    def is_ours(self) -> bool:
        """Whether a daemon of this project made the file system."""
        return self.fs_type == FILE_SYSTEM

    @property
    def directory(self) -> str:
        """The directory that was mounted, also when it is gone."""
        return self.root.removesuffix(_GONE)

    @property
    def is_gone(self) -> bool:
        """Whether that directory was removed, or removed and made again, since it was mounted."""
        return self.root.endswith(_GONE)


@dataclass(frozen=True, slots=True)
class MountTable:
    """All mounts, in the order the kernel lists them: of several at one point, the last is on top."""

    mounts: tuple[Mount, ...]

    def at(self, point: str) -> list[Mount]:
        """Return the mounts exactly at this path, the top one last."""
        return [mount for mount in self.mounts if mount.point == point]

    def of_device(self, device: str) -> list[Mount]:
        """Return all mounts of one file system."""
        return [mount for mount in self.mounts if mount.device == device]

    def around(self, path: str) -> list[Mount]:
        """Return all mounts a path is inside of."""
        return [mount for mount in self.mounts if path.startswith(mount.point.rstrip("/") + "/")]


def parse(lines: Iterable[str]) -> MountTable:
    """Return the table; lines that are none are left out."""
    mounts = []
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 10 or "-" not in fields[6:]:
            continue
        separator = fields.index("-", 6)
        mounts.append(
            Mount(
                device=fields[2],
                root=_unescape(fields[3]),
                point=_unescape(fields[4]),
                read_only="ro" in fields[5].split(","),
                fs_type=fields[separator + 1],
            )
        )
    return MountTable(tuple(mounts))


def _unescape(field: str) -> str:
    # Bytes that are no UTF-8 were read as surrogates; an escape is always ASCII.
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)

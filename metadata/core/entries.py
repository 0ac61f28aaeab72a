"""Entries of a namespace and sets of changes to it.

Owns the data that core, stores and services hand around; no decisions. Invariant of every namespace: the parent
of each entry is the root or a directory entry.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import msgspec

FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o755
FILE_BYTES_MAX: Final = 1 << 53
"""Nine petabytes. Who says more lies, and a few such sizes together would be more than databases and messages hold."""
TIME_NS_MIN: Final = -(1 << 63)
TIME_NS_MAX: Final = (1 << 63) - 1
"""In the year 2262; a file system may say later ones."""


class Kind(IntEnum):
    """What an entry is. MADE is a directory somebody asked for; IMPLIED one that object keys imply."""

    FILE = 0
    IMPLIED = 1
    MADE = 2


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One name; `version` is the snapshot version that added it, `etag` pins a file's bytes ("" for directories).

    A Struct, as listings make millions: it costs a tenth of what a frozen dataclass costs.
    """

    path: str
    kind: Kind
    size_bytes: int = 0
    etag: str = ""
    mtime_ns: int = 0
    mode: int = FILE_MODE
    version: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether entries may lie below it."""
        return self.kind is not Kind.FILE


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes the next version: `upserts` replace or add, `removals` go. No path is in both."""

    upserts: list[Entry] = field(default_factory=list)
    removals: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    """Path and etag of objects that stay in the under store, and are to go (left.py)."""

    def __bool__(self) -> bool:
        return bool(self.upserts or self.removals)

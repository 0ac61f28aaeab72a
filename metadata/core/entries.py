"""Entries of a namespace and sets of changes to it.

Owns the data that core, stores and services hand around; no decisions. Invariant of every namespace: the parent
of each entry is the root or a directory entry.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o755


class Kind(IntEnum):
    """What an entry is. MADE is a directory somebody asked for; IMPLIED one that object keys imply."""

    FILE = 0
    IMPLIED = 1
    MADE = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One name; `version` is the snapshot version that added it, `etag` pins a file's bytes ("" for directories)."""

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

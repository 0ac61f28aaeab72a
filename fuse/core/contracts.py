"""What the core needs from outside, and the values that cross that line.

Owns two small protocols: Namespace (names, by the metadata service) and Worker (bytes, by the node's cache
worker). The core calls them and nothing else; fuse/client implements them over sockets, tests in memory.
Invariants: every method raises only errors of fuse/errors.py; a file's `etag` names one immutable version.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

Bytes = bytes | bytearray | memoryview


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """One dataset as the metadata service knows it."""

    uid: str
    namespace: str
    name: str
    snapshot_version: int
    writable: bool
    files: int = 0
    size_bytes: int = 0


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A file or directory of one snapshot. msgspec, because listings make hundreds of thousands a second."""

    is_directory: bool
    size_bytes: int = 0
    etag: str = ""
    mtime_ns: int = 0
    mode: int = 0
    """Permission bits; 0 = the default of its kind."""
    version: int = 0
    """Snapshot version that added it."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a directory in name order; `more` says that names after the last one exist."""

    entries: Sequence[tuple[str, Entry]]
    more: bool
    snapshot_version: int


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """The version that is durable in the under store now."""

    etag: str
    size_bytes: int
    snapshot_version: int
    mtime_ns: int
    """The time it is shown with; not the one asked for where an earlier daemon had asked before."""


class Namespace(Protocol):
    """Names and attributes. Each call has a deadline of its own and raises Unavailable past it."""

    async def list_datasets(self, namespace: str = "") -> list[Dataset]:
        """Return every dataset, or those of a namespace."""
        ...

    async def get_dataset(self, namespace: str, name: str) -> Dataset:
        """Return one dataset; NotFound."""
        ...

    async def lookup(self, uid: str, path: str) -> Entry:
        """Return the entry at `path`; NotFound."""
        ...

    async def read_directory(self, uid: str, path: str, after: str, limit: int) -> Page:
        """Return up to `limit` entries with names after `after` ("" = from the start)."""
        ...


class PinnedFile(Protocol):
    """One object version held for reading. Nothing is asked of the worker before the first `ensure`."""

    def is_resident(self, offset_bytes: int, length_bytes: int) -> bool:
        """True while the range can be read at once."""
        ...

    async def whole_file(self) -> int | None:
        """Return a descriptor of the whole version, good until `close`; None while a block is missing.
        Fetches nothing. Stale, Unavailable."""
        ...

    async def bring_whole(self, seconds: float) -> int:
        """Wait that long for the whole version, if the worker has room for it; return the bytes that came. What does
        not come in time comes later. Failures show when the bytes are read."""
        ...

    async def ensure(self, offset_bytes: int, length_bytes: int) -> None:
        """Make the range resident; joins a request for it that is under way. Stale, Unavailable."""
        ...

    def ensure_soon(self, offset_bytes: int, length_bytes: int, *, in_order: bool = False) -> None:
        """Start making the range readable; failures show when it is read. Returns at once. `in_order`: it is one block,
        of a reader who comes to it soon and does not come back."""
        ...

    async def read(self, offset_bytes: int, length_bytes: int) -> Bytes:
        """Return the bytes of a resident range. The buffer is good until the caller next waits."""
        ...

    def close(self) -> None:
        """Let the version go. May be called twice."""
        ...


class StagingFile(Protocol):
    """A file being written on this node. Nothing is asked of the worker before the first use."""

    @property
    def number(self) -> int:
        """Names it among all staging files of the mount."""
        ...

    @property
    def path(self) -> str:
        """Where commits go."""
        ...

    @property
    def base_etag(self) -> str:
        """The version it started as, "" for none."""
        ...

    @property
    def base_size_bytes(self) -> int:
        """Size of that version."""
        ...

    async def open(self) -> None:
        """Create the staging file now, so that refusals show at once."""
        ...

    async def read(self, offset_bytes: int, length_bytes: int) -> Bytes:
        """Return what was written; short at the end of the file."""
        ...

    async def write(self, offset_bytes: int, data: Bytes) -> int:
        """Write `data`; return how much of it there was room for, all or nearly always. NoSpace when none."""
        ...

    async def truncate(self, size_bytes: int) -> None:
        """Cut or extend with zeros."""
        ...

    async def commit(self, mode: int, mtime_ns: int) -> Committed:
        """Make the bytes durable in the under store and visible to every node."""
        ...

    async def settle(self) -> None:
        """Return when no commit is under way."""
        ...

    def moved(self, path: str, etag: str) -> None:
        """The committed file has another path now, and perhaps another etag; later commits go there."""
        ...

    def close(self) -> None:
        """Drop the staging file; what is not committed is lost. May be called twice."""
        ...


class Restaged(msgspec.Struct, frozen=True, kw_only=True):
    """A staging file as an earlier daemon left it."""

    staging: StagingFile
    is_kept: bool
    """Its bytes are there; else nothing was staged yet, and it starts as its base."""
    size_bytes: int = 0
    mtime_ns: int = 0
    """When it was last written."""


class Worker(Protocol):
    """Bytes, and the changes of names that must reach the under store."""

    def pin(self, uid: str, path: str, etag: str, size_bytes: int) -> PinnedFile:
        """Return the version for reading."""
        ...

    def stage(self, uid: str, path: str, base_etag: str, base_size_bytes: int) -> StagingFile:
        """Return a staging file that starts as the base's bytes, or empty when `base_etag` is ""."""
        ...

    def restage(self, number: int, uid: str, path: str, base_etag: str, base_size_bytes: int) -> Restaged:
        """Return the staging file of an earlier daemon, under its number."""
        ...

    async def remove(self, uid: str, path: str, *, directory: bool) -> int:
        """Remove a file or an empty directory; return the snapshot version after it."""
        ...

    async def rename(self, uid: str, source: str, target: str) -> tuple[int, str]:
        """Rename; return the snapshot version after it and, for a file, its etag under the new name."""
        ...

    async def make_directory(self, uid: str, path: str, mode: int) -> int:
        """Make a directory; return the snapshot version after it."""
        ...

    async def set_mode(self, uid: str, path: str, mode: int) -> int:
        """Give a file or directory another mode; return the snapshot version after it."""
        ...

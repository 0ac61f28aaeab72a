"""The state of one file while it is written on this node.

Owns size, times, mode and the question "must this be committed"; the bytes are in the worker's staging file.

    create ─▶ dirty ──commit begins──▶ committing ──no write since──▶ clean
      open ─▶ clean ──write, truncate, chmod, utimens──▶ dirty ◀──written meanwhile──┘
    any ──unlink, replaced by a rename──▶ orphaned      (commit is a no-op from here on; dropped at release)
    orphaned ──the removal was refused──▶ as before
    committing ──refused──▶ dirty, and the error is what close() or fsync() returns

Invariants: `is_committed` turns true once and says that the namespace has this path; an orphan is never
committed; `size_bytes` is what getattr shows to this node, other nodes see the committed size.
"""

from fuse.core.contracts import Committed, Entry, StagingFile


class Writing:
    """One file being written; shared by every handle of its inode on this node."""

    __slots__ = (
        "_changes",
        "_clean_at",
        "has_staged_bytes",
        "is_committed",
        "is_orphaned",
        "may_be_committed",
        "mode",
        "mtime_ns",
        "size_bytes",
        "staging",
        "writers",
    )

    def __init__(self, staging: StagingFile, *, mode: int, mtime_ns: int, base: Entry | None) -> None:
        """`base` is the committed version whose bytes the staging file starts with; None = a new file."""
        self.staging = staging
        self.mode = mode
        self.mtime_ns = mtime_ns
        self.size_bytes = base.size_bytes if base is not None else 0
        #: The staging file may differ from the committed version, so reads go to it.
        self.has_staged_bytes = base is None
        self.is_committed = base is not None
        #: An earlier daemon may have had it committed without living to write that down.
        self.may_be_committed = False
        self.is_orphaned = False
        #: Handles that may write.
        self.writers = 0
        self._changes = 0 if base is not None else 1
        self._clean_at = 0

    def resume(
        self, size_bytes: int, *, has_staged_bytes: bool, is_committed: bool, is_orphaned: bool, is_dirty: bool
    ) -> None:
        """Go on with a file an earlier daemon was writing."""
        self.size_bytes = size_bytes
        self.has_staged_bytes = has_staged_bytes
        self.is_committed = is_committed
        self.may_be_committed = is_dirty and not is_committed
        self.is_orphaned = is_orphaned
        self._changes = int(is_dirty)

    @property
    def has_changes(self) -> bool:
        """Something is not committed, whether it can be or not."""
        return self._changes != self._clean_at

    @property
    def is_dirty(self) -> bool:
        """A commit would change what other nodes see."""
        return self.has_changes and not self.is_orphaned

    def wrote(self, offset_bytes: int, length_bytes: int, now_ns: int) -> None:
        """Bytes reached the staging file."""
        self.size_bytes = max(self.size_bytes, offset_bytes + length_bytes)
        self._touched(now_ns)

    def truncated(self, size_bytes: int, now_ns: int) -> None:
        """The staging file was cut or extended."""
        self.size_bytes = size_bytes
        self._touched(now_ns)

    def staged(self) -> None:
        """The staging file has the base's bytes: reads go to it from now on."""
        self.has_staged_bytes = True

    def set_mode(self, mode: int) -> None:
        """chmod: part of the next commit."""
        if mode != self.mode:
            self.mode = mode
            self._changes += 1

    def set_mtime(self, mtime_ns: int) -> None:
        """utimens: part of the next commit."""
        if mtime_ns != self.mtime_ns:
            self.mtime_ns = mtime_ns
            self._changes += 1

    def _touched(self, now_ns: int) -> None:
        self.has_staged_bytes = True
        self.mtime_ns = now_ns
        self._changes += 1

    def commit_begins(self) -> int:
        """Return a mark for `committed`: what is written after it needs another commit."""
        return self._changes

    def committed(self, mark: int, result: Committed) -> Entry:
        """The bytes up to `mark` are durable. Return the entry other nodes see."""
        self._clean_at = mark
        self.is_committed = True
        if not self.has_changes:
            self.mtime_ns = result.mtime_ns
        return Entry(
            is_directory=False,
            size_bytes=result.size_bytes,
            etag=result.etag,
            mtime_ns=result.mtime_ns,
            mode=self.mode,
            version=result.snapshot_version,
        )

    def orphan(self) -> None:
        """The path is gone or somebody else's. May be called twice."""
        self.is_orphaned = True

    def adopt(self) -> None:
        """The path was not taken away after all: the removal or rename was refused."""
        self.is_orphaned = False

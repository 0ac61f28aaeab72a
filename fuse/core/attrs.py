"""Attributes and how long the kernel may trust them.

Owns modes, timeouts and the arithmetic of stat fields; pure.
"""

import stat
from typing import Final

import msgspec

from fuse.core.inodes import Kind, Node

FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o755
WRITE_BITS: Final = 0o222
SECTOR_BYTES: Final = 512
PREFERRED_READ_BYTES: Final = 128 << 10
"""st_blksize: Python and coreutils size their buffers by it; larger ones cost more to allocate than they save."""

FREE_BYTES: Final = 1 << 50
"""What statfs calls free: object stores have no limit, and programs that check want to see room."""
FREE_FILES: Final = 1 << 30
STATFS_BLOCK_BYTES: Final = 4096


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds the kernel may answer by itself."""

    read_only_seconds: float = 60.0
    """Snapshot data: a new snapshot is pushed to the kernel, so this only bounds a lost message."""
    writable_seconds: float = 1.0
    """Datasets that are written: another node's commit shows within this time."""
    negative_read_only_seconds: float = 5.0
    negative_writable_seconds: float = 1.0
    catalogue_seconds: float = 1.0
    """The lists of namespaces and datasets."""

    def positive(self, node: Node) -> float:
        """For an existing node."""
        if node.dataset is None or node.kind is Kind.DATASET:
            return self.catalogue_seconds
        return self.writable_seconds if node.dataset.writable else self.read_only_seconds

    def negative(self, parent: Node) -> float:
        """For a name that is not in `parent`."""
        if parent.dataset is None:
            return self.catalogue_seconds
        if parent.dataset.writable:
            return self.negative_writable_seconds
        return self.negative_read_only_seconds


class Attributes(msgspec.Struct, frozen=True, gc=False):
    """A node's stat fields. `inode` 0 says: there is no such name, and that may be remembered."""

    inode: int
    mode: int
    links: int
    size_bytes: int
    mtime_ns: int
    timeout_seconds: float

    @property
    def sectors(self) -> int:
        """st_blocks."""
        return -(-self.size_bytes // SECTOR_BYTES)


def with_group_rights(mode: int) -> int:
    """Return a mode in which the group has what the owner has."""
    return mode | (mode & stat.S_IRWXU) >> 3


def attributes_of(node: Node, timeouts: Timeouts, *, group_rights: bool = False) -> Attributes:
    """Return what stat shows of the node; of a file being written here, the staging file's state. `group_rights`: the
    group has what the owner has."""
    entry = node.entry
    is_writable = node.dataset is not None and node.dataset.writable
    if node.is_directory:
        mode = stat.S_IFDIR | (entry.mode or DIRECTORY_MODE)
        # 1 tells find(1) that the count of subdirectories is unknown.
        links, size_bytes, mtime_ns = 1, 0, entry.mtime_ns
    else:
        writing = node.writing
        if writing is not None:
            permissions, size_bytes, mtime_ns = writing.mode, writing.size_bytes, writing.mtime_ns
        else:
            permissions, size_bytes, mtime_ns = entry.mode, entry.size_bytes, entry.mtime_ns
        mode = stat.S_IFREG | (permissions or FILE_MODE)
        links = 0 if node.is_detached else 1
    if group_rights:
        mode = with_group_rights(mode)
    if not is_writable:
        mode &= ~WRITE_BITS
    return Attributes(node.inode, mode, links, size_bytes, mtime_ns, timeouts.positive(node))


def no_such_name(timeout_seconds: float) -> Attributes:
    """Return the answer that lets the kernel remember that a name does not exist."""
    return Attributes(0, 0, 0, 0, 0, timeout_seconds)


class Totals(msgspec.Struct, frozen=True):
    """What statfs shows; blocks are of `block_bytes`."""

    block_bytes: int
    blocks: int
    free_blocks: int
    files: int
    free_files: int


def totals_of(size_bytes: int, files: int) -> Totals:
    """Return statfs's figures for datasets of so many bytes and files, in a store without a limit."""
    free_blocks = FREE_BYTES // STATFS_BLOCK_BYTES
    blocks = -(-size_bytes // STATFS_BLOCK_BYTES) + free_blocks
    return Totals(STATFS_BLOCK_BYTES, blocks, free_blocks, files + FREE_FILES, FREE_FILES)

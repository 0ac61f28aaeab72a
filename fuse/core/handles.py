"""Open handles: which node each one reads or writes, and what it was opened for.

Owns the numbers. A file's pin hangs on its node, because all handles of one node read one version.
Invariant: a number is used once in the life of a mount.
"""

from fuse.core.contracts import Entry
from fuse.core.inodes import Node
from fuse.core.read_plan import ReadWindow
from fuse.errors import BadHandle


class FileHandle:
    """An open file."""

    __slots__ = ("appends", "may_read", "may_write", "node", "window")

    def __init__(self, node: Node, *, may_read: bool, may_write: bool, appends: bool) -> None:
        self.node = node
        self.may_read = may_read
        self.may_write = may_write
        self.appends = appends
        self.window = ReadWindow()


class DirectoryHandle:
    """An open directory: the list it began with, fetched page by page as the reader goes on."""

    __slots__ = ("entries", "has_more", "last_name", "node", "was_read")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.entries: list[tuple[str, Entry]] = []
        self.has_more = True
        #: Last name of the last page, "" before the first.
        self.last_name = ""
        #: The reader has begun, so that going back to the start means to begin again.
        self.was_read = False

    def rewind(self) -> None:
        """Begin again, as rewinddir(3) demands: with what is there now."""
        self.entries = []
        self.has_more = True
        self.last_name = ""


class HandleTable:
    """All open handles of one mount."""

    def __init__(self) -> None:
        self._files: dict[int, FileHandle] = {}
        self._directories: dict[int, DirectoryHandle] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._files) + len(self._directories)

    def add_file(self, handle: FileHandle) -> int:
        """Return the new handle's number."""
        number = self._number()
        self._files[number] = handle
        return number

    def add_directory(self, handle: DirectoryHandle) -> int:
        """Return the new handle's number."""
        number = self._number()
        self._directories[number] = handle
        return number

    def file(self, number: int) -> FileHandle:
        """Return an open file; BadHandle."""
        try:
            return self._files[number]
        except KeyError:
            raise BadHandle(f"file handle {number} is not open") from None

    def directory(self, number: int) -> DirectoryHandle:
        """Return an open directory; BadHandle."""
        try:
            return self._directories[number]
        except KeyError:
            raise BadHandle(f"directory handle {number} is not open") from None

    def pop_file(self, number: int) -> FileHandle:
        """Close; BadHandle."""
        handle = self.file(number)
        del self._files[number]
        return handle

    def pop_directory(self, number: int) -> DirectoryHandle:
        """Close; BadHandle."""
        handle = self.directory(number)
        del self._directories[number]
        return handle

    def _number(self) -> int:
        number = self._next
        self._next += 1
        return number

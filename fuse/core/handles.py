"""Open handles: which node each one reads or writes, and what it was opened for.

Owns the numbers. A file's pin hangs on its node, because all handles of one node read one version.
Invariants: a number is of one file in the life of a mount, and of one open unless the handle is light: such opens of a
file may share theirs. While somebody keeps the table (recorder.py) every number that came, went or went on is in
`changed`, light ones apart.
"""

from collections.abc import Iterator
from typing import Final

from fuse.core.contracts import Dataset, Entry
from fuse.core.directories import KernelListing, Listing
from fuse.core.inodes import Node
from fuse.core.open_modes import BackingKey, Choice
from fuse.core.read_plan import ReadWindow
from fuse.errors import BadHandle

EMPTY_ENTRY: Final = Entry(is_directory=False)


class FileHandle:
    """An open file."""

    __slots__ = (
        "appends",
        "backing_id",
        "backing_key",
        "choice",
        "is_light",
        "may_read",
        "may_write",
        "node",
        "opens",
        "window",
    )

    def __init__(self, node: Node, *, may_read: bool, may_write: bool, appends: bool) -> None:
        self.node = node
        self.may_read = may_read
        self.may_write = may_write
        self.appends = appends
        self.window = ReadWindow()
        #: How many opens were answered with this handle and are not closed yet.
        self.opens = 1
        #: How the open was answered; None until it was, and with a backend that has no choice.
        self.choice: Choice | None = None
        #: Nothing of it need be known to another daemon but its node: it reads, and never by passthrough.
        self.is_light = False
        #: The kernel's id of the file behind, and that file, of passthrough opens.
        self.backing_id = 0
        self.backing_key: BackingKey | None = None


class SharedOpen:
    """How a file is opened again as it was before: by a light handle that is made already, and an answer that is
    encoded already. Good as long as its node has this very entry and dataset."""

    __slots__ = ("answer", "dataset", "entry", "handle", "number")

    def __init__(self, handle: FileHandle, number: int, answer: bytes) -> None:
        self.handle = handle
        self.number = number
        self.answer = answer
        self.entry = handle.node.entry
        self.dataset: Dataset | None = handle.node.dataset


class DirectoryHandle:
    """An open directory: the list it began with, fetched page by page as the reader goes on."""

    __slots__ = (
        "entries",
        "filling",
        "given",
        "has_more",
        "is_kept_by_kernel",
        "last_name",
        "listing",
        "node",
        "resumed_at",
        "version",
        "was_read",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.entries: list[tuple[str, Entry]] = []
        #: The whole directory, if it is known and nobody changes it: what `entries` are taken from, or make up.
        self.listing: Listing | None = None
        #: Snapshot that every page so far was of; None when they differ.
        self.version: int | None = None
        #: What the kernel keeps for later readers of what this one is given.
        self.filling: KernelListing | None = None
        #: Whatever begins at the directory's beginning and is given to this reader the kernel may keep.
        self.is_kept_by_kernel = False
        self.has_more = True
        #: Last name of the last page, "" before the first.
        self.last_name = ""
        #: The reader has begun, so that going back to the start means to begin again.
        self.was_read = False
        #: Entries the reader was given, and the name of the last one.
        self.given = (0, "")
        #: So many entries were given by an earlier daemon; their places are empty here.
        self.resumed_at = 0

    def resume(self, position: int, last_name: str) -> None:
        """Go on where an earlier daemon's reader stood: names come in order, so the next is the first after his."""
        self.entries = [("", EMPTY_ENTRY)] * position
        self.last_name = last_name
        self.given = (position, last_name)
        self.was_read = True
        self.resumed_at = position

    def rewind(self) -> None:
        """Begin again, as rewinddir(3) demands: with what is there now."""
        self.entries = []
        self.listing = self.filling = None
        self.has_more = True
        self.last_name = ""
        self.resumed_at = 0


class HandleTable:
    """All open handles of one mount."""

    def __init__(self) -> None:
        self._files: dict[int, FileHandle] = {}
        self._directories: dict[int, DirectoryHandle] = {}
        self._next = 1
        #: Numbers to be written down again; None while nobody keeps them.
        self.changed: set[int] | None = None

    def __len__(self) -> int:
        return len(self._files) + len(self._directories)

    @property
    def next_number(self) -> int:
        """The number the next handle gets."""
        return self._next

    def numbers(self) -> list[int]:
        """Return the numbers of all handles."""
        return [*self._files, *self._directories]

    def files(self) -> Iterator[FileHandle]:
        """Yield every open file."""
        return iter(self._files.values())

    def find(self, number: int) -> FileHandle | DirectoryHandle | None:
        """Return the handle if it is open."""
        return self._files.get(number) or self._directories.get(number)

    def adopt(self, files: dict[int, FileHandle], directories: dict[int, DirectoryHandle], next_number: int) -> None:
        """Take over what an earlier daemon had; the table must be fresh."""
        self._files.update(files)
        self._directories.update(directories)
        self._next = max(next_number, self._next)

    def note(self, number: int) -> None:
        """What is kept of the handle elsewhere has changed."""
        if self.changed is not None:
            self.changed.add(number)

    def add_file(self, handle: FileHandle) -> int:
        """Return the new handle's number."""
        number = self._number()
        self._files[number] = handle
        return number

    def share(self, shared: SharedOpen) -> None:
        """Count another open of a light handle, which may have had none left."""
        handle = shared.handle
        if not handle.opens:
            self._files[shared.number] = handle
        handle.opens += 1

    def add_directory(self, handle: DirectoryHandle) -> int:
        """Return the new handle's number."""
        number = self._number()
        self._directories[number] = handle
        self.note(number)
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

    def light(self, number: int) -> FileHandle | None:
        """Return an open light handle; None for all others."""
        handle = self._files.get(number)
        return handle if handle is not None and handle.is_light else None

    def pop_file(self, number: int) -> FileHandle:
        """Close one open; BadHandle."""
        handle = self.file(number)
        handle.opens -= 1
        if not handle.opens:
            del self._files[number]
        if not handle.is_light:
            self.note(number)
        return handle

    def pop_directory(self, number: int) -> DirectoryHandle:
        """Close; BadHandle."""
        handle = self.directory(number)
        del self._directories[number]
        self.note(number)
        return handle

    def _number(self) -> int:
        number = self._next
        self._next += 1
        return number

"""What all operations of one mount share.

Owns nothing but the references; each table keeps its own invariants. Clocks come in as functions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from fuse.core.attrs import Attributes, Timeouts, attributes_of
from fuse.core.catalogue import Catalogue
from fuse.core.contracts import Namespace, Worker
from fuse.core.directories import DirectoryCache
from fuse.core.handles import HandleTable
from fuse.core.inodes import InodeTable, Node


@dataclass(slots=True)
class State:
    """Tables, peers and clocks of one mount."""

    namespace: Namespace
    worker: Worker
    timeouts: Timeouts
    catalogue: Catalogue
    monotonic: Callable[[], float]
    """Seconds, for the age of what is cached."""
    wall_ns: Callable[[], int]
    """Nanoseconds since 1970, for times of files."""
    owner: tuple[int, int]
    """User and group everything belongs to."""
    inodes: InodeTable = field(default_factory=InodeTable)
    handles: HandleTable = field(default_factory=HandleTable)
    directories: DirectoryCache = field(default_factory=DirectoryCache)
    told: dict[str, int] = field(default_factory=dict)
    """Snapshot version by dataset's uid of which the kernel was told everything: it remembers nothing older."""
    told_news: set[str] = field(default_factory=set)
    """Datasets of which that is to be written down again."""
    has_opens: bool = True
    """The kernel tells us of opens. If not, a file's version is chosen by its lookup."""
    group_rights: bool = False
    """The group of a file has what its owner has."""
    is_heir: bool = False
    """Another daemon served before, and what names it said are missing is not known."""
    is_watching: bool = False
    """New snapshots are being pushed to us, so listings need no timeout."""

    def attributes(self, node: Node) -> Attributes:
        """Return what stat shows of the node."""
        return attributes_of(node, self.timeouts, group_rights=self.group_rights)

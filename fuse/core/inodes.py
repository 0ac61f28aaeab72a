"""The inode table: numbers the kernel knows ↔ nodes of the tree, with the kernel's lookup counts.

Owns numbers, names and parents. Does not know what a node's bytes are (handles.py, write_through.py hang on
it) and asks nobody for entries. A path is never stored: it is the walk to the root, so a rename moves a
whole subtree by moving one node.

Invariants:
- A number is used once in the life of a mount, so the generation is always 0.
- A node is in the table while the kernel holds a lookup on it, a child of it is there, or it is open.
- Another version of an object that is open here gets a node of its own (as if the file had been replaced by a
  rename): one node never shows bytes of two versions. Nobody's file in between keeps its number.
- A detached node (removed or replaced) has no path; it lives until the last handle and lookup are gone.
- While somebody keeps the table (recorder.py): whatever another daemon would need of a node is noted in `changed`,
  and a node the kernel was only told of once more in `counted`.
"""

from collections.abc import Iterator
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from fuse.core.contracts import Dataset, Entry

if TYPE_CHECKING:
    from fuse.core.contracts import PinnedFile
    from fuse.core.directories import KernelListing
    from fuse.core.handles import SharedOpen
    from fuse.core.write_through import Writing

ROOT_INODE: Final = 1


class Kind(Enum):
    """What stands at a node."""

    ROOT = "root"
    NAMESPACE = "namespace"
    DATASET = "dataset"
    DIRECTORY = "directory"
    FILE = "file"


_NO_CHILDREN: Final = cast("dict[str, Node]", MappingProxyType({}))
_NOTHING_MISSING: Final = cast("set[str]", frozenset())
"""Of files: there are a hundred thousand of them, and each empty table takes as much as the rest of the node."""


class Node:
    """One inode."""

    __slots__ = (
        "cached_etag",
        "children",
        "dataset",
        "entry",
        "handles",
        "inode",
        "is_detached",
        "kept",
        "kernel_listing",
        "kind",
        "last_path",
        "lookups",
        "may_be_open",
        "missing",
        "name",
        "parent",
        "pin",
        "shared_open",
        "writing",
    )

    def __init__(
        self, inode: int, kind: Kind, parent: "Node | None", name: str, *, dataset: Dataset | None, entry: Entry
    ) -> None:
        self.inode = inode
        self.kind = kind
        self.parent = parent
        self.name = name
        self.dataset = dataset
        #: What lookup and getattr answer; of a file with handles: the version they are pinned to.
        self.entry = entry
        #: How many times the kernel was told of this node and has not yet forgotten it.
        self.lookups = 0
        #: Known children by name; never the whole directory.
        self.children: dict[str, Node] = {} if kind is not Kind.FILE else _NO_CHILDREN
        #: Names the kernel was told are not in this directory, to be taken back when a snapshot brings them.
        self.missing: set[str] = set() if kind is not Kind.FILE else _NOTHING_MISSING
        #: Open file and directory handles.
        self.handles = 0
        self.is_detached = False
        #: Handles that an earlier daemon gave, and we know nothing of, may read this version.
        self.may_be_open = False
        #: The version the open handles read; None while nothing is open.
        self.pin: PinnedFile | None = None
        #: What the kernel may hold of this directory's listing, to be taken back when a snapshot changes it.
        self.kernel_listing: KernelListing | None = None
        #: How the file is opened again without a thought; None until it was opened, and for most kinds of files.
        self.shared_open: SharedOpen | None = None
        #: State of the file while somebody on this node writes it.
        self.writing: Writing | None = None
        #: Version whose bytes the kernel may hold in its page cache for this inode.
        self.cached_etag = ""
        #: Path of a detached node before it was detached: the worker knows open versions by it.
        self.last_path = ""
        #: What the recorder wrote of this node (its own bits, see recorder.py).
        self.kept = 0

    @property
    def is_directory(self) -> bool:
        """Everything but a file."""
        return self.kind is not Kind.FILE

    @property
    def path(self) -> str:
        """Path inside the dataset, "" at its root. Meaningless above a dataset and for detached nodes."""
        names: list[str] = []
        node = self
        while node.kind in {Kind.DIRECTORY, Kind.FILE} and node.parent is not None:
            names.append(node.name)
            node = node.parent
        return "/".join(reversed(names))


DIRECTORY_ENTRY: Final = Entry(is_directory=True)


class InodeTable:
    """All nodes of one mount."""

    def __init__(self, *, one_version: bool = False) -> None:
        """With `one_version` a file's inode never stands for another version, whether it is open or not."""
        self._one_version = one_version
        self.root = Node(ROOT_INODE, Kind.ROOT, None, "", dataset=None, entry=DIRECTORY_ENTRY)
        self.root.lookups = 1
        self._nodes: dict[int, Node] = {ROOT_INODE: self.root}
        self._next_inode = ROOT_INODE + 1
        #: Nodes to be written down again, as a whole or their lookups only; None while nobody keeps them.
        self.changed: set[Node] | None = None
        self.counted: set[Node] = set()

    @property
    def next_inode(self) -> int:
        """The number the next new node gets."""
        return self._next_inode

    def numbers(self) -> list[int]:
        """Return the inode numbers of all nodes."""
        return list(self._nodes)

    def find(self, inode: int) -> Node | None:
        """Return the node if it is in the table."""
        return self._nodes.get(inode)

    def adopt(self, nodes: dict[int, Node], next_inode: int) -> None:
        """Take over what an earlier daemon had: linked nodes without the root, by number. The table must be fresh."""
        self._nodes.update(nodes)
        self._next_inode = max(next_inode, self._next_inode)

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, inode: int) -> Node:
        """Return the node; KeyError is a defect, the kernel only names inodes it was told of."""
        return self._nodes[inode]

    def child(self, parent: Node, name: str, kind: Kind, dataset: Dataset | None, entry: Entry) -> Node:
        """Return the node of `entry` at `name`: the known one brought up to date, or a new one."""
        known = parent.children.get(name)
        if known is not None:
            if self._is_same(known, kind, dataset, entry):
                if known.writing is None:
                    self.renew(known, entry)
                known.dataset = dataset
                return known
            self.detach(known)
        node = Node(self._next_inode, kind, parent, name, dataset=dataset, entry=entry)
        self._next_inode += 1
        self._nodes[node.inode] = node
        parent.children[name] = node
        return node

    def _is_same(self, known: Node, kind: Kind, dataset: Dataset | None, entry: Entry) -> bool:
        if known.kind is not kind or _uid(known.dataset) != _uid(dataset):
            return False
        if known.writing is not None or known.is_directory:
            return True
        if not (known.handles or known.may_be_open or self._one_version):
            return True
        return known.entry.etag == entry.etag

    def move(self, node: Node, parent: Node, name: str) -> bool:
        """Give the node another place; whatever was there is detached. False when the node lost its own place while the
        rename was waited for: what has the new name now the next lookup finds out."""
        replaced = parent.children.get(name)
        if replaced is not None and replaced is not node:
            self.detach(replaced)
        old_parent = node.parent
        if old_parent is None or old_parent.children.get(node.name) is not node:
            return False
        del old_parent.children[node.name]
        node.parent, node.name = parent, name
        parent.children[name] = node
        self.note(node)
        self._drop_if_unused(old_parent)
        return True

    def detach(self, node: Node) -> None:
        """Take the node off its place: its name is free. May be called twice."""
        parent = node.parent
        if parent is None or node.is_detached:
            return
        node.last_path = node.path
        if parent.children.get(node.name) is node:
            del parent.children[node.name]
        node.is_detached = True
        node.parent = None
        self.note(node)
        self._drop_if_unused(node)
        self._drop_if_unused(parent)

    def forget(self, inode: int, lookups: int) -> None:
        """The kernel lets go of `lookups` references. An unknown inode is ignored: it was never told of."""
        node = self._nodes.get(inode)
        if node is None:
            return
        node.lookups = max(0, node.lookups - lookups)
        if self.changed is not None:
            self.counted.add(node)
        self._drop_if_unused(node)

    def told(self, node: Node) -> None:
        """The kernel is being told of the node: one lookup more."""
        node.lookups += 1
        if self.changed is not None:
            self.counted.add(node)

    def note(self, node: Node) -> None:
        """What is kept of the node elsewhere has changed."""
        if self.changed is not None:
            self.changed.add(node)

    def renew(self, node: Node, entry: Entry) -> None:
        """The node's entry as just heard of."""
        if entry != node.entry:
            node.entry = entry
            self.note(node)

    def opened(self, node: Node) -> None:
        """One more handle."""
        node.handles += 1

    def released(self, node: Node) -> None:
        """One handle less."""
        node.handles -= 1
        self._drop_if_unused(node)

    def drop_if_unused(self, node: Node) -> None:
        """Take a node that the kernel was not told of after all out of the table."""
        self._drop_if_unused(node)

    def below(self, node: Node) -> Iterator[Node]:
        """Yield every known node under `node`."""
        pending = list(node.children.values())
        while pending:
            each = pending.pop()
            yield each
            pending.extend(each.children.values())

    def _drop_if_unused(self, node: Node) -> None:
        each: Node | None = node
        while each is not None and each.kind is not Kind.ROOT:
            if each.lookups or each.handles or each.children or each.writing is not None:
                return
            parent = each.parent
            self._nodes.pop(each.inode, None)
            each.shared_open = None  # it leads back to the node, and such a circle costs the collector
            self.note(each)
            if parent is not None and parent.children.get(each.name) is each:
                del parent.children[each.name]
            each = parent


def _uid(dataset: Dataset | None) -> str:
    return dataset.uid if dataset is not None else ""

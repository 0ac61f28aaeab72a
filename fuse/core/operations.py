"""The file system of one mount: every operation, independent of any backend.

Owns the wiring of the operation groups and what a new snapshot means:

    names    lookup, getattr, forget, directories        reads    open, read, statfs, attributes
    changes  create, write, commit, setattr              moves    mkdir, rmdir, unlink, rename

Backends call these groups, turn Attributes into their own structs and errors into errnos (errnos.py), and
do nothing else. Raises only errors of fuse/errors.py; anything else is a defect.
"""

import os
from collections.abc import Callable, Iterable, Set

from fuse.core.attrs import Timeouts
from fuse.core.catalogue import Catalogue
from fuse.core.changes import Changes
from fuse.core.contracts import Dataset, Namespace, Worker
from fuse.core.inodes import InodeTable, Kind, Node
from fuse.core.moves import Moves
from fuse.core.names import Names
from fuse.core.reads import Reads
from fuse.core.state import State

Invalidation = tuple[int, bytes]
"""Parent inode and name of a directory entry the kernel has to ask for again; with no name, a directory's inode and the
whole listing the kernel keeps of it (which it was told to by `Names.kernel_caching`, or by an earlier daemon)."""


class Operations:
    """All operations of one mount, over two peers and two clocks."""

    def __init__(
        self,
        namespace: Namespace,
        worker: Worker,
        *,
        monotonic: Callable[[], float],
        wall_ns: Callable[[], int],
        timeouts: Timeouts | None = None,
        owner: tuple[int, int] = (0, 0),
        has_opens: bool = True,
        group_rights: bool = False,
    ) -> None:
        timeouts = timeouts or Timeouts()
        self.state = State(
            namespace=namespace,
            worker=worker,
            timeouts=timeouts,
            catalogue=Catalogue(namespace, monotonic, timeouts.catalogue_seconds),
            monotonic=monotonic,
            wall_ns=wall_ns,
            owner=owner,
            has_opens=has_opens,
            group_rights=group_rights,
            inodes=InodeTable(one_version=not has_opens),
        )
        self._known_before: Set[str] = frozenset()
        self.names = Names(self.state)
        self.reads = Reads(self.state, self.names)
        self.changes = Changes(self.state, self.names, self.reads)
        self.moves = Moves(self.state, self.names, self.changes)

    async def open(self, inode: int, flags: int, *, writes: bool) -> tuple[int, bool]:
        """Return a handle and whether the kernel may keep the file's cached pages."""
        if flags & os.O_TRUNC and not writes:
            await self.changes.setattr(inode, size_bytes=0)
        return await (self.changes.open(inode, flags) if writes else self.reads.open(inode))

    def watch_begins(self) -> None:
        """A watch is about to be opened: `gone` asks what it does not show of what is known now."""
        self._known_before = self.state.catalogue.uids()

    def gone(self, datasets: Iterable[Dataset]) -> list[str]:
        """The watch told of all `datasets` there are; return the uids of those that were removed unseen."""
        return sorted(self._known_before - {each.uid for each in datasets})

    def dataset_changed(self, dataset: Dataset) -> list[Invalidation]:
        """The watch told of a dataset. Return what the kernel must be told to ask for again: the known
        entries and missing names of a read-only dataset, which it trusts for long; those of writable ones time
        out by themselves. Inodes stay."""
        state = self.state
        state.catalogue.update(dataset)
        state.directories.advance(dataset.uid, dataset.snapshot_version)
        if dataset.writable or dataset.snapshot_version <= state.told.get(dataset.uid, 0):
            return []
        namespace = state.inodes.root.children.get(dataset.namespace)
        node = namespace.children.get(dataset.name) if namespace is not None else None
        if node is None or node.kind is not Kind.DATASET:
            return []
        stale: list[Invalidation] = []
        if state.is_heir and namespace is not None:
            # With the directory goes everything below it, names that were missing too.
            stale.append((namespace.inode, node.name.encode()))
        for each in [node, *state.inodes.below(node)]:
            if each is not node and each.lookups and each.parent is not None:
                stale.append((each.parent.inode, each.name.encode()))
            stale += self._listing(each)
            if each.missing:
                stale += [(each.inode, name.encode()) for name in each.missing]
                each.missing.clear()
        return stale

    def kernel_was_told(self, dataset: Dataset) -> None:
        """What `dataset_changed` returned has reached the kernel."""
        self.state.told[dataset.uid] = dataset.snapshot_version
        self.state.told_news.add(dataset.uid)

    def dataset_removed(self, uid: str) -> list[Invalidation]:
        """The watch told that a dataset is gone. Return the names the kernel must ask for again, the dataset's own
        included. Inodes stay for those who hold them; nothing is found by its name any more."""
        state = self.state
        dataset = state.catalogue.remove(uid)
        state.directories.drop(uid)
        if dataset is None:
            return []
        namespace = state.inodes.root.children.get(dataset.namespace)
        node = namespace.children.get(dataset.name) if namespace is not None else None
        if node is None or node.dataset is None or node.dataset.uid != uid:
            return []
        stale: list[Invalidation] = []
        for each in [*state.inodes.below(node), node]:
            stale += self._listing(each)
            if each.lookups and each.parent is not None:
                stale.append((each.parent.inode, each.name.encode()))
        return stale

    def _listing(self, node: Node) -> list[Invalidation]:
        """Return the listing the kernel may keep of the node."""
        if node.kernel_listing is None and not (self.state.is_heir and node.is_directory):
            return []
        node.kernel_listing = None
        return [(node.inode, b"")]

    def watching(self, *, is_watching: bool) -> None:
        """The watch came up or went down; while it is down listings time out."""
        self.state.is_watching = is_watching
        self.state.catalogue.watching(is_watching=is_watching)

"""The inode table against a model: whatever the kernel and other nodes do, nothing it refers to is lost."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fuse.core.contracts import Dataset, Entry
from fuse.core.inodes import DIRECTORY_ENTRY, InodeTable, Kind, Node

DATASET = Dataset(uid="u", namespace="ns", name="d", snapshot_version=1, writable=True)
NAMES = st.sampled_from(["a", "b", "c"])


class InodeTableModel(RuleBasedStateMachine):
    """Lookup counts and handles are kept twice; numbers must never be reused."""

    def __init__(self) -> None:
        super().__init__()
        self.table = InodeTable()
        self.lookups: dict[int, int] = {}
        self.handles: dict[int, int] = {}
        self.pinned: dict[int, str] = {}
        self.numbers: set[int] = set()
        self.untold: list[Node] = []
        self.renaming: list[tuple[Node, Node, str]] = []
        """Renames the namespace is asked for: what else happens meanwhile is not waited for."""

    @initialize()
    def mount(self) -> None:
        namespace = self.table.child(self.table.root, "ns", Kind.NAMESPACE, None, DIRECTORY_ENTRY)
        namespace.lookups += 1
        self.dataset = self.table.child(namespace, "d", Kind.DATASET, DATASET, DIRECTORY_ENTRY)
        self.dataset.lookups += 1
        self.lookups = {namespace.inode: 1, self.dataset.inode: 1}

    def directories(self) -> list[Node]:
        return [self.dataset, *(n for n in self.table.below(self.dataset) if n.is_directory and n.lookups)]

    def known(self) -> list[Node]:
        return [self.table.get(inode) for inode, count in self.lookups.items() if count and inode > 3]

    @rule(data=st.data(), name=NAMES, etag=st.sampled_from(["1", "2"]), is_directory=st.booleans())
    def lookup(self, data: st.DataObject, name: str, etag: str, is_directory: bool) -> None:
        parent = data.draw(st.sampled_from(self.directories()))
        entry = DIRECTORY_ENTRY if is_directory else Entry(False, 1, etag)
        kind = Kind.DIRECTORY if is_directory else Kind.FILE
        node = self.table.child(parent, name, kind, DATASET, entry)
        node.lookups += 1
        self.lookups[node.inode] = self.lookups.get(node.inode, 0) + 1
        if not self.handles.get(node.inode):
            assert node.entry.etag == entry.etag
        assert node.kind is kind
        if self.handles.get(node.inode):
            assert self.pinned[node.inode] == entry.etag

    @precondition(lambda self: bool(self.known()))
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.known()))
        count = data.draw(st.integers(1, self.lookups[node.inode]))
        self.lookups[node.inode] -= count
        self.table.forget(node.inode, count)

    @precondition(lambda self: any(not n.is_directory for n in self.known()))
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from([n for n in self.known() if not n.is_directory]))
        self.table.opened(node)
        self.handles[node.inode] = self.handles.get(node.inode, 0) + 1
        self.pinned.setdefault(node.inode, node.entry.etag)

    @precondition(lambda self: any(self.handles.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        inode = data.draw(st.sampled_from([inode for inode, count in self.handles.items() if count]))
        self.table.released(self.table.get(inode))
        self.handles[inode] -= 1
        if not self.handles[inode]:
            self.pinned.pop(inode)

    @precondition(lambda self: bool(self.known()))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.table.detach(data.draw(st.sampled_from(self.known())))

    @precondition(lambda self: bool(self.known()))
    @rule(data=st.data(), name=NAMES)
    def rename(self, data: st.DataObject, name: str) -> None:
        node = data.draw(st.sampled_from(self.known()))
        targets = [each for each in self.directories() if each is not node and each not in self.table.below(node)]
        target = data.draw(st.sampled_from(targets))
        if node.parent is not None and target.children.get(name) not in _ancestors(node):
            self.table.move(node, target, name)
            assert node.path == (f"{target.path}/{name}" if target.path else name)

    @rule(data=st.data(), name=NAMES, to=NAMES, is_directory=st.booleans())
    def begin_rename(self, data: st.DataObject, name: str, to: str, is_directory: bool) -> None:
        """The namespace may know another file under the name than the kernel does: a node nobody was told of."""
        parent, target = (data.draw(st.sampled_from(self.directories())) for _ in range(2))
        entry = DIRECTORY_ENTRY if is_directory else Entry(False, 1, "3")
        node = self.table.child(parent, name, Kind.DIRECTORY if is_directory else Kind.FILE, DATASET, entry)
        self.untold.append(node)
        if node is not target and node not in _ancestors(target):
            self.renaming.append((node, target, to))

    @precondition(lambda self: self.renaming)
    @rule()
    def end_rename(self) -> None:
        node, target, name = self.renaming.pop(0)
        if node in _ancestors(target) or target.children.get(name) in _ancestors(node):
            return
        self.table.move(node, target, name)

    @invariant()
    def everything_referred_to_is_in_the_table(self) -> None:
        for inode in {*self.lookups, *self.handles}:
            if self.lookups.get(inode) or self.handles.get(inode):
                node = self.table.get(inode)
                assert node.lookups == self.lookups.get(inode, 0)
                assert node.handles == self.handles.get(inode, 0)

    @invariant()
    def an_open_node_keeps_its_version(self) -> None:
        for inode, etag in self.pinned.items():
            assert self.table.get(inode).entry.etag == etag

    @invariant()
    def the_tree_is_consistent(self) -> None:
        for node in self.table.below(self.table.root):
            assert self.table.find(node.inode) is node, "a lookup would tell the kernel of a number nobody knows"
            assert node.parent is not None and node.parent.children[node.name] is node
            assert not node.is_detached

    def teardown(self) -> None:
        for inode, count in self.handles.items():
            for _ in range(count):
                self.table.released(self.table.get(inode))
        for inode, count in self.lookups.items():
            self.table.forget(inode, count)
        for node in self.untold:
            self.table.drop_if_unused(node)
        assert len(self.table) == 1


def _ancestors(node: Node) -> list[Node]:
    found: list[Node] = []
    each: Node | None = node
    while each is not None:
        found.append(each)
        each = each.parent
    return found


TestInodeTable = InodeTableModel.TestCase
TestInodeTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

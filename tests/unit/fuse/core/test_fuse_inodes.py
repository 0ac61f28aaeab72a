"""Renames that are waited for while the kernel and other nodes go on."""

from fuse.core.contracts import Dataset
from fuse.core.inodes import DIRECTORY_ENTRY, InodeTable, Kind, Node

DATASET = Dataset(uid="u", namespace="ns", name="d", snapshot_version=1, writable=True)


def _tree() -> tuple[InodeTable, Node]:
    table = InodeTable()
    namespace = table.child(table.root, "ns", Kind.NAMESPACE, None, DIRECTORY_ENTRY)
    dataset = table.child(namespace, "d", Kind.DATASET, DATASET, DIRECTORY_ENTRY)
    for node in (namespace, dataset):
        table.told(node)
    return table, dataset


def _directory(table: InodeTable, parent: Node, name: str) -> Node:
    return table.child(parent, name, Kind.DIRECTORY, DATASET, DIRECTORY_ENTRY)


def test_a_node_that_was_let_go_while_it_was_renamed_is_not_told_to_the_kernel_again() -> None:
    table, parent = _tree()
    node = _directory(table, parent, "a")
    table.told(node)
    table.forget(node.inode, 1)
    assert not table.move(node, parent, "b")
    found = _directory(table, parent, "b")
    assert table.get(found.inode) is found


def test_a_rename_takes_no_name_from_another_node() -> None:
    table, parent = _tree()
    node = _directory(table, parent, "a")
    table.told(node)
    table.detach(node)  # somebody else removed it, and made another
    other = _directory(table, parent, "a")
    table.told(other)
    assert not table.move(node, parent, "b")
    assert _directory(table, parent, "a") is other
    assert _directory(table, parent, "b") is not node


def test_what_has_the_new_name_loses_it_all_the_same() -> None:
    table, parent = _tree()
    node, target = _directory(table, parent, "a"), _directory(table, parent, "b")
    table.told(target)
    table.detach(node)
    assert not table.move(node, parent, "b")
    assert target.is_detached

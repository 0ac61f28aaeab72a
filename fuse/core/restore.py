"""Makes the tables of a mount out of what an earlier daemon wrote down.

Owns the linking of nodes, handles and files being written. Asks the worker only for staging files that were kept.

Invariants: the kernel finds every node and handle it was told of; what it was not told of (an open that was never
answered, a file being written with no handle) is let go, because the kernel asks for it again.
"""

from typing import Final

from fuse.core.contracts import Dataset
from fuse.core.handles import DirectoryHandle, FileHandle
from fuse.core.inodes import Kind, Node
from fuse.core.journal import Image, NodeRecord, WritingRecord
from fuse.core.state import State
from fuse.core.write_through import Writing

CLOCK_NS: Final = 100_000_000
"""File times are taken from the kernel's coarse clock, some milliseconds behind ours."""
_KINDS: Final = {kind.value: kind for kind in Kind}


def restore(state: State, image: Image) -> None:
    """Fill the fresh tables of `state`."""
    nodes = _linked(state.inodes.root, image)
    state.told.update(image.told)
    state.is_heir = bool(nodes)
    files: dict[int, FileHandle] = {}
    for record in image.handles.values():
        node = nodes.get(record.inode)
        if node is None:
            continue
        handle = FileHandle(node, may_read=record.may_read, may_write=record.may_write, appends=record.appends)
        handle.choice = record.choice
        handle.backing_id, handle.backing_key = record.backing_id, record.backing_key
        files[record.number] = handle
        node.handles += 1
    directories: dict[int, DirectoryHandle] = {}
    for each in image.directories.values():
        node = state.inodes.root if each.inode == state.inodes.root.inode else nodes.get(each.inode)
        if node is None:
            continue
        directory = DirectoryHandle(node)
        if each.position:
            directory.resume(each.position, each.last_name)
        directories[each.number] = directory
        node.handles += 1
    _writings(state, image, nodes, files)
    state.inodes.adopt(nodes, image.next_inode)
    state.handles.adopt(files, directories, image.next_handle)
    for node in [each for each in nodes.values() if not each.lookups]:
        state.inodes.drop_if_unused(node)


def _linked(root: Node, image: Image) -> dict[int, Node]:
    """Return the nodes by number, each at its place. A child may be older than its parent (it was moved there), so
    all are made before any is linked."""
    nodes = {inode: _node(record, image) for inode, record in image.nodes.items()}
    for record, node in zip(image.nodes.values(), nodes.values(), strict=True):
        parent = root if record.parent == root.inode else nodes.get(record.parent)
        if parent is None:
            node.is_detached = True
            continue
        node.parent = parent
        parent.children[node.name] = node
    return nodes


def _node(record: NodeRecord, image: Image) -> Node:
    # Waited for by everyone, and there may be a hundred thousand.
    kind = _KINDS[record.kind]
    dataset = image.datasets.get(record.dataset)
    node = Node(record.inode, kind, None, record.name, dataset=dataset, entry=record.entry)
    node.lookups = image.lookups.get(record.inode, record.lookups)
    node.cached_etag = record.cached_etag
    node.last_path = record.last_path
    # Handles that are not written down read only datasets nobody writes.
    node.may_be_open = kind is Kind.FILE and dataset is not None and not dataset.writable
    return node


def _writings(state: State, image: Image, nodes: dict[int, Node], files: dict[int, FileHandle]) -> None:
    writers: dict[int, int] = {}
    for handle in files.values():
        if handle.may_write:
            writers[handle.node.inode] = writers.get(handle.node.inode, 0) + 1
    for record in image.writings.values():
        node = nodes.get(record.inode)
        if node is None or node.dataset is None:
            continue
        count = writers.get(record.inode, 0)
        if count or (record.is_orphaned and node.handles):
            node.writing = _writing(state, node.dataset, record)
            node.writing.writers = count


def _writing(state: State, dataset: Dataset, record: WritingRecord) -> Writing:
    base = record.base_etag, record.base_size_bytes
    left = state.worker.restage(record.staging, dataset.uid, record.path, *base)
    size_bytes, mtime_ns, is_dirty = record.size_bytes, record.mtime_ns, record.is_dirty
    if left.is_kept:
        # Writes are not recorded one by one: the staging file itself says how far they went, and when the last was.
        was_written = record.has_staged_bytes and left.mtime_ns > record.written_down_ns - CLOCK_NS
        is_dirty = record.is_dirty or was_written
        size_bytes = left.size_bytes if record.has_staged_bytes else record.size_bytes
        mtime_ns = left.mtime_ns if was_written else record.mtime_ns
    writing = Writing(left.staging, mode=record.mode, mtime_ns=mtime_ns, base=None)
    writing.resume(
        size_bytes,
        has_staged_bytes=record.has_staged_bytes,
        is_committed=record.is_committed,
        is_orphaned=record.is_orphaned,
        is_dirty=is_dirty,
    )
    return writing

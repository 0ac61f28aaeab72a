"""Writes the live tables of a mount down as journal records.

Owns the question what has changed since it last asked. Does no I/O: `news` gives the bytes to append before an answer
leaves, `everything` a whole new journal in parts, between which requests may be served if their news go to both.

Invariant: when an answer reaches the kernel, everything it tells the kernel of (nodes, handles, staging files) is in
the journal; what only makes the kernel let go may be missing, which costs memory and nothing else.
"""

from collections.abc import Iterator
from typing import Final

from fuse.core.contracts import Bytes, Dataset
from fuse.core.handles import DirectoryHandle, FileHandle
from fuse.core.inodes import Node
from fuse.core.journal import (
    AnswerRecord,
    AttemptRecord,
    ClosedRecord,
    Counters,
    DatasetRecord,
    DirectoryRecord,
    GoneRecord,
    HandleRecord,
    Image,
    LookupsRecord,
    NodeRecord,
    Record,
    ReservedRecord,
    ToldRecord,
    WritingRecord,
    WrittenRecord,
    encode,
    shorten,
)
from fuse.core.protocol import INODE_ROOT, OPEN_OUT, RESENT, Opcode
from fuse.core.state import State

ONCE: Final = frozenset(
    {
        Opcode.OPEN,
        Opcode.CREATE,
        Opcode.OPENDIR,
        Opcode.MKDIR,
        Opcode.UNLINK,
        Opcode.RMDIR,
        Opcode.RENAME,
        Opcode.RENAME2,
    }
)
"""Requests that give something else, or an error, when they are carried out twice."""
RESERVED_HANDLES: Final = 4096
"""Numbers of handles that are not written down one by one."""
PART_NODES: Final = 2000
_NODE: Final = 1
_WRITING: Final = 2


class Recorder:
    """Keeps the tables of `state` written down; from its making on they note their changes."""

    def __init__(self, state: State, image: Image) -> None:
        """`image` is what the journal holds already, and `state` was restored from."""
        self._state = state
        self._answers = dict(image.answers)
        self._attempts = dict(image.attempts)
        self.next_backing_id = image.next_backing_id
        self._next_staging = image.next_staging
        self._reserved = image.next_handle
        self._datasets: dict[str, Dataset] = dict(image.datasets)
        for inode in state.inodes.numbers():
            node = state.inodes.get(inode)
            node.kept = _NODE if node.writing is None else _NODE | _WRITING
        self._pending: list[Record] = []
        self._nodes: set[Node] = set()
        self._handles: set[int] = set()
        state.inodes.changed = self._nodes
        state.handles.changed = self._handles

    def next_staging(self) -> int:
        """Return the number of another staging file."""
        self._next_staging += 1
        return self._next_staging - 1

    def answered(self, opcode: int, unique: int, payload: Bytes) -> None:
        """A success is about to be answered."""
        if opcode in ONCE and not (opcode == Opcode.OPEN and self._is_light(payload)):
            unique &= ~RESENT
            payload = bytes(payload)
            self._answers[unique] = payload
            shorten(self._answers)
            self._pending.append(AnswerRecord(unique, payload))

    def _is_light(self, payload: Bytes) -> bool:
        """A second open gives another handle, and of the first nothing is left that would have to be closed."""
        handle = self._state.handles.find(OPEN_OUT.unpack_from(payload)[0])
        return isinstance(handle, FileHandle) and handle.is_light

    def tried_again(self, unique: int) -> None:
        """A request that was left over is about to be carried out."""
        unique &= ~RESENT
        self._attempts[unique] = self._attempts.get(unique, 0) + 1
        shorten(self._attempts)
        self._pending.append(AttemptRecord(unique))

    def news(self) -> bytes:
        """Return what changed since the last call as one frame, b"" when nothing did."""
        inodes = self._state.inodes
        told = self._state.told_news
        if self._state.handles.next_number > self._reserved:
            self._reserved = self._state.handles.next_number + RESERVED_HANDLES
            self._pending.append(ReservedRecord(self._reserved))
        if not (self._nodes or inodes.counted or self._handles or self._pending or told):
            return b""
        records: list[Record] = []
        for node in self._nodes:
            inodes.counted.discard(node)
            self._node(node, records)
        for node in inodes.counted:
            if node.kept & _NODE and inodes.find(node.inode) is node:
                records.append(LookupsRecord(node.inode, node.lookups))
            else:
                self._node(node, records)
        for number in self._handles:
            self._handle(number, records)
        records += [ToldRecord(uid, self._state.told[uid]) for uid in told]
        told.clear()
        # An answer is the last of its frame: with it goes everything it speaks of.
        records += self._pending
        self._nodes.clear()
        inodes.counted.clear()
        self._handles.clear()
        self._pending.clear()
        return encode(records) if records else b""

    def everything(self) -> Iterator[bytes]:
        """Yield the frames of a whole journal."""
        state = self._state
        tables = state.inodes.next_inode, max(self._reserved, state.handles.next_number)
        head: list[Record] = [Counters(*tables, self.next_backing_id, self._next_staging)]
        head += [DatasetRecord(dataset) for dataset in self._datasets.values()]
        head += [ToldRecord(uid, version) for uid, version in state.told.items()]
        head += [AnswerRecord(unique, payload) for unique, payload in self._answers.items()]
        head += [AttemptRecord(unique) for unique, count in self._attempts.items() for _ in range(count)]
        yield encode(head)
        numbers = state.inodes.numbers()
        for start in range(0, len(numbers), PART_NODES):
            records: list[Record] = []
            for inode in numbers[start : start + PART_NODES]:
                node = state.inodes.find(inode)
                if node is not None and node.kept & _NODE:
                    self._node(node, records)
            yield encode(records)
        records = []
        for number in state.handles.numbers():
            self._handle(number, records)
        yield encode(records)

    def _node(self, node: Node, records: list[Record]) -> None:
        if node.inode == INODE_ROOT:
            return
        inodes = self._state.inodes
        if inodes.find(node.inode) is not node:
            if node.kept:
                records.append(GoneRecord(node.inode))
                if node.kept & _WRITING:
                    records.append(WrittenRecord(node.inode))
                node.kept = 0
            return
        dataset = node.dataset
        if dataset is not None and self._datasets.get(dataset.uid) is not dataset:
            self._datasets[dataset.uid] = dataset
            records.append(DatasetRecord(dataset))
        records.append(
            NodeRecord(
                inode=node.inode,
                parent=node.parent.inode if node.parent is not None else 0,
                kind=node.kind.value,
                name=node.name,
                dataset=dataset.uid if dataset is not None else "",
                entry=node.entry,
                lookups=node.lookups,
                cached_etag=node.cached_etag,
                last_path=node.last_path,
            )
        )
        node.kept |= _NODE
        self._writing(node, records)

    def _writing(self, node: Node, records: list[Record]) -> None:
        writing = node.writing
        if writing is None:
            if node.kept & _WRITING:
                node.kept &= ~_WRITING
                records.append(WrittenRecord(node.inode))
            return
        node.kept |= _WRITING
        staging = writing.staging
        records.append(
            WritingRecord(
                inode=node.inode,
                staging=staging.number,
                path=staging.path,
                base_etag=staging.base_etag,
                base_size_bytes=staging.base_size_bytes,
                size_bytes=writing.size_bytes,
                mode=writing.mode,
                mtime_ns=writing.mtime_ns,
                has_staged_bytes=writing.has_staged_bytes,
                is_committed=writing.is_committed,
                is_orphaned=writing.is_orphaned,
                is_dirty=writing.has_changes,
                written_down_ns=self._state.wall_ns(),
            )
        )

    def _handle(self, number: int, records: list[Record]) -> None:
        handle = self._state.handles.find(number)
        if handle is None:
            records.append(ClosedRecord(number))
        elif isinstance(handle, DirectoryHandle):
            self._directory(number, handle, records)
        elif handle.choice is not None and not handle.is_light:
            self._file(number, handle, records)
        # A file without a choice was not answered yet: whoever opens it will ask again.

    @staticmethod
    def _directory(number: int, handle: DirectoryHandle, records: list[Record]) -> None:
        records.append(DirectoryRecord(number, handle.node.inode, *handle.given))

    def _file(self, number: int, handle: FileHandle, records: list[Record]) -> None:
        assert handle.choice is not None
        self.next_backing_id = max(self.next_backing_id, handle.backing_id + 1)
        records.append(
            HandleRecord(
                number,
                handle.node.inode,
                handle.may_read,
                handle.may_write,
                handle.appends,
                handle.choice,
                handle.backing_id,
                handle.backing_key,
            )
        )

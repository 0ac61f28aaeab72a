"""The journal of a mount: what another daemon must know to go on, as records in bytes.

Owns the records' form and their replay into an `Image`. Does no I/O; recorder.py makes records of the live tables,
restore.py makes tables of an image.

A frame is four bytes of length and a msgpack list of records; records are upserts, so a later one replaces an
earlier one of the same number, and replaying a prefix gives the state at its end.

Invariants: a torn frame at the end (the writer was killed in the middle of it) is ignored with everything after it;
numbers once used are never given again, also after their records are gone (`Counters`).
"""

import struct
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from fuse.core.contracts import Bytes, Dataset, Entry
from fuse.core.open_modes import Choice

T = TypeVar("T")

_LENGTH: Final = struct.Struct("<I")
ANSWERS_MAX: Final = 1024
"""Answers that may not have reached the kernel: at most the requests in flight, of which 128 are in the background."""


class NodeRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=1):
    """A node the kernel knows."""

    inode: int
    parent: int
    """0: it has no place any more."""
    kind: str
    name: str
    dataset: str
    """Its uid, "" above datasets."""
    entry: Entry
    lookups: int
    cached_etag: str
    last_path: str


class LookupsRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=2):
    """The kernel's lookups of a node with a record, and nothing else, have changed."""

    inode: int
    lookups: int


class GoneRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=3):
    """The node is out of the table."""

    inode: int


class DatasetRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=4):
    """A dataset nodes refer to."""

    dataset: Dataset


class HandleRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=5):
    """An open file the kernel was told of."""

    number: int
    inode: int
    may_read: bool
    may_write: bool
    appends: bool
    choice: Choice
    backing_id: int
    backing_key: tuple[int, int] | None


class DirectoryRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=6):
    """An open directory, and how far its reader is."""

    number: int
    inode: int
    position: int
    last_name: str


class ClosedRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=7):
    """The handle is closed."""

    number: int


class WritingRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=8):
    """A file being written. Its bytes are in the staging file `staging`, whose descriptor is kept elsewhere."""

    inode: int
    staging: int
    path: str
    base_etag: str
    base_size_bytes: int
    size_bytes: int
    mode: int
    mtime_ns: int
    has_staged_bytes: bool
    is_committed: bool
    is_orphaned: bool
    is_dirty: bool
    written_down_ns: int
    """When this was recorded: bytes written later are newer than `mtime_ns`."""


class WrittenRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=9):
    """Nobody writes the file any more."""

    inode: int


class AnswerRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=10):
    """What a request that must not be carried out twice is being answered."""

    unique: int
    payload: bytes


class ReservedRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=14):
    """Handles may have been given numbers below this one without a record of their own."""

    handle: int


class AttemptRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=13):
    """A request that was left over is being tried again."""

    unique: int


class Counters(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=11):
    """The next free numbers when a journal was begun."""

    inode: int
    handle: int
    backing_id: int
    staging: int


class ToldRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=12):
    """The kernel remembers nothing of the dataset that is older than this snapshot version."""

    dataset: str
    version: int


Record = (
    NodeRecord
    | LookupsRecord
    | GoneRecord
    | DatasetRecord
    | HandleRecord
    | DirectoryRecord
    | ClosedRecord
    | WritingRecord
    | WrittenRecord
    | AnswerRecord
    | Counters
    | ToldRecord
    | AttemptRecord
    | ReservedRecord
)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Record])


def encode(records: list[Record]) -> bytes:
    """Return the records as one frame."""
    body = _encoder.encode(records)
    return _LENGTH.pack(len(body)) + body


@dataclass(slots=True)
class Image:
    """The state a journal describes."""

    nodes: dict[int, NodeRecord] = field(default_factory=dict)
    lookups: dict[int, int] = field(default_factory=dict)
    """By inode, where they are newer than the node's record."""
    datasets: dict[str, Dataset] = field(default_factory=dict)
    handles: dict[int, HandleRecord] = field(default_factory=dict)
    directories: dict[int, DirectoryRecord] = field(default_factory=dict)
    writings: dict[int, WritingRecord] = field(default_factory=dict)
    """By inode."""
    told: dict[str, int] = field(default_factory=dict)
    answers: dict[int, bytes] = field(default_factory=dict)
    """By unique, the last ANSWERS_MAX."""
    attempts: dict[int, int] = field(default_factory=dict)
    """How often each was tried again, by unique; the last ANSWERS_MAX."""
    next_inode: int = 2
    next_handle: int = 1
    next_backing_id: int = 1
    next_staging: int = 1
    end: int = 0
    """Bytes of the journal that were good."""


def replay(journal: Bytes, image: Image | None = None) -> Image:
    """Return the state at the journal's end, or at the last whole frame of it. With the `image` of its beginning, the
    journal is what comes after that, and the image goes on. msgspec.ValidationError when a whole frame is no list of
    records."""
    image = image or Image()
    view = memoryview(journal)
    at = 0
    while at + _LENGTH.size <= len(view):
        (length,) = _LENGTH.unpack_from(view, at)
        start = at + _LENGTH.size
        if not length or start + length > len(view):
            break
        for record in _decoder.decode(view[start : start + length]):
            _apply(image, record)
        at = start + length
        image.end += _LENGTH.size + length
    return image


def shorten(by_unique: dict[int, T]) -> None:
    """Drop the oldest of more requests than can be in flight."""
    if len(by_unique) > ANSWERS_MAX:
        del by_unique[next(iter(by_unique))]


def _apply(image: Image, record: Record) -> None:
    match record:
        case LookupsRecord(inode, lookups):
            image.lookups[inode] = lookups
        case NodeRecord(inode=inode):
            image.nodes[inode] = record
            image.lookups.pop(inode, None)
            image.next_inode = max(image.next_inode, inode + 1)
        case GoneRecord(inode):
            image.nodes.pop(inode, None)
            image.lookups.pop(inode, None)
            image.next_inode = max(image.next_inode, inode + 1)
        case DatasetRecord(dataset):
            image.datasets[dataset.uid] = dataset
        case HandleRecord(number=number):
            image.handles[number] = record
            image.next_handle = max(image.next_handle, number + 1)
            image.next_backing_id = max(image.next_backing_id, record.backing_id + 1)
        case DirectoryRecord(number=number):
            image.directories[number] = record
            image.next_handle = max(image.next_handle, number + 1)
        case ClosedRecord(number):
            image.handles.pop(number, None)
            image.directories.pop(number, None)
            image.next_handle = max(image.next_handle, number + 1)
        case WritingRecord(inode=inode):
            image.writings[inode] = record
            image.next_staging = max(image.next_staging, record.staging + 1)
        case WrittenRecord(inode):
            image.writings.pop(inode, None)
        case AnswerRecord(unique, payload):
            image.answers[unique] = payload
            shorten(image.answers)
        case ReservedRecord(handle):
            image.next_handle = max(image.next_handle, handle)
        case AttemptRecord(unique):
            image.attempts[unique] = image.attempts.get(unique, 0) + 1
            shorten(image.attempts)
        case ToldRecord(dataset, version):
            image.told[dataset] = version
        case Counters():
            image.next_inode = max(image.next_inode, record.inode)
            image.next_handle = max(image.next_handle, record.handle)
            image.next_backing_id = max(image.next_backing_id, record.backing_id)
            image.next_staging = max(image.next_staging, record.staging)

"""The byte plane's frames: how readers and workers exchange bytes, over TCP and unix sockets.

Owns encoding and decoding; does no I/O. One frame:

    0      2       3    4        6       8            16           20           24
    magic  version op   status   flags   request_id   meta_bytes   data_bytes   meta … data …

Little endian. `meta` is MessagePack of the op's struct below, `data` raw bytes. A reply carries its request's
`op` and `request_id`; replies may come in any order. `status` is 0 or an errno, and then meta is `Failure`.
Flag FD says that exactly one descriptor came with the frame's first byte (SCM_RIGHTS, unix sockets only).
Invariants: a frame never exceeds the limits below; a reader refuses one that does (FrameError) and hangs up.
"""

import errno
import struct
from enum import IntEnum, IntFlag
from typing import Final, TypeVar

import msgspec

MAGIC: Final = 0x5248  # "HR"
VERSION: Final = 1
HEADER: Final = struct.Struct("<HBBHHQII")
META_BYTES_MAX: Final = 1 << 20
DATA_BYTES_MAX: Final = 64 << 20
BLOCK_SIZE_BYTES: Final = 4 << 20
"""Default block: 4 MiB of one object version (architecture.md)."""


class Op(IntEnum):
    """What a frame asks for. HELLO, AUTHORIZE and READ are for peers (TCP) and answered on the unix socket too; HOLD,
    READ_HELD, DROP_HELD and ASK_HELD are for peers only, the others for the node's own clients (unix socket)."""

    HELLO = 1
    OPEN = 2
    ENSURE = 3
    CLOSE = 4
    READ = 5
    CREATE = 6
    COMMIT = 7
    ABORT = 8
    REMOVE = 9
    RENAME = 10
    MAKE_DIRECTORY = 11
    FIND_DATASET = 12
    LOOKUP = 13
    LIST = 14
    AUTHORIZE = 15
    DECLARE = 16
    HOLD = 17
    READ_HELD = 18
    DROP_HELD = 19
    ASK_HELD = 20
    SET_MODE = 21


class Flag(IntFlag):
    """Frame flags."""

    REPLY = 1
    FD = 2


NO_FLAGS: Final = Flag(0)
TOKEN_ERRNOS: Final = frozenset({errno.ENOKEY, errno.EKEYEXPIRED, errno.EKEYREJECTED})
"""Another token may help."""


class FrameError(ValueError):
    """Bytes that are no frame of this protocol; the connection cannot go on."""


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every meta; unknown fields are ignored so that fields can be added."""


class Hello(Struct, frozen=True, kw_only=True):
    """First frame of a connection. Reply: HelloReply."""

    client: str
    node: str = ""


class HelloReply(Struct, frozen=True, kw_only=True):
    """Who answers, and its block size."""

    node: str
    epoch: int
    block_size_bytes: int
    needs_tokens: bool = False
    """Requests about a dataset are refused before AUTHORIZE with a token for it."""
    sets_modes: bool = False
    """It knows SET_MODE; one of an earlier release would hang up."""


class Authorize(Struct, frozen=True, kw_only=True):
    """Show a capability token (api/trust/tokens.py): the connection may do what it says until it expires. Reply:
    Authorized. Requests without one that is good are refused with ENOKEY (none was shown), EKEYEXPIRED or
    EKEYREJECTED (then the next token may be taken), or EACCES (its rights do not reach)."""

    token: str


class Authorized(Struct, frozen=True, kw_only=True):
    """Whose dataset it was for."""

    uid: str
    may_write: bool = False


class Open(Struct, frozen=True, kw_only=True):
    """Pin one object version for reading. Reply: Opened with the sparse file's descriptor (read only). `first_bytes`:
    make so many resident before the answer, as an ENSURE from the beginning would, with its errors."""

    uid: str
    path: str
    etag: str
    size_bytes: int
    first_bytes: int = 0


class Opened(Struct, frozen=True, kw_only=True):
    """`handle` is good until CLOSE or the connection's end; `is_resident`: every block may be read at once; `is_kept`:
    there is room set aside for those that are not. `brought`: the `first_bytes` may be read; None = nothing was done
    about them, all is here or the worker is one that does not know of them."""

    handle: int
    is_resident: bool
    is_kept: bool = False
    brought: "Ensured | None" = None


class Ensure(Struct, frozen=True, kw_only=True):
    """Make [offset, offset+length) resident. Reply: Ensured; ESTALE when the object is no longer that version;
    ENOBUFS when every tier is full, also for a moment: READ then brings the bytes inline."""

    handle: int
    offset_bytes: int
    length_bytes: int


class Ensured(Struct, frozen=True, kw_only=True):
    """The range may be read through the descriptor. Bytes by where they had to come from."""

    is_resident: bool = False
    """The whole file is resident now: no further ENSURE is needed on this handle."""
    local_bytes: int = 0
    peer_bytes: int = 0
    origin_bytes: int = 0


class Handle(Struct, frozen=True, kw_only=True):
    """CLOSE and ABORT. Reply: Empty, which `is_silent` does not want; it may come all the same."""

    handle: int
    is_silent: bool = False


class Empty(Struct, frozen=True, kw_only=True):
    """Nothing to say."""


class Read(Struct, frozen=True, kw_only=True):
    """A peer asks for one range inside one block. Reply: ReadReply with the bytes as data."""

    uid: str
    path: str
    etag: str
    size_bytes: int
    offset_bytes: int
    length_bytes: int
    resident_only: bool = False
    """Answer ENODATA instead of fetching from the under store."""
    verify: bool = False
    """The last answer did not have its checksum: check the stored bytes, and fetch them again when they are bad."""


class ReadReply(Struct, frozen=True, kw_only=True):
    """CRC32C of the data, and whether the block had to be fetched from the under store for it."""

    crc32c: int
    from_origin: bool = False


class Create(Struct, frozen=True, kw_only=True):
    """Begin writing a file. Reply: Created with a read-write descriptor of the staging file. With `base_etag`
    the staging file starts as that version's bytes (append, patch); else empty. A client that goes on for one that
    died names the device and inode of its staging file: if the worker still has that file, it is the one, with
    all bytes; else a new one is made. `may_seal`: the client keeps the promise of Created's `is_sealing`.
    `adopts_sealed`: it takes one too that is an object already or is being committed, and keeps to `is_sealed`."""

    uid: str
    path: str
    base_etag: str = ""
    base_size_bytes: int = 0
    adopts_inode: int = 0
    adopts_device: int = 0
    may_seal: bool = False
    adopts_sealed: bool = False


class Created(Struct, frozen=True, kw_only=True):
    """`handle` names the staging file in COMMIT and ABORT. `is_sealing`: the staging file is in the under store and
    becomes the object with a COMMIT. From the moment that is sent nothing is written to it, until the answer says that
    it was not sealed; who wants to write on after it was begins another one. `is_sealed`: a COMMIT of it was sent
    before, with this mode and time; another one is answered with that one's outcome."""

    handle: int
    is_sealing: bool = False
    is_sealed: bool = False
    mode: int = 0
    mtime_ns: int = 0


class Commit(Struct, frozen=True, kw_only=True):
    """Make the staging file's bytes durable in the under store and visible in the namespace. May be called
    again after more writes; the handle stays until CLOSE or ABORT. Reply: Committed."""

    handle: int
    mode: int
    mtime_ns: int


class Committed(Struct, frozen=True, kw_only=True):
    """The version that is durable now. `is_sealed`: the staging file is its object."""

    etag: str
    size_bytes: int
    snapshot_version: int
    is_sealed: bool = False


class Remove(Struct, frozen=True, kw_only=True):
    """Remove a file, or an empty directory. Reply: Mutated."""

    uid: str
    path: str
    directory: bool = False


class Rename(Struct, frozen=True, kw_only=True):
    """Rename a file over whatever file is there, or a directory onto nothing. Reply: Mutated."""

    uid: str
    source: str
    target: str


class MakeDirectory(Struct, frozen=True, kw_only=True):
    """Reply: Mutated."""

    uid: str
    path: str
    mode: int


class SetMode(Struct, frozen=True, kw_only=True):
    """Give a file or directory that is in the namespace other permission bits, which are not 0. Reply: Mutated."""

    uid: str
    path: str
    mode: int


class Mutated(Struct, frozen=True, kw_only=True):
    """The namespace's version after the change; for a renamed file its etag under the new name."""

    snapshot_version: int
    etag: str = ""


class FindDataset(Struct, frozen=True, kw_only=True):
    """A dataset by name, for clients that speak to no metadata service. Reply: DatasetFound; ENOENT."""

    namespace: str
    name: str


class DatasetFound(Struct, frozen=True, kw_only=True):
    """`snapshot_version` 0: nothing is listed yet."""

    uid: str
    snapshot_version: int
    writable: bool


class Lookup(Struct, frozen=True, kw_only=True):
    """One path of a dataset's current snapshot; "" is its root. Reply: FoundEntry; ENOENT."""

    uid: str
    path: str


class FoundEntry(Struct, frozen=True, kw_only=True):
    """A file with what pins its version, or a directory. `path` is whole, from the dataset's root."""

    path: str
    is_directory: bool = False
    size_bytes: int = 0
    etag: str = ""
    mtime_ns: int = 0
    mode: int = 0


class List(Struct, frozen=True, kw_only=True):
    """Entries of a directory, in order of their names' bytes, behind the name `after`. Reply: Listed; ENOENT."""

    uid: str
    path: str
    after: str = ""


class Listed(Struct, frozen=True, kw_only=True):
    """One page; with `more` the next one begins after the last entry's name."""

    entries: list[FoundEntry]
    more: bool = False


class Hold(Struct, frozen=True, kw_only=True):
    """Keep a file on your disk beside mine until the under store has it: the peer fetches it by READ_HELD from the
    first holder its etag names (api/held.py), whose epoch this is. Reply: Empty, once file and record are durable
    there; ENOSPC when it may hold no more."""

    uid: str
    path: str
    etag: str
    size_bytes: int
    block_size_bytes: int
    epoch: int
    held_at_ns: int
    disk: str
    """Of the first holder; see AskHeld."""


class ReadHeld(Struct, frozen=True, kw_only=True):
    """A range inside one block of a version the peer holds. Reply: ReadReply with the bytes as data; ENODATA when it
    does not hold that version (any more)."""

    uid: str
    etag: str
    offset_bytes: int
    length_bytes: int


class DropHeld(Struct, frozen=True, kw_only=True):
    """The version is in the under store, gone, or was never acknowledged: the peer need not hold it. Reply: Empty."""

    uid: str
    etag: str


class AskHeld(Struct, frozen=True, kw_only=True):
    """To the first holder of a version that metadata has never heard of: does it know it? The first holder has a record
    before it shows a version, and until that has ended: if it has none, on the same disk, nobody was told of it. Reply:
    HeldKnown."""

    uid: str
    etag: str
    disk: str


class HeldKnown(Struct, frozen=True, kw_only=True):
    """Also true where that cannot be told, as on another disk."""

    is_known: bool


class Declare(Struct, frozen=True, kw_only=True):
    """The files this connection's reader will open, in that order, so that the worker can be ahead of it. In parts:
    `first` is the number of the first of `paths` in the order; 0 begins anew. Forgotten with the connection. Advice:
    nothing is refused to a reader that does otherwise. Reply: Declared."""

    uid: str
    first: int
    paths: list[str]


class Declared(Struct, frozen=True, kw_only=True):
    """How many files the order has now."""

    files: int


class Failure(Struct, frozen=True, kw_only=True):
    """Meta of a reply whose status is an errno: one sentence for the log."""

    message: str


class Header(msgspec.Struct, frozen=True):
    """A frame's first 24 bytes, decoded and checked."""

    op: Op
    status: int
    flags: Flag
    request_id: int
    meta_bytes: int
    data_bytes: int


# Looked up for every frame: calling an enum's class costs more than the rest of the header.
_OPS: Final = {op.value: op for op in Op}
_FLAGS: Final = {bits: Flag(bits) for bits in range(2 ** len(Flag))}
_encoder = msgspec.msgpack.Encoder()
M = TypeVar("M", bound=Struct)


def encode(
    op: Op, request_id: int, meta: Struct, *, data_bytes: int = 0, flags: Flag = NO_FLAGS, status: int = 0
) -> bytes:
    """Return header and meta; the caller sends `data_bytes` raw bytes right behind them."""
    body = _encoder.encode(meta)
    return HEADER.pack(MAGIC, VERSION, op, status, flags, request_id, len(body), data_bytes) + body


def decode_header(raw: bytes | bytearray | memoryview) -> Header:
    """Return the header in the first 24 bytes; FrameError when it is not one of ours or breaks a limit."""
    magic, version, op, status, flags, request_id, meta_bytes, data_bytes = HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise FrameError(f"frame starts with {magic:#06x}, expected {MAGIC:#06x}: the peer speaks another protocol")
    if version != VERSION:
        raise FrameError(f"frame version {version}, expected {VERSION}: upgrade the older side")
    if meta_bytes > META_BYTES_MAX or data_bytes > DATA_BYTES_MAX:
        raise FrameError(f"frame of {meta_bytes}+{data_bytes} bytes exceeds {META_BYTES_MAX}+{DATA_BYTES_MAX}")
    known_op, known_flags = _OPS.get(op), _FLAGS.get(flags)
    if known_op is None or known_flags is None:
        raise FrameError(f"frame with unknown op {op} or flags {flags:#x}")
    return Header(known_op, status, known_flags, request_id, meta_bytes, data_bytes)


def decode_meta(raw: bytes | bytearray | memoryview, kind: type[M]) -> M:
    """Return the meta of that kind; FrameError when the bytes are not it."""
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise FrameError(f"bad {kind.__name__}: {error}") from error

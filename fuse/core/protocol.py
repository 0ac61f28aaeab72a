"""The kernel's FUSE protocol: what a request says and what an answer looks like, as bytes.

Owns numbers, struct layouts, decoding and encoding. Does no I/O and decides nothing. Source: linux/fuse.h and
fs/fuse of Linux 6.18 (protocol 7.45); everything is in the machine's byte order, which is little endian on every
platform we run on.

Invariants: `decode_*` raises ProtocolError for bytes that are too short, never struct.error; an encoder's result
has exactly the size the kernel demands, because the kernel refuses any other with EINVAL.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Final

import msgspec

from fuse.core.contracts import Bytes

MAJOR: Final = 7
MINOR: Final = 40
"""The newest minor version whose features are used here: passthrough and resend (Linux 6.9)."""
MINOR_MIN: Final = 40
MINOR_EPOCH: Final = 44
"""From here on the kernel drops all names at once when told to (Linux 6.16)."""
REQUEST_BYTES_MAX: Final = 1 << 20
"""Largest read or write in one request: 256 pages, the kernel's default limit."""
BUFFER_BYTES: Final = REQUEST_BYTES_MAX + 4096
"""The kernel refuses to hand requests to a buffer smaller than a write with its headers."""
RESENT: Final = 1 << 63
"""Bit of `unique`: the request was handed to an earlier daemon, which may have carried it out."""
INODE_ROOT: Final = 1


class Opcode(IntEnum):
    """What a request asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    READDIRPLUS = 44
    RENAME2 = 45


class Notify(IntEnum):
    """Messages without a request."""

    INVALIDATE_INODE = 2
    INVALIDATE_ENTRY = 3
    RESEND = 7
    INCREMENT_EPOCH = 8


class InitFlag(IntFlag):
    """Features, offered by the kernel and taken by us."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    REQUEST_TIMEOUT = 1 << 42


WANTED: Final = (
    InitFlag.ASYNC_READ | InitFlag.ATOMIC_O_TRUNC | InitFlag.BIG_WRITES | InitFlag.AUTO_INVAL_DATA
    | InitFlag.DO_READDIRPLUS | InitFlag.PARALLEL_DIROPS | InitFlag.MAX_PAGES | InitFlag.INIT_EXT
    | InitFlag.DIRECT_IO_ALLOW_MMAP | InitFlag.PASSTHROUGH | InitFlag.HAS_RESEND | InitFlag.ALLOW_IDMAP
    | InitFlag.REQUEST_TIMEOUT
)  # fmt: skip


class OpenFlag(IntFlag):
    """How the kernel treats an open file."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    CACHE_DIRECTORY = 1 << 3
    NO_FLUSH = 1 << 5
    PASSTHROUGH = 1 << 7


class SetattrField(IntFlag):
    """Which fields of a SETATTR request count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    MTIME_NOW = 1 << 8


class ProtocolError(Exception):
    """Bytes that are no request of this protocol."""


IN_HEADER: Final = struct.Struct("<IIQQIIII")
OUT_HEADER: Final = struct.Struct("<IiQ")
INIT_IN: Final = struct.Struct("<IIIII44x")
INIT_OUT: Final = struct.Struct("<IIIIHHIIHHIIH22x")
ENTRY_OUT: Final = struct.Struct("<QQQQIIQQQQQQIIIIIIIIII")
ATTR_OUT: Final = struct.Struct("<QIIQQQQQQIIIIIIIIII")
OPEN_IN: Final = struct.Struct("<II")
OPEN_OUT: Final = struct.Struct("<QIi")
CREATE_IN: Final = struct.Struct("<IIII")
MKDIR_IN: Final = struct.Struct("<II")
RENAME_IN: Final = struct.Struct("<Q")
RENAME2_IN: Final = struct.Struct("<QII")
READ_IN: Final = struct.Struct("<QQIIQII")
WRITE_IN: Final = struct.Struct("<QQIIQII")
WRITE_OUT: Final = struct.Struct("<II")
RELEASE_IN: Final = struct.Struct("<QIIQ")
FLUSH_IN: Final = struct.Struct("<QIIQ")
FSYNC_IN: Final = struct.Struct("<QII")
SETATTR_IN: Final = struct.Struct("<IIQQQQQQIIIIIIII")
GETXATTR_IN: Final = struct.Struct("<II")
GETXATTR_OUT: Final = struct.Struct("<II")
ACCESS_IN: Final = struct.Struct("<II")
FORGET_IN: Final = struct.Struct("<Q")
FORGET_ONE: Final = struct.Struct("<QQ")
BATCH_FORGET_IN: Final = struct.Struct("<II")
STATFS_OUT: Final = struct.Struct("<QQQQQIIII24x")
DIRENT_PLUS: Final = struct.Struct("<QQQQIIQQQQQQIIIIIIIIIIQQII")
DIRENT: Final = struct.Struct("<QQII")
INVALIDATE_INODE_OUT: Final = struct.Struct("<Qqq")
INVALIDATE_ENTRY_OUT: Final = struct.Struct("<QII")


class Init(msgspec.Struct, frozen=True):
    """The kernel's offer."""

    major: int
    minor: int
    max_readahead_bytes: int
    flags: int

    @property
    def taken(self) -> InitFlag:
        """The features both sides have."""
        return WANTED & InitFlag(self.flags & WANTED)


class Setattr(msgspec.Struct, frozen=True):
    """What to change; None = leave as it is."""

    size_bytes: int | None
    mode: int | None
    uid: int | None
    gid: int | None
    mtime_ns: int | None
    is_mtime_now: bool


def decode_init(body: Bytes) -> Init:
    """Return the kernel's offer."""
    major, minor, readahead, flags, flags2 = unpack(INIT_IN, body)
    extended = flags2 << 32 if flags & InitFlag.INIT_EXT else 0
    return Init(major, minor, readahead, flags | extended)


def encode_init(init: Init, *, max_background: int, request_timeout_seconds: int) -> bytes:
    """Return the answer that takes what both sides have. After the timeout (0 = never) the kernel ends the mount for
    good, so it is longer than any request may take."""
    taken = int(init.taken)
    stack_depth = 1 if taken & InitFlag.PASSTHROUGH else 0
    return INIT_OUT.pack(
        MAJOR,
        min(init.minor, MINOR),
        init.max_readahead_bytes,
        taken & 0xFFFF_FFFF,
        max_background,
        max_background * 3 // 4,
        REQUEST_BYTES_MAX,
        1,
        REQUEST_BYTES_MAX >> 12,
        0,
        taken >> 32,
        stack_depth,
        request_timeout_seconds if taken & InitFlag.REQUEST_TIMEOUT else 0,
    )


def decode_header(request: Bytes) -> tuple[int, int, int]:
    """Return opcode, unique and inode of a request."""
    _, opcode, unique, inode, _, _, _, _ = unpack(IN_HEADER, request)
    return opcode, unique, inode


def decode_name(body: Bytes, at: int = 0) -> bytes:
    """Return the NUL-terminated name at `at`."""
    raw = bytes(body[at:])
    end = raw.find(b"\0")
    if end < 0:
        raise ProtocolError("a name has no end")
    return raw[:end]


def decode_two_names(body: Bytes, at: int) -> tuple[bytes, bytes]:
    """Return the two NUL-terminated names of a rename."""
    first, second, *_ = [*bytes(body[at:]).split(b"\0"), b"", b""]
    if not first or not second:
        raise ProtocolError("a rename has not two names")
    return first, second


def decode_setattr(body: Bytes) -> Setattr:
    """Return what a SETATTR request changes."""
    valid, _, _, size, _, _, mtime, _, _, mtime_ns, _, mode, _, uid, gid, _ = unpack(SETATTR_IN, body)
    sets_mtime = valid & SetattrField.MTIME
    return Setattr(
        size_bytes=size if valid & SetattrField.SIZE else None,
        mode=mode if valid & SetattrField.MODE else None,
        uid=uid if valid & SetattrField.UID else None,
        gid=gid if valid & SetattrField.GID else None,
        mtime_ns=mtime * 1_000_000_000 + mtime_ns if sets_mtime else None,
        is_mtime_now=bool(valid & SetattrField.MTIME_NOW),
    )


def decode_forgets(body: Bytes) -> list[tuple[int, int]]:
    """Return inodes and lookups of a BATCH_FORGET."""
    count, _ = unpack(BATCH_FORGET_IN, body)
    if len(body) < BATCH_FORGET_IN.size + count * FORGET_ONE.size:
        raise ProtocolError(f"{count} forgets do not fit in {len(body)} bytes")
    end = BATCH_FORGET_IN.size + count * FORGET_ONE.size
    return list(FORGET_ONE.iter_unpack(body[BATCH_FORGET_IN.size : end]))


def unpack(layout: struct.Struct, body: Bytes) -> tuple[int, ...]:
    """Return the fields at the start of a request's body; ProtocolError when it is too short."""
    try:
        return layout.unpack_from(body)
    except struct.error as error:
        raise ProtocolError(f"{len(body)} bytes, expected at least {layout.size}") from error


def encode_answer(unique: int, payload: Bytes = b"") -> bytes:
    """Return a whole answer of success."""
    return OUT_HEADER.pack(OUT_HEADER.size + len(payload), 0, unique) + payload


def encode_error(unique: int, number: int) -> bytes:
    """Return a whole answer of an errno (positive)."""
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)


def encode_resend() -> bytes:
    """Return the message that makes the kernel send every unanswered request again."""
    return OUT_HEADER.pack(OUT_HEADER.size, Notify.RESEND, 0)


def encode_increment_epoch() -> bytes:
    """Return the message that makes the kernel look up every name again (protocol 7.44)."""
    return OUT_HEADER.pack(OUT_HEADER.size, Notify.INCREMENT_EPOCH, 0)


def encode_drop_pages(inode: int) -> bytes:
    """Return the message that makes the kernel let go of an inode's cached pages, and ask for its attributes again."""
    body = INVALIDATE_INODE_OUT.pack(inode, 0, 0)  # from the beginning, and no length: to the end
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), Notify.INVALIDATE_INODE, 0) + body


def encode_invalidate_entry(parent: int, name: bytes) -> bytes:
    """Return the message that makes the kernel look up one name again."""
    body = INVALIDATE_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0"
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), Notify.INVALIDATE_ENTRY, 0) + body


def encode_attribute_names(names: Sequence[bytes]) -> bytes:
    """Return a list of extended attributes."""
    return b"".join(name + b"\0" for name in names)

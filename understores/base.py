"""The interface of every under store.

Owns the contract; `posix.py` and `s3.py` fulfil it and one conformance suite holds them to it.
Keys are relative to the mount point, with `/` between names. A key that ends in `/` is a marker: the directory
of that name exists, with nothing in it that the listing would show otherwise.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import BinaryIO, Protocol, TypeAlias

import msgspec

Source: TypeAlias = BinaryIO | int
Piece: TypeAlias = bytes | memoryview
"""Bytes to write: a seekable binary file, read from its current position, or a descriptor, read from offset 0.
Neither is closed; a descriptor's own position is not moved."""


class ObjectInfo(msgspec.Struct, frozen=True, gc=False):
    """One version of one object; `etag` pins it and is opaque. A Struct, as listings make millions."""

    key: str
    size_bytes: int
    etag: str
    mtime_ns: int


class UnderStore(Protocol):
    """What metadata and workers ask of a store. Every method raises `UnderStoreError`, and nothing else.

    Safe for many tasks of one event loop at once. Every method may be called again after a failure.
    """

    def list(self, prefix: str = "", *, start_after: str = "") -> AsyncGenerator[list[ObjectInfo], None]:
        """Yield pages of objects whose key starts with `prefix` and sorts after `start_after`, in key order."""
        ...

    async def split_points(self, after: str, until: str) -> Sequence[str]:
        """Return directories, each with its slash, at which the keys between the two could be listed in parts.

        "" as `until` is the end of the store. Empty when none was found with a few requests, or when lists side by
        side would gain nothing. In no order; a point says nothing about which keys exist.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Return the current version of `key`; NotFound when there is none or it is a directory."""
        ...

    async def get_range(self, key: str, offset_bytes: int, buffer: memoryview, *, etag: str) -> None:
        """Fill all of `buffer` from `offset_bytes` of exactly the version `etag`, or raise.

        Changed when the object is another version, ShortBody when it ends too early. After an error the
        buffer's content means nothing.
        """
        ...

    async def put(self, key: str, source: Source, size_bytes: int) -> ObjectInfo:
        """Write `size_bytes` of `source` as the new version of `key`; durable and visible whole on return."""
        ...

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """Make `target` a copy of `source`, over whatever object is there; returns the new version. The two may share
        their bytes, as hard links do: writes make new objects and change none in place."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object; no error when there is none."""
        ...

    async def make_directory(self, path: str) -> None:
        """Make a directory and its parents; no error when it exists. Nothing to do on object stores."""
        ...

    async def remove_directory(self, path: str) -> None:
        """Remove an empty directory; no error when there is none, NotEmpty when it has entries."""
        ...

    async def close(self) -> None:
        """Release connections, descriptors and threads. May be called twice."""
        ...


class Sink(Protocol):
    """Takes an object's bytes in the thread that reads them, as they come. None of its methods raises.

    begin -> take, take, ... -> end -> leave; `end` only when all bytes came and are of the version. All of it again
    when a failed read is repeated.
    """

    def begin(self) -> bool:
        """Begin; False = nobody wants the bytes any more, and nothing else is to be called."""
        ...

    def take(self, at: int, data: memoryview) -> None:
        """Take the bytes that follow the first `at` of the range."""
        ...

    def end(self) -> None:
        """All bytes were taken."""
        ...

    def leave(self) -> None:
        """Nothing more is called."""
        ...


class ThreadedStore(Protocol):
    """What a store has beside `UnderStore` when its reads block, in threads of its own."""

    can_sink: bool
    """False: `sink_range` is not to be called."""

    async def sink_range(self, key: str, offset_bytes: int, buffer: memoryview, sink: Sink, *, etag: str) -> None:
        """Like `get_range`, and hand each part of the buffer to `sink` as soon as it is filled."""
        ...


class StagingStore(Protocol):
    """What a store has beside `UnderStore` when an object's bytes can be written where they will stay."""

    can_stage: bool
    """False: neither call is to be made."""

    async def stage(self, key: str) -> int | None:
        """Return a descriptor, the caller's, to read and write an empty file that nobody else sees and that is gone
        with its last descriptor; None where that is not to be had, which is no error."""
        ...

    async def publish(self, descriptor: int, key: str) -> ObjectInfo | None:
        """Make a staged file the new version of `key`, durable and visible whole on return; nobody may change it from
        here on. None: it could not get that name, and its bytes are to be put like others. BytesLost: nothing more can
        be made of it."""
        ...


class SettlingStore(Protocol):
    """What a store has beside `UnderStore` when a name that goes and its being durable are two steps: who has written
    down elsewhere that it goes need not wait for the medium, and many names of a directory are one step."""

    can_settle: bool
    """False: neither call is to be made."""

    async def unlink(self, key: str) -> None:
        """Remove the object for all who look; a power loss before `settle` may bring it back. No error when there is
        none."""
        ...

    async def settle(self, keys: Sequence[str]) -> None:
        """Make it durable that these were removed."""
        ...


class StreamingStore(Protocol):
    """What a store has beside `UnderStore` when an object can be sent while it is still being made."""

    can_stream: bool
    """False: `put_pieces` is not to be called."""
    piece_bytes: int | None
    """How large pieces had best be; None = a part of an upload."""

    async def put_pieces(self, key: str, pieces: AsyncIterator[Piece]) -> ObjectInfo:
        """Write what comes as the new version of `key`; durable and visible whole on return.

        Pieces are kept as they come, for as long as that takes: nothing is sent again and there is no deadline for the
        whole. What `pieces` raises is raised; then, and when this is cancelled, nothing is visible and nothing is left.
        """
        ...

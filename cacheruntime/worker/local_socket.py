"""The unix socket of this node's own clients: descriptors of sparse files, ranges made resident, writes.

Owns the handles of each connection; they end with it. Reading is reader.py, writing writes.py, names names.py.
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Final

from api import byteplane as bp
from api.byteplane import Flag, Header, HelloReply, Op, Struct, decode_meta, encode
from cacheruntime.core.blocks import Version
from cacheruntime.errors import BadRequest, CacheError
from cacheruntime.worker import tier_files
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.byte_plane import ReadAnswerer, answer_authorize, answer_hello
from cacheruntime.worker.datasets import check_path
from cacheruntime.worker.frame_server import NO_REPLY, Ready
from cacheruntime.worker.frame_socket import FrameSocket
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.names import Names
from cacheruntime.worker.path_order import PathOrder
from cacheruntime.worker.preheater import Preheater
from cacheruntime.worker.reader import Reader
from cacheruntime.worker.renames import Renames
from cacheruntime.worker.tier_files import CachedFile
from cacheruntime.worker.trust import Gate
from cacheruntime.worker.writes import Staging, Writes, is_object

HANDLES_MAX: Final = 200_000
"""A connection; each open file costs a descriptor here, so the process limit usually comes first."""
_WITH_DESCRIPTOR: Final = Flag.REPLY | Flag.FD
_numbers = count(1)


def listen(path: Path) -> socket.socket:
    """Return a socket listening at `path`, for this user only; replaces a dead worker's. CacheError when taken."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except FileNotFoundError:
        pass
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(f"--socket {path} cannot be used: {error.strerror or error}") from error
    else:
        raise CacheError(f"--socket {path} is in use: another worker answers there")
    finally:
        probe.close()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise CacheError(f"--socket {path} cannot be used: {error.strerror or error}") from error
    finally:
        os.umask(before)
    listener.listen(128)
    return listener


class LocalSession:
    """One client's connection."""

    def __init__(
        self,
        link: FrameSocket,
        *,
        greeting: HelloReply,
        store: BlockStore,
        reader: Reader,
        writes: Writes,
        renames: Renames,
        names: Names,
        answerer: ReadAnswerer,
        order: PathOrder,
        metrics: Metrics,
        gate: Gate,
        preheater: Preheater,
    ) -> None:
        self._link = link
        self._preheater = preheater
        self._gate = gate
        self._greeting = greeting
        self._store = store
        self._reader = reader
        self._writes = writes
        self._renames = renames
        self._names = names
        self._answerer = answerer
        self._order = order
        self._metrics = metrics
        self._files: dict[int, CachedFile] = {}
        self._stagings: dict[int, Staging] = {}
        self._is_closed = False
        self._operations: dict[Op, Callable[[Header, bytes], Awaitable[None]]] = {
            Op.HELLO: self._hello,
            Op.OPEN: self._open,
            Op.ENSURE: self._ensure,
            Op.CLOSE: self._close_handle,
            Op.ABORT: self._close_handle,
            Op.READ: self._read,
            Op.CREATE: self._create,
            Op.COMMIT: self._commit,
            Op.REMOVE: self._remove,
            Op.RENAME: self._rename,
            Op.MAKE_DIRECTORY: self._make_directory,
            Op.SET_MODE: self._set_mode,
            Op.FIND_DATASET: self._find_dataset,
            Op.LOOKUP: self._lookup,
            Op.LIST: self._list,
            Op.AUTHORIZE: self._authorize,
            Op.DECLARE: self._declare,
        }

    def answer_now(self, header: Header, meta: bytes) -> Ready | None:
        """Return a reply that needs no waiting."""
        if header.op is Op.CLOSE:
            return self._close_now(header, meta)
        return self._answerer.answer_now(header, meta, self._gate, for_peer=False) if header.op is Op.READ else None

    async def handle(self, header: Header, meta: bytes) -> None:
        """Answer one request."""
        operation = self._operations.get(header.op)
        if operation is None:
            raise bp.FrameError(f"{header.op.name} is for peers")
        await operation(header, meta)

    async def close(self) -> None:
        """Let go of everything the connection had open; what it wrote waits for a successor for a while."""
        self._is_closed = True
        self._preheater.forget(self)
        for number in list(self._files):
            self._release(number)
        for number in list(self._stagings):
            await self._leave_staging(number)

    async def _reply(self, header: Header, meta: Struct) -> None:
        await self._link.send(encode(header.op, header.request_id, meta, flags=Flag.REPLY))

    async def _reply_with_descriptor(self, header: Header, meta: Struct, descriptor: int) -> None:
        head = encode(header.op, header.request_id, meta, flags=_WITH_DESCRIPTOR)
        await self._link.send_with_descriptor(head, descriptor)

    async def _hello(self, header: Header, meta: bytes) -> None:
        await answer_hello(self._link, header, meta, self._greeting)

    async def _authorize(self, header: Header, meta: bytes) -> None:
        await answer_authorize(self._link, header, meta, self._gate)

    # Reading

    async def _open(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.Open)
        self._gate.require(wanted.uid)
        check_path(wanted.path)
        if wanted.size_bytes < 0:
            raise BadRequest(f"size_bytes {wanted.size_bytes} must not be below 0")
        if len(self._files) >= HANDLES_MAX:
            raise CacheError(f"{HANDLES_MAX} files are open on this connection; close some", number=errno.EMFILE)
        file = await self._reader.open(Version(wanted.uid, wanted.path, wanted.etag, wanted.size_bytes))
        number = next(_numbers)
        self._files[number] = file
        self._metrics.open_handles.inc()
        brought = None
        try:
            if wanted.first_bytes > 0 and not file.map.is_complete:
                brought = await self._reader.ensure(file, 0, wanted.first_bytes)
            descriptor = tier_files.open_for_reader(file)
        except OSError as error:
            self._release(number)
            raise CacheError(f"the cached file cannot be opened: {error.strerror}", number=error.errno) from error
        except BaseException:
            self._release(number)
            raise
        try:
            has_room = file.map.resident_bytes + file.reserved_bytes >= file.version.size_bytes
            opened = bp.Opened(handle=number, is_resident=file.map.is_complete, is_kept=has_room, brought=brought)
            await self._reply_with_descriptor(header, opened, descriptor)
        finally:
            os.close(descriptor)
            if self._is_closed:
                self._release(number)

    async def _ensure(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.Ensure)
        file = self._files.get(wanted.handle)
        if file is None:
            raise CacheError(f"handle {wanted.handle} is not open for reading", number=errno.EBADF)
        if wanted.offset_bytes < 0 or wanted.length_bytes < 0:
            raise BadRequest(f"range {wanted.offset_bytes}+{wanted.length_bytes} must not be below 0")
        self._gate.require(file.version.uid)
        await self._reply(header, await self._reader.ensure(file, wanted.offset_bytes, wanted.length_bytes))

    async def _read(self, header: Header, meta: bytes) -> None:
        await self._answerer.answer(self._link, header, meta, self._gate, for_peer=False)

    async def _close_handle(self, header: Header, meta: bytes) -> None:
        number = decode_meta(meta, bp.Handle).handle
        if number in self._stagings:
            await self._end_staging(number)
        else:
            self._release(number)
        await self._reply(header, bp.Empty())

    def _close_now(self, header: Header, meta: bytes) -> Ready | None:
        """Close a file that was read; None for others."""
        try:
            wanted = decode_meta(meta, bp.Handle)
        except bp.FrameError:
            return None  # `handle` meets it too, and can say so
        if wanted.handle not in self._files:
            return None
        self._release(wanted.handle)
        if wanted.is_silent:
            return NO_REPLY
        return encode(header.op, header.request_id, bp.Empty(), flags=Flag.REPLY), memoryview(b"")

    def _release(self, number: int) -> None:
        file = self._files.pop(number, None)
        if file is not None:
            self._store.release(file)
            self._metrics.open_handles.dec()

    async def _declare(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.Declare)
        self._gate.require(wanted.uid)
        await self._reply(header, self._preheater.declare(self, wanted))

    # Names

    async def _find_dataset(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.FindDataset)
        self._gate.require_name(wanted.namespace, wanted.name)
        await self._reply(header, await self._names.find(wanted))

    async def _lookup(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.Lookup)
        self._gate.require(wanted.uid)
        await self._reply(header, await self._names.lookup(wanted))

    async def _list(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.List)
        self._gate.require(wanted.uid)
        await self._reply(header, await self._names.list(wanted))

    # Writing

    async def _create(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.Create)
        self._gate.require(wanted.uid, write=True)
        staging = None
        if wanted.adopts_inode:
            place = wanted.uid, wanted.adopts_device, wanted.adopts_inode
            staging = await self._writes.adopt(*place, self, may_be_object=wanted.adopts_sealed)
        if staging is None:
            staging = await self._writes.create(
                wanted.uid,
                wanted.path,
                base_etag=wanted.base_etag,
                base_size_bytes=wanted.base_size_bytes,
                owner=self,
                may_seal=wanted.may_seal,
            )
        number = next(_numbers)
        self._stagings[number] = staging
        self._metrics.open_handles.inc()
        try:
            await self._reply_with_descriptor(header, _created(number, staging), staging.descriptor)
        finally:
            if self._is_closed:
                await self._leave_staging(number)

    async def _commit(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.Commit)
        staging = self._stagings.get(wanted.handle)
        if staging is None:
            raise CacheError(f"handle {wanted.handle} is not open for writing", number=errno.EBADF)
        self._gate.require(staging.uid, write=True)
        await self._reply(header, await self._order.finish(self._commit_in_turn(staging, wanted)))

    async def _commit_in_turn(self, staging: Staging, wanted: bp.Commit) -> bp.Committed:
        async with self._order.turn_of(staging.uid, lambda: staging.path):
            return await self._writes.commit(staging, mode=wanted.mode, mtime_ns=wanted.mtime_ns, owner=self)

    async def _end_staging(self, number: int) -> None:
        staging = self._stagings.pop(number, None)
        if staging is not None:
            self._metrics.open_handles.dec()
            if staging.owner is self:
                await self._writes.end(staging)

    async def _leave_staging(self, number: int) -> None:
        staging = self._stagings.pop(number, None)
        if staging is not None:
            self._metrics.open_handles.dec()
            await self._writes.leave(staging, self)

    async def _remove(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.Remove)
        self._gate.require(wanted.uid, write=True)

        async def remove() -> int:
            async with self._order.turn(wanted.uid, wanted.path):
                return await self._writes.remove(wanted.uid, wanted.path, directory=wanted.directory)

        await self._reply(header, bp.Mutated(snapshot_version=await self._order.finish(remove())))

    async def _rename(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.Rename)
        self._gate.require(wanted.uid, write=True)

        async def rename() -> bp.Mutated:
            async with self._order.turn(wanted.uid, wanted.source, wanted.target):
                return await self._renames.rename(wanted.uid, wanted.source, wanted.target)

        await self._reply(header, await self._order.finish(rename()))

    async def _make_directory(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.MakeDirectory)
        self._gate.require(wanted.uid, write=True)

        async def make() -> int:
            async with self._order.turn(wanted.uid, wanted.path):
                return await self._writes.make_directory(wanted.uid, wanted.path, mode=wanted.mode)

        await self._reply(header, bp.Mutated(snapshot_version=await self._order.finish(make())))

    async def _set_mode(self, header: Header, meta: bytes) -> None:
        wanted = decode_meta(meta, bp.SetMode)
        self._gate.require(wanted.uid, write=True)

        async def change() -> int:
            async with self._order.turn(wanted.uid, wanted.path):
                return await self._writes.set_mode(wanted.uid, wanted.path, mode=wanted.mode)

        await self._reply(header, bp.Mutated(snapshot_version=await self._order.finish(change())))


def _created(number: int, staging: Staging) -> bp.Created:
    mode, mtime_ns = staging.asked
    return bp.Created(
        handle=number, is_sealing=staging.seals, is_sealed=is_object(staging), mode=mode, mtime_ns=mtime_ns
    )

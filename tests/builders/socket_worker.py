"""A worker on a unix socket that keeps the byte plane's contract over files in memory.

For tests of the client alone: it can be told to die, to hold answers back, and to refuse.
"""

import array
import asyncio
import errno
import os
import socket
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from api import byteplane as bp

_KINDS: dict[bp.Op, type[bp.Struct]] = {
    bp.Op.HELLO: bp.Hello,
    bp.Op.OPEN: bp.Open,
    bp.Op.ENSURE: bp.Ensure,
    bp.Op.READ: bp.Read,
    bp.Op.CLOSE: bp.Handle,
    bp.Op.CREATE: bp.Create,
    bp.Op.COMMIT: bp.Commit,
    bp.Op.ABORT: bp.Handle,
    bp.Op.REMOVE: bp.Remove,
    bp.Op.RENAME: bp.Rename,
    bp.Op.MAKE_DIRECTORY: bp.MakeDirectory,
    bp.Op.SET_MODE: bp.SetMode,
}


class SocketWorker:
    """Files by (uid, path); `start` and `kill` may alternate."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.files: dict[tuple[str, str], bytes] = {}
        self.calls: Counter[str] = Counter()
        self.refusals: dict[bp.Op, int] = {}
        self.hold = asyncio.Event()
        self.hold.set()
        self.held_op: bp.Op | None = None
        self.answers_whole = False
        self.brings = True
        self.sets_modes = True
        """Small files come with the answer to OPEN; a worker of an earlier release does not know of that."""
        self.seals = False
        """Staging files become objects with their commit, as in a directory store."""
        self.sealed: list[tuple[int, bytes]] = []
        """Such objects, and the bytes they had when they were committed."""
        self.modes: dict[tuple[str, str], tuple[int, int]] = {}
        """Mode and time of what was committed."""
        self._asked: dict[int, bp.Commit] = {}
        """What such a file was to be committed as, by its handle."""
        self.block_size_bytes = bp.BLOCK_SIZE_BYTES
        self.sends_bytes_max: int | None = None
        """It dies after so much of the next READ's data."""
        self.epoch = 0
        self._handles: dict[int, tuple[Any, int]] = {}
        self._next_handle = 1
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: set[socket.socket] = set()
        self._sending = asyncio.Lock()

    def start(self) -> None:
        self.epoch += 1
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._spawn(self._accept(self._listener))

    def kill(self) -> None:
        """As SIGKILL does: every connection and handle is gone at once."""
        for task in self._tasks:
            task.cancel()
        if self._listener is not None:
            self._listener.close()
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        for _, descriptor in self._handles.values():
            os.close(descriptor)
        self._handles.clear()

    async def stop(self) -> None:
        self.kill()
        for descriptor, _ in self.sealed:
            os.close(descriptor)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def handles(self) -> int:
        return len(self._handles)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            self._sockets.add(sock)
            self._spawn(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        received = bytearray()
        while data := await loop.sock_recv(sock, 65536):
            received += data
            while len(received) >= bp.HEADER.size:
                header = bp.decode_header(received[: bp.HEADER.size])
                end = bp.HEADER.size + header.meta_bytes
                if len(received) < end:
                    break
                meta = bp.decode_meta(bytes(received[bp.HEADER.size : end]), _KINDS[header.op])
                del received[:end]
                self._spawn(self._answer(sock, header, meta))

    async def _answer(self, sock: socket.socket, header: bp.Header, meta: Any) -> None:
        self.calls[header.op.name] += 1
        if header.op is bp.Op.COMMIT and self.seals:
            self._asked[meta.handle] = meta
        if header.op is self.held_op:
            await self.hold.wait()
        descriptor: int | None = None
        data = b""
        status = self.refusals.get(header.op, 0)
        if status:
            reply: bp.Struct = bp.Failure(message="told to refuse")
        elif header.op is bp.Op.READ:
            data = self._range(meta)
            reply = bp.ReadReply(crc32c=0, from_origin=True)
        else:
            try:
                reply, descriptor = self._carry_out(header.op, meta)
            except OSError as error:
                status, reply = error.errno or errno.EIO, bp.Failure(message=str(error))
        flags = bp.Flag.REPLY | (bp.Flag.FD if descriptor is not None else bp.Flag(0))
        frame = bp.encode(header.op, header.request_id, reply, data_bytes=len(data), flags=flags, status=status)
        if data:
            await self._send(sock, frame, data)
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))] if descriptor else []
        with suppress(OSError):  # whoever asked may be gone
            sock.sendmsg([frame], rights)

    def _range(self, meta: bp.Read) -> bytes:
        start, end = meta.offset_bytes, meta.offset_bytes + meta.length_bytes
        assert start // self.block_size_bytes == (end - 1) // self.block_size_bytes, "a READ leaves its block"
        return self._bytes(meta.uid, meta.path)[start:end]

    async def _send(self, sock: socket.socket, frame: bytes, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        async with self._sending:
            if self.sends_bytes_max is None:
                await loop.sock_sendall(sock, frame + data)
                return
            await loop.sock_sendall(sock, frame + data[: self.sends_bytes_max])
            self.sends_bytes_max = None
        loop.call_soon(self.kill)

    def _carry_out(self, op: bp.Op, meta: Any) -> tuple[bp.Struct, int | None]:
        match op:
            case bp.Op.HELLO:
                return bp.HelloReply(
                    node="n", epoch=self.epoch, block_size_bytes=self.block_size_bytes, sets_modes=self.sets_modes
                ), None
            case bp.Op.OPEN:
                handle, descriptor = self._file(meta, self._bytes(meta.uid, meta.path))
                brought = None
                if meta.first_bytes and self.brings:
                    brought = bp.Ensured(is_resident=self.answers_whole, origin_bytes=meta.first_bytes)
                return bp.Opened(handle=handle, is_resident=False, brought=brought), descriptor
            case bp.Op.CREATE if (adopted := self._adopted(meta)) is not None:
                return adopted
            case bp.Op.CREATE:
                base = self._bytes(meta.uid, meta.path) if meta.base_etag else b""
                handle, descriptor = self._file(meta, base)
                return bp.Created(handle=handle, is_sealing=self.seals and meta.may_seal), descriptor
            case bp.Op.ENSURE:
                self._handles[meta.handle]
                return bp.Ensured(is_resident=self.answers_whole, origin_bytes=meta.length_bytes), None
            case bp.Op.COMMIT:
                created, descriptor = self._handles[meta.handle]
                data = os.pread(descriptor, 1 << 30, 0)
                self.files[(created.uid, created.path)] = data
                self.modes[(created.uid, created.path)] = meta.mode, meta.mtime_ns
                is_sealed = self.seals and created.may_seal
                if is_sealed:
                    self.sealed.append((os.dup(descriptor), data))
                return bp.Committed(
                    etag=f"e{len(data)}", size_bytes=len(data), snapshot_version=2, is_sealed=is_sealed
                ), None
            case bp.Op.CLOSE | bp.Op.ABORT:
                os.close(self._handles.pop(meta.handle)[1])
                return bp.Empty(), None
            case bp.Op.REMOVE:
                if self.files.pop((meta.uid, meta.path), None) is None:
                    raise FileNotFoundError(errno.ENOENT, "no such file")
                return bp.Mutated(snapshot_version=3), None
            case bp.Op.RENAME:
                self.files[(meta.uid, meta.target)] = self.files.pop((meta.uid, meta.source))
                for number, (created, descriptor) in self._handles.items():
                    if isinstance(created, bp.Create) and created.path == meta.source:
                        self._handles[number] = (msgspec.structs.replace(created, path=meta.target), descriptor)
                return bp.Mutated(snapshot_version=4, etag="e"), None
            case _:
                return bp.Mutated(snapshot_version=4, etag="e"), None

    def _adopted(self, meta: bp.Create) -> tuple[bp.Created, int] | None:
        for number, (created, descriptor) in self._handles.items():
            if isinstance(created, bp.Create) and os.fstat(descriptor).st_ino == meta.adopts_inode:
                asked = self._asked.get(number)
                if asked is None:
                    return bp.Created(handle=number, is_sealing=self.seals), descriptor
                sealed = bp.Created(
                    handle=number, is_sealing=True, is_sealed=True, mode=asked.mode, mtime_ns=asked.mtime_ns
                )
                return (sealed, descriptor) if meta.adopts_sealed else None
        return None

    def _bytes(self, uid: str, path: str) -> bytes:
        try:
            return self.files[(uid, path)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file") from None

    def _file(self, meta: Any, data: bytes) -> tuple[int, int]:
        descriptor = os.memfd_create("worker")
        os.write(descriptor, data)
        handle = self._next_handle
        self._next_handle += 1
        self._handles[handle] = (meta, descriptor)
        return handle, descriptor

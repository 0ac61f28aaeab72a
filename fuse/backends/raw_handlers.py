"""One method for each request of the raw /dev/fuse protocol: bytes in, core operations, bytes out.

Owns the translation. What an operation means is in core/operations.py, by which way an open file is read in
raw_opens.py, the connection in raw_backend.py.
"""

import os
import stat
from collections.abc import Callable
from typing import Final

from fuse.backends.guard import Failures
from fuse.backends.raw_loop import Answer, Handler, Quick
from fuse.backends.raw_opens import ONLY_READS_MASK, Opens
from fuse.core import protocol
from fuse.core.attrs import PREFERRED_READ_BYTES, Attributes, totals_of
from fuse.core.contracts import Bytes
from fuse.core.directories import Caching
from fuse.core.moves import Moves
from fuse.core.names import NAME_BYTES_MAX
from fuse.core.operations import Operations
from fuse.core.protocol import INODE_ROOT, Opcode, OpenFlag
from fuse.core.resent import Resent
from fuse.errors import InvalidRequest, Unavailable, Unsupported
from fuse.metrics import Metrics

_NANO: Final = 1_000_000_000
_KIND_SHIFT: Final = 12
_DIRENT_BYTES: Final = protocol.DIRENT_PLUS.size
_CACHING: Final = {
    Caching.NONE: 0,
    Caching.FILL: int(OpenFlag.CACHE_DIRECTORY),
    Caching.KEEP: int(OpenFlag.CACHE_DIRECTORY | OpenFlag.KEEP_CACHE),
}
_ERANGE: Final = 34
_ENOSYS: Final = 38


class AttributeTooLong(Exception):
    """The asker's buffer is too small for an extended attribute."""


class NotTold(Exception):
    """The kernel shall not ask this any more (ENOSYS): it does the same for every file without us."""


class Handlers:
    """One method for each request, by the names pyfuse3 gives them too."""

    def __init__(self, operations: Operations, metrics: Metrics) -> None:
        self._operations = operations
        self._state = operations.state
        self._metrics = metrics
        self.failures = Failures(metrics)
        self.resent = Resent(operations)
        self.answers: dict[int, bytes] = {}
        """What an earlier daemon was answering, by unique."""
        self.refused: frozenset[int] = frozenset()
        """Requests, by unique, that one daemon after the other crashed with."""
        self.tried_again: Callable[[int], None] = lambda unique: None
        """Told of each request that is left over before it is carried out."""
        self.opens = Opens(operations, metrics, self.failures)
        self._entries = bytearray(protocol.REQUEST_BYTES_MAX)
        self._names: dict[int, tuple[str, Handler]] = {
            Opcode.LOOKUP: ("lookup", self.lookup),
            Opcode.FORGET: ("forget", self.forget),
            Opcode.BATCH_FORGET: ("forget", self.batch_forget),
            Opcode.GETATTR: ("getattr", self.getattr),
            Opcode.SETATTR: ("setattr", self.setattr),
            Opcode.READLINK: ("readlink", self.readlink),
            Opcode.SYMLINK: ("symlink", self.symlink),
            Opcode.MKNOD: ("mknod", self.mknod),
            Opcode.MKDIR: ("mkdir", self.mkdir),
            Opcode.UNLINK: ("unlink", self.unlink),
            Opcode.RMDIR: ("rmdir", self.rmdir),
            Opcode.RENAME: ("rename", self.rename),
            Opcode.RENAME2: ("rename", self.rename2),
            Opcode.LINK: ("link", self.hard_link),
            Opcode.OPEN: ("open", self.open),
            Opcode.CREATE: ("create", self.create),
            Opcode.READ: ("read", self.read),
            Opcode.WRITE: ("write", self.write),
            Opcode.STATFS: ("statfs", self.statfs),
            Opcode.RELEASE: ("release", self.release),
            Opcode.FLUSH: ("flush", self.flush),
            Opcode.FSYNC: ("fsync", self.fsync),
            Opcode.OPENDIR: ("opendir", self.opendir),
            Opcode.READDIR: ("readdir", self.readdir_plain),
            Opcode.READDIRPLUS: ("readdir", self.readdir),
            Opcode.RELEASEDIR: ("releasedir", self.releasedir),
            Opcode.FSYNCDIR: ("fsyncdir", self.fsyncdir),
            Opcode.ACCESS: ("access", self.access),
            Opcode.GETXATTR: ("getxattr", self.getxattr),
            Opcode.LISTXATTR: ("listxattr", self.listxattr),
            Opcode.SETXATTR: ("setxattr", self.setxattr),
            Opcode.REMOVEXATTR: ("removexattr", self.setxattr),
            Opcode.DESTROY: ("destroy", self.destroy),
        }

    def table(self) -> dict[int, Handler]:
        """Return the handlers by opcode."""
        return {opcode: self._counted(name, handler) for opcode, (name, handler) in self._names.items()}

    def quick(self) -> dict[int, Quick]:
        """Return what is tried before the handlers, by opcode."""
        if not self._state.has_opens:
            return {}
        return {Opcode.OPEN: self.opens.opened_again, Opcode.RELEASE: self.opens.closed_now}

    def _counted(self, name: str, handler: Handler) -> Handler:
        requests = self._metrics.requests

        def counted(inode: int, unique: int, body: memoryview) -> Answer:
            requests[name] += 1
            if unique & protocol.RESENT:
                return self._resent(handler, inode, unique, body)
            return handler(inode, unique, body)

        return counted

    async def _resent(self, handler: Handler, inode: int, unique: int, body: memoryview) -> Bytes:
        """Answer as an earlier daemon was about to, or carry the request out."""
        answer = self.answers.pop(unique & ~protocol.RESENT, None)
        if answer is not None:
            return answer
        if unique & ~protocol.RESENT in self.refused:
            raise Unavailable("one daemon after the other crashed with this request")
        self.tried_again(unique)
        self._metrics.resent += 1
        answered = handler(inode, unique, body)
        return answered if isinstance(answered, bytes) else await answered

    def refusal(self, opcode: int, error: Exception) -> int:
        """Return the errno for what a handler raised."""
        name = self._names[opcode][0]
        if isinstance(error, AttributeTooLong):
            return _ERANGE
        if isinstance(error, NotTold):
            return _ENOSYS
        return self.failures.number_of(name, error)

    # Names

    def _stat(self, attributes: Attributes) -> tuple[int, ...]:
        seconds, nanoseconds = divmod(attributes.mtime_ns, _NANO)
        size = attributes.size_bytes
        user, group = self._state.owner
        return (
            *(attributes.inode, size, attributes.sectors, seconds, seconds, seconds),
            *(nanoseconds, nanoseconds, nanoseconds, attributes.mode, attributes.links, user, group),
            *(0, PREFERRED_READ_BYTES, 0),
        )

    def _entry(self, attributes: Attributes) -> bytes:
        seconds, fraction = _split(attributes.timeout_seconds)
        head = (attributes.inode, 0, seconds, seconds, fraction, fraction)
        return protocol.ENTRY_OUT.pack(*head, *self._stat(attributes))

    def _attributes(self, attributes: Attributes) -> bytes:
        seconds, fraction = _split(attributes.timeout_seconds)
        return protocol.ATTR_OUT.pack(seconds, fraction, 0, *self._stat(attributes))

    async def lookup(self, inode: int, unique: int, body: memoryview) -> Bytes:
        return self._entry(await self._operations.names.lookup(inode, protocol.decode_name(body)))

    async def forget(self, inode: int, unique: int, body: memoryview) -> Bytes:
        (lookups,) = protocol.unpack(protocol.FORGET_IN, body)
        self._forget(inode, lookups)
        self._metrics.inodes = len(self._state.inodes)
        return b""

    async def batch_forget(self, inode: int, unique: int, body: memoryview) -> Bytes:
        for each, lookups in protocol.decode_forgets(body):
            self._forget(each, lookups)
        self._metrics.inodes = len(self._state.inodes)
        return b""

    def _forget(self, inode: int, lookups: int) -> None:
        self._operations.names.forget(inode, lookups)
        if self._state.is_heir or not self._state.has_opens:
            node = self._state.inodes.find(inode)
            if node is not None and not node.lookups:
                self._operations.reads.forgotten(inode)

    async def getattr(self, inode: int, unique: int, body: memoryview) -> Bytes:
        return self._attributes(await self._operations.names.getattr(inode))

    async def setattr(self, inode: int, unique: int, body: memoryview) -> Bytes:
        wanted = protocol.decode_setattr(body)
        attributes = await self._operations.changes.setattr(
            inode,
            size_bytes=wanted.size_bytes,
            mode=stat.S_IMODE(wanted.mode) if wanted.mode is not None else None,
            owner=(wanted.uid, wanted.gid),
            mtime_ns=self._state.wall_ns() if wanted.is_mtime_now else wanted.mtime_ns,
        )
        return self._attributes(attributes)

    async def readlink(self, inode: int, unique: int, body: memoryview) -> Bytes:
        raise InvalidRequest("there are no symbolic links")

    async def mknod(self, inode: int, unique: int, body: memoryview) -> Bytes:
        raise self._operations.moves.refuse("special files")

    async def symlink(self, inode: int, unique: int, body: memoryview) -> Bytes:
        raise self._operations.moves.refuse("symbolic links")

    async def hard_link(self, inode: int, unique: int, body: memoryview) -> Bytes:
        raise self._operations.moves.refuse("hard links")

    async def mkdir(self, inode: int, unique: int, body: memoryview) -> Bytes:
        mode, _ = protocol.unpack(protocol.MKDIR_IN, body)
        name = protocol.decode_name(body, protocol.MKDIR_IN.size)
        return self._entry(await self._moves(unique).mkdir(inode, name, mode))

    def _moves(self, unique: int) -> Moves | Resent:
        return self.resent if unique & protocol.RESENT else self._operations.moves

    async def unlink(self, inode: int, unique: int, body: memoryview) -> Bytes:
        await self._moves(unique).unlink(inode, protocol.decode_name(body))
        return b""

    async def rmdir(self, inode: int, unique: int, body: memoryview) -> Bytes:
        await self._moves(unique).rmdir(inode, protocol.decode_name(body))
        return b""

    async def rename(self, inode: int, unique: int, body: memoryview) -> Bytes:
        (new_parent,) = protocol.unpack(protocol.RENAME_IN, body)
        names = protocol.decode_two_names(body, protocol.RENAME_IN.size)
        await self._moves(unique).rename(inode, names[0], new_parent, names[1], 0)
        return b""

    async def rename2(self, inode: int, unique: int, body: memoryview) -> Bytes:
        new_parent, flags, _ = protocol.unpack(protocol.RENAME2_IN, body)
        names = protocol.decode_two_names(body, protocol.RENAME2_IN.size)
        await self._moves(unique).rename(inode, names[0], new_parent, names[1], flags)
        return b""

    # Files

    def open(self, inode: int, unique: int, body: memoryview) -> Answer:
        if not self._state.has_opens:
            raise NotTold("open")
        flags, _ = protocol.unpack(protocol.OPEN_IN, body)
        answer = None if flags & ONLY_READS_MASK else self.opens.opened_now(inode)
        return self._open(inode, flags) if answer is None else answer

    async def _open(self, inode: int, flags: int) -> Bytes:
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        number, keeps_cache = await self._operations.open(inode, flags, writes=writes)
        try:
            return await self.opens.opened(number, keeps_cache=keeps_cache, writes=writes)
        except BaseException:
            await self._operations.changes.release(number)
            raise

    async def create(self, inode: int, unique: int, body: memoryview) -> Bytes:
        flags, mode, _, _ = protocol.unpack(protocol.CREATE_IN, body)
        name = protocol.decode_name(body, protocol.CREATE_IN.size)
        number, keeps_cache, attributes = await self._operations.changes.create(inode, name, mode, flags)
        return self._entry(attributes) + await self.opens.opened(number, keeps_cache=keeps_cache, writes=True)

    async def read(self, inode: int, unique: int, body: memoryview) -> Bytes:
        number, offset, size, *_ = protocol.READ_IN.unpack_from(body)
        if self._state.has_opens and (not self._state.is_heir or self._state.handles.find(number) is not None):
            data = await self._operations.reads.read(number, offset, size)
        else:
            data = await self._operations.reads.read_unopened(inode, offset, size)
        self._metrics.read_bytes += len(data)
        return data

    async def write(self, inode: int, unique: int, body: memoryview) -> Bytes:
        number, offset, size, _, _, flags, _ = protocol.unpack(protocol.WRITE_IN, body)
        data = body[protocol.WRITE_IN.size : protocol.WRITE_IN.size + size]
        written = await self._operations.changes.write(number, offset, data)
        self._metrics.written_bytes += written
        if flags & os.O_DSYNC and self.opens.is_past_pages(number):
            # Of what goes by its pages the kernel asks for the fsync itself. O_SYNC has the bit of O_DSYNC too.
            await self._operations.changes.fsync(number)
        return protocol.WRITE_OUT.pack(written, 0)

    async def flush(self, inode: int, unique: int, body: memoryview) -> Bytes:
        if not self._state.has_opens:
            raise NotTold("flush")
        number, *_ = protocol.unpack(protocol.FLUSH_IN, body)
        await self._operations.changes.flush(number)
        return b""

    def release(self, inode: int, unique: int, body: memoryview) -> Answer:
        number, *_ = protocol.unpack(protocol.RELEASE_IN, body)
        if self._state.is_heir and self._state.handles.find(number) is None:
            return b""  # an earlier daemon released it, or gave it and did not write it down
        return self._release(inode, number)

    async def _release(self, inode: int, number: int) -> Bytes:
        await self.opens.release(inode, number)
        return b""

    async def fsync(self, inode: int, unique: int, body: memoryview) -> Bytes:
        number, *_ = protocol.unpack(protocol.FSYNC_IN, body)
        await self._operations.changes.fsync(number)
        return b""

    # Directories

    async def opendir(self, inode: int, unique: int, body: memoryview) -> Bytes:
        names = self._operations.names
        number = await names.open_directory(inode)
        return protocol.OPEN_OUT.pack(number, _CACHING[names.kernel_caching(number)], 0)

    async def readdir(self, inode: int, unique: int, body: memoryview) -> Bytes:
        number, offset, size, *_ = protocol.unpack(protocol.READ_IN, body)
        state, names = self._state, self._operations.names
        buffer, room = self._entries, min(size, len(self._entries))
        pack_into = protocol.DIRENT_PLUS.pack_into
        used, position = 0, offset
        while True:
            directory, entries = await names.directory_page(number, position)
            while position < len(entries):
                name, entry = entries[position]
                raw = name.encode()
                padded = _DIRENT_BYTES + (len(raw) + 7 & ~7)
                if used + padded > room:
                    names.gave(number, position)
                    return bytes(memoryview(buffer)[:used])
                position += 1
                node = names.child(directory, name, entry)
                attributes = state.attributes(node)
                seconds, fraction = _split(attributes.timeout_seconds)
                pack_into(
                    buffer, used, node.inode, 0, seconds, seconds, fraction, fraction, *self._stat(attributes),
                    node.inode, position, len(raw), attributes.mode >> _KIND_SHIFT,
                )  # fmt: skip
                at = used + _DIRENT_BYTES
                buffer[at : used + padded] = raw.ljust(padded - _DIRENT_BYTES, b"\0")
                used += padded
                state.inodes.told(node)
            if used or position >= len(entries):
                names.gave(number, position)
                if not used:
                    names.gave_all(number)
                return bytes(memoryview(buffer)[:used])

    async def readdir_plain(self, inode: int, unique: int, body: memoryview) -> Bytes:
        number, offset, size, *_ = protocol.unpack(protocol.READ_IN, body)
        _, entries = await self._operations.names.directory_page(number, offset)
        parts: list[bytes] = []
        used = 0
        for position in range(offset, len(entries)):
            name, entry = entries[position]
            raw = name.encode()
            padded = len(raw) + 7 & ~7
            used += protocol.DIRENT.size + padded
            if used > size:
                break
            kind = stat.S_IFDIR if entry.is_directory else stat.S_IFREG
            # Without a lookup there is no inode number yet; readers of plain listings do not use it.
            parts.append(protocol.DIRENT.pack(INODE_ROOT, position + 1, len(raw), kind >> _KIND_SHIFT))
            parts.append(raw.ljust(padded, b"\0"))
            self._operations.names.gave(number, position + 1)
        return b"".join(parts)

    async def releasedir(self, inode: int, unique: int, body: memoryview) -> Bytes:
        number, *_ = protocol.unpack(protocol.RELEASE_IN, body)
        if unique & protocol.RESENT and self._state.handles.find(number) is None:
            return b""
        self._operations.names.release_directory(number)
        return b""

    async def fsyncdir(self, inode: int, unique: int, body: memoryview) -> Bytes:
        """Changes of names are durable when their call returns: nothing is left to do."""
        return b""

    # The rest

    async def statfs(self, inode: int, unique: int, body: memoryview) -> Bytes:
        totals = totals_of(*self._operations.reads.statfs())
        return protocol.STATFS_OUT.pack(
            totals.blocks, totals.free_blocks, totals.free_blocks, totals.files, totals.free_files,
            totals.block_bytes, NAME_BYTES_MAX, totals.block_bytes, 0,
        )  # fmt: skip

    async def access(self, inode: int, unique: int, body: memoryview) -> Bytes:
        mask, _ = protocol.unpack(protocol.ACCESS_IN, body)
        if not self._operations.reads.may_access(inode, mask):
            raise self._operations.moves.refuse("changes of this tree")
        return b""

    async def getxattr(self, inode: int, unique: int, body: memoryview) -> Bytes:
        size, _ = protocol.unpack(protocol.GETXATTR_IN, body)
        name = protocol.decode_name(body, protocol.GETXATTR_IN.size)
        return self._sized(await self._operations.reads.attribute(inode, name), size)

    async def listxattr(self, inode: int, unique: int, body: memoryview) -> Bytes:
        size, _ = protocol.unpack(protocol.GETXATTR_IN, body)
        names = self._operations.reads.attribute_names(inode)
        return self._sized(protocol.encode_attribute_names(names), size)

    @staticmethod
    def _sized(value: bytes, size: int) -> bytes:
        if not size:
            return protocol.GETXATTR_OUT.pack(len(value), 0)
        if len(value) > size:
            raise AttributeTooLong
        return value

    async def setxattr(self, inode: int, unique: int, body: memoryview) -> Bytes:
        raise Unsupported("the store holds no extended attributes")

    async def destroy(self, inode: int, unique: int, body: memoryview) -> Bytes:
        return b""


def _split(timeout_seconds: float) -> tuple[int, int]:
    """Seconds and nanoseconds, as the protocol has them."""
    seconds = int(timeout_seconds)
    return seconds, int((timeout_seconds - seconds) * _NANO)

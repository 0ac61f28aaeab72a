"""A file being written, in the worker's staging file.

Owns its descriptor. Bytes are written here and never cross the socket; COMMIT tells the worker to carry them to
the under store.

Invariants:
- Nothing is asked of the worker before the first use.
- The descriptor outlives the worker: when the handle was lost with its connection, the bytes are copied
  from the old descriptor into the next worker's staging file before anything goes on. No written byte is lost
  by the worker's death.
- The descriptor outlives the daemon too, where a vault keeps it: it is there before the first byte is written. A worker
  that still has the staging file gives it back as it is, also when it is being committed: who asks for the same commit
  again waits for that one. Else its bytes are copied.
- One commit at a time.
- A staging file that the worker made in the under store is the object from its first commit on. Writes wait for a
  commit of it, and one that was sealed, or may have been, is copied before it is written again.
"""

import asyncio
import os
import time
from typing import TYPE_CHECKING, Final

import structlog

from api.byteplane import Commit, Create, Created, Handle, Op, decode_meta
from api.byteplane import Committed as CommittedReply
from fuse.client.connection import Connection, ConnectionLost
from fuse.client.pinned_file import BUFFER_BYTES, NO_GENERATION, read_descriptor
from fuse.client.write_back import WRITE_BYTES_MAX, WriteBack
from fuse.core.contracts import Bytes, Committed
from fuse.core.errnos import error_of
from fuse.errors import Ended, Unavailable

if TYPE_CHECKING:
    from fuse.client.worker_client import WorkerClient

log = structlog.get_logger()

COPY_BYTES: Final = 8 << 20
FILE_BYTES_MAX: Final = (1 << 63) - 1


class StagedWorkerFile:
    """Implements the core's StagingFile."""

    def __init__(
        self,
        client: "WorkerClient",
        *,
        number: int,
        uid: str,
        path: str,
        base_etag: str,
        base_size_bytes: int,
        descriptor: int | None = None,
    ) -> None:
        """`descriptor` is of an earlier daemon's staging file: its bytes are carried over at the first use."""
        self._client = client
        self.number = number
        self._uid = uid
        self.path = path
        self.base_etag = base_etag
        self.base_size_bytes = base_size_bytes
        self._descriptor = descriptor
        self._handle = 0
        self._connection: Connection | None = None
        self._generation = NO_GENERATION
        self._opening = asyncio.Lock()
        self._committing = asyncio.Lock()
        self._is_closed = False
        #: The staging file becomes the object with a commit, and may have become it.
        self._is_sealing = self._is_sealed = False
        self._write_back = WriteBack()
        #: Mode and time of the last commit; the worker tells contents apart by the staging file's own stamp only.
        self._committed_as: tuple[int, int] | None = None

    @property
    def _is_good(self) -> bool:
        return self._descriptor is not None and self._generation == self._client.generation

    async def open(self) -> None:
        """Create the staging file, or carry it over to the next worker."""
        async with self._opening:
            while not self._is_good:
                await self._create()

    async def _changeable(self, needed_bytes: int = FILE_BYTES_MAX) -> int:
        """Return the descriptor, of which nothing is shown as an object and nothing is about to be; good until the
        caller next waits. Of what is behind the first `needed_bytes` it may have nothing any more."""
        while not self._is_good or (self._is_sealing and (self._is_sealed or self._committing.locked())):
            if self._is_sealing and self._committing.locked():
                await self.settle()
            elif self._is_sealed:
                # No commit meanwhile: it would be of the file that is left.
                async with self._committing:
                    await self._unseal(needed_bytes)
            else:
                await self.open()
        if self._descriptor is None:
            raise Ended("the file was closed meanwhile")
        return self._descriptor

    async def _unseal(self, needed_bytes: int = FILE_BYTES_MAX) -> None:
        """Go on with a copy: the file as it is belongs to those who read it."""
        async with self._opening:
            if self._is_sealed:
                await self._create(needed_bytes, adopts=False)

    async def _create(self, needed_bytes: int = FILE_BYTES_MAX, *, adopts: bool = True) -> None:
        """To be called again while it is needed still. Unless it `adopts`, it makes another file in any case."""
        self._check_open()
        old = self._descriptor
        etag, size_bytes = (self.base_etag, self.base_size_bytes) if old is None else ("", 0)
        adopted = os.fstat(old) if old is not None and adopts else None
        meta = Create(
            uid=self._uid,
            path=self.path,
            base_etag=etag,
            base_size_bytes=size_bytes,
            adopts_inode=adopted.st_ino if adopted is not None else 0,
            adopts_device=adopted.st_dev if adopted is not None else 0,
            may_seal=True,
            adopts_sealed=True,
        )
        created, reply, connection, generation = await self._client.call_on(Op.CREATE, meta, Created)
        if reply.descriptor is None:
            raise Unavailable("the worker sent no descriptor with CREATE")
        try:
            self._check_open()
            if old is not None and os.path.samestat(os.fstat(old), os.fstat(reply.descriptor)):
                log.info("staging_adopted", path=self.path, generation=generation, is_sealed=created.is_sealed)
            elif self.path != meta.path:
                # Renamed meanwhile, and the worker may have heard of that before it made this one: it tries again.
                os.close(reply.descriptor)
                connection.notify(Op.ABORT, Handle(handle=created.handle))
                return
            elif old is not None:
                await self._carry_over(old, reply.descriptor, needed_bytes)
                log.info("staging_carried_over", path=self.path, generation=generation)
            await self._client.keep(self.number, reply.descriptor)
            if self._is_closed:
                self._client.let_go(self.number)
                self._check_open()
        except BaseException:
            os.close(reply.descriptor)
            connection.notify(Op.ABORT, Handle(handle=created.handle))
            raise
        if old is not None:
            os.close(old)
            if not adopts and self._connection is not None and self._is_good:
                self._connection.notify(Op.ABORT, Handle(handle=self._handle))
        self._descriptor, self._handle = reply.descriptor, created.handle
        self._connection, self._generation = connection, generation
        self._is_sealing, self._is_sealed = created.is_sealing, created.is_sealed
        if created.is_sealed:
            self._committed_as = created.mode, created.mtime_ns
        self._write_back = WriteBack()

    async def _carry_over(self, old: int, new: int, needed_bytes: int) -> None:
        own = os.dup(old)  # the file may be closed meanwhile
        try:
            await asyncio.to_thread(_copy, own, new, needed_bytes)
        except OSError as error:
            raise error_of(error.errno or 0, f"carrying {self.path} over to another staging file: {error}") from error
        finally:
            os.close(own)
        self._check_open()

    def _check_open(self) -> None:
        if self._is_closed:
            raise Ended("the file was closed meanwhile")

    async def read(self, offset_bytes: int, length_bytes: int) -> Bytes:
        """Return what was written; short at the end of the file."""
        if self._descriptor is None:
            await self.open()
        descriptor = self._descriptor
        if descriptor is None:
            raise Ended("the file was closed meanwhile")
        if length_bytes <= BUFFER_BYTES:
            data = read_descriptor(descriptor, offset_bytes, length_bytes)
            if data is not None:
                return data
        return os.pread(descriptor, length_bytes, offset_bytes)

    async def write(self, offset_bytes: int, data: Bytes) -> int:
        """Write all of `data`, or what there is room for."""
        descriptor = self._descriptor if self._is_good and not self._is_sealing else None
        if descriptor is None:
            descriptor = await self._changeable()
        view = memoryview(data)
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(descriptor, view[done : done + WRITE_BYTES_MAX], offset_bytes + done)
        except OSError as error:
            if not done:
                raise error_of(error.errno or 0, f"writing {self.path}: {error.strerror}") from error
        if self._is_sealing:
            self._write_back.wrote(descriptor, offset_bytes + done)
        return done

    async def truncate(self, size_bytes: int) -> None:
        """Cut or extend with zeros."""
        descriptor = await self._changeable(size_bytes)
        try:
            os.ftruncate(descriptor, size_bytes)
        except OSError as error:
            raise error_of(error.errno or 0, f"truncating {self.path}: {error.strerror}") from error

    async def commit(self, mode: int, mtime_ns: int) -> Committed:
        """Make the bytes durable in the under store; goes on with the next worker if this one dies. Committing
        the same bytes twice is harmless, so a lost answer is asked for again."""
        client = self._client
        async with self._committing:
            deadline: float | None = None
            while True:
                await self.open()
                connection = self._connection
                if connection is None:
                    raise Ended("the file was closed meanwhile")
                mtime_ns = self._told_before(mtime_ns)
                if self._is_sealed and self._committed_as not in {None, (mode, mtime_ns)}:
                    await self._unseal()
                    continue
                self._stamp(mode, mtime_ns)
                self._is_sealed = self._is_sealing  # also if no answer says so
                meta = Commit(handle=self._handle, mode=mode, mtime_ns=mtime_ns)
                try:
                    reply = await client.request(
                        connection, Op.COMMIT, meta, uid=self._uid, write=True, timeout_seconds=client.commit_seconds
                    )
                except ConnectionLost as lost:
                    deadline = deadline or time.monotonic() + client.patience_seconds
                    if time.monotonic() > deadline:
                        raise Unavailable(f"the worker was lost while {self.path} was committed: {lost}") from lost
                    client.metrics.retried("COMMIT")
                    continue
                answer = decode_meta(reply.meta, CommittedReply)
                client.metrics.committed(answer.size_bytes)
                self._committed_as = (mode, mtime_ns)
                self._is_sealed = answer.is_sealed
                return Committed(
                    etag=answer.etag,
                    size_bytes=answer.size_bytes,
                    snapshot_version=answer.snapshot_version,
                    mtime_ns=mtime_ns,
                )

    def _told_before(self, mtime_ns: int) -> int:
        """Return the time the namespace was told, if it was told one: an earlier daemon took it from its clock, and the
        next one, which does not know it, takes it from the file."""
        if not self._is_sealed or self._committed_as is None or self._descriptor is None:
            return mtime_ns
        return self._committed_as[1] if mtime_ns == os.fstat(self._descriptor).st_mtime_ns else mtime_ns

    def _stamp(self, mode: int, mtime_ns: int) -> None:
        """Make a commit of another mode or time a change, although the bytes are the same."""
        if self._committed_as not in {None, (mode, mtime_ns)} and self._descriptor is not None:
            os.utime(self._descriptor)

    async def settle(self) -> None:
        """Return when no commit is under way."""
        async with self._committing:
            return

    def moved(self, path: str, etag: str) -> None:
        """The worker renamed the file, and its staging file with it; the next worker is told the new path."""
        self.path = path
        if self._descriptor is None and self.base_etag:
            self.base_etag = etag

    def close(self) -> None:
        """Drop the staging file."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._connection is not None and self._is_good:
            self._connection.notify(Op.ABORT, Handle(handle=self._handle))
        if self._descriptor is not None:
            self._client.let_go(self.number)
            os.close(self._descriptor)
            self._descriptor = None


def _copy(source: int, target: int, bytes_max: int) -> None:
    """Copy the bytes of one descriptor to another, holes as zeros; no more than `bytes_max`. Blocks."""
    size = min(os.fstat(source).st_size, bytes_max)
    os.ftruncate(target, size)
    at = 0
    while at < size:
        data = os.pread(source, min(COPY_BYTES, size - at), at)
        if not data:
            break
        view = memoryview(data)
        while view:
            written = os.pwrite(target, view, at)
            at += written
            view = view[written:]

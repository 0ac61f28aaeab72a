"""Open files: reading through the worker's descriptor, writing into its staging file.

A reader holds one version of an object from open to close, whatever is written meanwhile. Bytes come from the
cached file itself: the worker is asked to make a range resident, and the descriptor it passed is read. What the node
does not keep, and is read in order, is sent (stream.py).

Invariant: bytes are returned only if the worker held them while they were read. A file that is wholly resident
keeps its bytes as long as the descriptor is open; else the connection is looked at after the read, and when the
worker has gone meanwhile the range is asked for again.
"""

import errno
import io
import mmap
import os
import threading
import time
from typing import Any

from headrace_sdk.stream import BEGIN_BYTES, Stream
from headrace_sdk.worker import (
    CLOSE,
    COMMIT,
    COMMIT_SECONDS,
    CREATE,
    ENSURE,
    OPEN,
    PATIENCE_SECONDS,
    READ,
    Connection,
    ConnectionLost,
    Worker,
)

READAHEAD_BYTES = 8 << 20
BUFFER_BYTES = 128 << 10


class Pinned(io.RawIOBase):
    """One version of an object, unbuffered. `File` is what users see."""

    def __init__(self, worker: Worker, version: dict[str, Any], readahead_bytes: int = READAHEAD_BYTES) -> None:
        """`version` has uid, path, etag, size_bytes. OSError."""
        self._worker = worker
        self.version = version
        self.size_bytes = int(version["size_bytes"])
        self._readahead_bytes = readahead_bytes
        self._at = 0
        self._descriptor: int | None = None
        self._connection: Connection | None = None
        self._handle = 0
        self._is_whole = False
        self._is_kept = False
        self._ready = (0, 0)
        self._in_order = (0, 0)
        """From where, and to where, it was read in order at last."""
        self._stream: Stream | None = None
        self._streaming = threading.Lock()
        self._open()

    def _open(self) -> None:
        reply, connection = self._worker.ask_on(OPEN, self.version)
        if reply.descriptor is None:
            raise OSError(errno.EIO, "the worker sent no descriptor with the file")
        self._drop()
        self._descriptor, self._connection = reply.descriptor, connection
        self._handle = reply.meta["handle"]
        self._is_whole = bool(reply.meta["is_resident"])
        self._is_kept = bool(reply.meta.get("is_kept", False))
        self._ready = (0, 0)

    def _drop(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def is_resident(self) -> bool:
        """Whether every byte is on this node, in the cached file itself."""
        return self._is_whole

    def descriptor(self) -> int:
        """The cached file; good until `close`. Only resident ranges of it have bytes."""
        if self._descriptor is None:
            raise ValueError("I/O operation on closed file")
        return self._descriptor

    def ensure(self, offset: int, length: int) -> bool:
        """Make a range resident; False when this node has no room for it, then it is read inline. OSError."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._is_whole:
            connection = self._connection
            if connection is None or not connection.is_alive:
                self._open()
                continue
            if self._ready[0] <= offset and offset + length <= self._ready[1]:
                return True
            wanted = {"handle": self._handle, "offset_bytes": offset, "length_bytes": length}
            try:
                reply = connection.call(ENSURE, wanted)
            except ConnectionLost:
                if time.monotonic() >= deadline:
                    raise
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return False
            else:
                self._is_whole = bool(reply.meta.get("is_resident", False))
                self._ready = (offset, offset + length)
                return True
        return True

    def pread_into(self, buffer: Any, offset: int) -> int:
        """Read at `offset` without moving; return the bytes read, fewer than asked only at the end."""
        view = memoryview(buffer).cast("B")
        view = view[: max(0, min(len(view), self.size_bytes - offset))]
        done = 0
        while done < len(view):
            at = offset + done
            count = self._read_streamed(view[done:], at) or self._read_some(view[done:], at)
            self._in_order = (self._in_order[0] if at == self._in_order[1] else at, at + count)
            done += count
        return done

    def _read_streamed(self, view: memoryview, offset: int) -> int:
        """Read from the stream of a file that this node does not keep, if it is read in order; else 0."""
        if self._is_whole or self._is_kept or not self._streaming.acquire(blocking=False):
            return 0
        try:
            if self._stream is not None and self._stream.at != offset:
                self._end_stream()
            if self._stream is None:
                if self._ready[0] <= offset and offset + len(view) <= self._ready[1]:
                    return 0  # It is here already.
                run = len(view) + (offset - self._in_order[0] if offset == self._in_order[1] else 0)
                if run < BEGIN_BYTES:
                    return 0
                self._stream = Stream(self._worker.another(), self.version, offset)
            count = self._stream.read_into(view)
            if self._stream.at >= self.size_bytes:
                self._end_stream()
        except OSError:
            # Whatever it was, the file's own connection meets it too, and goes on with the next worker.
            self._end_stream()
            self._in_order = (offset, offset)
            return 0
        else:
            return count
        finally:
            self._streaming.release()

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _read_some(self, view: memoryview, offset: int) -> int:
        ahead = max(len(view), self._readahead_bytes if offset == self._ready[1] or not offset else len(view))
        is_ready = self._ready[0] <= offset and offset + len(view) <= self._ready[1]
        length = len(view) if is_ready else min(ahead, self.size_bytes - offset)
        if not self.ensure(offset, length):
            return self._read_inline(view, offset)
        count = os.preadv(self.descriptor(), [view], offset)
        if not self._is_whole and (self._connection is None or not self._connection.is_alive):
            return 0  # Nobody held the bytes for us any more: they may have been taken away before we read.
        if not count:
            raise OSError(errno.EIO, f"the cached {self.version['path']} is shorter than its {self.size_bytes} bytes")
        return count

    def _read_inline(self, view: memoryview, offset: int) -> int:
        block = self._worker.connection().block_size_bytes
        length = min(len(view), block - offset % block)
        reply = self._worker.ask(READ, {**self.version, "offset_bytes": offset, "length_bytes": length})
        view[:length] = reply.data
        return length

    def readinto(self, buffer: Any) -> int:
        """Read at the file's position."""
        count = self.pread_into(buffer, self._at)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size_bytes}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, f"offset {base + offset} is before the file's start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Let the version go."""
        if self.closed:
            return
        connection = self._connection
        if connection is not None and connection.is_alive:
            try:
                connection.call(CLOSE, {"handle": self._handle})
            except OSError:
                connection.close()  # Its end lets every handle go.
        self._drop()
        self._end_stream()
        super().close()


class File(io.BufferedReader):
    """A file opened for reading, as fsspec, numpy, pandas and torch.load take it. Picklable: it opens the same
    version again where it is unpickled."""

    raw: Pinned

    def __init__(self, raw: Pinned) -> None:
        super().__init__(raw, BUFFER_BYTES)
        self.size = raw.size_bytes

    def pread(self, length: int, offset: int) -> bytes:
        """Return bytes at `offset` without moving; fewer than asked only at the end."""
        buffer = bytearray(max(0, min(length, self.size - offset)))
        count = self.raw.pread_into(buffer, offset)
        return bytes(buffer[:count])

    def mmap(self) -> mmap.mmap:
        """Return the whole file mapped, read-only. Without a copy when this node holds all of it; else (no room in
        the cache) read into memory. It outlives the file. ValueError when the file is empty."""
        if not self.size:
            raise ValueError("an empty file cannot be mapped")
        if self.raw.ensure(0, self.size) and self.raw.is_resident:
            return mmap.mmap(self.raw.descriptor(), self.size, access=mmap.ACCESS_READ)
        memory = mmap.mmap(-1, self.size)
        self.raw.pread_into(memory, 0)
        return memory

    def local_path(self) -> str:
        """Return a path under /proc that opens this version for libraries that want a name (safetensors), good until
        `close`. OSError ENOBUFS when this node's cache has no room for the whole file."""
        if self.size and not (self.raw.ensure(0, self.size) and self.raw.is_resident):
            raise OSError(errno.ENOBUFS, f"the cache of this node has no room for all of {self.raw.version['path']}")
        return f"/proc/self/fd/{self.raw.descriptor()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.raw._worker, self.raw.version, self.tell())


def _reopen(worker: Worker, version: dict[str, Any], at: int) -> File:
    file = File(Pinned(worker, version))
    file.seek(at)
    return file


class Staged(io.RawIOBase):
    """A file being written. Nobody sees it before `close`, which returns when it is durable in the under store; an
    exception inside `with` drops it."""

    def __init__(self, worker: Worker, meta: dict[str, Any], mode: int, *, at_end: bool = False) -> None:
        """`meta` is CREATE's. OSError."""
        reply, self._connection = worker.ask_on(CREATE, meta)
        if reply.descriptor is None:
            raise OSError(errno.EIO, "the worker sent no descriptor with the file")
        self._descriptor = reply.descriptor
        self._handle = reply.meta["handle"]
        self._path = str(meta["path"])
        self._mode = mode
        self._is_dirty = True
        self._is_broken = False
        if at_end:
            os.lseek(self._descriptor, 0, os.SEEK_END)

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: Any) -> int:
        """Write at the file's position."""
        self._is_dirty = True
        try:
            return os.write(self._descriptor, data)
        except OSError:
            # A buffered writer closes us even when its last write failed: half a file must not become visible.
            self._is_broken = True
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move."""
        return os.lseek(self._descriptor, offset, whence)

    def tell(self) -> int:
        """Where the next write begins."""
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def truncate(self, size: int | None = None) -> int:
        """Cut or lengthen."""
        wanted = self.tell() if size is None else size
        self._is_dirty = True
        os.ftruncate(self._descriptor, wanted)
        return wanted

    def commit(self) -> None:
        """Make what is written so far durable and visible. OSError; then nothing of it is visible."""
        if self._is_broken:
            raise OSError(errno.EIO, f"{self._path} is not whole: a write failed; write it again")
        if not self._is_dirty:
            return
        meta = {"handle": self._handle, "mode": self._mode, "mtime_ns": time.time_ns()}
        try:
            self._connection.call(COMMIT, meta, COMMIT_SECONDS)
        except ConnectionLost as lost:
            raise OSError(
                errno.EIO, f"the worker was lost while {self._path} was written; write it again: {lost.strerror}"
            ) from lost
        self._is_dirty = False

    def discard(self) -> None:
        """Drop what was not committed."""
        self._is_dirty = self._is_broken = False
        self.close()

    def close(self) -> None:
        """Commit and let go."""
        if self.closed:
            return
        try:
            self.commit()
        finally:
            self._is_dirty = False
            os.close(self._descriptor)
            if self._connection.is_alive:
                try:
                    self._connection.call(CLOSE, {"handle": self._handle})
                except OSError:
                    self._connection.close()
            super().close()


class WritableFile(io.BufferedWriter):
    """A file opened for writing; see `Staged`."""

    raw: Staged

    def __init__(self, raw: Staged) -> None:
        super().__init__(raw, 1 << 20)

    def fsync(self) -> None:
        """Make what is written so far durable in the under store and visible."""
        self.flush()
        self.raw.commit()

    def discard(self) -> None:
        """Drop what was not committed."""
        try:
            raw = self.raw
            self.detach()
            raw.discard()
        except ValueError:
            return  # Closed already.

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self.discard()
        else:
            self.close()

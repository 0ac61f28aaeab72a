"""Under store of a local or mounted directory: `file:///dir`, also a bind-mounted PVC.

Owns the mapping of keys to files and of errno to reasons. Blocking calls run in the store's own threads.
Invariants: no key leads out of the root (`beneath.py`); a put is visible whole or not at all and durable on
return (temporary name, fsync, rename, fsync of the directories); an etag changes with every write that the
file system shows in inode, size or mtime. Links to directories are not followed in listings, links to files
are when they stay inside; files that are not regular do not exist here.
"""

import asyncio
import builtins
import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from enum import Enum, auto
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, ParamSpec, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from understores.base import ObjectInfo, Piece, Sink, Source
from understores.beneath import open_beneath
from understores.credentials import SecretOptions
from understores.errors import (
    AccessDenied,
    AlreadyExists,
    BucketNotFound,
    BytesLost,
    Changed,
    InvalidKey,
    InvalidMount,
    NoSpace,
    NotEmpty,
    NotFound,
    ShortBody,
    StoreFailed,
    UnderStoreError,
)
from understores.keys import checked_key
from understores.posix_put import TEMPORARY_PREFIX, Putting, link
from understores.sources import pieces

OPTION_NAMES: Final[frozenset[str]] = frozenset()
PAGE_ENTRIES = 1000
STREAM_PIECE_BYTES: Final = 4 << 20
"""Of an object that is sent while it is made: no request has to be worth its while, and little is left for the end."""
SINK_PIECE_BYTES: Final = 256 << 10
"""Read and handed on at a time: small enough to be still in the processor's own cache then."""
# Reads wait on a disk or on a network file system; 16 keep either busy.
THREADS: Final = 16

P = ParamSpec("P")
T = TypeVar("T")


class _Kind(Enum):
    DIRECTORY = auto()
    LINK = auto()


_DIRECTORY: Final = _Kind.DIRECTORY
_LINK: Final = _Kind.LINK
_Status: TypeAlias = os.stat_result | _Kind

_DENIED = frozenset({errno.EACCES, errno.EPERM})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_OUTSIDE = frozenset({errno.EXDEV, errno.ELOOP, errno.EINVAL, errno.ENAMETOOLONG})


def open_posix(mount_point: str, options: Mapping[str, str], secret_options: SecretOptions) -> "PosixStore":
    """Open a `file://` mount; InvalidMount when it is not `file:///absolute/directory`."""
    parts = urlsplit(mount_point)
    root = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not root.startswith("/") or parts.query or parts.fragment:
        raise InvalidMount(f"mountPoint {mount_point!r} is not usable; write file:///absolute/directory.")
    return PosixStore(Path(root))


class PosixStore:
    """`UnderStore` over one directory."""

    can_stream = True
    can_stage = True
    can_sink = True
    can_settle = True
    piece_bytes: int | None = STREAM_PIECE_BYTES

    def __init__(self, root: Path) -> None:
        self._root = root
        self._root_fd = -1
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="posix-store")

    def __repr__(self) -> str:
        return f"PosixStore({str(self._root)!r})"

    async def list(self, prefix: str = "", *, start_after: str = "") -> AsyncGenerator[builtins.list[ObjectInfo], None]:
        found = self._walk(prefix, start_after)
        while page := await self._run(lambda: list(islice(found, PAGE_ENTRIES))):
            yield page

    async def split_points(self, after: str, until: str) -> builtins.list[str]:
        return []  # each part would read the directories above its beginning again

    async def head(self, key: str) -> ObjectInfo:
        return await self._run(self._head, key)

    async def get_range(self, key: str, offset_bytes: int, buffer: memoryview, *, etag: str) -> None:
        await self._run(self._get_range, key, offset_bytes, buffer, etag, None)

    async def sink_range(self, key: str, offset_bytes: int, buffer: memoryview, sink: Sink, *, etag: str) -> None:
        """See `ThreadedStore`."""
        await self._run(self._sink_range, key, offset_bytes, buffer, sink, etag)

    async def put(self, key: str, source: Source, size_bytes: int) -> ObjectInfo:
        return await self._run(self._put, key, pieces(source, size_bytes))

    async def put_pieces(self, key: str, pieces: AsyncIterator[Piece]) -> ObjectInfo:
        """See `StreamingStore`. What has come is written to the medium meanwhile."""

        def translated(operation: Callable[[], T]) -> T:
            with self._translated(key):
                return operation()

        putting = await self._run(translated, lambda: self._begin_put(key))
        try:
            async for piece in pieces:
                await self._run(translated, partial(putting.add, piece, to_medium=True))
            return _info(key, await self._run(translated, putting.finish))
        finally:
            await asyncio.shield(self._run(putting.close))

    async def stage(self, key: str) -> int | None:
        """See `StagingStore`. Network file systems have no files without a name."""
        staging = asyncio.ensure_future(self._run(self._stage, key))
        try:
            return await asyncio.shield(staging)
        except asyncio.CancelledError:
            staging.add_done_callback(_close_unwanted)
            raise

    async def publish(self, descriptor: int, key: str) -> ObjectInfo | None:
        """See `StagingStore`."""
        return await self._run(self._publish, descriptor, key)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        return await self._run(self._copy, source, target)

    async def delete(self, key: str) -> None:
        await self._run(self._delete, key)

    async def unlink(self, key: str) -> None:
        """See `SettlingStore`."""
        await self._run(self._unlink, key)

    async def settle(self, keys: Sequence[str]) -> None:
        """See `SettlingStore`. A directory that is gone has nothing to settle: its own name went later."""
        for directory in sorted({_split(key)[0] for key in keys}):
            await self._run(self._settle, directory)

    async def make_directory(self, path: str) -> None:
        def make() -> None:
            os.close(self._open_directory(path, make=True))

        await self._run(make)

    async def remove_directory(self, path: str) -> None:
        await self._run(self._remove_directory, path)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def guarded() -> T:
            self._open_root()
            return function(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._threads, guarded)

    def _open_root(self) -> None:
        if self._root_fd >= 0:
            return
        try:
            self._root_fd = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BucketNotFound(f"the directory {self._root} of the mount does not exist.") from None
        except NotADirectoryError:
            raise InvalidMount(f"mountPoint file://{self._root} is not a directory.") from None
        except PermissionError:
            raise AccessDenied(f"the directory {self._root} of the mount may not be opened.") from None

    # Reading

    def _head(self, key: str) -> ObjectInfo:
        with self._translated(key), self._opened(key) as descriptor:
            return _info(key, os.fstat(descriptor))

    def _sink_range(self, key: str, offset_bytes: int, buffer: memoryview, sink: Sink, etag: str) -> None:
        if not sink.begin():
            raise StoreFailed(f"nobody waits for {key!r} any more.")
        try:
            self._get_range(key, offset_bytes, buffer, etag, sink.take)
            sink.end()
        finally:
            sink.leave()

    def _get_range(
        self, key: str, offset_bytes: int, buffer: memoryview, etag: str, take: Callable[[int, memoryview], None] | None
    ) -> None:
        with self._translated(key), self._opened(key) as descriptor:
            self._require_version(key, descriptor, etag)
            filled = 0
            while filled < len(buffer):
                piece = buffer[filled : filled + SINK_PIECE_BYTES] if take else buffer[filled:]
                count = os.preadv(descriptor, [piece], offset_bytes + filled)
                if count == 0:
                    break
                if take:
                    take(filled, piece[:count])
                filled += count
            # Bytes of a file that was rewritten meanwhile may be of two versions.
            self._require_version(key, descriptor, etag)
            if filled < len(buffer):
                raise ShortBody(
                    f"{key!r} ended {len(buffer) - filled} bytes before the end of the range.", retryable=False
                )

    def _require_version(self, key: str, descriptor: int, etag: str) -> None:
        current = _info(key, os.fstat(descriptor)).etag
        if current != etag:
            raise Changed(f"{key!r} changed: version {etag} was asked for, {current} is there.")

    def _walk(self, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        top = prefix.rpartition("/")[0]
        yield from self._walk_directory(top, prefix, start_after, shows_marker=bool(top))

    def _walk_directory(self, path: str, prefix: str, start_after: str, *, shows_marker: bool) -> Iterator[ObjectInfo]:
        lead = f"{path}/" if path else ""
        try:
            entries = self._directory_entries(path)
        except (NotFound, AlreadyExists):
            return  # removed since its parent was read, or no directory of the prefix's name
        if not entries and shows_marker and lead.startswith(prefix) and lead > start_after:
            with suppress(NotFound):
                yield self._marker(lead)
        for name, status in entries:
            key = f"{lead}{name}"
            if status is _DIRECTORY:
                below = f"{key}/"
                is_past = below > start_after or start_after.startswith(below)
                if is_past and (below.startswith(prefix) or prefix.startswith(below)):
                    yield from self._walk_directory(key, prefix, start_after, shows_marker=True)
            elif key > start_after and key.startswith(prefix):
                if isinstance(status, os.stat_result):
                    yield _info(key, status)
                    continue
                # A link that leads out or nowhere, or to a directory, is no object.
                with suppress(NotFound, InvalidKey, AlreadyExists):
                    yield self._head(key)

    def _directory_entries(self, path: str) -> builtins.list[tuple[str, "_Status"]]:
        """Names of a directory in key order, with the status of those that are regular files."""
        with self._translated(path):
            descriptor = open_beneath(self._root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with os.scandir(descriptor) as found:
                    entries = [
                        (entry.name, status)
                        for entry in found
                        if not entry.name.startswith(TEMPORARY_PREFIX) and (status := _status(entry)) is not None
                    ]
            finally:
                os.close(descriptor)
        # A directory's keys sort as its name with the slash: "a-b" < "a/b" < "ab".
        entries.sort(key=lambda entry: f"{entry[0]}/" if entry[1] is _DIRECTORY else entry[0])
        return entries

    def _marker(self, key: str) -> ObjectInfo:
        with self._translated(key):
            descriptor = open_beneath(self._root_fd, key, os.O_PATH | os.O_DIRECTORY)
            try:
                return ObjectInfo(key, 0, "", os.fstat(descriptor).st_mtime_ns)
            finally:
                os.close(descriptor)

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        descriptor = open_beneath(self._root_fd, checked_key(key), os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotFound(f"{key!r} is not a regular file.")
            yield descriptor
        finally:
            os.close(descriptor)

    # Writing

    def _put(self, key: str, source: Iterator[bytes]) -> ObjectInfo:
        with self._translated(key):
            putting = self._begin_put(key)
            try:
                for piece in source:
                    putting.add(piece)
                return _info(key, putting.finish())
            finally:
                putting.close()

    def _begin_put(self, key: str) -> Putting:
        directory, name = _split(key)
        directory_fd = self._open_directory(directory, make=True)
        try:
            return Putting(directory_fd, name)
        except BaseException:
            os.close(directory_fd)
            raise

    def _stage(self, key: str) -> int | None:
        # Beside the name it will get: what is below a directory may be another file system, which cannot link to it.
        directory = _split(key)[0]
        while True:
            try:
                return open_beneath(self._root_fd, directory, os.O_TMPFILE | os.O_RDWR, 0o644)
            except FileNotFoundError:
                if not directory:
                    return None
                directory = _split(directory)[0]
            except OSError:
                return None  # whatever is wrong, the put that follows instead will say it

    def _publish(self, descriptor: int, key: str) -> ObjectInfo | None:
        try:
            os.fsync(descriptor)  # with its times, which are part of the etag
        except OSError as error:
            raise BytesLost(
                f"{key!r} below {self._root} did not reach the medium: {os.strerror(error.errno or 0)}."
            ) from error
        with self._translated(key):
            return _info(key, os.fstat(descriptor)) if self._link(descriptor, key) else None

    def _copy(self, source: str, target: str) -> ObjectInfo:
        with self._translated(source), self._opened(source) as descriptor:
            status = os.fstat(descriptor)
            if self._is_only_name(source, status) and self._link(descriptor, target):
                return _info(target, status)
            return self._put(target, pieces(descriptor, status.st_size))

    def _is_only_name(self, key: str, status: os.stat_result) -> bool:
        """Whether the file has no other name, and is not only linked to."""
        directory, name = _split(key)
        with self._directory(directory) as directory_fd:
            named = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        return status.st_nlink == 1 and os.path.samestat(named, status)

    def _link(self, descriptor: int, key: str) -> bool:
        directory, name = _split(key)
        with self._translated(key), self._directory(directory, make=True) as directory_fd:
            return link(descriptor, directory_fd, name)

    def _delete(self, key: str) -> None:
        directory, name = _split(key)
        with suppress(NotFound), self._translated(key), self._directory(directory) as directory_fd:
            os.unlink(name, dir_fd=directory_fd)
            os.fsync(directory_fd)

    def _unlink(self, key: str) -> None:
        directory, name = _split(key)
        with suppress(NotFound), self._translated(key), self._directory(directory) as directory_fd:
            os.unlink(name, dir_fd=directory_fd)

    def _settle(self, directory: str) -> None:
        # Where there is a file by now a directory was removed, too.
        gone = suppress(NotFound, AlreadyExists)
        with gone, self._translated(directory), self._directory(directory) as directory_fd:
            os.fsync(directory_fd)

    def _remove_directory(self, path: str) -> None:
        directory, name = _split(path)
        with suppress(NotFound), self._translated(path), self._directory(directory) as directory_fd:
            os.rmdir(name, dir_fd=directory_fd)
            os.fsync(directory_fd)

    @contextmanager
    def _directory(self, path: str, *, make: bool = False) -> Iterator[int]:
        descriptor = self._open_directory(path, make=make)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_directory(self, path: str, *, make: bool = False) -> int:
        """Open a directory for fsync and *at calls, making what is missing; made ones are durable."""
        with self._translated(path):
            try:
                return open_beneath(self._root_fd, checked_key(path) if path else "", os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                if not make:
                    raise
            parent, name = _split(path)
            with self._directory(parent, make=True) as parent_fd:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=parent_fd)
                os.fsync(parent_fd)
            return open_beneath(self._root_fd, path, os.O_RDONLY | os.O_DIRECTORY)

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _translate(error, key, self._root) from error


def _close_unwanted(staging: asyncio.Future[int | None]) -> None:
    """Close what was staged for somebody who is gone."""
    descriptor = None if staging.cancelled() or staging.exception() else staging.result()
    if descriptor is not None:
        os.close(descriptor)


def _translate(error: OSError, key: str, root: Path) -> UnderStoreError:
    number = error.errno or 0
    if number in (errno.ENOENT, errno.ENXIO):
        return NotFound(f"there is no file {key!r} below {root}.")
    if number in _DENIED:
        return AccessDenied(f"{key!r} below {root} may not be accessed: permission denied.")
    if number in _FULL:
        return NoSpace(f"{key!r} cannot be written below {root}: {os.strerror(number)}.")
    if number in _OUTSIDE:
        return InvalidKey(f"{key!r} is not a path inside {root}.")
    if number in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return AlreadyExists(f"{key!r} below {root} meets a {_other_kind(number)} in its place.")
    if number == errno.ENOTEMPTY:
        return NotEmpty(f"the directory {key!r} below {root} is not empty.")
    # EIO, ESTALE and the like: a failing disk or file server. Not retried here: a failed fsync must not be.
    return StoreFailed(f"{key!r} below {root} failed: {os.strerror(number)}.")


def _other_kind(number: int) -> str:
    return "directory" if number == errno.EISDIR else "file"


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
    return ObjectInfo(key, status.st_size, etag, status.st_mtime_ns)


def _status(entry: "os.DirEntry[str]") -> "_Status | None":
    if entry.is_dir(follow_symlinks=False):
        return _DIRECTORY
    if entry.is_symlink():
        return _LINK
    try:
        return entry.stat(follow_symlinks=False) if entry.is_file(follow_symlinks=False) else None
    except FileNotFoundError:
        return None


def _split(key: str) -> tuple[str, str]:
    directory, _, name = checked_key(key).rpartition("/")
    return directory, name

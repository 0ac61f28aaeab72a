"""One sparse file and its map on disk: the only code that reads and writes them.

Owns `<tier>/<dataset hash>/<hh>/<version hash>` and `<same>.map`. Does not decide what is kept (core) nor count
bytes (cached_files.py). Functions named *_block, `verify` and `scan` block and run in threads; the rest is a few
system calls. No fsync: what is cached can be fetched again, and a block is resident only when its checksum is
stored and matches, so what a crash tears is dropped, never served. A map that replaces another is made under a
temporary name and renamed; in place, the checksum is written before the bit.
"""

import ctypes
import ctypes.util
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from cacheruntime.core.block_map import BlockMap, MapError, decode
from cacheruntime.core.blocks import Version, dataset_name, extents_of, version_name
from cacheruntime.core.checksums import crc32c
from cacheruntime.worker.buffers import fresh, page_aligned
from understores.posix_put import WRITE_BYTES_MAX

MAP_SUFFIX: Final = ".map"
TEMPORARY_SUFFIX: Final = ".new"
STAGING_FOLDER: Final = "staging"
_PIECE_BYTES: Final = 1 << 20
_NO_DESCRIPTOR: Final = -1
# FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE (linux/falloc.h); os has no punching fallocate.
_PUNCH: Final = 0x01 | 0x02
_libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class CachedFile:
    """One object version on this node. Changed on the event loop, except the map, under `lock`."""

    __slots__ = (
        "descriptor",
        "has_map_file",
        "is_home",
        "is_noted",
        "is_pinned",
        "is_unlinked",
        "is_verified",
        "last_used_seconds",
        "lock",
        "map",
        "map_descriptor",
        "name",
        "path",
        "references",
        "reserved_bytes",
        "temporary",
        "tier",
        "uses",
        "writes",
        "written_ns",
    )

    def __init__(self, block_map: BlockMap, tier: int, path: Path) -> None:
        self.map = block_map
        self.name = version_name(block_map.version)
        self.tier = tier
        self.path = path
        self.descriptor = _NO_DESCRIPTOR
        self.map_descriptor = _NO_DESCRIPTOR
        self.has_map_file = False
        self.is_home = block_map.is_home
        """As the index counts it; follows the map's after a write."""
        self.is_noted = False
        """Reports may have told of it, so they must tell when it goes."""
        self.is_unlinked = False
        self.is_pinned = False
        self.is_verified = True
        self.references = 0
        self.reserved_bytes = 0
        self.temporary: set[int] = set()
        self.last_used_seconds = 0.0
        self.uses = 0.0
        """Times it was opened after a pause, older ones halved now and then (file_index.py)."""
        self.writes = 0
        self.written_ns = 0
        """mtime after our own last write; another one means that somebody else wrote."""
        self.lock = threading.Lock()

    @property
    def version(self) -> Version:
        """What the bytes are of."""
        return self.map.version

    def has(self, index: int) -> bool:
        """Whether the block may be read now, kept or not."""
        return self.map.has(index) or index in self.temporary


def data_path(directory: Path, version: Version) -> Path:
    """Where a tier keeps a version."""
    name = version_name(version)
    return directory / f"{dataset_name(version.uid)}/{name[:2]}/{name}"


def map_path(path: Path) -> Path:
    """The map beside a sparse file."""
    return path.with_name(path.name + MAP_SUFFIX)


def open_file(file: CachedFile) -> None:
    """Open the sparse file, making it with its full size when there is none; OSError."""
    if file.descriptor != _NO_DESCRIPTOR:
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(file.path, flags, 0o600)
    except FileNotFoundError:
        file.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file.path, flags, 0o600)
    try:
        if os.fstat(descriptor).st_size != file.version.size_bytes:
            os.ftruncate(descriptor, file.version.size_bytes)
        if file.map.resident_bytes == 0:
            file.written_ns = os.fstat(descriptor).st_mtime_ns
    except OSError:
        os.close(descriptor)
        raise
    file.descriptor = descriptor


def open_for_reader(file: CachedFile) -> int:
    """Return a new read-only descriptor of the open file, unlinked or not; the caller closes it."""
    return os.open(f"/proc/self/fd/{file.descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def close_file(file: CachedFile) -> None:
    """Close what is open of it."""
    close_map(file)
    if file.descriptor != _NO_DESCRIPTOR:
        os.close(file.descriptor)
        file.descriptor = _NO_DESCRIPTOR


def close_map(file: CachedFile) -> None:
    """Close the map, which only writes need."""
    if file.map_descriptor != _NO_DESCRIPTOR:
        os.close(file.map_descriptor)
        file.map_descriptor = _NO_DESCRIPTOR


def is_open(file: CachedFile) -> bool:
    """Whether the file has a descriptor."""
    return file.descriptor != _NO_DESCRIPTOR


def is_lost(file: CachedFile) -> bool:
    """Whether somebody else removed the open file: what is written to it no restart would find."""
    return file.descriptor != _NO_DESCRIPTOR and os.fstat(file.descriptor).st_nlink == 0


def unlink_file(file: CachedFile) -> None:
    """Remove both names; whoever has the file open reads on. What a failing medium keeps, a restart checks."""
    with file.lock:
        file.is_unlinked = True
        for path in (map_path(file.path), file.path):
            with suppress(OSError):
                path.unlink()


def write_block(file: CachedFile, index: int, data: memoryview, checksum: int, *, as_home: bool) -> None:
    """Store one block and make it resident; OSError leaves it not resident. Blocks."""
    write_at(file.descriptor, data, index * file.map.block_size_bytes)
    keep_block(file, index, checksum, as_home=as_home)


def keep_block(file: CachedFile, index: int, checksum: int, *, as_home: bool) -> None:
    """Make a block resident whose bytes were written; OSError leaves it not resident. Blocks."""
    with file.lock:
        file.written_ns = os.fstat(file.descriptor).st_mtime_ns
        needs_header = as_home and not file.map.is_home
        file.map.is_home = file.map.is_home or as_home
        file.map.add(index, checksum)
        try:
            save_map(file, index, whole=needs_header)
        except OSError:
            file.map.drop(index)
            raise


def write_temporary_block(file: CachedFile, index: int, data: memoryview) -> None:
    """Put a block where a bypassed reader finds it; the map does not know it. Blocks."""
    write_at(file.descriptor, data, index * file.map.block_size_bytes)
    with file.lock:
        file.written_ns = os.fstat(file.descriptor).st_mtime_ns


def read_block(file: CachedFile, index: int) -> memoryview | None:
    """Return a resident block's bytes, or None when they do not have their checksum. Blocks."""
    with file.lock:
        expected = file.map.checksum(index)
    data = fresh(file.map.length(index))
    if not _read_at(file.descriptor, data, index * file.map.block_size_bytes):
        return None
    return data if crc32c(data) == expected else None


def read_now(file: CachedFile, offset: int, size_bytes: int) -> bytearray | None:
    """Return bytes that are in memory already, unchecked; None when a disk would have to be waited for."""
    data = bytearray(size_bytes)
    try:
        count = os.preadv(file.descriptor, [data], offset, os.RWF_NOWAIT)
    except OSError:
        return None  # not in memory, or a file system that cannot say: a read that may wait will tell
    return data if count == size_bytes else None


def read_range(file: CachedFile, offset: int, size_bytes: int) -> bytearray | None:
    """Return bytes, unchecked; None when the file is shorter. Blocks; OSError."""
    data = bytearray(size_bytes)
    return data if _read_at(file.descriptor, memoryview(data), offset) else None


def drop_block(file: CachedFile, index: int) -> bool:
    """Make one block not resident, on disk too; return whether it was. A few system calls."""
    with file.lock:
        was_resident = file.map.drop(index)
        if was_resident:
            with suppress(OSError):
                save_map(file, index, whole=False)
        return was_resident


def rename_file(file: CachedFile, version: Version, target: Path) -> None:
    """Give the same bytes another version's name and map; a few system calls; OSError."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with file.lock:
        file.path.rename(target)
        map_path(file.path).unlink(missing_ok=True)
        file.map = file.map.rekeyed(version)
        file.path, file.name = target, version_name(version)
        save_map(file, 0, whole=True)


def take_over(file: CachedFile, staging: Path, checksums: list[int]) -> None:
    """Rename a whole, durable file into its place with a complete map; a few system calls; OSError."""
    file.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staging.rename(file.path)
    open_file(file)
    with file.lock:
        file.written_ns = os.fstat(file.descriptor).st_mtime_ns
        for index, checksum in enumerate(checksums):
            file.map.add(index, checksum)
        try:
            save_map(file, 0, whole=True)
        except OSError:
            for index in range(len(checksums)):
                file.map.drop(index)
            raise


def verify(file: CachedFile) -> list[int]:
    """Return the resident blocks whose bytes do not have their checksum, or cannot be read. Blocks; OSError."""
    bad: list[int] = []
    buffer = page_aligned(min(_PIECE_BYTES, file.map.block_size_bytes))
    before_ns = os.fstat(file.descriptor).st_mtime_ns
    for index in file.map.resident_blocks():
        try:
            is_right = _has_checksum(file, index, buffer)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            is_right = False
        if not is_right:
            bad.append(index)
    with file.lock:
        file.written_ns = before_ns if file.writes == 0 else file.written_ns
    return bad


def is_touched(file: CachedFile) -> bool:
    """Whether somebody else wrote to the file since our last write; one system call."""
    return file.writes == 0 and os.fstat(file.descriptor).st_mtime_ns != file.written_ns


def is_as_left(file: CachedFile) -> bool:
    """Whether nobody else wrote to the open file, or removed it; one system call."""
    status = os.fstat(file.descriptor)
    is_there = status.st_nlink > 0 or file.is_unlinked
    return is_there and (file.writes > 0 or status.st_mtime_ns == file.written_ns)


def punch(file: CachedFile, blocks: set[int]) -> None:
    """Give the room of these blocks back; OSError where the file system cannot punch holes."""
    for offset, length in extents_of(blocks, file.version.size_bytes, file.map.block_size_bytes):
        if _libc.fallocate(file.descriptor, _PUNCH, offset, length) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    file.written_ns = os.fstat(file.descriptor).st_mtime_ns


def read_checked(descriptor: int, data: memoryview, offset_bytes: int) -> int:
    """Fill `data` from an open file and return its checksum. Blocks; OSError, also when the file is too short."""
    if not _read_at(descriptor, data, offset_bytes):
        raise OSError(errno.EIO, "the file became shorter while it was read")
    return crc32c(data)


def checksums(descriptor: int, size_bytes: int, block_size_bytes: int) -> list[int]:
    """Return the checksum of each block of an open file. Blocks; OSError."""
    result: list[int] = []
    buffer = page_aligned(block_size_bytes)
    for offset in range(0, size_bytes, block_size_bytes):
        view = buffer[: min(block_size_bytes, size_bytes - offset)]
        result.append(read_checked(descriptor, view, offset))
    return result


def scan(directory: Path, tier: int, block_size_bytes: int) -> list[CachedFile]:
    """Return the files a tier's maps tell of, unverified; what has no whole map is removed. Blocks.

    What is staged goes too: half a copy, or written bytes that are in the under store if they were acknowledged.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (directory / STAGING_FOLDER).is_dir():
        for left in (directory / STAGING_FOLDER).iterdir():
            left.unlink(missing_ok=True)
    found: list[CachedFile] = []
    for folder in _folders(directory):
        names = {entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)}
        for name in sorted(names):
            if name.endswith(MAP_SUFFIX):
                continue
            file = None
            if name + MAP_SUFFIX in names:
                file = _load(folder / name, tier, block_size_bytes)
            if file is None:
                (folder / name).unlink(missing_ok=True)
                (folder / (name + MAP_SUFFIX)).unlink(missing_ok=True)
            else:
                found.append(file)
        for name in names:
            if name.endswith(MAP_SUFFIX) and name.removesuffix(MAP_SUFFIX) not in names:
                (folder / name).unlink(missing_ok=True)
    return found


def _folders(directory: Path) -> Iterator[Path]:
    for dataset in directory.iterdir():
        if dataset.name != STAGING_FOLDER and dataset.is_dir() and not dataset.is_symlink():
            yield from (folder for folder in dataset.iterdir() if folder.is_dir() and not folder.is_symlink())


def _load(path: Path, tier: int, block_size_bytes: int) -> CachedFile | None:
    try:
        block_map = decode(map_path(path).read_bytes())
    except (MapError, OSError):
        return None
    file = CachedFile(block_map, tier, path)
    is_ours = file.name == path.name and block_map.block_size_bytes == block_size_bytes
    if not is_ours or path.stat().st_size != file.version.size_bytes or not block_map.resident_bytes:
        return None
    file.has_map_file = True
    file.is_verified = False
    return file


def save_map(file: CachedFile, index: int, *, whole: bool) -> None:
    """Store the map, or what of it tells of one block; nothing of an unlinked file. Under `lock`; OSError."""
    if file.is_unlinked:
        return
    if whole or not file.has_map_file:
        # What replaces a map gets its name when it is whole; where there is none, a torn one is none still.
        name = f"{file.path}{MAP_SUFFIX}"
        target = name + TEMPORARY_SUFFIX if file.has_map_file else name
        if file.map_descriptor != _NO_DESCRIPTOR:
            os.close(file.map_descriptor)
            file.map_descriptor = _NO_DESCRIPTOR
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            write_at(descriptor, memoryview(file.map.encode()), 0)
        finally:
            os.close(descriptor)
        if target != name:
            os.rename(target, name)  # noqa: PTH104 - a Path each costs as much as the call
        file.has_map_file = True
        return
    if file.map_descriptor == _NO_DESCRIPTOR:
        file.map_descriptor = os.open(map_path(file.path), os.O_WRONLY | os.O_CLOEXEC)
    for offset, data in file.map.patch(index):
        write_at(file.map_descriptor, memoryview(data), offset)


def _has_checksum(file: CachedFile, index: int, buffer: memoryview) -> bool:
    with file.lock:
        if not file.map.has(index):
            return True
        expected = file.map.checksum(index)
    offset, left, actual = index * file.map.block_size_bytes, file.map.length(index), 0
    while left:
        view = buffer[: min(len(buffer), left)]
        if not _read_at(file.descriptor, view, offset):
            return False
        actual = crc32c(view, actual)
        offset, left = offset + len(view), left - len(view)
    return actual == expected


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data`. Blocks; OSError."""
    while data:
        written = os.pwrite(descriptor, data[:WRITE_BYTES_MAX], offset)
        data, offset = data[written:], offset + written


def _read_at(descriptor: int, view: memoryview, offset: int) -> bool:
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            return False
        view, offset = view[count:], offset + count
    return True

"""Files of held versions on a tier: bytes, a record beside them, both durable before anybody is told.

Owns the folder and its formats. Everything here blocks; OSError.

    held/<id>        the bytes, never changed once the name is there
    held/<id>.json   cacheruntime/core/held.py's Record
    held/<id>.new    half of one: gone at the next start
    held/disk        the name of this folder, made once: another disk has another

Invariants: a record is there only after its bytes are on the medium; a file without a record was acknowledged to
nobody.
"""

import errno
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from api.held import held_name
from cacheruntime.core.blocks import block_length
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.held import Record, RecordError, decode, encode
from cacheruntime.worker import tier_files
from cacheruntime.worker.buffers import page_aligned

log = structlog.get_logger()

FOLDER: Final = "held"
_RECORD: Final = ".json"
_HALF: Final = ".new"
_DISK: Final = "disk"


@dataclass(frozen=True, slots=True)
class HeldCopy:
    """This node's copy of one held version."""

    record: Record
    path: Path


def prepare(folder: Path) -> None:
    """Make the folder."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)


def disk_id(folder: Path) -> str:
    """Return the folder's name, durable before it is told to anybody."""
    prepare(folder)
    path = folder / _DISK
    if not path.exists():
        _write(path, secrets.token_hex(16).encode())
    return path.read_text()


def begin(folder: Path, number: str) -> tuple[Path, int]:
    """Return a new file that is not held yet, and its descriptor."""
    prepare(folder)
    path = folder / f"{number}{_HALF}"
    return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def keep(folder: Path, source: Path, record: Record) -> HeldCopy:
    """Hold a file whose bytes are on the medium: give it a second name here, and a record."""
    prepare(folder)
    path = folder / _number(record)
    os.link(source, path)
    try:
        _write_record(path, record)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return HeldCopy(record, path)


def has_traces(folder: Path, number: str) -> bool:
    """Whether there is anything of a held version."""
    path = folder / number
    return path.exists() or _record_path(path).exists()


def drop(copy: HeldCopy) -> None:
    """Let a copy go: the record first, as a file without one means nothing."""
    _record_path(copy.path).unlink(missing_ok=True)
    copy.path.unlink(missing_ok=True)


def drop_record(copy: HeldCopy) -> None:
    """The bytes have another name now."""
    _record_path(copy.path).unlink(missing_ok=True)


def scan(folder: Path) -> list[HeldCopy]:
    """Return what an earlier run held; halves are removed, what cannot be understood is left where it is and said."""
    found: list[HeldCopy] = []
    if not folder.is_dir():
        return found
    names = {entry.name for entry in os.scandir(folder)} - {_DISK}
    for name in sorted(names):
        path = folder / name
        if name.endswith(_HALF) or (not name.endswith(_RECORD) and name + _RECORD not in names):
            path.unlink(missing_ok=True)
        elif name.endswith(_RECORD):
            copy = _load(path.with_suffix(""))
            if copy is not None:
                found.append(copy)
    return found


def read_block(descriptor: int, record: Record, index: int, view: memoryview) -> int:
    """Fill `view` with a block, and return its checksum; EIO when it is not the record's."""
    checksum = tier_files.read_checked(descriptor, view, index * record.block_size_bytes)
    if checksum != record.checksums[index]:
        raise OSError(errno.EIO, f"block {index} of a held file does not have its checksum")
    return checksum


def read_range(copy: HeldCopy, offset_bytes: int, length_bytes: int) -> memoryview:
    """Return a range of one block; the whole block is checked."""
    index = offset_bytes // copy.record.block_size_bytes
    start = index * copy.record.block_size_bytes
    data = page_aligned(block_length(index, copy.record.size_bytes, copy.record.block_size_bytes))
    descriptor = os.open(copy.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        read_block(descriptor, copy.record, index, data)
    finally:
        os.close(descriptor)
    return data[offset_bytes - start : offset_bytes - start + length_bytes]


def open_checked(copy: HeldCopy) -> int:
    """Return a descriptor of the copy after all of it was read and checked; OSError."""
    descriptor = os.open(copy.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size != copy.record.size_bytes:
            raise OSError(errno.EIO, f"a held file has {size} bytes of {copy.record.size_bytes}")
        buffer = page_aligned(copy.record.block_size_bytes)
        for index in range(len(copy.record.checksums)):
            length = block_length(index, copy.record.size_bytes, copy.record.block_size_bytes)
            read_block(descriptor, copy.record, index, buffer[:length])
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def checksum_of(descriptor: int, offset_bytes: int, view: memoryview) -> int:
    """Fill `view` from a file that is about to be held; return the checksum."""
    if view:
        return tier_files.read_checked(descriptor, view, offset_bytes)
    return crc32c(view)


def sync_folder(folder: Path) -> None:
    """Make names durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number(record: Record) -> str:
    name = held_name(record.etag)
    assert name is not None, "a record is of a held version"
    return name.id


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + _RECORD)


def _write_record(path: Path, record: Record) -> None:
    _write(_record_path(path), encode(record))


def _write(path: Path, data: bytes) -> None:
    half = path.with_name(f"{path.name}{_HALF}")
    with half.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
    sync_folder(path.parent)


def _load(path: Path) -> HeldCopy | None:
    try:
        record = decode(_record_path(path).read_bytes())
        size = path.stat().st_size
    except (RecordError, OSError) as error:
        log.error("held_file_not_understood", file=str(path), error=str(error))
        return None
    if size != record.size_bytes or _number(record) != path.name:
        log.error("held_file_damaged", file=str(path), dataset=record.uid, path=record.path, etag=record.etag)
        return None
    return HeldCopy(record, path)

"""Object versions and the arithmetic between byte ranges and blocks.

Owns `Version` and block numbers. Does not know where blocks are. Invariants: block i of a version covers
[i*block_size, min((i+1)*block_size, size)); an empty object has no block.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version of one file of one dataset; `path` is relative to the dataset's root."""

    uid: str
    path: str
    etag: str
    size_bytes: int


@lru_cache(maxsize=8192)
def version_name(version: Version) -> str:
    """Return the file name of a version: a hash, so that user text never names a file on a node."""
    text = "\0".join((version.uid, version.path, version.etag, str(version.size_bytes)))
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


@lru_cache(maxsize=1024)
def dataset_name(uid: str) -> str:
    """Return the folder name of a dataset, a hash as well."""
    return hashlib.blake2b(uid.encode(), digest_size=8).hexdigest()


def block_count(size_bytes: int, block_size_bytes: int) -> int:
    """Return how many blocks an object of that size has."""
    return -(-size_bytes // block_size_bytes)


def block_length(index: int, size_bytes: int, block_size_bytes: int) -> int:
    """Return the bytes in block `index`; ValueError when the object has no such block."""
    start = index * block_size_bytes
    if index < 0 or start >= size_bytes:
        raise ValueError(f"block {index} is outside an object of {size_bytes} bytes")
    return min(block_size_bytes, size_bytes - start)


def blocks_of_range(offset_bytes: int, length_bytes: int, size_bytes: int, block_size_bytes: int) -> range:
    """Return the block numbers that a range touches; what lies behind the object's end is left out."""
    end = min(offset_bytes + length_bytes, size_bytes)
    if offset_bytes >= end:
        return range(0)
    return range(offset_bytes // block_size_bytes, (end - 1) // block_size_bytes + 1)


def overlap_bytes(index: int, offset_bytes: int, length_bytes: int, size_bytes: int, block_size_bytes: int) -> int:
    """Return how many bytes of the range lie in block `index` of the object."""
    start = max(offset_bytes, index * block_size_bytes)
    end = min(offset_bytes + length_bytes, (index + 1) * block_size_bytes, size_bytes)
    return max(0, end - start)


def extents_of(indexes: Iterable[int], size_bytes: int, block_size_bytes: int) -> list[tuple[int, int]]:
    """Return the (offset, length) of each run of neighbouring blocks, in order."""
    extents: list[tuple[int, int]] = []
    for index in sorted(indexes):
        offset = index * block_size_bytes
        length = block_length(index, size_bytes, block_size_bytes)
        if extents and sum(extents[-1]) == offset:
            extents[-1] = (extents[-1][0], extents[-1][1] + length)
        else:
            extents.append((offset, length))
    return extents

"""The map beside each sparse file: which blocks of which object version are in it, with their checksums.

Owns the format and its codec; does no I/O. Little endian:

    0      4        6      8           12          20           22            24            26       32
    HRBM   version  flags  block_size  size_bytes  uid_bytes    path_bytes    etag_bytes    zero     header_crc32c
    36     uid, path, etag (UTF-8), zeros up to a multiple of 8
    then   bitmap: block i = bit i%8 of byte i//8, zeros up to a multiple of 8
    then   CRC32C of each block, 4 bytes each

`header_crc32c` covers everything before it and the three names. Flag 1: some block was kept as its home.
The table is changed in place, checksum first, bit after. It carries no checksum of its own and needs none: a
bit that a crash left without its checksum, or a checksum without its data, fails against the data and the
block is dropped. Invariant: a block is resident only when bit and checksum are stored and the data has that
checksum. A map that is short, has a wrong header or another format version is no map: `MapError`.
"""

import struct
from typing import Final

from cacheruntime.core.blocks import Version, block_count, block_length
from cacheruntime.core.checksums import crc32c

MAGIC: Final = b"HRBM"
FORMAT_VERSION: Final = 1
FLAG_HOME: Final = 1
_HEADER: Final = struct.Struct("<4sHHIQHHH6xI")
_CRC: Final = struct.Struct("<I")


class MapError(ValueError):
    """Bytes that are no whole map of this format; whatever lies beside them is not resident."""


def _padded(count: int) -> int:
    return (count + 7) // 8 * 8


class BlockMap:
    """Residency and checksums of one object version, as stored on disk."""

    __slots__ = ("_bits", "_crcs", "block_size_bytes", "is_home", "resident_bytes", "version")

    def __init__(self, version: Version, block_size_bytes: int, *, is_home: bool = False) -> None:
        self.version = version
        self.block_size_bytes = block_size_bytes
        self.is_home = is_home
        self.resident_bytes = 0
        count = self.count
        self._bits = bytearray((count + 7) // 8)
        self._crcs = bytearray(4 * count)

    @property
    def count(self) -> int:
        """Number of blocks of the object, resident or not."""
        return block_count(self.version.size_bytes, self.block_size_bytes)

    @property
    def is_complete(self) -> bool:
        """Every block is resident."""
        return self.resident_bytes == self.version.size_bytes

    def length(self, index: int) -> int:
        """Bytes in block `index`."""
        return block_length(index, self.version.size_bytes, self.block_size_bytes)

    def has(self, index: int) -> bool:
        """Whether block `index` is resident."""
        return bool(self._bits[index >> 3] & (1 << (index & 7)))

    def checksum(self, index: int) -> int:
        """Checksum stored for a block; meaningful only while it is resident."""
        value: int = _CRC.unpack_from(self._crcs, 4 * index)[0]
        return value

    def add(self, index: int, checksum: int) -> None:
        """Mark a block resident with that checksum."""
        _CRC.pack_into(self._crcs, 4 * index, checksum)
        if not self.has(index):
            self._bits[index >> 3] |= 1 << (index & 7)
            self.resident_bytes += self.length(index)

    def drop(self, index: int) -> bool:
        """Mark a block not resident; return whether it was."""
        if not self.has(index):
            return False
        self._bits[index >> 3] &= ~(1 << (index & 7))
        self.resident_bytes -= self.length(index)
        return True

    def resident_blocks(self) -> list[int]:
        """Numbers of the resident blocks, in order."""
        return [i for i in range(self.count) if self._bits[i >> 3] & (1 << (i & 7))]

    def bitmap(self) -> bytes:
        """The bitmap as reports carry it; empty = all blocks."""
        return b"" if self.is_complete else bytes(self._bits)

    def rekeyed(self, version: Version) -> "BlockMap":
        """The same bytes under another name of the same size."""
        if version.size_bytes != self.version.size_bytes:
            raise ValueError(f"rekey from {self.version.size_bytes} to {version.size_bytes} bytes: sizes must agree")
        other = BlockMap(version, self.block_size_bytes, is_home=self.is_home)
        other._bits[:] = self._bits
        other._crcs[:] = self._crcs
        other.resident_bytes = self.resident_bytes
        return other

    def _load_table(self, bits: bytes, crcs: bytes) -> None:
        self._bits[:] = bits[: len(self._bits)]
        self._crcs[:] = crcs
        if self.count % 8 and self._bits[-1] >> (self.count % 8):
            raise MapError(f"map marks blocks behind the last of {self.count}")
        self.resident_bytes = sum(map(self.length, self.resident_blocks()))

    def encode(self) -> bytes:
        """The whole map as its file holds it."""
        names = _encode_names(self.version)
        table = bytes(self._bits).ljust(_padded(len(self._bits)), b"\0") + bytes(self._crcs)
        return _encode_header(self, names) + b"".join(names).ljust(_names_room(names), b"\0") + table

    def patch(self, index: int) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
        """(offset, bytes) of the checksum and of the bitmap byte of one block, in the order to write them."""
        bits_at = _HEADER.size + _names_room(_encode_names(self.version))
        crcs_at = bits_at + _padded(len(self._bits))
        byte = index >> 3
        return (
            (crcs_at + 4 * index, bytes(self._crcs[4 * index : 4 * index + 4])),
            (bits_at + byte, bytes(self._bits[byte : byte + 1])),
        )


def _encode_names(version: Version) -> tuple[bytes, bytes, bytes]:
    return version.uid.encode(), version.path.encode(), version.etag.encode()


def _names_room(names: tuple[bytes, bytes, bytes]) -> int:
    # The header has 36 bytes, so the table begins at a multiple of 8 when the names fill 4 modulo 8.
    return _padded(sum(map(len, names)) + _HEADER.size) - _HEADER.size


def _encode_header(block_map: BlockMap, names: tuple[bytes, bytes, bytes]) -> bytes:
    fields = _HEADER.pack(
        MAGIC,
        FORMAT_VERSION,
        FLAG_HOME if block_map.is_home else 0,
        block_map.block_size_bytes,
        block_map.version.size_bytes,
        *map(len, names),
        0,
    )[: -_CRC.size]
    return fields + _CRC.pack(crc32c(fields + b"".join(names)))


def decode(raw: bytes) -> BlockMap:
    """Return the map in these bytes; MapError when they are no whole map."""
    if len(raw) < _HEADER.size:
        raise MapError(f"map of {len(raw)} bytes is shorter than its header of {_HEADER.size}")
    magic, format_version, flags, block_size, size, uid_bytes, path_bytes, etag_bytes, checksum = _HEADER.unpack_from(
        raw
    )
    if magic != MAGIC or format_version != FORMAT_VERSION:
        raise MapError(f"map starts with {magic!r} version {format_version}, expected {MAGIC!r} {FORMAT_VERSION}")
    names_end = _HEADER.size + uid_bytes + path_bytes + etag_bytes
    names = raw[_HEADER.size : names_end]
    if crc32c(raw[: _HEADER.size - _CRC.size] + names) != checksum or block_size == 0:
        raise MapError("map's header does not have its checksum")
    count = block_count(size, block_size)
    table_at = _padded(names_end)
    crcs_at = table_at + _padded((count + 7) // 8)
    if len(raw) != crcs_at + 4 * count:
        raise MapError(f"map of {len(raw)} bytes, expected {crcs_at + 4 * count} for {count} blocks")
    try:
        uid, path, etag = (
            names[:uid_bytes].decode(),
            names[uid_bytes : uid_bytes + path_bytes].decode(),
            names[uid_bytes + path_bytes :].decode(),
        )
    except UnicodeDecodeError as error:
        raise MapError("map names its object in bytes that are no UTF-8") from error
    result = BlockMap(Version(uid, path, etag, size), block_size, is_home=bool(flags & FLAG_HOME))
    result._load_table(raw[table_at:crcs_at], raw[crcs_at:])
    return result

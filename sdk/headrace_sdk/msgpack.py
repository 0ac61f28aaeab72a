"""MessagePack, as much of it as the worker's frames use, so that a training image needs no further package.

Source: the MessagePack specification. Maps with text keys, arrays, text, bytes, 64-bit integers, doubles, true,
false, nil.
"""

import struct
from typing import Any


class Malformed(ValueError):
    """Bytes that are no MessagePack of these kinds."""


def pack(value: Any) -> bytes:
    """Return the encoding; TypeError for a value of another kind, OverflowError beyond 64 bits."""
    parts: list[bytes] = []
    _pack(value, parts)
    return b"".join(parts)


def _pack(value: Any, parts: list[bytes]) -> None:
    if value is None:
        parts.append(b"\xc0")
    elif isinstance(value, bool):
        parts.append(b"\xc3" if value else b"\xc2")
    elif isinstance(value, int):
        parts.append(_integer(value))
    elif isinstance(value, float):
        parts.append(struct.pack(">Bd", 0xCB, value))
    elif isinstance(value, str):
        raw = value.encode()
        parts += [_length(len(raw), 0xA0, 31, (0xD9, 0xDA, 0xDB)), raw]
    elif isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        parts += [_length(len(raw), 0, -1, (0xC4, 0xC5, 0xC6)), raw]
    elif isinstance(value, (list, tuple)):
        parts.append(_length(len(value), 0x90, 15, (None, 0xDC, 0xDD)))
        for each in value:
            _pack(each, parts)
    elif isinstance(value, dict):
        parts.append(_length(len(value), 0x80, 15, (None, 0xDE, 0xDF)))
        for key, each in value.items():
            _pack(key, parts)
            _pack(each, parts)
    else:
        raise TypeError(f"{type(value).__name__} cannot be sent to the worker")


def _integer(value: int) -> bytes:
    if -32 <= value < 128:
        return struct.pack(">b", value) if value < 0 else struct.pack(">B", value)
    if value >= 0:
        for kind, form, limit in (
            (0xCC, "B", 1 << 8),
            (0xCD, "H", 1 << 16),
            (0xCE, "I", 1 << 32),
            (0xCF, "Q", 1 << 64),
        ):
            if value < limit:
                return struct.pack(">B" + form, kind, value)
    else:
        for kind, form, limit in (
            (0xD0, "b", 1 << 7),
            (0xD1, "h", 1 << 15),
            (0xD2, "i", 1 << 31),
            (0xD3, "q", 1 << 63),
        ):
            if value >= -limit:
                return struct.pack(">B" + form, kind, value)
    raise OverflowError(f"{value} does not fit 64 bits")


def _length(length: int, short: int, short_max: int, kinds: tuple[Any, int, int]) -> bytes:
    if length <= short_max:
        return bytes((short | length,))
    for kind, form, limit in zip(kinds, ("B", "H", "I"), (1 << 8, 1 << 16, 1 << 32), strict=True):
        if kind is not None and length < limit:
            return struct.pack(">B" + form, kind, length)
    raise OverflowError(f"{length} entries are too many")


def unpack(raw: bytes) -> Any:
    """Return the value; Malformed when the bytes are torn, of another kind, or more than one value."""
    try:
        value, end = _unpack(raw, 0)
    except (struct.error, IndexError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise Malformed(f"the worker's answer is no MessagePack: {error}") from error
    if end != len(raw):
        raise Malformed(f"the worker's answer has {len(raw) - end} bytes too many")
    return value


_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
_NUMBERS.update({0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"})
_SIZED = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
_SIZED.update({0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"})
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def _unpack(raw: bytes, at: int) -> tuple[Any, int]:
    kind = raw[at]
    at += 1
    if kind < 0x80:
        return kind, at
    if kind >= 0xE0:
        return kind - 0x100, at
    if kind in _CONSTANTS:
        return _CONSTANTS[kind], at
    if kind in _NUMBERS:
        form = _NUMBERS[kind]
        return struct.unpack_from(form, raw, at)[0], at + struct.calcsize(form)
    if kind < 0xC0:
        length = kind & (0x1F if kind >= 0xA0 else 0x0F)
        family = 0xDB if kind >= 0xA0 else 0xDD if kind >= 0x90 else 0xDF
    elif kind in _SIZED:
        form = _SIZED[kind]
        length = struct.unpack_from(form, raw, at)[0]
        at += struct.calcsize(form)
        family = kind
    else:
        raise Malformed(f"the worker's answer has a value of kind {kind:#x}")
    return _sized(raw, at, family, length)


def _sized(raw: bytes, at: int, family: int, length: int) -> tuple[Any, int]:
    if family <= 0xDB:
        end = at + length
        if end > len(raw):
            raise Malformed("the worker's answer is torn")
        part = raw[at:end]
        return (part if family <= 0xC6 else part.decode()), end
    if family <= 0xDD:
        values = []
        for _ in range(length):
            value, at = _unpack(raw, at)
            values.append(value)
        return values, at
    table = {}
    for _ in range(length):
        key, at = _unpack(raw, at)
        table[key], at = _unpack(raw, at)
    return table, at

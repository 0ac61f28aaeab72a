"""Encoding and decoding of the kernel's protocol."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.core import protocol
from fuse.core.protocol import InitFlag, ProtocolError, SetattrField

NAMES = st.binary(min_size=1, max_size=255).filter(lambda raw: b"\0" not in raw)
U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (protocol.IN_HEADER, 40), (protocol.OUT_HEADER, 16), (protocol.INIT_OUT, 64), (protocol.ENTRY_OUT, 128),
        (protocol.ATTR_OUT, 104), (protocol.OPEN_OUT, 16), (protocol.STATFS_OUT, 80), (protocol.SETATTR_IN, 88),
        (protocol.READ_IN, 40), (protocol.WRITE_IN, 40), (protocol.DIRENT_PLUS, 152), (protocol.DIRENT, 24),
    ],
)  # fmt: skip
def test_every_struct_has_the_kernels_size(layout: struct.Struct, size: int) -> None:
    assert layout.size == size


@given(NAMES, NAMES)
def test_names_come_back(first: bytes, second: bytes) -> None:
    body = b"12345678" + first + b"\0" + second + b"\0"
    assert protocol.decode_two_names(memoryview(body), 8) == (first, second)
    assert protocol.decode_name(body, 8) == first


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused_with_one_error(body: bytes) -> None:
    for decode in (protocol.decode_init, protocol.decode_setattr, protocol.decode_forgets, protocol.decode_header):
        with suppress(ProtocolError):
            decode(body)
    with suppress(ProtocolError):
        protocol.decode_name(body)
    with suppress(ProtocolError):
        protocol.decode_two_names(body, 0)


@given(st.lists(st.tuples(U64, U64), max_size=20))
def test_forgets_come_back(forgets: list[tuple[int, int]]) -> None:
    body = protocol.BATCH_FORGET_IN.pack(len(forgets), 0)
    body += b"".join(protocol.FORGET_ONE.pack(*each) for each in forgets)
    assert protocol.decode_forgets(memoryview(body + b"rest")) == forgets


@given(U32, U32)
def test_the_handshake_takes_only_what_was_offered(flags: int, flags2: int) -> None:
    body = protocol.INIT_IN.pack(7, 45, 131072, flags, flags2)
    init = protocol.decode_init(body)
    answer = protocol.INIT_OUT.unpack(protocol.encode_init(init, max_background=64, request_timeout_seconds=7200))
    offered = flags | (flags2 << 32 if flags & InitFlag.INIT_EXT else 0)
    assert (answer[3] | answer[10] << 32) & ~offered == 0
    assert answer[11] == (1 if offered & InitFlag.PASSTHROUGH else 0)
    assert answer[12] == (7200 if offered & InitFlag.REQUEST_TIMEOUT else 0)


@given(st.integers(0, 0x1FF), U64, U32)
def test_only_the_fields_that_count_are_changed(valid: int, size: int, mode: int) -> None:
    body = protocol.SETATTR_IN.pack(valid, 0, 0, size, 0, 0, 5, 0, 0, 7, 0, mode, 0, 1, 2, 0)
    wanted = protocol.decode_setattr(body)
    assert (wanted.size_bytes == size) if valid & SetattrField.SIZE else (wanted.size_bytes is None)
    assert (wanted.mode == mode) if valid & SetattrField.MODE else (wanted.mode is None)
    assert wanted.mtime_ns == (5_000_000_007 if valid & SetattrField.MTIME else None)


@given(U64, st.binary(max_size=64))
def test_an_answer_says_its_own_length(unique: int, payload: bytes) -> None:
    answer = protocol.encode_answer(unique, payload)
    length, error, answered = protocol.OUT_HEADER.unpack_from(answer)
    assert (length, error, answered) == (len(answer), 0, unique)
    assert protocol.OUT_HEADER.unpack(protocol.encode_error(unique, 5)) == (16, -5, unique)

"""The SDK's own MessagePack against msgspec's, in both directions; and bytes that are none."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_sdk.msgpack import Malformed, pack, unpack

INTEGERS = st.integers(-(1 << 63), (1 << 64) - 1)
SCALARS = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | st.text() | st.binary(max_size=300)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=40,
)


@given(VALUES)
def test_what_we_pack_the_worker_reads(value: Any) -> None:
    assert msgspec.msgpack.decode(pack(value)) == value


@given(VALUES)
def test_what_the_worker_packs_we_read(value: Any) -> None:
    assert unpack(msgspec.msgpack.encode(value)) == value


@pytest.mark.parametrize("length", [31, 32, 255, 256, 65_535, 65_536])
def test_lengths_at_the_borders_of_the_encoding(length: int) -> None:
    for value in ("x" * length, b"x" * length, [1] * length, {str(number): 1 for number in range(length)}):
        assert pack(value) == msgspec.msgpack.encode(value)
        assert unpack(pack(value)) == value


@given(VALUES, st.data())
def test_torn_bytes_are_refused(value: Any, data: st.DataObject) -> None:
    raw = pack(value)
    with pytest.raises(Malformed):
        unpack(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_malformed(raw: bytes) -> None:
    try:
        unpack(raw)
    except Malformed:
        return


def test_what_cannot_be_packed_is_said() -> None:
    with pytest.raises(TypeError, match="set cannot be sent"):
        pack({1})
    with pytest.raises(OverflowError, match="64 bits"):
        pack(1 << 64)

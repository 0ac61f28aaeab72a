"""Pieces of blocks: what is remembered of a checked block tells right bytes from wrong ones."""

from hypothesis import given
from hypothesis import strategies as st

from cacheruntime.core.piece_checksums import PIECE_BYTES, PieceChecksums, pieces_of

NAME = "f00"
LENGTHS = st.integers(1, 5 * PIECE_BYTES)


def block_of(length: int, seed: int) -> bytes:
    return bytes((number * 7 + number // PIECE_BYTES + seed) % 256 for number in range(length))


@given(LENGTHS, st.integers(0, 255), st.data())
def test_a_range_is_right_with_all_its_bytes_and_wrong_without_one(length: int, seed: int, data: st.DataObject) -> None:
    block = block_of(length, seed)
    start = data.draw(st.integers(0, length - 1))
    size = data.draw(st.integers(1, length - start))
    first, end = pieces_of(start, size, length)
    assert 0 <= first <= start < start + size <= end <= length
    assert first % PIECE_BYTES == 0 and (end % PIECE_BYTES == 0 or end == length)
    pieces = PieceChecksums()
    assert not pieces.are_right(NAME, 3, first, memoryview(block[first:end]))  # of an unknown block nothing is
    pieces.learn(NAME, 3, memoryview(block))
    assert pieces.knows(NAME, 3)
    assert pieces.are_right(NAME, 3, first, memoryview(block[first:end]))
    damaged = bytearray(block[first:end])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not pieces.are_right(NAME, 3, first, memoryview(damaged))


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(1, 4))
def test_the_blocks_asked_for_last_are_remembered(asked: list[int], most: int) -> None:
    pieces, order = PieceChecksums(most), list[int]()
    for index in asked:
        assert pieces.knows(NAME, index) == (index in order)
        pieces.learn(NAME, index, memoryview(b"x"))
        order = [one for one in order if one != index][-(most - 1) :] if most > 1 else []
        order.append(index)

"""Ranges and windows for any read of any file."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fuse.core.read_plan import BLOCK_BYTES, WINDOW_BYTES_MAX, ReadWindow, ResidentBlocks, needed_range

sizes = st.integers(0, 200 << 20)
offsets = st.integers(0, 220 << 20)
lengths = st.integers(1, 4 << 20)


@given(offset=offsets, length=lengths, size=sizes)
def test_the_needed_range_covers_the_read_and_stays_in_the_file(offset: int, length: int, size: int) -> None:
    start, count = needed_range(offset, length, size)
    assert start >= 0 and start + count <= size
    if offset < size:
        assert start <= offset
        assert start + count >= min(offset + length, size)


@given(offset=offsets, length=lengths, size=sizes)
def test_what_was_made_resident_covers_the_read(offset: int, length: int, size: int) -> None:
    blocks = ResidentBlocks(size)
    blocks.add(*needed_range(offset, length, size))
    assert blocks.covers(offset, length)


@given(
    size=sizes,
    added=st.lists(st.tuples(offsets, st.integers(1, 30 << 20)), max_size=6),
    asked=st.tuples(offsets, lengths),
)
def test_nothing_counts_as_resident_that_was_not_added(
    size: int, added: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    blocks = ResidentBlocks(size)
    for offset, length in added:
        if offset < size:
            blocks.add(offset, length)
    first, end = asked[0], min(asked[0] + asked[1], size)
    if first < end and blocks.covers(*asked):
        missing = set(range(first // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1))
        for block in list(missing):
            low, high = block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, size)
            if any(offset <= low and high <= offset + length for offset, length in added):
                missing.discard(block)
        assert not missing


@settings(max_examples=60)
@given(size=sizes, reads=st.lists(st.tuples(offsets, lengths), max_size=40))
def test_a_window_asks_for_each_block_once_while_it_lasts_and_within_the_file(
    size: int, reads: list[tuple[int, int]]
) -> None:
    window = ReadWindow()
    asked: set[int] = set()
    for offset, length in reads:
        ranges = window.ahead(offset, length, size)
        if not window.window_bytes:
            asked.clear()
        assert window.window_bytes <= WINDOW_BYTES_MAX
        for start, count in ranges:
            assert start % BLOCK_BYTES == 0 and 0 < count <= BLOCK_BYTES and start + count <= size
            assert start not in asked
            asked.add(start)

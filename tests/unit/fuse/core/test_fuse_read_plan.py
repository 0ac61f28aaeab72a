"""Which ranges are asked for, and when."""

from fuse.core.read_plan import BLOCK_BYTES, WINDOW_BYTES_MAX, ReadWindow, ResidentBlocks, needed_range, whole_pieces

MIB = 1 << 20


def test_a_small_file_is_asked_for_as_a_whole() -> None:
    assert needed_range(1000, 10, 17_000) == (0, 17_000)


def test_a_large_file_is_asked_for_in_the_blocks_a_read_touches() -> None:
    assert needed_range(5 * MIB, MIB, 64 * MIB) == (4 * MIB, 4 * MIB)
    assert needed_range(7 * MIB, 2 * MIB, 64 * MIB) == (4 * MIB, 8 * MIB)


def test_the_last_block_ends_with_the_file() -> None:
    assert needed_range(8 * MIB, 4 * MIB, 9 * MIB) == (8 * MIB, MIB)


def test_nothing_is_needed_past_the_end() -> None:
    assert needed_range(9 * MIB, MIB, 9 * MIB)[1] == 0


def test_a_sequential_reader_gets_a_window_that_doubles_to_its_maximum() -> None:
    window, size, asked = ReadWindow(), 1 << 30, []
    for offset in range(0, 256 * MIB, MIB):
        asked += window.ahead(offset, MIB, size)
    assert window.window_bytes == WINDOW_BYTES_MAX
    assert [start for start, _ in asked] == list(range(BLOCK_BYTES, len(asked) * BLOCK_BYTES + 1, BLOCK_BYTES))


def test_a_random_reader_gets_no_window() -> None:
    window = ReadWindow()
    asked = [window.ahead(offset * MIB, 4096, 1 << 30) for offset in (500, 10, 900, 300)]
    assert asked == [[], [], [], []]
    assert window.window_bytes == 0


def test_requests_that_swap_places_still_count_as_sequential() -> None:
    window = ReadWindow()
    window.ahead(0, MIB, 1 << 30)
    window.ahead(2 * MIB, MIB, 1 << 30)
    window.ahead(MIB, MIB, 1 << 30)
    assert window.window_bytes > 0


def test_a_jump_closes_the_window() -> None:
    window = ReadWindow()
    for offset in range(0, 16 * MIB, MIB):
        window.ahead(offset, MIB, 1 << 30)
    window.ahead(500 * MIB, MIB, 1 << 30)
    assert window.window_bytes == 0


def test_a_lost_pin_knows_nothing_any_more() -> None:
    blocks = ResidentBlocks(10 * MIB)
    blocks.add(0, 10 * MIB, is_whole=True)
    blocks.clear()
    assert not blocks.covers(0, 1)


def test_an_empty_file_is_always_resident() -> None:
    blocks = ResidentBlocks(0)
    blocks.clear()
    assert blocks.is_whole


def test_a_window_knows_whether_the_file_was_read_in_order_to_its_end() -> None:
    def read(size: int, *ranges: tuple[int, int]) -> bool | None:
        window = ReadWindow()
        for offset, length in ranges:
            window.ahead(offset, min(length, size - offset), size)
        return window.was_whole(size)

    in_order = [(offset, MIB) for offset in range(0, 10 * MIB, MIB)]
    assert read(10 * MIB, *in_order) is True
    assert read(2 * MIB, (0, 4 * MIB)) is True
    assert read(10 * MIB) is None
    assert read(10 * MIB, *in_order[:5]) is True  # the rest is on its way
    assert read(40 * MIB, *in_order) is False
    assert read(10 * MIB, (9 * MIB, MIB)) is False  # the index at the end of an archive


def test_the_pieces_of_a_whole_file_are_all_of_it() -> None:
    for size in (0, 1, 16 * MIB, 16 * MIB + 1, 100 * MIB):
        pieces = whole_pieces(size)
        assert sum(length for _, length in pieces) == size
        assert [start for start, _ in pieces] == list(range(0, size, 16 * MIB))

"""Which ranges are asked for, and when."""

from fuse.core.read_plan import BLOCK_BYTES, WINDOW_BYTES_MAX, ReadWindow, ResidentBlocks, needed_range

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

"""When an open waits for the whole file."""

from fuse.core.whole_reads import (
    DATASETS_MAX,
    FAST,
    FAST_WAIT_SECONDS,
    FIRST_RATE,
    FORGET_SECONDS,
    LOOK_EVERY,
    WAIT_SECONDS,
    WholeReads,
)

MIB = 1 << 20


def test_nothing_is_waited_for_before_a_file_was_read_whole() -> None:
    reads = WholeReads()
    assert not reads.wait_seconds("u", MIB, 0.0)
    reads.was_read("u", whole=True)
    assert reads.wait_seconds("u", MIB, 0.0) == WAIT_SECONDS
    assert not reads.wait_seconds("other", MIB, 0.0)
    reads.was_read("u", whole=False)
    assert not reads.wait_seconds("u", MIB, 0.0)


def test_files_that_would_come_too_late_are_not_waited_for() -> None:
    reads = WholeReads()
    reads.was_read("u", whole=True)
    assert reads.wait_seconds("u", int(FAST_WAIT_SECONDS) * FIRST_RATE, 0.0) == WAIT_SECONDS
    assert not reads.wait_seconds("u", int(FAST_WAIT_SECONDS) * FIRST_RATE + 1, 0.0)
    reads.came("u", 10 * MIB, WAIT_SECONDS, 100.0)  # a slow store
    assert reads.wait_seconds("u", 10 * MIB, 101.0)
    assert not reads.wait_seconds("u", 11 * MIB, 101.0)
    assert reads.wait_seconds("u", 11 * MIB, 101.0 + FORGET_SECONDS)
    reads.came("u", 2048 * MIB, WAIT_SECONDS, 300.0)  # a fast one
    assert reads.wait_seconds("u", 2048 * MIB, 301.0)


def test_an_open_waits_on_while_its_file_comes_fast() -> None:
    size_bytes = int(FAST_WAIT_SECONDS) * FAST
    more = WholeReads.more_seconds
    assert more(size_bytes, FAST, 1.0) == WAIT_SECONDS
    assert more(size_bytes, 2 * FAST, 1.5) == WAIT_SECONDS
    assert more(size_bytes, int(3.9 * FAST), 3.75) == FAST_WAIT_SECONDS - 3.75
    assert not more(size_bytes, FAST - 1, 1.0)
    assert not more(size_bytes, int(4.2 * FAST), 4.0)
    assert not more(size_bytes, 0, 1.0)
    assert not more(2 * size_bytes, FAST, 1.0)


def test_now_and_then_an_open_does_not_wait_to_see_how_files_are_read() -> None:
    reads = WholeReads()
    reads.was_read("u", whole=True)
    waits = [reads.wait_seconds("u", MIB, 0.0) for _ in range(3 * LOOK_EVERY)]
    assert waits.count(0.0) == 3


def test_the_datasets_remembered_are_bounded() -> None:
    reads = WholeReads()
    for number in range(DATASETS_MAX + 1):
        reads.was_read(f"u{number}", whole=True)
    assert not reads.wait_seconds("u0", MIB, 0.0)
    assert reads.wait_seconds("u1", MIB, 0.0)

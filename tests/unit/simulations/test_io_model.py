"""simulations/io_model.py: what the engine expects of readers, in the cases that have a closed form."""

import pytest

from simulations.io_model import Epoch, Readers, apart, bytes_apart, expected, mean

MIB = 1 << 20


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75, 1.0])
def test_a_reader_alone_hits_what_its_cache_holds(fraction: float) -> None:
    size, origin, wanted = 96 * MIB, 16e6, 40e6
    first, *later = expected(Readers(1, fraction, size, 4, wanted, origin))
    assert (first.local_bytes, first.peer_bytes) == (0.0, 0.0)
    assert first.origin_bytes == pytest.approx(size)
    assert first.seconds == pytest.approx(size / origin)
    assert len(later) == 3
    for epoch in later:
        assert epoch.local_bytes == pytest.approx(fraction * size)
        assert epoch.origin_bytes == pytest.approx((1 - fraction) * size, abs=1.0)
        assert epoch.seconds == pytest.approx(max(size / wanted, (1 - fraction) * size / origin))


def test_readers_together_bring_a_dataset_that_fits_once() -> None:
    size = 96 * MIB
    first, later = expected(Readers(3, 1.0, size, 2, 40e6, 16e6))
    assert first.origin_bytes == pytest.approx(size, rel=0.01)
    assert first.read_bytes == pytest.approx(3 * size)
    assert later.local_bytes == pytest.approx(3 * size)


@pytest.mark.parametrize("nodes", [2, 3, 6])
@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_cold_readers_together_take_as_long_as_the_origin_sends(nodes: int, fraction: float) -> None:
    # Faster at the end, where what is left is with the others, than a reader takes it: up to a fifth more.
    size, origin = 96 * MIB, 16e6
    first, _ = expected(Readers(nodes, fraction, size, 2, 40e6, origin))
    assert first.origin_bytes < 1.6 * size
    assert 0.98 <= first.seconds / (first.origin_bytes / origin) < 1.2


def test_the_largest_difference_counts_and_sources_hardly_used_do_not() -> None:
    one = Epoch(100.0, 1.0, 50.0, 1.0)
    assert bytes_apart(one, Epoch(100.0, 2.0, 40.0, 1.0)) == pytest.approx(0.2)
    assert bytes_apart(one, Epoch(100.0, 10.0, 50.0, 1.0)) == pytest.approx(0.9)
    assert bytes_apart(one, one) == 0.0
    assert (apart(2.0, 4.0), apart(0.0, 0.0)) == (0.5, 0.0)
    assert mean([Epoch(1, 2, 3, 4), Epoch(3, 4, 5, 6)]) == Epoch(2, 3, 4, 5)


def test_nodes_that_read_nothing_are_homes_too() -> None:
    size = 96 * MIB
    alone, beside = (expected(Readers(2, 0.4, size, 2, 40e6, 16e6, idle_nodes=idle))[1] for idle in (0, 1))
    # Two nodes have room for 0.8 of the dataset and for no copies beside; a third one has it for the rest.
    assert beside.origin_bytes < 0.8 * alone.origin_bytes
    assert beside.read_bytes == pytest.approx(2 * size)


def test_an_epoch_after_a_part_of_one_finds_what_that_brought() -> None:
    size = 96 * MIB
    part, whole, last = expected(Readers(3, 1.0, size, 3, 40e6, 16e6, first_part=0.375))
    assert part.read_bytes == pytest.approx(3 * 0.375 * size)
    # Each read a part of its own: 1 - (1 - 0.375)³ of the dataset is at homes.
    assert part.origin_bytes == pytest.approx((1 - 0.625**3) * size, rel=0.02)
    assert whole.origin_bytes == pytest.approx(0.625**3 * size, rel=0.05)
    assert last.local_bytes == pytest.approx(3 * size)

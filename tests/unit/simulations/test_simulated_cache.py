"""The simulated cache's rules, one by one: homes, copies, what gives way to what."""

import pytest

from simulations.engine.cache import Cache
from simulations.engine.jobs import Segment
from simulations.engine.model import DatasetSpec, JobSpec, NodeSpec, Speeds, World
from simulations.engine.network import NOTHING
from simulations.engine.shares import Read, Shares
from simulations.engine.simulation import Simulation
from simulations.policies.registry import POLICIES

DATA, OTHER = 0, 1


def a_cache(
    *rooms: float, sizes: tuple[float, ...] = (120.0, 120.0), file: float = 1.0, racks: int = 1, **more: object
) -> Cache:
    nodes = tuple(NodeSpec(f"n{i}", 8, 1, 1, i % racks, ssd_bytes=room) for i, room in enumerate(rooms))
    datasets = tuple(DatasetSpec(f"d{i}", size, file_bytes=file, block_bytes=1.0) for i, size in enumerate(sizes))
    return Cache(nodes, datasets, **more)  # type: ignore[arg-type]  # as given


def at_homes(cache: Cache, dataset: int = DATA, nodes: int = 4) -> list[float]:
    return [cache.homes.here(dataset, node) for node in range(nodes)]


def test_every_home_keeps_its_share_of_what_the_origin_sends() -> None:
    cache = a_cache(500.0, 500.0, 500.0, 500.0)
    assert cache.bring(DATA, 80.0, 1.0) == pytest.approx(80.0)
    assert at_homes(cache) == pytest.approx([20.0] * 4)
    assert cache.absent(DATA) == pytest.approx(40.0)
    assert cache.bring(DATA, 80.0, 1.0) == pytest.approx(40.0)
    assert not cache.is_absent(DATA)


def test_a_node_finds_what_homes_have_and_its_own_share_nowhere_else() -> None:
    cache = a_cache(500.0, 500.0, 500.0, 500.0, racks=2)
    cache.bring(DATA, 60.0, 1.0)
    at = cache.shares(0, DATA)
    # 15 here, 45 at the three others, of which one is in this rack; of the 60 that are nowhere 15 are our own.
    assert (at.ssd, at.near + at.far, at.origin) == pytest.approx((15 / 120, 45 / 120, 60 / 120))
    assert (at.near, at.own) == pytest.approx((15 / 120, 15 / 120))


def test_a_copy_serves_its_own_node_alone() -> None:
    cache = a_cache(500.0, 500.0, 500.0, 500.0)
    cache.admit(0, DATA, 90.0, 0.0, 1.0)
    assert cache.shares(0, DATA).ssd == pytest.approx(0.75)
    assert cache.shares(1, DATA).origin == pytest.approx(1.0)


def test_copies_are_of_what_homes_have_so_peers_have_less_of_the_rest() -> None:
    cache = a_cache(500.0, 500.0, 500.0, 500.0)
    cache.bring(DATA, 80.0, 1.0)
    cache.admit(0, DATA, 40.0, 1.0, 1.0)
    at = cache.shares(0, DATA)
    assert (at.ssd, at.near) == pytest.approx((60 / 120, 20 / 120))


def test_copies_that_homes_lacked_are_paired_when_they_come_there() -> None:
    cache = a_cache(500.0, 500.0, 500.0, 500.0)
    cache.admit(0, DATA, 40.0, 0.0, 1.0)
    cache.bring(DATA, 60.0, 1.0)
    assert cache.copies(0, DATA).paired == pytest.approx(20.0)
    cache.bring(DATA, 60.0, 1.0)
    assert cache.copies(0, DATA).paired == pytest.approx(40.0)


def test_copies_are_admitted_until_full_and_then_bypassed() -> None:
    cache = a_cache(50.0, 50.0)
    cache.start_reading(0, DATA, 0.0)
    assert cache.admit(0, DATA, 40.0, 1.0, 1.0) == 40.0
    assert cache.admit(0, DATA, 40.0, 1.0, 1.0) == 10.0
    assert not cache.can_admit(0, DATA)


def test_home_bytes_take_the_room_of_copies_of_their_dataset() -> None:
    cache = a_cache(50.0, 500.0)
    cache.start_reading(0, DATA, 0.0)
    cache.admit(0, DATA, 50.0, 1.0, 1.0)
    assert cache.can_bring(DATA)
    cache.bring(DATA, 60.0, 1.0)
    assert at_homes(cache, nodes=2) == pytest.approx([30.0, 30.0])
    assert cache.copies(0, DATA).size == pytest.approx(20.0)
    assert cache.used(0)[1] == pytest.approx(50.0)


def test_copies_in_files_with_a_home_block_do_not_give_way() -> None:
    # Of files of many blocks hardly any has none that is at home here.
    cache = a_cache(50.0, 500.0, file=60.0)
    cache.start_reading(0, DATA, 0.0)
    cache.admit(0, DATA, 50.0, 1.0, 1.0)
    cache.bring(DATA, 60.0, 1.0)
    assert at_homes(cache, nodes=2) == pytest.approx([0.0, 30.0], abs=1e-6)
    assert cache.copies(0, DATA).size == pytest.approx(50.0)


def test_room_that_comes_free_is_shared_with_what_a_reader_wants_copied_meanwhile() -> None:
    def placed(beside: float) -> tuple[float, float]:
        cache = a_cache(60.0, 500.0, file=4.0)
        cache.start_reading(0, DATA, 0.0)
        cache.admit(0, DATA, 60.0, 1.0, 1.0)
        cache.bring(DATA, 60.0, 1.0, beside=beside)
        return cache.homes.here(DATA, 0), cache.copies(0, DATA).loose

    # An eighth of the copies is loose. Alone home bytes get all their room; beside as much again they get five eighths
    # of it (one block of a file of four, and half of the other three), and what replaced the rest is an eighth loose.
    assert placed(0.0) == pytest.approx((7.5, 0.0))
    assert placed(30.0) == pytest.approx((7.5 * 0.625, 7.5 * 0.375 / 8))


def test_idle_datasets_go_first_and_never_one_that_is_read() -> None:
    cache = a_cache(100.0, 500.0)
    cache.admit(0, OTHER, 60.0, 1.0, 1.0)
    cache.start_reading(0, DATA, 2.0)
    cache.admit(0, DATA, 40.0, 1.0, 2.0)
    cache.start_reading(0, OTHER, 3.0)
    assert not cache.can_admit(0, DATA)
    cache.stop_reading(0, OTHER, 4.0)
    assert cache.can_admit(0, DATA)
    cache.bring(DATA, 120.0, 5.0)
    assert OTHER not in cache.copied(0)
    assert cache.copies(0, DATA).size == pytest.approx(40.0)
    assert at_homes(cache, nodes=2) == pytest.approx([60.0, 60.0])


def test_home_bytes_go_after_all_copies_and_not_while_anybody_reads_the_dataset() -> None:
    cache = a_cache(100.0, 500.0)
    cache.bring(OTHER, 120.0, 1.0)
    cache.start_reading(1, OTHER, 1.0)
    cache.start_reading(0, DATA, 2.0)
    assert cache.admit(0, DATA, 90.0, 1.0, 2.0) == pytest.approx(40.0)
    cache.stop_reading(1, OTHER, 3.0)
    # A copy is of what has its home elsewhere: 60 of 120.
    assert cache.admit(0, DATA, 30.0, 1.0, 4.0) == pytest.approx(20.0)
    assert at_homes(cache, OTHER, 2) == pytest.approx([40.0, 60.0])


def test_copies_lose_their_pairs_with_the_homes() -> None:
    cache = a_cache(500.0, 500.0, 500.0, 500.0)
    cache.bring(DATA, 120.0, 1.0)
    cache.admit(0, DATA, 40.0, 1.0, 1.0)
    cache.take_away(3)
    assert cache.copies(0, DATA).paired == pytest.approx(30.0)


def test_the_share_of_a_node_that_goes_moves_to_the_others_and_comes_back_with_its_disk() -> None:
    cache = a_cache(500.0, 500.0, 500.0, 500.0)
    cache.bring(DATA, 120.0, 1.0)
    disk = cache.take_away(3)
    assert cache.homes.share(DATA, 3) == 0.0
    assert cache.homes.share(DATA, 0) == pytest.approx(40.0)
    assert cache.absent(DATA) == pytest.approx(30.0)
    cache.bring_back(3, disk, 2.0)
    assert at_homes(cache) == pytest.approx([30.0] * 4)
    assert not cache.is_absent(DATA)


def test_a_node_without_a_cache_is_no_home() -> None:
    cache = a_cache(0.0, 500.0, 500.0)
    cache.bring(DATA, 120.0, 1.0)
    assert at_homes(cache, nodes=3) == pytest.approx([0.0, 60.0, 60.0])
    assert cache.shares(0, DATA).near == pytest.approx(1.0)


def test_with_fixed_workers_nobody_else_keeps_anything() -> None:
    cache = a_cache(500.0, 500.0, 500.0, sizes=(120.0,), workers=((1, 2),))
    cache.bring(DATA, 120.0, 1.0)
    assert cache.admit(0, DATA, 50.0, 1.0, 1.0) == 0.0
    assert at_homes(cache, nodes=3) == pytest.approx([0.0, 60.0, 60.0])


def test_what_is_there_at_the_start_is_first_what_has_its_home_there() -> None:
    nodes = tuple(NodeSpec(f"n{i}", 8, 1, 1, 0, ssd_bytes=500.0) for i in range(4))
    data = (DatasetSpec("d", 120.0, {1: 120.0, 2: 20.0}),)
    cache = Cache(nodes, data)
    assert at_homes(cache) == pytest.approx([0.0, 30.0, 20.0, 0.0])
    assert (cache.local(1, DATA), cache.local(2, DATA)) == pytest.approx((120.0, 20.0))
    # Others ask the homes, which know nothing of the whole copy on node 1.
    assert cache.shares(3, DATA).near == pytest.approx(50 / 120)
    # A master knows where every block is.
    assert Cache(nodes, data, workers=((1, 2),)).shares(3, DATA).near == pytest.approx(1.0)


def test_a_node_tells_of_home_bytes_that_tell_nodes_apart() -> None:
    cache = a_cache(500.0, 500.0)
    cache.dirty.clear()
    cache.bring(DATA, 120.0, 1.0)
    assert cache.held(1) == {DATA: [0.0, 60.0]}
    assert cache.dirty == {0, 1}
    many = a_cache(*[500.0] * 200)
    many.dirty.clear()
    many.bring(DATA, 120.0, 1.0)
    assert many.held(1) == {} and not many.dirty
    many.admit(1, DATA, 30.0, 1.0, 1.0)
    assert many.held(1) == {DATA: [0.0, pytest.approx(30.6)]}


def figures(in_flight: float, nodes: int = 2) -> dict[str, float | None]:
    specs = tuple(NodeSpec(f"n{i}", 1, 1000, 1 << 30, 0, ssd_bytes=1e6) for i in range(nodes))
    jobs = tuple(JobSpec(f"j{i}", 0.0, 1, 1, 100, 1 << 20, 40.0, dataset=0, epochs=4) for i in range(nodes))
    world = World("t", specs, (DatasetSpec("d", 100e9),), jobs, Speeds(origin=1e12), in_flight_bytes=in_flight)
    return Simulation(world, POLICIES["headrace"]).run().figures


def test_what_two_readers_want_at_the_same_moment_is_fetched_once_also_without_room() -> None:
    apart, together = figures(0.0), figures(10e9)
    assert apart["origin_bytes"] == pytest.approx(800e9, rel=0.001)
    assert together["origin_bytes"] == pytest.approx(0.9 * 800e9, rel=0.001)
    # Half of the blocks have their home on the reader's own node, half on the other one.
    assert together["local_bytes"] == pytest.approx(40e9, rel=0.02)
    assert figures(10e9, nodes=1)["origin_bytes"] == pytest.approx(400e9, rel=0.001)


def test_a_reader_that_passed_what_homes_have_finds_less_of_the_rest_there() -> None:
    cache = a_cache(50.0, 50.0, 50.0, sizes=(150.0,))
    cache.bring(DATA, 75.0, 1.0)
    # 25 here, 50 at the others. It read 60, of which 25 are here and 35 passed: all that were not here, homes had.
    at = cache.shares(0, DATA, Read(60.0, 35.0, 35.0))
    assert (at.ssd, at.near, at.origin) == pytest.approx((0.0, 15 / 90, 75 / 90))
    assert at.own == pytest.approx(25 / 90)


def test_a_dataset_that_names_its_homes_is_kept_nowhere_else() -> None:
    nodes = tuple(NodeSpec(f"n{i}", 8, 1, 1, 0, ssd_bytes=500.0) for i in range(3))
    cache = Cache(nodes, (DatasetSpec("d", 120.0, homes=(1, 2)), DatasetSpec("e", 120.0)))
    cache.bring(DATA, 120.0, 1.0)
    cache.bring(OTHER, 120.0, 1.0)
    assert at_homes(cache, DATA, 3) == pytest.approx([0.0, 60.0, 60.0])
    assert at_homes(cache, OTHER, 3) == pytest.approx([40.0, 40.0, 40.0])
    assert (cache.admit(0, DATA, 50.0, 1.0, 1.0), cache.admit(1, DATA, 50.0, 1.0, 1.0)) == (0.0, 50.0)


def test_copies_that_gave_way_in_the_first_epoch_were_read_in_it() -> None:
    # A reader alone of what has its home on two nodes, with room for half: what gives way is read again only next time.
    specs = tuple(NodeSpec(f"n{i}", 1 - i, 1000, 1 << 30, 0, ssd_bytes=60e9) for i in range(2))
    job = JobSpec("j", 0.0, 1, 1, 100, 1 << 20, 40.0, dataset=0, epochs=1)
    world = World("t", specs, (DatasetSpec("d", 100e9),), (job,), Speeds(origin=1e12))
    found = Simulation(world, POLICIES["headrace"]).run().figures
    assert found["origin_bytes"] == pytest.approx(100e9, rel=0.001)
    assert found["local_bytes"] == pytest.approx(0.0, abs=1e6)


def test_next_to_nothing_from_afar_is_not_worth_a_segment_of_its_own() -> None:
    def segment(remote: float) -> Segment:
        return Segment(False, 1.0, 1.0, 1.0, NOTHING, {0: Shares(0.0, 1.0 - remote, 0.0, 0.0, remote)})

    # One of a thousand homes that goes leaves each of the others a millionth to fetch.
    assert not segment(1e-6).is_fetching
    assert segment(1e-3).is_fetching

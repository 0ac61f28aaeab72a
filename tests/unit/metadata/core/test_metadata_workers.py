"""Epochs, sequences and leases of workers, and what the ledger makes of blocks."""

import pytest

from metadata.core.residency import Held, Ledger, Residence, distinct_bytes
from metadata.core.workers import Registration, Tier, Use, WorkerReadings, Workers
from metadata.errors import InvalidRequest, Precondition

READINGS = WorkerReadings()


def registration(epoch: int = 1, node: str = "n") -> Registration:
    return Registration(node, epoch, "d:1", "c:1", (Tier("MEM", 10),))


def workers() -> Workers:
    table = Workers(lease_seconds=3)
    assert table.register(registration(), now=0)
    return table


def report(table: Workers, sequence: int, *, epoch: int = 1, full: bool = False, now: float = 0) -> Use:
    return table.report("n", epoch, sequence, full=full, readings=READINGS, now=now)


def test_reports_in_order_apply_and_retries_do_not() -> None:
    table = workers()
    assert [report(table, sequence) for sequence in (1, 2, 2, 1, 3)] == [
        Use.APPLY,
        Use.APPLY,
        Use.IGNORE,
        Use.IGNORE,
        Use.APPLY,
    ]


def test_after_a_gap_nothing_counts_until_a_full_report() -> None:
    table = workers()
    assert report(table, 3) is Use.NEED_FULL
    assert report(table, 4) is Use.NEED_FULL
    assert report(table, 5, full=True) is Use.REPLACE
    assert report(table, 6) is Use.APPLY


def test_older_and_unknown_incarnations_are_fenced() -> None:
    table = workers()
    assert table.register(registration(epoch=2), now=0)
    with pytest.raises(Precondition, match="epoch 1 of worker 'n' is over"):
        report(table, 1)
    with pytest.raises(Precondition, match="epoch 1 of worker 'n' is over"):
        table.register(registration(epoch=1), now=0)
    with pytest.raises(Precondition, match="register before reporting"):
        report(table, 1, epoch=3)
    assert not table.register(registration(epoch=2), now=0), "a retry is no new incarnation"
    with pytest.raises(InvalidRequest, match="epoch is 0"):
        table.register(registration(epoch=0), now=0)


def test_a_lease_ends_once_and_comes_back_with_a_full_report() -> None:
    table = workers()
    report(table, 1, now=10)
    assert table.expire(now=13) == []
    assert table.is_alive("n")
    assert table.expire(now=13.1) == ["n"]
    assert table.expire(now=20) == []
    assert not table.is_alive("n")
    assert report(table, 2, now=21) is Use.NEED_FULL
    assert table.is_alive("n")


def test_time_in_which_nobody_could_be_heard_ends_no_lease() -> None:
    table = workers()
    report(table, 1, now=10)
    table.stood_still(5, now=15.5)
    assert table.expire(now=15.5) == [], "half a second of its lease is over, the rest nobody listened"
    assert table.expire(now=18.1) == ["n"], "and dead it is when it says nothing after that"
    table.stood_still(5, now=23)
    assert not table.is_alive("n"), "which does not bring back the dead"
    report(table, 2, now=23)
    table.stood_still(5, now=23.5)
    assert table.expire(now=26.6) == ["n"], "nor makes a lease longer than one from now"


def test_a_restored_worker_is_dead_until_it_reports() -> None:
    table = Workers(lease_seconds=3)
    table.restore(registration(epoch=5))
    assert not table.is_alive("n")
    assert table.expire(now=100) == []
    assert report(table, 8, epoch=5) is Use.NEED_FULL
    assert table.is_alive("n")


def test_tiers_of_the_registration_stay_until_a_report_has_some() -> None:
    table = workers()
    report(table, 1)
    assert table.all()[0].readings.tiers == (Tier("MEM", 10),)


def held(blocks: bytes, resident: int, size: int = 10, block: int = 4) -> Held:
    return Held("SSD", size, resident, blocks, block)


@pytest.mark.parametrize(
    ("holders", "distinct"),
    [
        ([], 0),
        ([held(b"\x01", 4)], 4),
        ([held(b"\x01", 4), held(b"\x01", 4)], 4),
        ([held(b"\x01", 4), held(b"\x02", 4)], 8),
        ([held(b"\x01", 4), held(b"\x04", 2)], 6),  # the last block has 2 bytes
        ([held(b"\x03", 8), held(b"\x06", 6)], 10),
        ([held(b"", 10), held(b"\x01", 4)], 10),
        ([held(b"\x01", 4), held(b"\x01", 8, block=8)], 8),  # block sizes that cannot be compared
        ([held(b"\xff", 4), held(b"\x01", 4)], 10),  # bits behind the end
    ],
)
def test_distinct_bytes_are_the_union_of_blocks(holders: list[Held], distinct: int) -> None:
    assert distinct_bytes(holders) == distinct


def test_groups_are_left_out_when_there_are_too_many() -> None:
    ledger = Ledger()
    for count in range(65):
        ledger.put("n", Residence("u", f"d{count}/x", "e", held(b"\x01", 4)), "e")
        by_group = ledger.on_node("n")["u"].by_group
        assert len(by_group) == (count + 1 if count < 64 else 0)
    assert ledger.on_node("n")["u"].by_medium == {"SSD": 65 * 4}

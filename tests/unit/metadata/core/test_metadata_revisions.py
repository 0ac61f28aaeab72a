"""What changed since when: nothing that was marked after a token is kept from who shows it."""

from __future__ import annotations

import pytest

from metadata.core.residency import Held, Ledger, Residence
from metadata.core.revisions import Revisions
from metadata.core.workers import ReadCounters, Registration, WorkerReadings, Workers


@pytest.mark.parametrize("token", ["", "p", "q.0", "p.-1", "p.7", "p.x", "p.0.0", "p.\u0663"])
def test_a_token_of_another_process_or_none_is_not_known(token: str) -> None:
    assert Revisions("p").since(token) is None


def test_a_token_as_old_as_what_is_forgotten_is_not_known() -> None:
    revisions = Revisions("p", remembered_max=1)
    old = revisions.token
    revisions.mark("a")
    young = revisions.token
    revisions.mark("b")
    assert revisions.since(old) is None
    assert revisions.since(young) == ["b"]


def test_the_ledger_names_the_datasets_whose_counts_change_once() -> None:
    ledger = Ledger()
    ledger.put("n1", Residence("u1", "f", "e", Held("memory", 10, 10)), "e")
    assert ledger.take_changed() == {"u1"}
    assert ledger.take_changed() == set()
    ledger.set_current("u1", [("f", "e")])
    assert ledger.take_changed() == set()
    ledger.forget_node("n1")
    assert ledger.take_changed() == {"u1"}


def test_workers_name_the_datasets_whose_reads_change() -> None:
    workers = Workers(lease_seconds=3)
    workers.register(Registration("n1", 1, "d", "c"), 0.0)

    def report(sequence: int, now: float, **reads: int) -> set[str]:
        counters = {uid: ReadCounters(count, 0, 0) for uid, count in reads.items()}
        workers.report("n1", 1, sequence, full=True, readings=WorkerReadings(reads=counters), now=now)
        return workers.take_changed()

    assert report(1, 0.0, u1=1, u2=1) == {"u1", "u2"}
    assert report(2, 1.0, u1=1, u2=2) == {"u2"}
    assert report(3, 2.0, u2=2) == {"u1"}
    assert workers.expire(9.0) == ["n1"]
    assert workers.take_changed() == {"u2"}
    assert report(4, 10.0, u2=2) == {"u2"}
    workers.expire(20.0)
    workers.take_changed()
    workers.register(Registration("n1", 1, "d", "c"), 21.0)
    assert workers.take_changed() == {"u2"}

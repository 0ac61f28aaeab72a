"""Grants: the same GPUs are never given twice, and nothing that is gone holds any."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import msgspec

from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.observed import Admission
from jobcontroller.shell.directories import Directories
from jobcontroller.shell.queues import NOT_SEEN, Queues, Watched
from kube.watch import Change, ChangeKind
from tests.builders.training_jobs import job_body, workers


def body(name: str, gpus: int, **status: Any) -> dict[str, Any]:
    roles = workers(1)
    roles["Worker"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    found = job_body(name, replicaSpecs=roles, runPolicy={"schedulingPolicy": {"queue": "q"}})
    found["metadata"] |= {"namespace": "ns", "uid": name, "creationTimestamp": "2023-11-14T22:13:20Z"}
    return found | ({"status": status} if status else {})


class Bench:
    """The book, told of changes as the watches tell it."""

    def __init__(self, nominal: int) -> None:
        self.touched: list[str] = []
        client: Any = None  # nothing is read or written
        self.queues = Queues(client, lambda key: self.touched.append(key[1]), Random(0), Directories())
        for synced in self.queues._synced:
            synced.set()
        queue = {"metadata": {"name": "q"}, "spec": {"nominalGPUs": nominal}}
        self.queues._queue_changed(Change(ChangeKind.ADDED, msgspec.convert(queue, Watched)))

    def watch(self, one: dict[str, Any], kind: ChangeKind = ChangeKind.ADDED) -> None:
        self.queues._job_changed(Change(kind, msgspec.convert(one, Watched)))

    def ask(self, one: dict[str, Any]) -> Admission:
        found = self.queues.admission(TrainingJob.model_validate(one))
        assert found is not None
        return found


async def test_a_grant_counts_before_any_status_tells_of_it() -> None:
    bench = Bench(8)
    first, second = body("a", 8), body("b", 8)
    bench.watch(first)
    bench.watch(second)
    assert bench.ask(first).hold is None
    assert bench.ask(second).hold is not None
    assert bench.ask(first).hold is None
    bench.watch(body("a", 8, admittedQueue="q", admittedGPUs=8), ChangeKind.MODIFIED)
    assert bench.ask(second).hold is not None
    ended = {"type": "Succeeded", "status": "True", "reason": "Succeeded"}
    bench.watch(body("a", 8, admittedQueue="q", admittedGPUs=8, conditions=[ended]), ChangeKind.MODIFIED)
    await asyncio.sleep(0)
    assert bench.touched == ["b"]
    assert bench.ask(second).hold is None


async def test_a_job_the_watch_does_not_know_gets_nothing_yet() -> None:
    bench = Bench(8)
    gone, other = body("gone", 8), body("other", 8)
    assert bench.ask(gone).hold is NOT_SEEN
    bench.watch(other)
    assert bench.ask(other).hold is None, "a job that may be deleted already holds nothing"
    bench.watch(gone)
    await asyncio.sleep(0)
    assert bench.touched == ["gone"], "it asks again once it is counted"


async def test_a_deleted_job_gives_back_what_it_was_granted() -> None:
    bench = Bench(8)
    first, second = body("a", 8), body("b", 8)
    bench.watch(first)
    bench.watch(second)
    assert bench.ask(first).hold is None
    bench.watch(first, ChangeKind.DELETED)
    assert bench.ask(second).hold is None


async def test_a_borrower_is_told_to_give_back_until_its_status_says_it_does() -> None:
    bench = Bench(4)
    lender = {"metadata": {"name": "own"}, "spec": {"nominalGPUs": 4, "takeBack": True}}
    bench.queues._queue_changed(Change(ChangeKind.ADDED, msgspec.convert(lender, Watched)))
    held = {"admittedQueue": "q", "admittedGPUs": 4}
    for name in ("a", "b"):
        bench.watch(body(name, 4, **held))
    waiting = body("w", 4)
    waiting["spec"]["runPolicy"]["schedulingPolicy"]["queue"] = "own"
    bench.watch(waiting)
    await asyncio.sleep(0)
    assert len(bench.touched) == 1, "only one of the two has to go"
    (victim,) = bench.touched
    hold = bench.ask(waiting).hold
    assert hold is not None
    assert hold.reason == "ReclaimingQuota"
    assert f"waits until ns/{victim} gave theirs back" in hold.message
    other = "a" if victim == "b" else "b"
    for _ in range(2):
        # Its status could not be stored the first time.
        told = bench.ask(body(victim, 4, **held)).reclaim
        assert told is not None
        assert told.by == ("ns", "w")
        bench.watch(body("more", 0))
        await asyncio.sleep(0)
        assert bench.ask(body(other, 4, **held)).reclaim is None, "nobody goes twice for one need"
    bench.watch(body(victim, 4, reclaimedBy="ns/w", **held), ChangeKind.MODIFIED)
    assert bench.ask(body(victim, 4, reclaimedBy="ns/w", **held)).reclaim is None
    bench.watch(body(victim, 4), ChangeKind.MODIFIED)
    assert bench.ask(waiting).hold is None
    assert bench.ask(body(victim, 4)).hold is not None

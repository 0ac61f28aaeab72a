"""What the controller does when cached bytes may be given back: who is asked before, and what is left if that fails."""

from __future__ import annotations

from typing import Any, cast

import grpc

from api.conditions import timestamp
from api.data_v1alpha1 import Dataset, DatasetStatus, Reference
from api.gen import metadata_pb2
from cacheruntime.controller.listings import LONGEST_REST_SECONDS
from cacheruntime.controller.objects import Objects
from cacheruntime.controller.reclaim import LOOK_SECONDS
from cacheruntime.controller.reclaimer import Reclaimer
from kube.errors import Forbidden

LONG_AGO = timestamp(1_700_000_000.0)
INFO = metadata_pb2.DatasetInfo(uid="u", cached_bytes=1000, cached_copy_bytes=24)
USER = Reference(kind="Pod", namespace="ns", name="p")


class FakeUsers:
    """Nobody was seen; `found` is the truth, or an error."""

    def __init__(self, found: Any) -> None:
        self.found = found

    async def now(self, dataset: Any) -> list[Reference]:
        if isinstance(self.found, Exception):
            raise self.found
        return list(self.found)


class FakeWorkers:
    """Metadata and workers in one."""

    def __init__(self) -> None:
        self.evicted: list[str] = []
        self.is_down = False

    async def workers(self) -> list[metadata_pb2.Worker]:
        return [metadata_pb2.Worker(node="n", alive=True)]

    async def evict(self, workers: Any, uid: str) -> None:
        if self.is_down:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
        self.evicted.append(uid)


class FakeRecorder:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def record(self, regarding: Any, reason: str, note: str, **_: Any) -> None:
        self.notes.append(f"{reason}: {note}")


class Bench:
    """One Dataset that was unused for long."""

    def __init__(self, found: Any = ()) -> None:
        self.workers, self.recorder, self.status = FakeWorkers(), FakeRecorder(), DatasetStatus()
        doubles: Any = FakeUsers(found), self.workers, self.workers, self.recorder
        self._reclaimer = Reclaimer(Objects(cast(Any, None)), *doubles)
        spec = {"mounts": [{"mountPoint": "s3://b", "name": "d"}], "reclaim": {"policy": "WhenUnused"}}
        meta = {"name": "d", "namespace": "ns", "uid": "u"}
        self.dataset = Dataset.model_validate({"metadata": meta, "spec": spec, "status": {"unusedSince": LONG_AGO}})

    async def turn(self) -> float | None:
        return await self._reclaimer.look(self.dataset, INFO, self.status, [])


async def test_all_of_it_goes_and_the_event_says_how_much_and_why() -> None:
    bench = Bench()
    assert await bench.turn() == LONGEST_REST_SECONDS, "it may be filled again unnoticed"
    assert bench.workers.evicted == ["u"]
    assert bench.recorder.notes == [f"Reclaimed: 1.0 KiB were given back: nobody has used it since {LONG_AGO}"]
    assert bench.status.unused_since == LONG_AGO
    assert bench.status.reclaimed_at is not None and bench.status.reclaimed_at > LONG_AGO


async def test_a_user_whom_the_watch_has_not_seen_yet_keeps_it() -> None:
    bench = Bench([USER])
    await bench.turn()
    assert not bench.workers.evicted and not bench.recorder.notes
    assert bench.status.references == [USER]
    assert bench.status.unused_since is None and bench.status.reclaimed_at is None


async def test_while_nobody_can_say_who_uses_it_nothing_goes_and_it_is_tried_again() -> None:
    bench = Bench(Forbidden(403, "Forbidden", "pods is forbidden"))
    assert await bench.turn() == LOOK_SECONDS
    assert not bench.workers.evicted
    assert bench.status.unused_since == LONG_AGO and bench.status.reclaimed_at is None


async def test_workers_that_do_not_answer_are_asked_again() -> None:
    bench = Bench()
    bench.workers.is_down = True
    assert await bench.turn() == LOOK_SECONDS
    assert bench.status.reclaimed_at is None and not bench.recorder.notes

"""The publisher's order: scheduler/shell/publish.py with a client that answers when told to."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from kube.client import KubeClient
from kube.errors import Unavailable
from kube.events import EventRecorder
from scheduler.core.decisions import Bind, DeletePod, Explain, GroupStatus, Nominate
from scheduler.core.events import DeleteFailed, Event
from scheduler.shell.publish import LOOK_SECONDS, PATIENCE_SECONDS, Publisher


class FakeClient:
    """Keeps what was asked; every answer waits for `gate`."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.finished: list[Any] = []
        self.gate = asyncio.Event()
        self.fails_deletes = False
        self.pods: dict[str, Any] = {}
        self.versions: list[str] = []

    async def patch(self, resource: Any, name: str, body: Mapping[str, Any], *_: Any, **__: Any) -> None:
        status = body["status"]
        if "nominatedNodeName" in status:
            what = f"nominate {status['nominatedNodeName']}"
        else:
            what = status.get("phase") or status["conditions"][0]["message"]
        self.started.append(what)
        self.versions.append(body.get("metadata", {}).get("resourceVersion", ""))
        await self.gate.wait()
        self.finished.append(what)

    async def get(self, resource: Any, name: str, namespace: str) -> Any:
        return self.pods[name]

    async def delete(self, resource: Any, name: str, *_: Any, uid: str) -> None:
        self.started.append(f"delete {uid}")
        await self.gate.wait()
        if self.fails_deletes:
            raise Unavailable(503, "", "no")


class FakeRecorder:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def record(self, ref: Any, reason: str, note: str, **_: Any) -> None:
        self.notes.append(f"{reason}: {note}")


class Setup:
    def __init__(self) -> None:
        self.client, self.recorder = FakeClient(), FakeRecorder()
        self.reported: list[Event] = []
        self.is_busy, self.now = False, 0.0
        self.publisher = Publisher(
            cast(KubeClient, self.client),
            cast(EventRecorder, self.recorder),
            4,
            self.reported.append,
            is_busy=lambda: self.is_busy,
            clock=lambda: self.now,
        )

    async def __aenter__(self) -> "Setup":
        self.task = asyncio.create_task(self.publisher.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def _status(phase: str) -> GroupStatus:
    return GroupStatus("ns", "g", phase, 0, 0)


def _explain(uid: str, message: str) -> Explain:
    return Explain(uid, "ns", uid, "Unschedulable", message)


async def test_two_writes_about_one_object_are_never_under_way_at_once() -> None:
    async with Setup() as setup:
        setup.publisher.submit(_status("Scheduling"))
        await setup.turn()
        setup.publisher.submit(_status("Scheduled"))
        await setup.turn()
        assert setup.client.started == ["Scheduling"]
        setup.client.gate.set()
        await setup.publisher.join()
        assert setup.client.finished == ["Scheduling", "Scheduled"]


async def test_only_the_newest_of_waiting_conditions_is_written() -> None:
    setup = Setup()
    for message in ("old", "new"):
        setup.publisher.submit(_explain("u", message))
    setup.client.gate.set()
    async with setup:
        await setup.publisher.join()
    assert setup.client.finished == ["new"]
    assert setup.recorder.notes == ["FailedScheduling: old", "FailedScheduling: new"]


async def test_a_bind_drops_the_waiting_condition_and_waits_for_the_one_in_flight() -> None:
    async with Setup() as setup:
        setup.publisher.submit(_explain("u", "first"))
        await setup.turn()
        setup.publisher.submit(_explain("u", "second"))
        in_flight = setup.publisher.before_bind("u")
        assert in_flight is not None
        setup.client.gate.set()
        await in_flight
        await setup.publisher.join()
        assert setup.client.finished == ["first"]
        assert setup.publisher.before_bind("u") is None


async def test_deletions_go_first_and_their_failure_is_reported() -> None:
    setup = Setup()
    setup.client.fails_deletes = True
    setup.client.gate.set()
    setup.publisher.submit(_status("Pending"))
    setup.publisher.submit(DeletePod("u", "ns", "p", "why"))
    async with setup:
        await setup.publisher.join()
    assert setup.client.started == ["delete u", "Pending"]
    assert setup.reported == [DeleteFailed("u")]
    assert setup.recorder.notes == ["GangUndone: why"]


async def test_a_bound_pod_is_told_with_the_binds_note() -> None:
    setup = Setup()
    setup.publisher.bound(Bind("u", "ns", "p", "n", "{}", "Successfully assigned ns/p to n"))
    assert setup.recorder.notes == ["Scheduled: Successfully assigned ns/p to n"]


async def test_a_nomination_is_written_cleared_and_finished_before_the_bind() -> None:
    async with Setup() as setup:
        setup.publisher.submit(Nominate("u", "ns", "p", "node-1"))
        await setup.turn()
        setup.publisher.submit(Nominate("u", "ns", "p", ""))
        in_flight = setup.publisher.before_bind("u")
        assert in_flight is not None
        setup.client.gate.set()
        await in_flight
        await setup.publisher.join()
        assert setup.client.finished == ["nominate node-1"]
        setup.publisher.submit(Nominate("u", "ns", "p", ""))
        await setup.publisher.join()
        assert setup.client.finished == ["nominate node-1", "nominate None"]


async def test_a_groups_status_waits_for_binds_and_then_says_the_newest() -> None:
    async with Setup() as setup:
        setup.client.gate.set()
        setup.is_busy = True
        setup.publisher.submit(_status("Scheduling"))
        setup.publisher.submit(_status("Scheduled"))
        setup.publisher.submit(Explain("u", "ns", "p", "Unschedulable", "no"))
        await asyncio.sleep(2 * LOOK_SECONDS)
        assert setup.client.started == ["no"]
        setup.is_busy = False
        await asyncio.wait_for(setup.publisher.join(), 5)
        assert setup.client.started == ["no", "Scheduled"]


async def test_a_groups_status_does_not_wait_for_ever() -> None:
    async with Setup() as setup:
        setup.client.gate.set()
        setup.is_busy = True
        setup.publisher.submit(_status("Scheduled"))
        await asyncio.sleep(2 * LOOK_SECONDS)
        assert setup.client.started == []
        setup.now += PATIENCE_SECONDS
        await asyncio.wait_for(setup.publisher.join(), 5)
        assert setup.client.started == ["Scheduled"]


async def test_an_error_is_not_written_over_a_bind_that_was_applied_after_all() -> None:
    async with Setup() as setup:
        for uid, node in (("bound", "n"), ("unbound", None), ("anew", None)):
            metadata = {"uid": "another" if uid == "anew" else uid, "resourceVersion": "7"}
            setup.client.pods[uid] = {"metadata": metadata, "spec": {"nodeName": node} if node else {}}
            setup.publisher.submit(Explain(uid, "ns", uid, "SchedulerError", f"{uid} failed"))
        await setup.turn()
        assert setup.client.started == ["unbound failed"]
        assert setup.client.versions == ["7"]

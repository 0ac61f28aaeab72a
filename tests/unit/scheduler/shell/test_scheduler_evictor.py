"""Evictions: scheduler/shell/evictor.py with a client that answers as told."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from kube.client import KubeClient
from kube.errors import Conflict, KubeError, NotFound, Unavailable
from kube.events import EventRecorder
from scheduler.core.decisions import Preempt, Victim
from scheduler.core.events import Event, PreemptionEnded
from scheduler.shell.evictor import Evictor


class FakeClient:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.bodies: list[Mapping[str, Any]] = []
        self.refuses: dict[str, KubeError] = {}

    async def patch(self, resource: Any, name: str, body: Mapping[str, Any], *_: Any, **__: Any) -> None:
        self.calls.append(f"mark {name}")
        self.bodies.append(body)
        await asyncio.sleep(0)
        if f"mark {name}" in self.refuses:
            raise self.refuses[f"mark {name}"]

    async def delete(self, resource: Any, name: str, *_: Any, uid: str) -> None:
        self.calls.append(f"delete {name} {uid}")
        await asyncio.sleep(0)
        if f"delete {name}" in self.refuses:
            raise self.refuses[f"delete {name}"]


class FakeRecorder:
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def record(self, ref: Any, reason: str, note: str, *, kind: str, action: str, component: str) -> None:
        assert component == "our-scheduler"
        self.events.append((ref.name, reason, note, kind, action))


def _preempt(*names: str, is_group: bool = False) -> Preempt:
    victims = tuple(Victim(f"uid-{name}", "ns", name, "node-1", generation=3) for name in names)
    return Preempt("unit", "uid-p", "ns", "p", is_group, victims, len(victims), "our-scheduler")


async def _evicted(client: FakeClient, *work: Preempt) -> tuple[list[Event], list[tuple[Any, ...]]]:
    reported: list[Event] = []
    recorder = FakeRecorder()
    evictor = Evictor(cast(KubeClient, client), cast(EventRecorder, recorder), 4, reported.append)
    for item in work:
        evictor.submit(item)
    running = asyncio.create_task(evictor.run())
    await evictor.join()
    running.cancel()
    await asyncio.wait({running})
    return reported, recorder.events


async def test_condition_then_deletion_then_event_in_kube_schedulers_words() -> None:
    client = FakeClient()
    reported, events = await _evicted(client, _preempt("v"))
    assert client.calls == ["mark v", "delete v uid-v"]
    (body,) = client.bodies
    condition = body["status"]["conditions"][0]
    assert condition.pop("lastTransitionTime")
    assert body["metadata"] == {"uid": "uid-v"}
    assert condition == {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": "our-scheduler: preempting to accommodate a higher priority pod",
        "observedGeneration": 3,
    }
    assert events == [("v", "Preempted", "Preempted by pod uid-p on node node-1", "Normal", "Preempting")]
    assert reported == [PreemptionEnded("unit", failed=False)]


async def test_a_gang_is_named_as_such() -> None:
    client = FakeClient()
    _, events = await _evicted(client, _preempt("v", is_group=True))
    assert client.bodies[0]["status"]["conditions"][0]["message"].endswith("a higher priority podgroup")
    assert events[0][2] == "Preempted by podgroup uid-p on node node-1"


async def test_the_last_victim_goes_after_all_others() -> None:
    client = FakeClient()
    await _evicted(client, _preempt("a", "b", "c"))
    assert client.calls.index("mark c") > max(client.calls.index(f"delete {name} uid-{name}") for name in "ab")


async def test_after_a_failure_the_last_victim_is_left_alone() -> None:
    client = FakeClient()
    client.refuses["delete a"] = Unavailable(503, "", "no")
    reported, events = await _evicted(client, _preempt("a", "b", "c"))
    assert "mark c" not in client.calls
    assert [name for name, *_ in events] == ["b"]
    assert reported == [PreemptionEnded("unit", failed=True)]


@pytest.mark.parametrize("step", ["mark", "delete"])
@pytest.mark.parametrize("error", [NotFound(404, "NotFound", ""), Conflict(409, "Conflict", "another uid")])
async def test_a_victim_that_is_gone_is_no_failure(step: str, error: KubeError) -> None:
    client = FakeClient()
    client.refuses[f"{step} v"] = error
    reported, events = await _evicted(client, _preempt("v"))
    assert events == []
    assert reported == [PreemptionEnded("unit", failed=False)]

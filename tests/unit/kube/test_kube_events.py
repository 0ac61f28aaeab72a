"""Events: aggregation, limits, failures: kube/events.py, without sockets."""

import asyncio
from contextlib import suppress
from typing import Any, cast

import pytest

from kube import events
from kube.client import KubeClient
from kube.errors import Forbidden, KubeError, NotFound
from kube.events import NOTE_MAX_BYTES, PATIENCE_SECONDS, SERIES_SECONDS, EventRecorder, truncate_note
from kube.identity import JsonObject, ObjectRef
from kube.resources import Resource

LIMIT = 400
POD = ObjectRef(kind="Pod", namespace="ns", name="p", uid="u")


class FakeClient:
    def __init__(self) -> None:
        self.created: list[JsonObject] = []
        self.patched: list[tuple[str, JsonObject]] = []
        self.fails_with: KubeError | None = None

    async def create(self, resource: Resource, body: JsonObject, namespace: str) -> JsonObject:
        if self.fails_with is not None:
            raise self.fails_with
        self.created.append(body)
        return body

    async def patch(self, resource: Resource, name: str, body: JsonObject, namespace: str) -> JsonObject:
        if self.fails_with is not None:
            error, self.fails_with = self.fails_with, None
            raise error
        self.patched.append((name, body))
        return body


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def recorder_for(client: FakeClient, clock: Clock, **options: Any) -> EventRecorder:
    return EventRecorder(
        cast(KubeClient, client), "headrace.dev/test", "test-1", sweep_seconds=3600, clock=clock, **options
    )


async def drain(recorder: EventRecorder) -> None:
    task = asyncio.create_task(recorder.run())
    assert await recorder.drain(5)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_an_event_may_be_another_components(client: FakeClient, clock: Clock) -> None:
    recorder = recorder_for(client, clock)
    recorder.record(POD, "Scheduled", "on node n", component="headrace-packing")
    recorder.record(POD, "Scheduled", "on node n")
    await drain(recorder)
    assert [event["reportingController"] for event in client.created] == ["headrace-packing", "headrace.dev/test"]


async def test_an_event_has_what_the_api_wants(client: FakeClient, clock: Clock) -> None:
    recorder = recorder_for(client, clock)
    recorder.record(POD, "Scheduled", "on node n", action="Binding")
    await drain(recorder)
    event = client.created[0]
    assert event["regarding"] == {"kind": "Pod", "namespace": "ns", "name": "p", "uid": "u"}
    assert event["metadata"]["name"].startswith("p.")
    assert (event["type"], event["reason"], event["action"]) == ("Normal", "Scheduled", "Binding")
    assert event["reportingController"] == "headrace.dev/test"
    assert event["eventTime"].endswith("Z")
    assert "series" not in event


async def test_repeats_become_one_series_and_one_call(client: FakeClient, clock: Clock) -> None:
    recorder = recorder_for(client, clock)
    recorder.record(POD, "FailedScheduling", "0/3 nodes", kind="Warning")
    await drain(recorder)
    for _ in range(100):
        clock.now += 1
        recorder.record(POD, "FailedScheduling", "0/3 nodes", kind="Warning")
    await drain(recorder)
    assert len(client.created) == 1
    assert [(name, body["series"]["count"]) for name, body in client.patched] == [
        (client.created[0]["metadata"]["name"], 101)
    ]


async def test_repeats_before_the_first_write_are_written_with_it(client: FakeClient, clock: Clock) -> None:
    recorder = recorder_for(client, clock)
    for _ in range(3):
        recorder.record(POD, "r", "n")
    await drain(recorder)
    assert [event["series"]["count"] for event in client.created] == [3]
    assert client.patched == []


async def test_another_note_object_or_six_minutes_of_quiet_make_another_event(client: FakeClient, clock: Clock) -> None:
    recorder = recorder_for(client, clock)
    recorder.record(POD, "r", "n")
    recorder.record(POD, "r", "other")
    recorder.record(ObjectRef(kind="Pod", namespace="ns", name="q"), "r", "n")
    clock.now += SERIES_SECONDS + 1
    recorder.record(POD, "r", "n")
    await drain(recorder)
    assert len(client.created) == 4


async def test_a_full_queue_drops_and_counts(client: FakeClient, clock: Clock) -> None:
    recorder = recorder_for(client, clock, queue_limit=2)
    for index in range(5):
        recorder.record(POD, "r", f"n{index}")
    assert recorder.dropped == 3
    await drain(recorder)
    assert len(client.created) == 2
    # What was dropped is not taken for the beginning of a series.
    recorder.record(POD, "r", "n4")
    await drain(recorder)
    assert len(client.created) == 3


async def test_a_failed_write_is_tried_again_with_the_next_report(client: FakeClient, clock: Clock) -> None:
    recorder = recorder_for(client, clock)
    client.fails_with = Forbidden(403, "Forbidden", "the namespace is being deleted")
    recorder.record(POD, "r", "n")
    await drain(recorder)
    client.fails_with = None
    recorder.record(POD, "r", "n")
    await drain(recorder)
    assert len(client.created) == 1


async def test_events_let_what_is_more_urgent_pass_but_not_for_ever(client: FakeClient, clock: Clock) -> None:
    looks = 0

    def is_busy() -> bool:
        nonlocal looks
        looks += 1
        assert not client.created
        clock.now += PATIENCE_SECONDS / 2
        return True

    recorder = recorder_for(client, clock, is_busy=is_busy)
    recorder.record(POD, "Scheduled", "to n1")
    await drain(recorder)
    assert looks == 2
    assert len(client.created) == 1


async def test_a_queue_that_fills_up_waits_for_nobody(client: FakeClient, clock: Clock) -> None:
    recorder = recorder_for(client, clock, queue_limit=4, senders=1, is_busy=lambda: len(client.created) >= 2)
    for number in range(4):
        recorder.record(POD, "Scheduled", f"to n{number}")
    running = asyncio.create_task(recorder.run())
    while len(client.created) < 2:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(client.created) == 2
    clock.now += PATIENCE_SECONDS
    assert await recorder.drain(5)
    running.cancel()
    assert len(client.created) == 4


async def test_more_senders_help_while_the_queue_is_more_than_half_full(
    client: FakeClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RELIEF_LOOK_SECONDS", 0.0)
    under_way, most = 0, {"over half": 0, "up to half": 0}

    async def create(resource: Resource, body: JsonObject, namespace: str) -> JsonObject:
        nonlocal under_way
        under_way += 1
        queued = LIMIT - len(client.created) - under_way
        # Senders under way when the queue has become short end with what they have.
        state = "over half" if queued >= LIMIT // 2 else "up to half" if queued < LIMIT // 4 else "between"
        most[state] = max(most.get(state, 0), under_way)
        for _ in range(5):
            await asyncio.sleep(0)
        under_way -= 1
        client.created.append(body)
        return body

    monkeypatch.setattr(client, "create", create)
    recorder = recorder_for(client, clock, queue_limit=LIMIT, senders=2)
    for number in range(LIMIT):
        recorder.record(POD, "Scheduled", f"to n{number}")
    await drain(recorder)
    assert recorder.dropped == 0
    assert len(client.created) == LIMIT
    assert most["over half"] > 2 + events.RELIEF_SENDERS // 2
    assert most["up to half"] == 2


async def test_a_series_the_server_forgot_starts_anew(client: FakeClient, clock: Clock) -> None:
    recorder = recorder_for(client, clock)
    recorder.record(POD, "r", "n")
    await drain(recorder)
    recorder.record(POD, "r", "n")
    client.fails_with = NotFound(404, "NotFound", "")
    await drain(recorder)
    first, second = client.created
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert second["series"]["count"] == 2


async def test_events_on_cluster_scoped_objects_live_in_default(client: FakeClient, clock: Clock) -> None:
    recorder = recorder_for(client, clock)
    recorder.record(ObjectRef(kind="Node", name="n"), "r", "n")
    await drain(recorder)
    assert client.created[0]["metadata"]["namespace"] == "default"


def test_notes_are_cut_at_a_character_border() -> None:
    note = truncate_note("é" * 2000)
    assert len(note.encode()) <= NOTE_MAX_BYTES
    assert note.rstrip("…") == "é" * (len(note) - 1)
    assert truncate_note("x" * NOTE_MAX_BYTES) == "x" * NOTE_MAX_BYTES

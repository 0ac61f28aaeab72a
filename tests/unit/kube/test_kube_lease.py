"""Who may lead, by a moved clock: kube/lease.py, without sockets."""

from copy import deepcopy
from typing import Any, cast

import pytest

from kube.client import KubeClient
from kube.errors import AlreadyExists, Conflict, NotFound, Unavailable
from kube.identity import JsonObject
from kube.lease import LeaderElector
from kube.resources import Resource


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class LeaseServer:
    """One Lease with compare-and-swap on its resourceVersion."""

    def __init__(self) -> None:
        self.lease: JsonObject | None = None
        self.version = 0
        self.is_down = False

    def _check(self) -> None:
        if self.is_down:
            raise Unavailable(0, "NoAnswer", "down")

    async def get(self, resource: Resource, name: str, namespace: str) -> JsonObject:
        self._check()
        if self.lease is None:
            raise NotFound(404, "NotFound", "")
        return deepcopy(self.lease)

    async def create(self, resource: Resource, body: JsonObject, namespace: str) -> JsonObject:
        self._check()
        if self.lease is not None:
            raise AlreadyExists(409, "AlreadyExists", "")
        return self._store(body)

    async def replace(self, resource: Resource, name: str, body: JsonObject, namespace: str) -> JsonObject:
        self._check()
        assert self.lease is not None
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "")
        return self._store(body)

    def _store(self, body: JsonObject) -> JsonObject:
        self.version += 1
        self.lease = deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return deepcopy(self.lease)


@pytest.fixture
def server() -> LeaseServer:
    return LeaseServer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def elector(server: LeaseServer, identity: str, clock: Clock, **options: Any) -> LeaderElector:
    return LeaderElector(cast(KubeClient, server), "ns", "lease", identity, clock=clock, **options)


async def attempt(candidate: LeaderElector) -> bool:
    return await candidate.try_acquire_or_renew(within_seconds=5)


async def test_the_first_leads_and_the_second_waits(server: LeaseServer, clock: Clock) -> None:
    first, second = elector(server, "first", clock), elector(server, "second", clock)
    assert await attempt(first)
    assert not await attempt(second)
    assert first.is_leader
    assert not second.is_leader
    assert second.holder == "first"


async def test_a_silent_holder_is_replaced_after_the_lease_time_seen_here(server: LeaseServer, clock: Clock) -> None:
    first = elector(server, "first", clock)
    assert await attempt(first)
    assert server.lease is not None
    # Whatever its wall clock says: only our own monotonic clock counts.
    server.lease["spec"]["renewTime"] = "1970-01-01T00:00:00.000000Z"
    second = elector(server, "second", clock)
    clock.now = 1000
    assert not await attempt(second)
    clock.now += 14.9
    assert not await attempt(second)
    clock.now += 0.2
    assert await attempt(second)
    assert server.lease["spec"]["leaseTransitions"] == 1


async def test_each_renewal_seen_starts_the_wait_again(server: LeaseServer, clock: Clock) -> None:
    first, second = elector(server, "first", clock), elector(server, "second", clock)
    assert await attempt(first)
    for _ in range(10):
        clock.now += 8
        assert await attempt(first)
        assert not await attempt(second)


async def test_leadership_ends_before_another_may_take_over(server: LeaseServer, clock: Clock) -> None:
    first = elector(server, "first", clock)
    assert await attempt(first)
    server.is_down = True
    clock.now += 9
    assert not await attempt(first)
    assert first.is_leader
    clock.now += 1.1
    assert not first.is_leader


async def test_of_two_that_race_for_an_expired_lease_one_wins(server: LeaseServer, clock: Clock) -> None:
    assert await attempt(elector(server, "dead", clock))
    second, third = elector(server, "second", clock), elector(server, "third", clock)
    assert not await attempt(second)
    assert not await attempt(third)
    clock.now += 16
    reads = server.get

    async def racing_get(resource: Resource, name: str, namespace: str) -> JsonObject:
        lease = await reads(resource, name, namespace)
        server.get = reads  # type: ignore[method-assign]
        assert await attempt(third)
        return lease

    server.get = racing_get  # type: ignore[method-assign]
    assert not await attempt(second)
    assert third.is_leader
    assert not second.is_leader
    assert not await attempt(second)
    assert second.holder == "third"


async def test_a_holder_that_lost_the_lease_sees_it(server: LeaseServer, clock: Clock) -> None:
    first, second = elector(server, "first", clock), elector(server, "second", clock)
    assert await attempt(first)
    assert not await attempt(second)
    clock.now += 16
    assert await attempt(second)
    assert not await attempt(first)  # conflict
    assert not await attempt(first)  # re-read
    assert first.holder == "second"


def test_times_that_cannot_be_safe_are_refused(server: LeaseServer, clock: Clock) -> None:
    with pytest.raises(ValueError, match="retry_seconds 2 < renew_seconds 15 < duration_seconds 15 must hold"):
        elector(server, "a", clock, renew_seconds=15)
    with pytest.raises(ValueError, match="identity is empty"):
        elector(server, "", clock)

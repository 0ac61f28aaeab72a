"""Preemption beside the real kube-scheduler: the same clusters, twice, on one API server.

Each case has its own nodes (a nodeSelector keeps it there) and is made once for each scheduler, in a namespace of its
own; victims keep their grace period and no kubelet ends them, so that what was done to them stays to be compared."""

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api import names
from kube.errors import AlreadyExists
from kube.identity import JsonObject
from kube.resources import EVENTS, NAMESPACES, NODES, POD_DISRUPTION_BUDGETS, PODS, PRIORITY_CLASSES
from tests.builders.preemption_cases import PREEMPTOR, PRIORITIES, Case, Held, a_case
from tests.integration.scheduler.conftest import PATIENCE_SECONDS, Cluster, message_of

pytestmark = pytest.mark.cluster

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
POOL = "pool.example.com"
KUBES, OURS = "default-scheduler", names.DEFAULT_SCHEDULER_NAME
TERMINATING = " no new claims to deallocate, preemption: not eligible due to a terminating pod on the nominated node."
AT_ONCE = 48


@dataclass(frozen=True)
class Outcome:
    """What a scheduler did, with names that are equal on both sides."""

    victims: frozenset[str]
    conditions: frozenset[tuple[Any, ...]]
    events: frozenset[tuple[Any, ...]]
    nominated: str
    message: str


class Side:
    """One scheduler's copies of all cases."""

    def __init__(self, cluster: Cluster, scheduler: str, cases: dict[int, Case]) -> None:
        self.cluster = cluster
        self.scheduler = scheduler
        self.namespace = f"side-{scheduler}-{min(cases)}"
        self.cases = cases
        self._limit = asyncio.Semaphore(AT_ONCE)

    def pool(self, number: int) -> str:
        return f"{self.scheduler}-{number}"

    async def make(self) -> None:
        await self.cluster.create(NAMESPACES, {"metadata": {"name": self.namespace}})
        await self._all(self._node(number, node) for number, case in self.cases.items() for node in case.nodes)
        await self._all(self._held(number, pod) for number, case in self.cases.items() for pod in case.held)
        await self._all(self._budget(number, item) for number, case in self.cases.items() for item in case.budgets)

    async def try_all(self) -> None:
        await self._all(self._preemptor(number, case) for number, case in self.cases.items())

    async def outcomes(self) -> dict[int, Outcome]:
        pods = (await self.cluster.client.list(PODS, self.namespace)).items
        events = (await self.cluster.client.list(EVENTS, self.namespace)).items
        by_case: dict[int, list[JsonObject]] = {}
        for pod in pods:
            by_case.setdefault(int(pod["metadata"]["labels"]["case"]), []).append(pod)
        told: dict[str, list[JsonObject]] = {}
        for event in events:
            if event["reason"] == "Preempted":
                told.setdefault(event["regarding"]["uid"], []).append(event)
        return {number: self._outcome(number, by_case[number], told) for number in self.cases}

    def _outcome(self, number: int, pods: list[JsonObject], told: dict[str, list[JsonObject]]) -> Outcome:
        (preemptor,) = (pod for pod in pods if pod["metadata"]["labels"]["role"] == "preemptor")
        meta = preemptor["metadata"]
        victims, conditions, events = set(), set(), set()
        for pod in pods:
            name = pod["metadata"]["name"]
            if pod["metadata"].get("deletionTimestamp"):
                victims.add(name)
            for item in pod["status"].get("conditions", ()):
                if item["type"] == "DisruptionTarget":
                    text = item["message"].replace(self.scheduler, "SCHEDULER")
                    conditions.add((name, item["status"], item["reason"], text, item.get("observedGeneration")))
            for event in told.get(pod["metadata"]["uid"], ()):
                note = event["note"].replace(meta["uid"], "UID").replace(self.pool(number), "POOL")
                events.add((name, event["type"], event["action"], note, "related" in event))
        return Outcome(
            frozenset(victims),
            frozenset(conditions),
            frozenset(events),
            preemptor["status"].get("nominatedNodeName", "").replace(self.pool(number), "POOL"),
            message_of(preemptor).removesuffix(TERMINATING),
        )

    async def _all(self, writes: Iterable[Awaitable[Any]]) -> None:
        async def one(write: Awaitable[Any]) -> None:
            async with self._limit:
                await write

        await asyncio.gather(*(one(write) for write in writes))

    async def _node(self, number: int, node: tuple[str, int, int, int]) -> None:
        name, cpu, memory, slots = node
        full = f"{self.pool(number)}-{name}"
        amounts = {"cpu": str(cpu), "memory": f"{memory}Gi", "pods": str(slots), "ephemeral-storage": "10Gi"}
        labels = {"kubernetes.io/hostname": full, POOL: self.pool(number)}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": full, "labels": labels}}
        await self.cluster.client.create(NODES, body | {"status": {"allocatable": amounts, "capacity": amounts}})

    async def _held(self, number: int, pod: Held) -> None:
        labels = {"case": str(number), "role": "held"} | ({"color": pod.label} if pod.label else {})
        spec = {
            "schedulerName": "nobody",
            "nodeName": f"{self.pool(number)}-{pod.node}",
            "priorityClassName": _class_of(pod.priority),
            "terminationGracePeriodSeconds": 3600,
            "containers": [_container(pod.cpu, pod.memory, pod.port)],
        }
        if pod.is_unfriendly:
            spec["affinity"] = _anti_affinity({"case": str(number), "role": "preemptor"})
        name = f"case-{number}-{pod.name}"
        await self._pod(name, labels, spec)
        status: dict[str, Any] = {"phase": "Running"}
        if pod.start is not None:
            status["startTime"] = (EPOCH + timedelta(seconds=pod.start)).strftime("%Y-%m-%dT%H:%M:%SZ")
        await self.cluster.client.patch(PODS, name, {"status": status}, self.namespace, subresource="status")

    async def _budget(self, number: int, budget: Any) -> None:
        selector = {
            "matchLabels": {"case": str(number)},
            "matchExpressions": [{"key": "color", "operator": "In", "values": list(budget.labels)}],
        }
        status = {
            "disruptionsAllowed": budget.allowed,
            "currentHealthy": 1,
            "desiredHealthy": 1,
            "expectedPods": 1,
            "disruptedPods": {f"case-{number}-{name}": "2026-01-01T00:00:00Z" for name in budget.disrupted},
        }
        body = {
            "metadata": {"name": f"case-{number}-{budget.name}"},
            "spec": {"minAvailable": 1, "selector": selector},
            "status": status,
        }
        await self.cluster.create(POD_DISRUPTION_BUDGETS, body, self.namespace)

    async def _preemptor(self, number: int, case: Case) -> None:
        spec: dict[str, Any] = {
            "schedulerName": self.scheduler,
            "priorityClassName": _class_of(PREEMPTOR) if case.policy != "Never" else "never",
            "nodeSelector": {POOL: self.pool(number)},
            "containers": [_container(case.cpu, case.memory, case.port)],
        }
        if case.shuns:
            spec["affinity"] = _anti_affinity({"case": str(number), "color": case.shuns})
        await self._pod(f"case-{number}-preemptor", {"case": str(number), "role": "preemptor"}, spec)

    async def _pod(self, name: str, labels: dict[str, str], spec: dict[str, Any]) -> None:
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
        await self.cluster.client.create(PODS, body, self.namespace)


def _class_of(priority: int) -> str:
    return f"priority-{priority}" if priority >= 0 else f"priority-minus-{-priority}"


def _container(cpu: int, memory: int, port: int) -> dict[str, Any]:
    requests = ({"cpu": str(cpu)} if cpu else {}) | ({"memory": f"{memory}Gi"} if memory else {})
    container: dict[str, Any] = {"name": "main", "image": "registry.invalid/none", "resources": {"requests": requests}}
    if port:
        container["ports"] = [{"containerPort": port, "hostPort": port}]
    return container


def _anti_affinity(labels: dict[str, str]) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


async def _classes(cluster: Cluster) -> None:
    wanted = {_class_of(priority): (priority, "PreemptLowerPriority") for priority in PRIORITIES}
    wanted["never"] = (PREEMPTOR, "Never")
    for name, (value, policy) in wanted.items():
        with contextlib.suppress(AlreadyExists):
            body = {"metadata": {"name": name}, "value": value, "preemptionPolicy": policy}
            await cluster.create(PRIORITY_CLASSES, body)


def _is_settled(outcome: Outcome) -> bool:
    """A message, and for a nomination victims that were told of."""
    done = {name for name, *_ in outcome.events} == outcome.victims
    return bool(outcome.message) and done and bool(outcome.nominated) == bool(outcome.victims)


async def _compare(cluster: Cluster, seeds: Iterable[int]) -> None:
    cases = {number: a_case(number) for number in seeds}
    await _classes(cluster)
    sides = [Side(cluster, KUBES, cases), Side(cluster, OURS, cases)]
    for side in sides:
        await side.make()
    async with cluster.scheduler(), cluster.kube_scheduler_running():
        for side in sides:
            await side.try_all()
        kubes: dict[int, Outcome] = {}
        ours: dict[int, Outcome] = {}
        try:
            async with asyncio.timeout(PATIENCE_SECONDS + len(cases) / 5):
                while not kubes or not all(map(_is_settled, kubes.values())) or kubes != ours:
                    kubes, ours = [await side.outcomes() for side in sides]
                    await asyncio.sleep(0.5)
        except TimeoutError:
            different = [number for number in cases if kubes[number] != ours[number]]
            told = "\n".join(f"case {n}: {cases[n]}\n  kube: {kubes[n]}\n  ours: {ours[n]}" for n in different[:5])
            unsettled = [number for number, outcome in kubes.items() if not _is_settled(outcome)]
            pytest.fail(f"{len(cases)} cases, {len(different)} differences {different}, unsettled {unsettled}\n{told}")
    # The cases are worth something: many evict, many of these several pods, some violate, some cannot.
    evicting = [outcome for outcome in kubes.values() if outcome.victims]
    assert len(evicting) > len(cases) / 4
    assert any(len(outcome.victims) > 2 for outcome in evicting)
    assert any(not outcome.victims for outcome in kubes.values())


async def test_the_same_victims_nodes_conditions_and_events(cluster: Cluster) -> None:
    await _compare(cluster, range(60))


@pytest.mark.nightly
async def test_the_same_in_many_more_cases(cluster: Cluster) -> None:
    await _compare(cluster, range(1000, 1400))


def test_cases_are_made_by_their_number_alone() -> None:
    assert a_case(7) == a_case(7)
    assert replace(a_case(7), cpu=0) != a_case(7)

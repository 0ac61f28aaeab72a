"""Roles that depend on each other: no pod starts early, and every pod starts in the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from api import names
from api.training_v1alpha1 import TrainingJobSpec
from jobcontroller.core import startup
from jobcontroller.core.observed import PodPhase, PodView
from tests.builders.training_jobs import job, workers

ROLES = ("A", "B", "C", "D")
STATUSES = ("Running", "Ready", "Succeeded")
Edges = dict[tuple[str, str], str]
pairs = st.tuples(st.sampled_from(ROLES), st.sampled_from(ROLES))


def spec_of(edges: Edges, replicas: dict[str, int]) -> TrainingJobSpec:
    specs: dict[str, Any] = {}
    for role in ROLES:
        wanted = [{"role": other, "status": status} for (one, other), status in edges.items() if one == role]
        specs[role] = workers(replicas[role], dependsOn=wanted)["Worker"]
    return job(framework="Custom", replicaSpecs=specs).spec


def has_circle(edges: Edges) -> bool:
    """Take away what depends on nothing, again and again; what is left goes in circles."""
    left = set(ROLES)
    while free := {role for role in left if not any(one == role and other in left for one, other in edges)}:
        left -= free
    return bool(left)


@given(st.dictionaries(pairs, st.sampled_from(STATUSES), max_size=8))
def test_exactly_circles_are_refused(edges: Edges) -> None:
    found = list(startup.problems(spec_of(edges, dict.fromkeys(ROLES, 1)).replica_specs))
    assert len(found) == has_circle(edges)
    assert all("closes the circle" in text for text in found)


def reached(pod: PodView, status: str) -> bool:
    order = {"Running": pod.is_running, "Ready": pod.is_running and pod.is_ready, "Succeeded": False}
    return pod.phase is PodPhase.SUCCEEDED or order[status]


@given(
    edges=st.dictionaries(pairs.filter(lambda pair: pair[0] > pair[1]), st.sampled_from(STATUSES), max_size=6),
    replicas=st.fixed_dictionaries({role: st.integers(0, 2) for role in ROLES}),
    steps=st.lists(st.tuples(st.integers(0, 7), st.sampled_from(("run", "ready", "succeed"))), max_size=30),
)
def test_no_pod_starts_early_and_none_waits_for_ever(
    edges: Edges, replicas: dict[str, int], steps: list[tuple[int, str]]
) -> None:
    spec = spec_of(edges, replicas)
    gated = {one for one, _ in edges}
    pods = {
        f"{role}-{index}": PodView(f"{role}-{index}", f"uid-{role}-{index}", role, index, 0, is_held=role in gated)
        for role in ROLES
        for index in range(replicas[role])
    }

    def release() -> None:
        for action in startup.releases(spec, replicas, list(pods.values())):
            assert action.annotations == {names.START_ANNOTATION: startup.RELEASED}
            one = pods[action.name]
            assert one.is_held
            for (role, other), status in edges.items():
                if role == one.role:
                    assert all(reached(pod, status) for pod in pods.values() if pod.role == other)
            pods[action.name] = replace(one, is_held=False)
        said = startup.waiting_text(spec, replicas, list(pods.values()))
        assert bool(said) == any(pod.is_held for pod in pods.values())

    def move(name: str, step: str) -> None:
        pod = pods[name]
        if pod.is_held or pod.is_finished:
            return
        if step == "succeed":
            pods[name] = replace(pod, phase=PodPhase.SUCCEEDED, is_running=False, is_ready=False)
        else:
            pods[name] = replace(pod, phase=PodPhase.RUNNING, is_running=True, is_ready=step == "ready")

    for number, step in steps:
        release()
        if pods:
            move(list(pods)[number % len(pods)], step)
    for _ in ROLES:
        release()
        for name in pods:
            move(name, "succeed")
    assert not any(pod.is_held for pod in pods.values())

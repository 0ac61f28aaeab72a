"""The order in which a job's roles start: `dependsOn` of spec.replicaSpecs.

Owns the graph over roles, what is wrong with it, and whose pods may start. Every pod of the attempt is created and
placed at once, in one gang: a role whose pods came later would leave the first ones holding GPUs beside a gang that
may never fit. So the order is kept after placement: pods of a role with `dependsOn` are held by their first init
container (core/start_gate.py) until the roles it names are where it wants them.

Invariants: nothing is released before every pod of the attempt was created; a released pod is never held again, also
when what it depended on ends; a role without pods is where everybody wants it. Mutates nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import networkx as nx

from api import names
from api.training_v1alpha1 import DependsOn, ReplicaSpec, TrainingJobSpec
from jobcontroller.core.actions import AnnotatePod
from jobcontroller.core.observed import PodPhase, PodView

RELEASED = "released"


def problems(replica_specs: Mapping[str, ReplicaSpec]) -> Iterator[str]:
    """Yield one sentence for each dependency on a role that is not there, and one for a circle."""
    known = ", ".join(replica_specs)
    for role, replica in replica_specs.items():
        for index, wanted in enumerate(replica.depends_on):
            if wanted.role not in replica_specs:
                path = f"spec.replicaSpecs.{role}.dependsOn[{index}].role"
                yield f"{path} {wanted.role!r} is not a role of this job; its roles are {known}"
    circle = _circle(replica_specs)
    if circle:
        role, other = circle[0], circle[1]
        index = next(i for i, wanted in enumerate(replica_specs[role].depends_on) if wanted.role == other)
        yield (
            f"spec.replicaSpecs.{role}.dependsOn[{index}].role {other!r} closes the circle {' → '.join(circle)}, in "
            "which no role could start first; remove one of its dependsOn"
        )


def releases(spec: TrainingJobSpec, replicas: Mapping[str, int], pods: Sequence[PodView]) -> list[AnnotatePod]:
    """Return what lets the held pods start whose role waits for nothing any more.

    `replicas` and `pods` are the attempt's: pods wanted by role, and those there are."""
    held = [pod for pod in pods if pod.is_held and not pod.is_finished]
    may_start = {role: next(waits_of(spec, role, replicas, pods), None) is None for role in {pod.role for pod in held}}
    return [AnnotatePod(pod.name, pod.uid, {names.START_ANNOTATION: RELEASED}) for pod in held if may_start[pod.role]]


def waits_of(spec: TrainingJobSpec, role: str, replicas: Mapping[str, int], pods: Sequence[PodView]) -> Iterator[str]:
    """Yield what a role still waits for, as `PS to be Running (1 of 2 pods are)`."""
    replica = spec.replica_specs.get(role)
    for wanted in replica.depends_on if replica is not None else ():
        total = replicas.get(wanted.role, 0)
        there = sum(pod.role == wanted.role and _has_reached(pod, wanted) for pod in pods)
        if there < total:
            yield f"{wanted.role} to be {wanted.status} ({there} of {total} pods are)"


def waiting_text(spec: TrainingJobSpec, replicas: Mapping[str, int], pods: Sequence[PodView]) -> str:
    """Return a sentence on the roles that are held; "" when none is."""
    said = []
    for role in replicas:
        if any(pod.role == role and pod.is_held and not pod.is_finished for pod in pods):
            waits = list(waits_of(spec, role, replicas, pods))
            if waits:
                said.append(f"{role} waits for {' and '.join(waits)}")
    return "; ".join(said)


def _has_reached(pod: PodView, wanted: DependsOn) -> bool:
    # A pod that finished its work was Running and Ready before, though nobody may have looked then.
    if pod.phase is PodPhase.SUCCEEDED:
        return True
    match wanted.status:
        case "Running":
            return pod.is_running
        case "Ready":
            return pod.is_running and pod.is_ready
        case "Succeeded":
            return False


def _circle(replica_specs: Mapping[str, ReplicaSpec]) -> list[str]:
    """Return the roles of a circle, the first one also last; [] when there is none."""
    if not any(replica.depends_on for replica in replica_specs.values()):
        return []
    graph: nx.DiGraph[str] = nx.DiGraph()
    for role, replica in replica_specs.items():
        graph.add_edges_from((role, wanted.role) for wanted in replica.depends_on)
    try:
        edges = [(edge[0], edge[1]) for edge in nx.find_cycle(graph)]
    except nx.NetworkXNoCycle:
        return []
    assert all(before[1] == after[0] for before, after in pairwise(edges))
    return [edges[0][0], *(target for _, target in edges)]

"""A cluster being made up: nodes, bound pods, other objects, and unbound pods to be judged.

Owns the bodies and a few words to draw from. Small vocabularies on purpose: collisions are what tests filters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

Body = dict[str, Any]
Item = TypeVar("Item")
ZONES = ("z1", "z2", "z3")
APPS = ("web", "db", "ml")
NAMESPACES = ("default", "team-a", "team-b")


@dataclass
class Draft:
    """One cluster. Every object is a whole Kubernetes body without a status the scheduler does not read."""

    rng: Random
    nodes: list[Body] = field(default_factory=list)
    bound: list[Body] = field(default_factory=list)
    others: list[Body] = field(default_factory=list)
    pods: list[Body] = field(default_factory=list)

    @property
    def all_pods(self) -> list[Body]:
        """Bound ones and those to be judged."""
        return self.bound + self.pods

    def chance(self, share: float) -> bool:
        """True in this share of the cases."""
        return self.rng.random() < share

    def some(self, bodies: Sequence[Item], share: float) -> list[Item]:
        """Each of the bodies (or other things) in this share of the cases."""
        return [body for body in bodies if self.chance(share)]

    def as_line(self) -> Body:
        """What one line of the oracle's input holds."""
        return {"objects": [*self.nodes, *self.others, *self.bound], "pods": self.pods}


def a_draft(rng: Random, nodes: int, bound: int, pods: int) -> Draft:
    """Nodes with labels and modest room, bound pods on random nodes, pods to be judged."""
    draft = Draft(rng)
    for name in NAMESPACES:
        labels = {"kubernetes.io/metadata.name": name} | (
            {"tier": "x"} if name != "default" and rng.random() < 0.5 else {}
        )
        draft.others.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    for index in range(nodes):
        draft.nodes.append(_node(rng, f"n{index}"))
    for index in range(bound):
        pod = _pod(rng, f"b{index}")
        pod["spec"]["nodeName"] = rng.choice(draft.nodes)["metadata"]["name"]
        pod["status"] = {"phase": "Running"}
        draft.bound.append(pod)
    for index in range(pods):
        draft.pods.append(_pod(rng, f"p{index}"))
    return draft


def _node(rng: Random, name: str) -> Body:
    labels = {"kubernetes.io/hostname": name}
    if rng.random() < 0.85:
        labels["topology.kubernetes.io/zone"] = rng.choice(ZONES)
    if rng.random() < 0.6:
        labels["disk"] = rng.choice(("ssd", "hdd"))
    if rng.random() < 0.5:
        labels["size"] = str(rng.choice((1, 5, 10, -3, "x")))
    room = {
        "cpu": rng.choice(("1", "2", "4", "1500m")),
        "memory": rng.choice(("1Gi", "4Gi", "2500M")),
        "pods": str(rng.choice((2, 4, 110))),
    }
    status = {"allocatable": room, "capacity": dict(room)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": status,
    }


def _pod(rng: Random, name: str) -> Body:
    namespace = rng.choice(NAMESPACES)
    labels = {"app": rng.choice(APPS)} if rng.random() < 0.9 else {}
    if rng.random() < 0.3:
        labels["track"] = rng.choice(("blue", "green"))
    requests = {}
    if rng.random() < 0.8:
        requests["cpu"] = rng.choice(("100m", "500m", "1", "3"))
    if rng.random() < 0.6:
        requests["memory"] = rng.choice(("128Mi", "1Gi", "3Gi"))
    container: Body = {"name": "main", "image": "image", "resources": {"requests": requests}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "labels": labels},
        "spec": {"schedulerName": "default-scheduler", "containers": [container]},
    }

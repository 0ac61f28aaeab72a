"""Nominations: pods that have a node in mind, which others of no higher priority must leave room for.

Owns who is nominated where. The rules are kube-scheduler 1.36's (backend/queue/nominator.go): what the scheduler
decided counts at once, before the API server shows it; an update of the pod that neither had nor has a
nomination leaves ours alone, any other takes the pod's. A pod that is placed or gone is nominated no more. Does
not write to the API server. Invariant: a pod is nominated to one node at most.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from scheduler.core.pod_request import PodRequest


@dataclass(frozen=True, slots=True)
class Nominee:
    """A pending pod (its claims looked up) and the node it is nominated to."""

    pod: PodRequest
    node: str


class Nominations:
    """All nominations. One writer. `version` rises with every change."""

    def __init__(self) -> None:
        self._nominees: dict[str, Nominee] = {}
        self._by_node: dict[str, dict[str, None]] = {}
        self.version = 0

    def set(self, pod: PodRequest, node: str) -> str:
        """Nominate a pod, "" to no node; returns the node it was nominated to before."""
        before = self.remove(pod.uid)
        if node:
            self._nominees[pod.uid] = Nominee(pod, node)
            self._by_node.setdefault(node, {})[pod.uid] = None
            self.version += 1
        return before

    def shown(self, old: str, pod: PodRequest) -> None:
        """The API server shows a pod whose status named `old` before and now names what `pod` says."""
        node = pod.nominated_node
        if not old and not node:
            node = self.node_of(pod.uid)
        known = self._nominees.get(pod.uid)
        if known is not None and known.node == node:
            self._nominees[pod.uid] = replace(known, pod=pod)
            return
        self.set(pod, node)

    def remove(self, uid: str) -> str:
        """Forget a pod; returns the node it was nominated to, "" when none."""
        known = self._nominees.pop(uid, None)
        if known is None:
            return ""
        here = self._by_node[known.node]
        del here[uid]
        if not here:
            del self._by_node[known.node]
        self.version += 1
        return known.node

    def node_of(self, uid: str) -> str:
        """The node a pod is nominated to; "" when none."""
        known = self._nominees.get(uid)
        return known.node if known is not None else ""

    def nodes(self) -> Iterable[str]:
        """Nodes that somebody is nominated to."""
        return self._by_node

    def on(self, node: str) -> list[PodRequest]:
        """Pods nominated to a node."""
        return [self._nominees[uid].pod for uid in self._by_node.get(node, ())]

    def against(self, priority: int, uids: Iterable[str]) -> Iterator[Nominee]:
        """Nominees that a pod of this priority must leave room for; `uids` are the pod and its gang."""
        own = set(uids)
        for uid, nominee in self._nominees.items():
            if nominee.pod.priority >= priority and uid not in own:
                yield nominee

    def __len__(self) -> int:
        return len(self._nominees)

"""Who takes what on which node: pods bound by anybody, and pods we placed that the watch has not confirmed.

Owns the room pods hold. Does not call the API server (shell/binder.py does). Invariants: a pod is counted
at most once; it is assumed at most once; confirm and forget both end the assumption; after a failed bind
forget always runs. The life of a pod in here:

    (unknown) ──assume──► ASSUMED ──confirm (the watch shows it bound)──► BOUND ──gone──► (unknown)
        │                    │                                              ▲
        │                    └──forget (the bind failed)──► (unknown)       │
        └──────────────────────────confirm (bound by somebody else)─────────┘

Confirm with another node than assumed moves the pod: somebody else's bind won. A pod bound to a node that
is not known (yet) is kept and counted when the node appears.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from scheduler.core.node_table import NodeTable
from scheduler.core.pod_index import PodIndex
from scheduler.core.pod_request import HostPort
from scheduler.core.pod_terms import NO_TERMS, NOBODY, PodIdentity, PodTerms
from scheduler.core.pod_volumes import NOTHING_HELD, HeldVolumes, VolumePlan
from scheduler.core.requeue import NOTHING, ClusterChange
from scheduler.core.volume_use import VolumeUse
from scheduler.errors import IllegalTransition


class Hold(StrEnum):
    """Why a pod holds room."""

    ASSUMED = "assumed"
    BOUND = "bound"


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What preemption wants to know of a pod on a node; times are on the core's clock, None: it did not happen.

    `is_preempted`: it is being deleted because a scheduler said so. `checkpointed_at`: when its job last had a
    complete checkpoint (names.CHECKPOINTED_AT_ANNOTATION). `group`: its gang's name in its namespace; `role`: its part
    there.
    """

    started_at: float | None = None
    checkpointed_at: float | None = None
    is_preempted: bool = False
    group: str | None = None
    generation: int = 0
    role: str = ""


NO_FACTS = PodFacts()


@dataclass(frozen=True, slots=True)
class AssignedPod:
    """A pod on a node, what it takes there, and what others' selectors see of it.

    `is_leaving`: it is being deleted; it still takes room, but does not count in spreading.
    """

    uid: str
    namespace: str
    name: str
    node: str
    requests: tuple[tuple[str, int], ...]
    priority: int = 0
    ports: tuple[HostPort, ...] = ()
    identity: PodIdentity = NOBODY
    terms: PodTerms = NO_TERMS
    is_leaving: bool = False
    facts: PodFacts = field(default=NO_FACTS, compare=False)  # does not change what the pod takes
    held: HeldVolumes = NOTHING_HELD
    plan: VolumePlan | None = field(default=None, compare=False)  # only while it is assumed


class Assigned:
    """All pods that hold room, by uid. Writes their room into the node table, and them into the pod index."""

    def __init__(self, table: NodeTable, index: PodIndex | None = None) -> None:
        self._table = table
        self.index = index if index is not None else PodIndex(table)
        self.volume_use = VolumeUse()
        self._pods: dict[str, tuple[AssignedPod, Hold]] = {}
        self._by_node: dict[str, dict[str, AssignedPod]] = {}
        self._by_group: dict[tuple[str, str], dict[str, None]] = {}
        self._priorities: Counter[int] = Counter()
        self.assumed = 0  # pods whose bind is not confirmed yet

    def assume(self, pod: AssignedPod) -> None:
        """Take room for a pod we are about to bind. Raises IllegalTransition when it holds room already."""
        if pod.uid in self._pods:
            held, hold = self._pods[pod.uid]
            raise IllegalTransition(f"pod {pod.uid}: {hold} on {held.node}, cannot be assumed on {pod.node}")
        self._add(pod, Hold.ASSUMED)

    def confirm(self, pod: AssignedPod) -> ClusterChange:
        """The API server shows the pod on a node. Returns what others may profit from: room that was freed,
        a pod that somebody's selector counts."""
        known = self._pods.get(pod.uid)
        if known is None:
            return ClusterChange.POD_ADDED if self._add(pod, Hold.BOUND) else NOTHING
        held, hold = known
        if held == pod:
            self.assumed -= hold is Hold.ASSUMED
            self._pods[pod.uid] = (pod, Hold.BOUND)
            self.volume_use.settle(pod.uid)
            self._by_node[pod.node][pod.uid] = pod
            self._note_group(held, pod)
            row = self._table.row_of.get(pod.node)
            if row is not None and held.facts != pod.facts:
                self._table.note(row)
            # What our own bind changed is news to others once it is known to stand.
            return ClusterChange.POD_ADDED if hold is Hold.ASSUMED and self._is_counted(pod) else NOTHING
        was_counted = self._is_counted(held)
        self._remove(pod.uid)
        is_counted = self._add(pod, Hold.BOUND)
        change = ClusterChange.POD_ADDED if was_counted or is_counted or held.terms is not pod.terms else NOTHING
        if held.node != pod.node or held.requests != pod.requests:
            change |= ClusterChange.POD_FREED
        return change

    def forget(self, uid: str) -> bool:
        """Give back the room of an assumed pod; False when it is not assumed (bound, gone, unknown)."""
        known = self._pods.get(uid)
        if known is None or known[1] is not Hold.ASSUMED:
            return False
        self._remove(uid)
        return True

    def gone(self, uid: str) -> bool:
        """The pod ended or was deleted; returns whether it held room."""
        if uid not in self._pods:
            return False
        self._remove(uid)
        return True

    def node_added(self, name: str) -> None:
        """Count the pods that were bound to a node before it was known."""
        row = self._table.row_of[name]
        for pod in self._by_node.get(name, {}).values():
            self._table.take(row, pod.requests, pod.ports)
            self.volume_use.add(row, pod.namespace, pod.held)
            self.index.add(row, pod.identity, pod.terms, is_leaving=pod.is_leaving)

    def node_gone(self, name: str) -> None:
        """Remove a node; its pods are kept, and counted again if it comes back."""
        row = self._table.row_of.get(name)
        if row is not None:
            for pod in self._by_node.get(name, {}).values():
                self.volume_use.remove(row, pod.namespace, pod.held)
                self.index.remove(row, pod.identity, pod.terms, is_leaving=pod.is_leaving)
        self._table.remove(name)

    def hold_of(self, uid: str) -> Hold | None:
        """How a pod holds room; None when it does not."""
        known = self._pods.get(uid)
        return known[1] if known else None

    def node_of(self, uid: str) -> str | None:
        """The node a pod holds room on."""
        known = self._pods.get(uid)
        return known[0].node if known else None

    def get(self, uid: str) -> AssignedPod | None:
        """A pod that holds room; None when it does not."""
        known = self._pods.get(uid)
        return known[0] if known else None

    def on_node(self, name: str) -> list[AssignedPod]:
        """Pods holding room on a node."""
        return list(self._by_node.get(name, {}).values())

    def in_group(self, namespace: str, group: str) -> list[AssignedPod]:
        """Members of a gang that hold room, whoever placed them."""
        return [self._pods[uid][0] for uid in self._by_group.get((namespace, group), ())]

    def any_below(self, priority: int) -> bool:
        """Whether any pod has a lower priority."""
        return any(held < priority for held in self._priorities)

    def priorities_below(self, priority: int) -> list[int]:
        """Priorities that pods have, lower than this one, ascending."""
        return sorted(held for held in self._priorities if held < priority)

    def __len__(self) -> int:
        return len(self._pods)

    def _is_counted(self, pod: AssignedPod) -> bool:
        return self.index.is_counted(pod.identity, is_leaving=pod.is_leaving)

    def _note_group(self, old: AssignedPod | None, new: AssignedPod | None) -> None:
        for pod, is_member in ((old, False), (new, True)):
            if pod is None or pod.facts.group is None:
                continue
            key = (pod.namespace, pod.facts.group)
            if is_member:
                self._by_group.setdefault(key, {})[pod.uid] = None
            else:
                members = self._by_group[key]
                del members[pod.uid]
                if not members:
                    del self._by_group[key]

    def _add(self, pod: AssignedPod, hold: Hold) -> bool:
        self._pods[pod.uid] = (pod, hold)
        self.assumed += hold is Hold.ASSUMED
        self._by_node.setdefault(pod.node, {})[pod.uid] = pod
        self._note_group(None, pod)
        self._priorities[pod.priority] += 1
        self.volume_use.promise(pod.uid, pod.plan)
        row = self._table.row_of.get(pod.node)
        if row is None:
            return False
        self._table.take(row, pod.requests, pod.ports)
        self.volume_use.add(row, pod.namespace, pod.held)
        return self.index.add(row, pod.identity, pod.terms, is_leaving=pod.is_leaving)

    def _remove(self, uid: str) -> None:
        pod, hold = self._pods.pop(uid)
        self.assumed -= hold is Hold.ASSUMED
        on_node = self._by_node[pod.node]
        del on_node[uid]
        if not on_node:
            del self._by_node[pod.node]
        self._note_group(pod, None)
        self._priorities[pod.priority] -= 1
        if not self._priorities[pod.priority]:
            del self._priorities[pod.priority]
        self.volume_use.settle(uid)
        row = self._table.row_of.get(pod.node)
        if row is not None:
            self._table.give_back(row, pod.requests, pod.ports)
            self.volume_use.remove(row, pod.namespace, pod.held)
            self.index.remove(row, pod.identity, pod.terms, is_leaving=pod.is_leaving)

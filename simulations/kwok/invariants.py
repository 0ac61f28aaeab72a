"""What must hold in a cluster, judged from nothing but what its watches show. Pure: events and the time come in.

Owns an account of room and gangs of its own, made from Nodes, PodGroups and Pods as the API server has them, so that
neither the scheduler nor the simulation can fool it. Raises the engine's InvariantViolation:

| at each | must hold |
| --- | --- |
| bind | the node is there and holds the pod beside those bound and not ended, in every resource |
| bind | a pod keeps its node, and an ended one gets none |
| look | no gang has some members bound and others not, for longer than `gang_seconds` |
| look | each pod that waits was told why, once the scheduler did nothing for `silent_seconds` |

That what a pod was told is also true is engine/invariants.py's, once the cluster rests.
"""

from collections import defaultdict

from api import names
from api.quantities import to_int, to_milli
from kube.gang_objects import PodGroup
from kube.objects import Node, Pod
from simulations.engine.ledger import InvariantViolation

Amounts = dict[str, int]
ENDED = frozenset({"Succeeded", "Failed"})


def is_over(pod: Pod, *, is_gone: bool) -> bool:
    """Whether a pod holds nothing any more."""
    return is_gone or pod.status.phase in ENDED


class WatchedCluster:
    """See the module's docstring. `gangs_are_whole`: the scheduler under test promises whole gangs. Times in seconds of
    any clock that does not go back."""

    def __init__(self, *, gangs_are_whole: bool, gang_seconds: float, silent_seconds: float) -> None:
        self._gangs_are_whole = gangs_are_whole
        self._gang_seconds, self._silent_seconds = gang_seconds, silent_seconds
        self._room: dict[str, Amounts] = {}
        self._taken: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._bound: dict[str, tuple[str, Amounts]] = {}
        self._over: set[str] = set()
        self._min_member: dict[tuple[str, str], int] = {}
        self._members: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._partial_since: dict[tuple[str, str], float] = {}
        self._untold: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._acted_at = float("-inf")
        self.binds = 0

    def node(self, node: Node) -> None:
        """A node as it is now."""
        self._room[node.metadata.name] = {
            resource: _amount(resource, text) for resource, text in node.status.allocatable.items()
        }

    def group(self, group: PodGroup, now: float) -> None:
        """A PodGroup as it is now."""
        key = (group.metadata.namespace, group.metadata.name)
        self._min_member[key] = group.spec.min_member
        self._weigh(key, now)

    def pod(self, pod: Pod, now: float, *, is_gone: bool = False) -> None:
        """A pod as the watch shows it at `now`. Raises InvariantViolation."""
        uid, node = pod.metadata.uid, pod.spec.node_name
        where = self._bound.get(uid)
        if where is not None and node != where[0]:
            raise InvariantViolation(
                f"double bind at {now:.1f} s: pod {_name(pod)} was bound to {where[0]} and is now on {node or 'none'}"
            )
        if is_over(pod, is_gone=is_gone):
            self._end(pod, now)
            return
        if where is None and node:
            self._bind(pod, node, now)
        if not node:
            self._wait(pod, now)

    def look(self, now: float) -> None:
        """Judge what must not last. Raises InvariantViolation."""
        for key, since in self._partial_since.items():
            if now - since > self._gang_seconds:
                bound = len(self._members[key])
                raise InvariantViolation(
                    f"partial gang at {now:.1f} s: {'/'.join(key)} has {bound} of {self._min_member[key]} pods bound "
                    f"since {now - since:.0f} s"
                )
        if self._untold and now - self._acted_at > self._silent_seconds:
            raise InvariantViolation(
                f"no reason at {now:.1f} s: pod {next(iter(self._untold.values()))} and {len(self._untold) - 1} more "
                f"wait without PodScheduled=False, and the scheduler did nothing for {now - self._acted_at:.0f} s"
            )

    def _bind(self, pod: Pod, node: str, now: float) -> None:
        uid = pod.metadata.uid
        if uid in self._over:
            raise InvariantViolation(f"at {now:.1f} s pod {_name(pod)} had ended and was then bound to {node}")
        room = self._room.get(node)
        if room is None:
            raise InvariantViolation(f"at {now:.1f} s pod {_name(pod)} was bound to {node}, which is no node")
        asks = requests(pod)
        taken = self._taken[node]
        short = [
            f"{taken[resource] + amount - room.get(resource, 0)} of {resource}"
            for resource, amount in asks.items()
            if taken[resource] + amount > room.get(resource, 0)
        ]
        if short:
            raise InvariantViolation(
                f"over-committed node at {now:.1f} s: pod {_name(pod)} on {node} lacks {', '.join(short)}"
            )
        for resource, amount in asks.items():
            taken[resource] += amount
        self._bound[uid] = (node, asks)
        self._untold.pop(uid, None)
        self._told.pop(uid, None)
        self._acted_at = now
        self.binds += 1
        self._count(pod, now, bound=True)

    def _end(self, pod: Pod, now: float) -> None:
        uid = pod.metadata.uid
        self._over.add(uid)
        self._untold.pop(uid, None)
        self._told.pop(uid, None)
        where = self._bound.pop(uid, None)
        if where is None:
            return
        for resource, amount in where[1].items():
            self._taken[where[0]][resource] -= amount
        self._count(pod, now, bound=False)

    def _wait(self, pod: Pod, now: float) -> None:
        uid, told = pod.metadata.uid, reason(pod)
        if not told and uid not in self._told:
            # A new pod gives the scheduler its time again.
            if uid not in self._untold:
                self._acted_at = max(self._acted_at, now)
            self._untold[uid] = _name(pod)
        elif told != self._told.get(uid):
            self._untold.pop(uid, None)
            self._told[uid] = told
            self._acted_at = now

    def _count(self, pod: Pod, now: float, *, bound: bool) -> None:
        name = pod.metadata.labels.get(names.POD_GROUP_LABEL)
        if not self._gangs_are_whole or not name:
            return
        key = (pod.metadata.namespace, name)
        if bound:
            self._members[key].add(pod.metadata.uid)
        else:
            self._members[key].discard(pod.metadata.uid)
        self._weigh(key, now)

    def _weigh(self, key: tuple[str, str], now: float) -> None:
        if 0 < len(self._members[key]) < self._min_member.get(key, 0):
            self._partial_since.setdefault(key, now)
        else:
            self._partial_since.pop(key, None)


def requests(pod: Pod) -> Amounts:
    """What a pod takes: its containers together, or its largest init container; a slot."""
    found: defaultdict[str, int] = defaultdict(int, pods=1)
    for container in pod.spec.containers:
        for resource, text in container.resources.requests.items():
            found[resource] += _amount(resource, text)
    for container in pod.spec.init_containers:
        for resource, text in container.resources.requests.items():
            found[resource] = max(found[resource], _amount(resource, text))
    return dict(found)


def reason(pod: Pod) -> str:
    """What the condition PodScheduled=False says; empty: nothing."""
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return condition.message
    return ""


def _amount(resource: str, text: str) -> int:
    return to_milli(text) if resource == "cpu" else to_int(text)


def _name(pod: Pod) -> str:
    return f"{pod.metadata.namespace}/{pod.metadata.name}"

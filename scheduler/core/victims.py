"""Which pods must leave one node so that a pod fits there: all that may go, then as many as possible back.

Owns the rule of SelectVictimsOnNode (defaultpreemption of kube-scheduler 1.36): remove every pod of lower priority;
if the pod fits then, put them back one by one as long as it still fits, first those whose eviction would violate a
disruption budget, the most important (priority, then longest running) first. Ours on top: a gang is evicted below
its minMember only as a whole, wherever its members are. Does not choose among nodes (core/preemption.py).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from scheduler.core.assumed import Assigned, AssignedPod
from scheduler.core.budgets import BudgetAccount, Budgets
from scheduler.core.cluster_view import ClusterView
from scheduler.core.lower_priority import LowerPriority
from scheduler.core.plugin import FilterPlugin
from scheduler.core.pod_request import PodRequest


@dataclass(frozen=True, slots=True)
class Minimum:
    """Members a gang must keep, and of each role how many of these, beside those that succeeded."""

    count: int
    by_role: Mapping[str, int] = field(default_factory=dict)


# By namespace and gang; None when it has no PodGroup.
MinimumOf = Callable[[str, str], Minimum | None]


@dataclass(slots=True)
class Stakes:
    """What evictions are weighed against. `leaving`: uids whose eviction is under way. `gone`: uids that an
    earlier step of the same what-if has evicted already, with `account` their use of budgets."""

    assigned: Assigned
    lower: LowerPriority
    budgets: Budgets
    minimum: MinimumOf
    now: float
    leaving: frozenset[str] = frozenset()
    gone: set[str] = field(default_factory=set)
    evicted: list[AssignedPod] = field(default_factory=list)

    def account(self) -> BudgetAccount:
        """Budgets less what was evicted before in this what-if."""
        account = self.budgets.accounting()
        account.disrupt(self.evicted)
        return account

    def is_leaving(self, pod: AssignedPod) -> bool:
        """Whether a pod goes anyway."""
        return pod.is_leaving or pod.uid in self.leaving


@dataclass(slots=True, eq=False)
class Unit:
    """Pods that stay or go together: `here` on the node, `elsewhere` the rest of their gang. A unit with a `core`
    is a member its gang can spare: it goes alone, or with the core."""

    here: tuple[AssignedPod, ...]
    elsewhere: tuple[AssignedPod, ...] = ()
    core: "Unit | None" = None
    violations: int = 0

    @property
    def pods(self) -> tuple[AssignedPod, ...]:
        """All pods that go."""
        return self.here + self.elsewhere


@dataclass(frozen=True, slots=True)
class Victims:
    """Units to evict, their pods in order of importance, and how many of these violate a budget."""

    units: tuple[Unit, ...]
    pods: tuple[AssignedPod, ...]
    violations: int


class Room(Protocol):
    """One node on which pods can be removed and put back, and whether the preemptor fits there."""

    def release(self, pod: AssignedPod) -> None:
        """Remove a pod."""

    def restore(self, pod: AssignedPod) -> None:
        """Put it back."""

    def fits(self) -> bool:
        """Whether the preemptor may run there now."""


class ResourceRoom:
    """A node of which only room matters to the preemptor: plain integers, as it is asked for every pod."""

    def __init__(self, view: ClusterView, row: int, pod: PodRequest, asked_of: dict[object, tuple[int, ...]]) -> None:
        """`asked_of` keeps what pods take of the resources that are asked for, over the nodes of one search."""
        columns = [view.table.resources[name] for name, _ in pod.shape.requests]
        self._names = [name for name, _ in pod.shape.requests]
        free = view.allocatable[row, columns] - view.requested[row, columns]
        self._left = [int(amount) - asked for amount, (_, asked) in zip(free, pod.shape.requests, strict=True)]
        self._slots = int(view.pods_allowed[row] - view.pods[row]) - 1
        self._asked_of = asked_of

    def release(self, pod: AssignedPod) -> None:
        """Give its room back."""
        self._slots += 1
        for index, amount in enumerate(self._amounts(pod)):
            self._left[index] += amount

    def restore(self, pod: AssignedPod) -> None:
        """Take its room again."""
        self._slots -= 1
        for index, amount in enumerate(self._amounts(pod)):
            self._left[index] -= amount

    def fits(self) -> bool:
        """Whether nothing that is asked for lacks."""
        return self._slots >= 0 and all(left >= 0 for left in self._left)

    def _amounts(self, pod: AssignedPod) -> tuple[int, ...]:
        found = self._asked_of.get(pod.requests)
        if found is None:
            held = dict(pod.requests)
            found = self._asked_of[pod.requests] = tuple(held.get(name, 0) for name in self._names)
        return found


class ViewRoom:
    """A node as all filters see it, on a what-if view."""

    def __init__(self, view: ClusterView, row: int, pod: PodRequest, filters: Sequence[FilterPlugin]) -> None:
        self._view = view
        self._row = row
        self._pod = pod
        self._filters = filters
        self._out: dict[str, AssignedPod] = {}

    def release(self, pod: AssignedPod) -> None:
        """Remove a pod from the view."""
        self._view.release(self._row, pod)
        self._out[pod.uid] = pod

    def restore(self, pod: AssignedPod) -> None:
        """Put it back into the view."""
        self._view.restore(self._row, pod)
        del self._out[pod.uid]

    def fits(self) -> bool:
        """Whether every filter lets the preemptor in."""
        rows = slice(self._row, self._row + 1)
        for plugin in self._filters:
            passed = plugin.filter(self._view, self._pod, rows)
            if passed is not None and not passed[0]:
                return False
        return True

    def reset(self) -> None:
        """Leave the view as it was found."""
        for pod in list(self._out.values()):
            self.restore(pod)


def importance(pod: AssignedPod, now: float) -> tuple[int, float]:
    """Sorts the most important first: priority, then who runs longest; a pod that did not start is the newest."""
    started_at = pod.facts.started_at
    return (-pod.priority, now if started_at is None else started_at)


def units_on(stakes: Stakes, node: str, priority: int) -> list[Unit]:
    """What may be evicted from a node for a pod of this priority, most important first."""
    units: list[Unit] = []
    gangs: dict[tuple[str, str], list[AssignedPod]] = {}
    for pod in stakes.assigned.on_node(node):
        if pod.priority >= priority or pod.uid in stakes.gone:
            continue
        group = pod.facts.group
        if group is None or stakes.is_leaving(pod):
            units.append(Unit((pod,)))
        else:
            gangs.setdefault((pod.namespace, group), []).append(pod)
    for (namespace, group), here in gangs.items():
        units += _of_gang(stakes, namespace, group, here, priority)
    units.sort(key=lambda unit: min(importance(pod, stakes.now) for pod in unit.pods))
    return units


def _of_gang(stakes: Stakes, namespace: str, group: str, here: list[AssignedPod], priority: int) -> list[Unit]:
    minimum = stakes.minimum(namespace, group)
    if minimum is None:
        return [Unit((pod,)) for pod in here]
    members = [
        pod
        for pod in stakes.assigned.in_group(namespace, group)
        if not stakes.is_leaving(pod) and pod.uid not in stakes.gone
    ]
    here.sort(key=lambda pod: importance(pod, stakes.now))
    spared = _spared(minimum, members, here)
    kept = tuple(pod for pod in here if pod.uid not in spared)
    if not kept:
        return [Unit((pod,)) for pod in here]
    core: Unit | None = None
    units: list[Unit] = []
    # A member that may not be evicted keeps its gang: then only what the gang can spare may go.
    if all(pod.priority < priority for pod in members):
        on_node = {pod.uid for pod in here}
        core = Unit(kept, tuple(pod for pod in members if pod.uid not in on_node))
        units.append(core)
    return units + [Unit((pod,), core=core) for pod in here if pod.uid in spared]


def _spared(minimum: Minimum, members: Sequence[AssignedPod], here: Sequence[AssignedPod]) -> set[str]:
    """Which of a node's members, most important first, their gang can do without, the least important first."""
    spare = len(members) - minimum.count
    left = Counter(pod.facts.role for pod in members) if minimum.by_role else Counter()
    spared: set[str] = set()
    for pod in reversed(here):
        if len(spared) >= spare:
            break
        role = pod.facts.role
        if role in minimum.by_role:
            if left[role] <= minimum.by_role[role]:
                continue
            left[role] -= 1
        spared.add(pod.uid)
    return spared


def victims_on(room: Room, stakes: Stakes, units: Sequence[Unit]) -> Victims | None:
    """The units that must go, of those in `units_on` order; None when not even evicting all of them is enough."""
    for unit in units:
        for pod in unit.here:
            room.release(pod)
    if not room.fits():
        return None
    account = stakes.account()
    for unit in units:
        unit.violations = account.disrupt(unit.pods)
    order = [unit for unit in units if unit.violations] + [unit for unit in units if not unit.violations]
    evicted: dict[Unit, None] = {}
    for unit in order:
        if unit.core in evicted:
            evicted[unit] = None
            continue
        for pod in unit.here:
            room.restore(pod)
        if room.fits():
            continue
        for pod in unit.here:
            room.release(pod)
        evicted[unit] = None
    for unit in units:
        if unit.core in evicted:
            evicted[unit] = None
    pods = sorted((pod for unit in evicted for pod in unit.pods), key=lambda pod: importance(pod, stakes.now))
    return Victims(tuple(evicted), tuple(pods), sum(unit.violations for unit in evicted))

"""A gang preempts as a whole or not at all: victims for all members it needs, found in one what-if view.

Owns that search: members are placed one after another; one that fits nowhere takes the node where evicting pods
of lower priority costs least (core/preemption.py), with everything decided for the members before it in place:
their room, their victims gone, the budgets these used; in their order, then the largest first. In the end
victims that turned out not to be needed stay after all. Also the way back: when the victims are gone, members
go where they were nominated to. Pure.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.core import explain, volume_binding
from scheduler.core.assumed import AssignedPod
from scheduler.core.cluster_view import ClusterView
from scheduler.core.gang_placement import GangPlacement, Placed
from scheduler.core.placement import Pass, Placer
from scheduler.core.pod_request import HostPort, PodRequest
from scheduler.core.preemption import Candidate, Search
from scheduler.core.victims import Stakes, Unit, importance

ANY = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class GangPreemption:
    """Where members would go, and who leaves for it."""

    placed: tuple[tuple[PodRequest, int], ...]
    victims: tuple[AssignedPod, ...]


@dataclass(slots=True)
class _Kind:
    """Members with one signature: their pass on the view, and candidates that nothing has touched since."""

    found: Pass
    kept: dict[int, Candidate | None] = field(default_factory=dict)
    is_hopeless: bool = False
    is_only_room: bool = True


class _Whole:
    """One gang's search."""

    def __init__(self, placer: Placer, view: ClusterView, stakes: Stakes) -> None:
        self._placer = placer
        self._view = view.what_if()
        self._stakes = stakes
        self._kinds: dict[object, _Kind] = {}
        self._units: list[Unit] = []
        self.placed: list[tuple[PodRequest, int]] = []

    def place(self, pod: PodRequest) -> bool:
        """Place a member, evicting if need be; it is left out when nothing helps."""
        kind = self._kinds.get(pod.signature)
        if kind is None:
            kind = self._kinds[pod.signature] = _Kind(self._placer.compute(pod, self._view))
        row = kind.found.best()
        if row < 0 and not kind.is_hopeless:
            row = self._evict_for(kind)
        if row < 0:
            return False
        self._view.place(row, pod, volume_binding.plan(self._view, pod, row))
        self._touched([row])
        self.placed.append((pod, row))
        return True

    def victims(self) -> tuple[AssignedPod, ...]:
        """Everybody who must leave, the most important first; those not needed after all are spared."""
        if all(kind.is_only_room for kind in self._kinds.values()):
            self._spare()
        pods = (pod for unit in self._units for pod in unit.pods)
        return tuple(sorted(pods, key=lambda pod: importance(pod, self._stakes.now)))

    def _evict_for(self, kind: _Kind) -> int:
        seen = explain.look(self._view, self._placer.plugins, kind.found)
        search = Search(self._view, self._placer.plugins, self._stakes, kind.found, seen.may_resolve, kept=kind.kept)
        kind.is_only_room = kind.is_only_room and search.is_only_room
        candidates = search.candidates()
        if not candidates:
            kind.is_hopeless = True
            return -1
        chosen = min(candidates, key=lambda candidate: (candidate.cost, candidate.row))
        self._evict(chosen)
        return chosen.row

    def _evict(self, chosen: Candidate) -> None:
        stakes, row_of = self._stakes, self._view.table.row_of
        rows: set[int] = set()
        is_guarded = False
        for pod in chosen.victims.pods:
            row = row_of[pod.node]
            self._view.release(row, pod)
            rows.add(row)
            stakes.gone.add(pod.uid)
            stakes.evicted.append(pod)
            is_guarded = is_guarded or bool(stakes.budgets.selecting(pod))
            if pod.facts.group is not None:
                # What the gang can spare is less now, wherever its members are.
                members = stakes.assigned.in_group(pod.namespace, pod.facts.group)
                rows.update(row_of[member.node] for member in members if member.node in row_of)
        self._units += chosen.victims.units
        self._touched(sorted(rows))
        if is_guarded:
            for kind in self._kinds.values():
                kind.kept.clear()

    def _touched(self, rows: Sequence[int]) -> None:
        for kind in self._kinds.values():
            for row in rows:
                kind.kept.pop(row, None)
                self._placer.row_changed(kind.found, self._view, row)

    def _spare(self) -> None:
        now = self._stakes.now
        units = sorted(self._units, key=lambda unit: min(importance(pod, now) for pod in unit.pods))
        left = dict.fromkeys(units)
        for unit in units:
            if unit.core in left or not all(self._has_room_for(pod) for pod in unit.pods):
                continue
            for pod in unit.pods:
                self._view.restore(self._view.table.row_of[pod.node], pod)
            if any(self._is_overcommitted(self._view.table.row_of[pod.node]) for pod in unit.pods):
                for pod in unit.pods:
                    self._view.release(self._view.table.row_of[pod.node], pod)
                continue
            del left[unit]
        self._units = list(left)

    def _has_room_for(self, pod: AssignedPod) -> bool:
        held = self._view.ports.get(self._view.table.row_of[pod.node], {})
        return not any(_collides(port, held) for port in pod.ports)

    def _is_overcommitted(self, row: int) -> bool:
        view = self._view
        return bool(view.pods[row] > view.pods_allowed[row] or np.any(view.requested[row] > view.allocatable[row]))


def preempt_as_a_whole(
    placer: Placer,
    view: ClusterView,
    stakes: Stakes,
    members: Sequence[PodRequest],
    needed: int,
    *,
    by_role: Sequence[tuple[str, int]] = (),
) -> GangPreemption | None:
    """Rows for `needed` members, as many of each role as `by_role` says among them, and the victims that takes; None
    when evicting does not help enough of them.

    Members are considered in the order given; when that fails, the largest first, since small ones may have taken what
    only they could do without. `stakes` is left as it is."""
    for order in _orders(view, members):
        own = replace(stakes, gone=set(stakes.gone), evicted=list(stakes.evicted))
        found = _preempt_in_order(placer, view, own, order, needed, by_role=by_role)
        if found is not None:
            return found
    return None


def _orders(view: ClusterView, members: Sequence[PodRequest]) -> Iterator[Sequence[PodRequest]]:
    yield members
    if len({pod.signature for pod in members}) > 1:
        largest = np.maximum(view.allocatable.max(axis=0, initial=0), 1)
        vectors = [view.table.vector(pod.shape.requests) for pod in members]
        # Resources may have got columns just now: the view's arrays are older than the table's.
        shares = [float((vector[: len(largest)] / largest).max(initial=0.0)) for vector in vectors]
        by_size = sorted(range(len(members)), key=lambda index: -shares[index])
        if by_size != list(range(len(members))):
            yield [members[index] for index in by_size]


def _preempt_in_order(
    placer: Placer,
    view: ClusterView,
    stakes: Stakes,
    members: Sequence[PodRequest],
    needed: int,
    *,
    by_role: Sequence[tuple[str, int]],
) -> GangPreemption | None:
    whole = _Whole(placer, view, stakes)
    missing = Counter(dict(by_role))
    for index, pod in enumerate(members):
        left = needed - len(whole.placed)
        if left <= 0 or len(members) - index < left:
            break
        is_wanted = missing[pod.role] > 0
        # The last places are for roles that are still missing.
        if (is_wanted or left > missing.total()) and whole.place(pod) and is_wanted:
            missing[pod.role] -= 1
    if len(whole.placed) < needed or missing.total():
        return None
    victims = whole.victims()
    return GangPreemption(tuple(whole.placed), victims) if victims else None


def place_nominated(
    placer: Placer, view: ClusterView, members: Sequence[PodRequest], needed: int, node_of: Mapping[str, str]
) -> GangPlacement | None:
    """Members on the nodes they are nominated to; None when fewer than `needed` are, or one does not fit there."""
    nominated = [(pod, view.table.row_of.get(node_of[pod.uid])) for pod in members if node_of.get(pod.uid)]
    if len(nominated) < needed or any(row is None for _, row in nominated):
        return None
    view = view.what_if()
    passes: dict[object, Pass] = {}
    first: dict[object, Pass] = {}
    placed: list[Placed] = []
    for pod, row in nominated:
        assert row is not None
        found = passes.get(pod.signature)
        if found is None:
            found = passes[pod.signature] = placer.compute(pod, view)
            first[pod.signature] = placer.compute(pod, view)
        if found.total[row] == np.inf:
            return None
        view.place(row, pod, volume_binding.plan(view, pod, row))
        for other in passes.values():
            placer.row_changed(other, view, row)
        placed.append(Placed(pod, row, first[pod.signature]))
    return GangPlacement(tuple(placed), len(placed), needed)


def _collides(port: HostPort, held: Mapping[HostPort, int]) -> bool:
    """Whether two pods that got on before would not now: the preemptor may hold the port on another address."""
    address, protocol, number = port
    return any(
        (other_protocol, other_number) == (protocol, number) and (other == address or ANY in (address, other))
        for other, other_protocol, other_number in held
    )

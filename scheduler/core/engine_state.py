"""The state the engine's tries and its intake share: tables, queue, gangs, pods waiting.

Owns the parts and the few operations that need several of them. Does not apply events (core/intake.py) nor
run tries (core/engine.py). Invariants: `pods` holds exactly the unbound pods of ours, assumed ones included;
a pod with a gang is never a unit of its own.
"""

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.core import explain
from scheduler.core.assumed import Assigned
from scheduler.core.budgets import Budgets
from scheduler.core.cluster_view import ALL, ClusterView, view_of
from scheduler.core.data_request import merge
from scheduler.core.data_wait import Wait, wait_verdict
from scheduler.core.device_classes import DeviceClasses
from scheduler.core.events import BindFailed
from scheduler.core.gang_bind import GangBinds
from scheduler.core.gang_placement import GangPlacement
from scheduler.core.gang_topology import Wish
from scheduler.core.gangs import UNIT_PREFIX, Gang, Gangs
from scheduler.core.lower_priority import LowerPriority
from scheduler.core.node_table import NodeTable
from scheduler.core.nominations import Nominations
from scheduler.core.placement import Diagnosis, Pass, Placer, Plugins
from scheduler.core.plugin import DependsOn
from scheduler.core.pod_claims import find_claims
from scheduler.core.pod_request import PodRequest
from scheduler.core.pod_volumes import NOTHING_HELD
from scheduler.core.queue import SchedulingQueue
from scheduler.core.requeue import NOTHING, ClusterChange
from scheduler.core.residency_table import ReadSpeeds, ResidencyTable
from scheduler.core.room_hints import GangRoomHint, RoomHint, RoomHints
from scheduler.core.topology_tree import ANYWHERE, TopologyTree
from scheduler.core.victims import Minimum
from scheduler.core.volume_table import VolumeTable
from scheduler.core.workload_mix import WorkloadMix
from scheduler.core.workloads import Workloads

NEVER_TOLD = float("-inf")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The core's knobs; scheduler/settings.py has the reasons for the defaults."""

    speeds: ReadSpeeds
    gang_bind_seconds: float = 30.0
    volume_bind_seconds: float = 600.0
    min_saving_seconds: float = 1.0
    gated_grace_seconds: float = 5.0
    repeat_message_seconds: float = 300.0
    first_backoff_seconds: float = 1.0
    max_backoff_seconds: float = 10.0
    flush_seconds: float = 300.0
    topology_keys: tuple[str, ...] = ()
    admits_volcano_groups: bool = False
    reads_fluid: bool = False


@dataclass(frozen=True, slots=True)
class Try:
    """One try, for metrics."""

    profile: str
    is_gang: bool
    was_placed: bool
    seconds: float


@dataclass(slots=True)
class Tally:
    """What happened, for metrics. The shell takes `refused` and `tries` out; of tries not taken in time the oldest are
    dropped."""

    preemption_attempts: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # pods, by profile, since the shell looked last
    tries: deque[Try] = field(default_factory=lambda: deque(maxlen=4096))


@dataclass(slots=True)
class PendingPod:
    """An unbound pod of ours. `told` is the message its condition carries; `node` where it is assumed; `ungated_at`
    when its last scheduling gate went, if it was seen to have one."""

    request: PodRequest
    told: str = ""
    told_at: float = NEVER_TOLD
    node: str = ""
    ungated_at: float = float("-inf")

    @property
    def placeable_since(self) -> float:
        """Since when nothing but the cluster keeps it from being placed."""
        return max(self.request.waiting_since, self.ungated_at)


class EngineState:
    """See the module's docstring."""

    def __init__(self, plugins: Plugins, settings: EngineSettings) -> None:
        self.settings = settings
        self.plugins = plugins
        self.table = NodeTable()
        self.assigned = Assigned(self.table)
        self.residency = ResidencyTable(self.table, settings.speeds)
        self.volumes = VolumeTable(reads_fluid=settings.reads_fluid)
        self.workloads = Workloads()
        self.mix = WorkloadMix()
        self.devices = DeviceClasses()
        self._view: ClusterView | None = None
        self._view_version = -1
        self.placer = Placer(self.table, self.residency, self.assigned.index, plugins, mix=self.mix, look=self.view)
        self.gangs = Gangs()
        self.topology = TopologyTree(settings.topology_keys)
        self.gang_binds = GangBinds(settings.gang_bind_seconds)
        self.queue = SchedulingQueue(
            first_backoff_seconds=settings.first_backoff_seconds,
            max_backoff_seconds=settings.max_backoff_seconds,
            flush_seconds=settings.flush_seconds,
        )
        self.pods: dict[str, PendingPod] = {}
        self.touched_gangs: dict[str, Gang] = {}
        # Rows on which others' pods or a shrunken node left too little room for what is assumed there.
        self.contended: set[int] = set()
        self.changes: ClusterChange = NOTHING
        # What the changes since the last flush are about: usage after this position of the log, and these rows.
        self.flushed_at = 0
        self.changed_rows: set[int] = set()
        # Gangs of which more may be evicted now, wherever their members are.
        self.loosened: set[tuple[str, str]] = set()
        by_row = (DependsOn.NODES, DependsOn.USAGE, DependsOn.RESIDENCY)
        self._row_filters = frozenset(plugin.name for plugin in plugins.filters if plugin.depends_on in by_row)
        self.budgets = Budgets()
        self.nominations = Nominations()
        self.lower = LowerPriority(self.table, self.assigned)
        self.rooms = RoomHints(self.table, self.lower, self.gangs)
        # Evictions whose victims the watch has not shown leaving: by preemptor's unit, and all of them.
        self.evicting: dict[str, set[str]] = {}
        self.leaving: dict[str, str] = {}
        self.groups_version = 0  # rises when a PodGroup changes what may be evicted
        self.unnominated: list[PodRequest] = []  # whose nomination ended by an event
        self.bind_errors: list[BindFailed] = []  # to be told
        self.tally = Tally()
        self._last_seen: tuple[PodRequest | None, PodRequest | None] = (None, None)
        # Gang unit -> when its members are told what they wait for, and when those who were told nothing yet.
        self._gated: dict[str, float] = {}
        self._newcomers: dict[str, float] = {}

    def view(self) -> ClusterView:
        """The cluster as it is now."""
        # What a view shows is changed in place; its arrays are replaced only where the table's version rises.
        if self._view is None or self._view_version != self.table.version:
            assigned = self.assigned
            self._view = view_of(
                self.table,
                self.residency,
                assigned.index,
                volumes=self.volumes,
                volume_use=assigned.volume_use,
                mix=self.mix,
            )
            self._view_version = self.table.version
        return self._view

    # ---- pods -------------------------------------------------------------------------------

    def resolved(self, pod: PodRequest) -> PodRequest:
        """The pod with its claims looked up (their datasets, their volumes' affinity, or a refusal), and what
        it is to other pods: whose terms are about it, and which pods it is spread among by default."""
        pod = self._seen_by_others(pod)
        if pod.shape.extended and pod.refusal is None:
            refusal = self.devices.refusal(pod.shape.extended, self.table.is_offered)
            pod = replace(pod, refusal=refusal) if refusal is not None else pod
        if pod.held is NOTHING_HELD:
            return pod
        found = find_claims(self.volumes, pod)
        if found.refusal is not None and pod.shape.names_asked == frozenset():
            # Terms that contradict each other are refused by NodeAffinity, which speaks before volumes do.
            return pod
        data = merge((*found.data, *pod.data)) if found.data else pod.data
        return replace(pod, data=data, volumes=found.volumes, refusal=pod.refusal or found.refusal)

    def _seen_by_others(self, pod: PodRequest) -> PodRequest:
        reach = tuple(held.number for held, _ in self.assigned.index.reaching(pod.identity))
        spread = None if pod.terms.names_spread else self.workloads.default_spread(pod.identity, pod.owner)
        if reach == pod.reach and spread is pod.default_spread:
            return pod
        # Asked twice in a row for one pod: by who looks whether it is worth a try, and by the try.
        asked, made = self._last_seen
        if asked is not pod or made is None or made.reach != reach or made.default_spread is not spread:
            made = replace(pod, reach=reach, default_spread=spread)
            self._last_seen = (pod, made)
        return made

    def wait(self, found: Pass, pod: PodRequest, row: int, now: float) -> Wait | None:
        """Whether the pod should wait for a warm node rather than take `row`."""
        if not any(item.max_wait_seconds for item in pod.data):
            return None
        since = self.pods[pod.uid].placeable_since
        saving = self.settings.min_saving_seconds
        return wait_verdict(self.view(), self.plugins, found, pod, row, since=since, now=now, min_saving_seconds=saving)

    def look_at_gang(self, result: GangPlacement, first: PodRequest, view: ClusterView) -> Diagnosis:
        """What stops the first member that did not fit, the others placed."""
        where, blocked = self._blocked(result, first, view)
        return explain.look(where, self.plugins, blocked, outside=self._outside(where))

    def diagnose_gang(self, gang: Gang, result: GangPlacement, first: PodRequest, view: ClusterView) -> Diagnosis:
        """The same, with why evicting pods does not help that member."""
        where, blocked = self._blocked(result, first, view)
        diagnosis = explain.diagnose(
            where, self.plugins, blocked, blocked.pod, assigned=self.assigned, outside=self._outside(where)
        )
        return diagnosis if diagnosis.message == explain.NO_NODES else self.of_gang(diagnosis, gang, result)

    @staticmethod
    def of_gang(diagnosis: Diagnosis, gang: Gang, result: GangPlacement) -> Diagnosis:
        """A member's diagnosis as the gang's; of one that has its minimum, why this member does not join it yet."""
        if gang.needed <= 0:
            joins = f"PodGroup {gang.key} has its minimum without this member, which joins when it fits."
            return replace(diagnosis, message=f"{diagnosis.message} {joins}")
        message = (
            f"{diagnosis.message} PodGroup {gang.key} needs {result.needed} members placed together{result.where}, "
            f"{result.fitting} fit{result.note}."
        )
        return replace(diagnosis, message=message)

    def gang_wish(self, gang: Gang) -> Wish:
        """What a gang wants beside room, now."""
        if gang.group is None:
            return Wish()
        levels = self.topology.resolve(gang.group.topology, self.table)
        anchors: tuple[int, ...] = ()
        if levels is not ANYWHERE:
            nodes = {self.assigned.node_of(uid) or "" for uid in gang.assigned}
            anchors = tuple(self.table.row_of[node] for node in sorted(nodes) if node in self.table.row_of)
        return Wish(levels, gang.needed_by_role, anchors)

    def _outside(self, view: ClusterView) -> int:
        """Nodes a view was narrowed not to have."""
        return self.table.count - int(np.count_nonzero(view.alive))

    def _blocked(self, result: GangPlacement, first: PodRequest, view: ClusterView) -> tuple[ClusterView, Pass]:
        if result.blocked_view is None or result.blocked is None:
            return view, self.placer.compute(first, view)
        return result.blocked_view, result.blocked

    # ---- what refused pods wait for -------------------------------------------------------------

    def hint(self, pod: PodRequest, rejected_by: frozenset[str]) -> RoomHint | None:
        """The room a refused pod waits for; None when changes elsewhere can help too, as where other pods' labels
        count."""
        if not rejected_by <= self._row_filters:
            return None
        return RoomHint(pod.shape.requests, pod.priority if pod.may_preempt else None)

    def gang_hint(self, gang: Gang, pods: Sequence[PodRequest]) -> GangRoomHint:
        """The room a refused gang waits for. Whatever else refused it, without that room it cannot be placed."""
        kinds = Counter(pod.shape.requests for pod in pods)
        may_evict = all(pod.may_preempt for pod in pods)
        return GangRoomHint(gang.unit, tuple(kinds.items()), gang.priority if may_evict else None)

    def note_loosened(self) -> None:
        """What may be evicted of a gang hangs on all its members: where they are counts as changed."""
        for namespace, group in self.loosened:
            rows = (self.table.row_of.get(pod.node) for pod in self.assigned.in_group(namespace, group))
            found = [row for row in rows if row is not None]
            if found:
                self.changed_rows.update(found)
                self.changes |= ClusterChange.POD_FREED
        self.loosened.clear()

    def refusing(self, pods: Sequence[PodRequest], view: ClusterView) -> frozenset[str]:
        """Filters that keep any of a gang's members off any node, when members differ or may evict: a gang is explained
        by the first thing in the way of one that did not fit, but another may be enough, or make way for it."""
        kinds = {pod.signature: pod for pod in pods}
        may_evict = pods[0].may_preempt and self.assigned.any_below(max(pod.priority for pod in pods))
        if len(kinds) == 1 and not may_evict:
            return frozenset()
        alive = view.alive
        found = set()
        for pod in kinds.values():
            for plugin in self.plugins.filters:
                if plugin.name in found:
                    continue
                passed = plugin.filter(view, pod, ALL)
                if plugin.prefilter(view, pod) is not None or (passed is not None and not passed[alive].all()):
                    found.add(plugin.name)
        return frozenset(found)

    def may_help(self, change: ClusterChange, hint: Hashable) -> bool:
        """Whether the changes since the last flush can help a unit that waits for room (core/room_hints.py)."""
        if change & ~(ClusterChange.POD_FREED | ClusterChange.NODE_ADDED | ClusterChange.NODE_ALLOCATABLE):
            return True
        used = self.table.rows_changed_since(self.flushed_at)
        if used is None:
            return True
        return self.rooms.may_help(hint, sorted({*used, *self.changed_rows}))

    # ---- evictions --------------------------------------------------------------------------

    def gang_minimum(self, namespace: str, group: str) -> Minimum | None:
        """Members a gang must keep on nodes, beside those that succeeded; None without a PodGroup."""
        gang = self.gangs.find(f"{UNIT_PREFIX}{namespace}/{group}")
        if gang is None or gang.group is None:
            return None
        if gang.group.is_evicted_whole:
            # All there are, whoever placed them.
            return Minimum(len(self.assigned.in_group(namespace, group)))
        done = Counter(gang.roles.get(uid, "") for uid in gang.succeeded)
        by_role = {role: count - done[role] for role, count in gang.group.min_by_role}
        return Minimum(max(0, gang.min_member - len(gang.succeeded)), by_role)

    def nominee_left(self, node: str) -> None:
        """What was kept for a nominee on a node is free; "" for none."""
        row = self.table.row_of.get(node)
        if row is not None:
            self.table.touch(row)
            self.changes |= ClusterChange.POD_FREED

    def start_evicting(self, unit: str, uids: list[str]) -> None:
        """Victims are about to be deleted for a unit."""
        self.evicting.setdefault(unit, set()).update(uids)
        self.leaving.update(dict.fromkeys(uids, unit))

    def seen_leaving(self, uid: str) -> None:
        """The watch shows a victim leaving or gone."""
        unit = self.leaving.pop(uid, None)
        if unit is None:
            return
        victims = self.evicting.get(unit)
        if victims is not None:
            victims.discard(uid)
            if not victims:
                del self.evicting[unit]

    def stop_evicting(self, unit: str) -> None:
        """Evictions for a unit failed, or the unit is gone: whom the watch shows leaving is known by that."""
        for uid in self.evicting.pop(unit, ()):
            self.leaving.pop(uid, None)

    def activate(self, pod: PodRequest) -> None:
        """Try a pod, or its gang, without waiting for a change or its backoff."""
        gang = self.gangs.of_member(pod.uid)
        self.queue.activate(gang.unit if gang is not None else pod.uid)

    # ---- units ------------------------------------------------------------------------------

    def enqueue_pod(self, pod: PodRequest) -> None:
        """Put a pod without a gang where it belongs."""
        if pod.gates:
            self.queue.gate(pod.uid, priority=pod.priority, since=pod.waiting_since)
        else:
            self.queue.add(pod.uid, priority=pod.priority, since=pod.waiting_since)

    def enqueue_gang(self, gang: Gang, now: float) -> None:
        """Put a gang where it belongs: away, gated, or to be tried."""
        self.touched_gangs[gang.unit] = gang
        if not gang.pending:
            self.queue.remove(gang.unit)
            self._ungated(gang.unit)
        elif self.gang_binds.is_undoing(gang.unit) or gang.waiting_for() is not None:
            self.queue.gate(gang.unit, priority=gang.priority, since=gang.since)
            self._gated.setdefault(gang.unit, now + self.settings.gated_grace_seconds)
            self._newcomers.setdefault(gang.unit, now + self.settings.gated_grace_seconds)
        else:
            self._ungated(gang.unit)
            self.queue.add(gang.unit, priority=gang.priority, since=gang.since)

    def _ungated(self, unit: str) -> None:
        self._gated.pop(unit, None)
        self._newcomers.pop(unit, None)

    def gated_due(self) -> float:
        """When the next gated gang's members are to be told; inf when none."""
        return min(*self._gated.values(), *self._newcomers.values(), float("inf"), float("inf"))

    def gated_to_tell(self, now: float) -> Iterator[tuple[PendingPod, str]]:
        """Members of gangs that are gated for longer than the grace, and what they wait for."""
        for unit in [unit for unit, due in self._newcomers.items() if due <= now]:
            del self._newcomers[unit]
            yield from self._waiting_members(unit, only_new=True)
        for unit, due in list(self._gated.items()):
            if due <= now:
                # Told again only after a while: membership may be growing one by one.
                self._gated[unit] = now + self.settings.repeat_message_seconds
                yield from self._waiting_members(unit, only_new=False)

    def _waiting_members(self, unit: str, *, only_new: bool) -> Iterator[tuple[PendingPod, str]]:
        gang = self.gangs.find(unit)
        message = gang.waiting_for() if gang is not None else None
        if gang is None or message is None:
            return
        for uid in gang.pending:
            if not only_new or self.pods[uid].told_at == NEVER_TOLD:
                yield self.pods[uid], message

"""The scheduler's core: events in, decisions out. `handle` applies events, `decide` runs tries.

Owns the state of the cluster and of every pod of ours, and the order of a try. Does no I/O; the clock (any
monotonic seconds) comes in. Not thread-safe: one writer (shell/loop.py). A pending pod's life in here:

    pending ──placed──► assumed ──BindConfirmed / PodAssigned──► bound ──PodGone──► (unknown)
       ▲                   │
       └──BindFailed───────┘        (room: core/assumed.py; queue pools: core/queue.py)

Invariants: a try is atomic, no event is applied during it; a pod is bound at most once at a time (only units
popped from the queue are tried, and an assumed pod is not in the queue); every pending pod that was tried
has a message; nothing is held for a pod or gang between tries.
"""

from collections import deque
from collections.abc import Callable, Sequence

from scheduler.core import explain, volume_binding
from scheduler.core.assumed import AssignedPod, Hold, PodFacts
from scheduler.core.decisions import NOT_READY, SCHEDULER_ERROR, UNSCHEDULABLE, Bind, Decision, DeletePod, Explain
from scheduler.core.engine_state import EngineSettings, EngineState, PendingPod, Try
from scheduler.core.events import Event
from scheduler.core.gang_placement import Placed, has_roles, place_gang, required_first
from scheduler.core.gang_preemption import place_nominated
from scheduler.core.gang_status import group_status
from scheduler.core.gangs import UNIT_PREFIX, Gang
from scheduler.core.hopeless import Hopeless
from scheduler.core.intake import Intake
from scheduler.core.placement import Diagnosis, Pass, Plugins
from scheduler.core.pod_request import PodRequest
from scheduler.core.preempting import Preempting
from scheduler.core.queue import Pool, Waiting
from scheduler.core.requeue import ANYTHING, ClusterChange

# Between two looks at new events; keeps the shell's loop responsive when thousands wait.
MAX_TRIES = 512
# What can turn around a refusal that no filter gave: claims, device classes and who offers their resources.
REFUSED_FOR_NOW = (
    ClusterChange.VOLUMES | ClusterChange.DEVICES | ClusterChange.NODE_ADDED | ClusterChange.NODE_ALLOCATABLE
)
# What becomes of a warm node that a unit waits for: it has room, or it is no place to wait for any more.
AWAITED = (
    ClusterChange.POD_FREED
    | ClusterChange.RESIDENCY
    | ClusterChange.NODE_ADDED
    | ClusterChange.NODE_ALLOCATABLE
    | ClusterChange.NODE_LABELS
    | ClusterChange.NODE_TAINTS
    | ClusterChange.NODE_GONE
)


class Engine:
    """See the module's docstring."""

    def __init__(
        self, plugins: Plugins, settings: EngineSettings, stopwatch: Callable[[], float] = lambda: 0.0
    ) -> None:
        """`stopwatch` gives seconds since any moment; it only times tries, for metrics."""
        self._stopwatch = stopwatch
        self.state = EngineState(plugins, settings)
        self._intake = Intake(self.state)
        self._preempting = Preempting(self.state)
        self._hopeless = Hopeless(self.state)
        self._doomed: deque[tuple[str, Diagnosis]] = deque()
        self._settings = settings
        self._worth = {plugin.name: plugin.worth_retry for plugin in plugins.filters}
        self._worth["NodeAdded"] = ClusterChange.NODE_ADDED

    # ---- events -----------------------------------------------------------------------------

    def handle(self, events: Sequence[Event], now: float, *, is_leading: bool = True) -> list[Decision]:
        """Apply events in order; returns what must be done about gangs and gated pods.

        A standby (`is_leading` False) only keeps its state current.
        """
        if not is_leading:
            # Before the events: what they show is the other leader's work.
            self._stop_leading()
        for event in events:
            self._intake.apply(event, now)
        self._intake.flush(now)
        if is_leading:
            return self._settle(now)
        self.state.bind_errors.clear()
        return []

    def _stop_leading(self) -> None:
        """What was begun is followed by the replica that leads now. Should this one lead again, gangs it was binding
        are looked at anew."""
        state = self.state
        for unit in state.gang_binds.units():
            gang = state.gangs.find(unit)
            if gang is not None:
                state.touched_gangs[unit] = gang
        state.gang_binds.forget()

    def may_bind(self, uid: str) -> bool:
        """Whether a decided bind is still right: asked just before it is sent, as foreign binds race ours."""
        state = self.state
        node = state.assigned.node_of(uid)
        if node is None or state.assigned.hold_of(uid) is not Hold.ASSUMED:
            return False
        row = state.table.row_of.get(node)
        if row is None:
            return False
        if row in state.contended and not state.table.is_overcommitted(row):
            state.contended.discard(row)
        return row not in state.contended

    def next_due(self) -> float:
        """When `handle([])` and `decide` have something to do without an event; inf when never."""
        state = self.state
        return min(state.queue.next_due(), state.gang_binds.next_due(), state.gated_due())

    @property
    def has_work(self) -> bool:
        """Whether `decide` would try something now."""
        return bool(self._doomed) or self.state.queue.has_work

    # ---- tries ------------------------------------------------------------------------------

    def decide(self, now: float, limit: int) -> list[Decision]:
        """Try waiting units in order until `limit` binds are decided, or a fair number was tried."""
        state = self.state
        state.queue.advance(now)
        decisions: list[Decision] = []
        binds = 0
        for _ in range(MAX_TRIES):
            if binds >= limit:
                break
            waiting = self._next()
            if waiting is None:
                break
            is_gang = waiting.unit.startswith(UNIT_PREFIX)
            profile = self._profile_of(waiting.unit)
            pods = 1
            started = self._stopwatch()
            if is_gang:
                gang = state.gangs.get(waiting.unit)
                pods = len(gang.pending)
                made = self._try_gang(gang, now)
            else:
                made = self._try_pod(state.pods[waiting.unit], waiting, now)
            bound = sum(isinstance(decision, Bind) for decision in made)
            binds += bound
            if not bound:
                state.tally.refused[profile] += pods
            state.tally.tries.append(Try(profile, is_gang, bound > 0, self._stopwatch() - started))
            decisions += made
        return decisions + self._tell_doomed(now)

    def _profile_of(self, unit: str) -> str:
        """The profile of a pod, or of the first member of a gang."""
        state = self.state
        uid = next(iter(state.gangs.get(unit).pending), "") if unit.startswith(UNIT_PREFIX) else unit
        return state.pods[uid].request.profile if uid in state.pods else ""

    def _next(self) -> Waiting | None:
        """The first unit worth a try; pods equal to one that was refused for good are set aside on the way."""
        state = self.state
        while (waiting := state.queue.pop()) is not None:
            if waiting.unit.startswith(UNIT_PREFIX) or not len(self._hopeless):
                return waiting
            pod = state.resolved(state.pods[waiting.unit].request)
            diagnosis = self._hopeless.find(pod)
            if diagnosis is None:
                return waiting
            self._doomed.append((waiting.unit, diagnosis))
        return None

    def _tell_doomed(self, now: float) -> list[Decision]:
        """Refuse pods that were set aside, after those that could be placed."""
        decisions: list[Decision] = []
        for _ in range(min(len(self._doomed), MAX_TRIES)):
            unit, diagnosis = self._doomed.popleft()
            pending = self.state.pods.get(unit)
            if pending is not None and self.state.queue.pool_of(unit) is Pool.IN_FLIGHT and not pending.node:
                self._refuse(pending.request, diagnosis, now)
                self.state.tally.refused[pending.request.profile] += 1
                decisions += self._tell(pending, diagnosis.message, now)
        return decisions

    def _try_pod(self, pending: PendingPod, waiting: Waiting, now: float) -> list[Decision]:
        state = self.state
        pod = state.resolved(pending.request)
        if pod.refusal is not None:
            message = explain.refused(state.table.count, pod.refusal)
            state.queue.refuse(waiting.unit, REFUSED_FOR_NOW, now)
            return self._tell(pending, message, now)
        whole = state.placer.pass_for(pod)
        found = self._preempting.less_nominated(whole, pod)
        row = self._preempting.own_node(found, pod)
        row = row if row >= 0 else found.best()
        if row < 0:
            refused = self._preempting.refused(pod, whole, now)
            if refused.is_final:
                self._hopeless.keep(pod, refused.diagnosis)
            self._refuse(pod, refused.diagnosis, now)
            return [*self._tell(pending, refused.diagnosis.message, now), *refused.decisions]
        wait = state.wait(found, pod, row, now)
        if wait is not None:
            state.queue.refuse(waiting.unit, AWAITED, now, wake_at=wait.until)
            return self._tell(pending, f"0/{state.table.count} nodes are available: {wait.message}.", now)
        bind = self._bind(pending, pod, found, row, now, runner_up=found.runner_up(row), tries=waiting.tries)
        # The unit stays in flight until the watch shows the pod bound, or the bind failed.
        return [bind]

    def _refuse(self, pod: PodRequest, diagnosis: Diagnosis, now: float) -> None:
        by = diagnosis.rejected_by
        # Where evicting would make room, what else stands in the way may change as well.
        standing = by | diagnosis.also
        hint = self.state.hint(pod, standing)
        self.state.queue.refuse(pod.uid, self._worth_of(standing), now, hint=hint, rejected_by=by)

    def _try_gang(self, gang: Gang, now: float) -> list[Decision]:
        state = self.state
        members = [state.pods[uid] for uid in gang.pending]
        members.sort(key=lambda pending: (-pending.request.priority, pending.request.name))
        # Members of higher priority may have gone ahead: what they might take is not these ones' to take.
        gang.priority = members[0].request.priority
        wish = state.gang_wish(gang)
        members = required_first(members, wish.by_role, lambda pending: pending.request.role)
        pods = [state.resolved(pending.request) for pending in members]
        hint = state.gang_hint(gang, pods)
        told: list[Decision] = []
        worth = ClusterChange.GROUP
        if any(pod.refusal is not None for pod in pods):
            usable = [index for index, pod in enumerate(pods) if pod.refusal is None]
            if not gang.is_enough([pods[index].role for index in usable]):
                return self._refuse_gang(gang, members, pods, now)
            # Those that can be tried are enough: the others say themselves what they wait for.
            told = self._tell_refused(gang, members, pods, now)
            worth |= REFUSED_FOR_NOW
            members, pods = [members[index] for index in usable], [pods[index] for index in usable]
            if not pods:
                state.queue.refuse(gang.unit, worth, now)
                return told
        for pod in pods:
            state.table.vector(pod.shape.requests)
        needed = max(1, gang.needed)
        view = self._preempting.view_for(gang.priority, gang.pending)
        node_of = self._preempting.gang_node_of(pods)
        result = place_nominated(state.placer, view, pods, needed, node_of) if node_of else None
        rows = [item.row for item in result.placed] if result is not None else []
        if result is None or not wish.holds(rows) or not has_roles(result.placed, wish):
            result = place_gang(state.placer, view, pods, needed, wish)
        if not result.placed:
            refused = self._preempting.gang_refused(gang, pods, result, view, now)
            rejected_by = refused.diagnosis.rejected_by | state.refusing(pods, view)
            worth |= self._worth_of(rejected_by)
            state.queue.refuse(gang.unit, worth, now, hint=hint, rejected_by=refused.diagnosis.rejected_by)
            return [*told, *self._tell_gang(members, refused.diagnosis.message, now), *refused.decisions]
        waiting = self._gang_wait(gang, result.placed, members, now)
        if waiting is not None:
            return [*told, *waiting]
        return [*told, *self._bind_gang(gang, result.placed, now)]

    def _refuse_gang(
        self, gang: Gang, members: Sequence[PendingPod], pods: Sequence[PodRequest], now: float
    ) -> list[Decision]:
        """Members that cannot be tried keep the gang from being tried."""
        state = self.state
        unusable = next(pod for pod in pods if pod.refusal is not None)
        message = explain.refused(state.table.count, unusable.refusal or "")
        state.queue.refuse(gang.unit, REFUSED_FOR_NOW, now)
        return self._tell_gang(members, f"{message} (member {unusable.name} of PodGroup {gang.key})", now)

    def _tell_refused(
        self, gang: Gang, members: Sequence[PendingPod], pods: Sequence[PodRequest], now: float
    ) -> list[Decision]:
        """Each member that cannot be tried is told why; its gang has enough others."""
        told: list[Decision] = []
        for pending, pod in zip(members, pods, strict=True):
            if pod.refusal is not None:
                why = explain.refused(self.state.table.count, pod.refusal)
                told += self._tell(pending, f"{why} PodGroup {gang.key} has enough members without this one.", now)
        return told

    def _gang_wait(
        self, gang: Gang, placed: Sequence[Placed], members: Sequence[PendingPod], now: float
    ) -> list[Decision] | None:
        """Wait for warm nodes as one: the slowest member decides."""
        slowest = max(placed, key=lambda item: item.found.seconds[item.row] if item.found.seconds is not None else 0.0)
        wait = self.state.wait(slowest.found, slowest.pod, slowest.row, now)
        if wait is None:
            return None
        self.state.queue.refuse(gang.unit, AWAITED | ClusterChange.GROUP, now, wake_at=wait.until)
        message = f"0/{self.state.table.count} nodes are available: {wait.message}."
        return self._tell_gang(members, message, now)

    def _bind_gang(self, gang: Gang, placed: Sequence[Placed], now: float) -> list[Decision]:
        state = self.state
        if gang.needed > 0:
            waits = any(item.pod.volumes.unbound for item in placed)
            extra = self._settings.volume_bind_seconds if waits else 0.0
            state.gang_binds.start(gang.unit, {item.pod.uid for item in placed}, set(), now, extra_seconds=extra)
        gang.message = ""
        decisions: list[Decision] = []
        feasible: dict[int, tuple[int, int, int]] = {}
        for item in placed:
            known = feasible.get(id(item.found))
            if known is None:
                runner_up = item.found.runner_up(item.row)
                known = (item.found.feasible(), runner_up, item.found.coldest())
                feasible[id(item.found)] = known
            pending = state.pods[item.pod.uid]
            bind = self._bind(
                pending, item.pod, item.found, item.row, now, runner_up=known[1], facts=known, gang=gang.key
            )
            decisions.append(bind)
        state.queue.remove(gang.unit)
        if gang.pending:
            # Members beyond those that fit are tried once more, as a unit of their own: that tells them why they wait.
            state.enqueue_gang(gang, now)
        return decisions

    def _bind(
        self,
        pending: PendingPod,
        pod: PodRequest,
        found: Pass,
        row: int,
        now: float,
        *,
        runner_up: int,
        facts: tuple[int, int, int] | None = None,
        gang: str | None = None,
        tries: int = 1,
    ) -> Bind:
        state = self.state
        feasible, _, coldest = facts or (found.feasible(), runner_up, found.coldest())
        view = state.view()
        record = explain.bind_record(
            view,
            found.sources,
            row,
            pod,
            feasible_nodes=feasible,
            runner_up=runner_up if runner_up != row else -1,
            coldest=coldest,
            gang=gang,
        )
        node = record.node
        plan = volume_binding.plan(view, pod, row)
        state.assigned.assume(
            AssignedPod(
                pod.uid,
                pod.namespace,
                pod.name,
                node,
                pod.shape.requests,
                pod.priority,
                pod.shape.host_ports,
                pod.identity,
                pod.terms,
                facts=PodFacts(group=pod.group, generation=pod.generation, role=pod.role),
                held=pod.held,
                plan=plan,
            )
        )
        if pod.group is not None:
            state.gangs.set_assigned(pod.uid, pod.namespace, pod.group, is_running=False, role=pod.role)
        nominated = state.nominations.remove(pod.uid)
        if nominated != node:
            state.nominee_left(nominated)
        pending.node = node
        return Bind(
            uid=pod.uid,
            namespace=pod.namespace,
            name=pod.name,
            node=node,
            annotation=record.annotation,
            note=record.note,
            gang=gang,
            stage_in_seconds=record.stage_in_seconds,
            local_bytes=record.local_bytes,
            peer_bytes=record.peer_bytes,
            origin_bytes=record.origin_bytes,
            waited_seconds=max(0.0, now - pending.placeable_since),
            tries=tries,
            volumes=plan,
            profile=pod.profile,
        )

    # ---- what is told -----------------------------------------------------------------------

    def _worth_of(self, rejected_by: frozenset[str]) -> ClusterChange:
        worth = ClusterChange(0)
        for name in rejected_by:
            worth |= self._worth.get(name, ANYTHING)
        return worth or ANYTHING

    def _tell(
        self, pending: PendingPod, message: str, now: float, *, reason: str = UNSCHEDULABLE, with_event: bool = True
    ) -> list[Decision]:
        """A message once, and again when it changed or after `repeat_seconds`."""
        is_old = now - pending.told_at >= self._settings.repeat_message_seconds
        if message == pending.told and not (with_event and is_old):
            return []
        is_first = not pending.told
        pending.told, pending.told_at = message, now
        pod = pending.request
        told = Explain(
            pod.uid, pod.namespace, pod.name, reason, message, with_event, is_first, pod.generation, pod.profile
        )
        return [told]

    def _tell_gang(self, members: Sequence[PendingPod], message: str, now: float) -> list[Decision]:
        told: list[Decision] = []
        for index, pending in enumerate(members):
            told += self._tell(pending, message, now, with_event=index == 0)
            gang = self.state.gangs.of_member(pending.request.uid)
            if index == 0 and gang is not None:
                gang.message = message
                self.state.touched_gangs[gang.unit] = gang
        return told

    # ---- gangs and gated pods ---------------------------------------------------------------

    def _settle(self, now: float) -> list[Decision]:
        """After events: follow sagas, tell PodGroups' statuses, tell pods that are gated for long."""
        state = self.state
        decisions: list[Decision] = []
        for gang in state.touched_gangs.values():
            if gang.is_unfinished and not state.gang_binds.is_binding(gang.unit):
                # Left by an earlier leader: completed, or taken back, like our own.
                state.gang_binds.start(gang.unit, set(), set(gang.assigned), now)
        for unit in state.gang_binds.units():
            found = state.gangs.find(unit)
            is_whole = found is not None and found.needed == 0
            for uid in state.gang_binds.settle(unit, is_whole, now):
                decisions += self._undo(uid)
            if found is not None and not state.gang_binds.is_binding(unit):
                # Without its PodGroup nobody knows how many it needs: that is not having been whole.
                found.was_whole = found.was_whole or (is_whole and found.group is not None)
                state.enqueue_gang(found, now)
        decisions += self._preempting.clear(state.unnominated)
        state.unnominated.clear()
        decisions += self._tell_bind_errors(now)
        decisions += self._group_statuses()
        for pending, message in state.gated_to_tell(now):
            decisions += self._tell(pending, message, now, reason=NOT_READY, with_event=False)
        return decisions

    def _tell_bind_errors(self, now: float) -> list[Decision]:
        """Binds that ended in an error, one event a gang."""
        told: list[Decision] = []
        gangs: set[tuple[str, str]] = set()
        for failed in self.state.bind_errors:
            pending = self.state.pods.get(failed.uid)
            if pending is None or pending.node:
                continue
            pod = pending.request
            gang = (pod.namespace, pod.group or "")
            message = f"binding to {failed.node} failed: {' '.join(failed.cause.split())}"
            is_first = pod.group is None or gang not in gangs
            gangs.add(gang)
            told += self._tell(pending, message, now, reason=SCHEDULER_ERROR, with_event=is_first)
        self.state.bind_errors.clear()
        return told

    def _undo(self, uid: str) -> list[Decision]:
        known = self.state.assigned.get(uid)
        if known is None:
            return []
        note = "the rest of the gang could not be bound in time; this bound member is taken back"
        return [DeletePod(uid, known.namespace, known.name, note)]

    def _group_statuses(self) -> list[Decision]:
        state = self.state
        told: list[Decision] = []
        for gang in state.touched_gangs.values():
            status = group_status(
                gang,
                state.gang_binds.in_flight(gang.unit),
                is_binding=state.gang_binds.is_binding(gang.unit),
                admits=state.settings.admits_volcano_groups,
            )
            if status is not None:
                told.append(status)
        state.touched_gangs.clear()
        return told

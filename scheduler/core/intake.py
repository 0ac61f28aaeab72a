"""Events into state: what each event means, one function a kind.

Owns the meaning of events. Does not decide anything. Invariants: applying the same event twice changes
nothing the second time; events about things never heard of are accepted; what may help refused pods is
noted in `state.changes`, and moved once a batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from scheduler.core import events
from scheduler.core.assumed import AssignedPod, Hold
from scheduler.core.engine_state import EngineState, PendingPod
from scheduler.core.gangs import Gang
from scheduler.core.pod_request import PodRequest
from scheduler.core.requeue import ClusterChange


class Intake:
    """Applies events to the engine's state."""

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._now = 0.0
        self._apply: dict[type, Callable[[Any], None]] = {
            events.NodeChanged: self._node_changed,
            events.NodeGone: self._node_gone,
            events.PodPending: self._pod_pending,
            events.PodAssigned: self._pod_assigned,
            events.PodGone: self._pod_gone,
            events.CacheChanged: lambda event: self._residency(state.residency.put_cache(event.cache)),
            events.CacheGone: lambda event: self._residency(state.residency.remove_cache(event.name)),
            events.DatasetChanged: lambda event: self._residency(state.residency.put_dataset(event.dataset)),
            events.DatasetGone: lambda event: self._residency(
                state.residency.remove_dataset((event.namespace, event.name))
            ),
            events.GroupChanged: self._group_changed,
            events.GroupGone: self._group_gone,
            events.StorageChanged: self._storage_changed,
            events.StorageGone: self._storage_gone,
            events.NamespaceChanged: self._namespace_changed,
            events.NamespaceGone: lambda event: self._namespace(event.name, None),
            events.ServiceChanged: self._service_changed,
            events.ControllerChanged: self._controller_changed,
            events.DeviceClassChanged: self._device_class_changed,
            events.DeviceClassGone: self._device_class_gone,
            events.BindConfirmed: self._bind_confirmed,
            events.BindFailed: self._bind_failed,
            events.DeleteFailed: self._delete_failed,
            events.BudgetChanged: self._budget_changed,
            events.BudgetGone: self._budget_gone,
            events.PreemptionEnded: self._preemption_ended,
        }

    def apply(self, event: events.Event, now: float) -> None:
        """Take one event."""
        self._now = now
        self._apply[type(event)](event)

    def flush(self, now: float) -> None:
        """Move the pods that the changes since the last flush may help."""
        state = self._state
        if state.loosened:
            state.note_loosened()
        if state.changes:
            state.queue.changed(state.changes, now, state.may_help)
            state.changes = ClusterChange(0)
        state.changed_rows.clear()
        state.flushed_at = state.table.log_position

    # ---- nodes and data ---------------------------------------------------------------------

    def _node_changed(self, event: events.NodeChanged) -> None:
        state = self._state
        row, change = state.table.put(event.node)
        if change & ClusterChange.NODE_ADDED:
            state.assigned.node_added(event.node.metadata.name)
        if change & (ClusterChange.NODE_ADDED | ClusterChange.NODE_LABELS):
            state.topology.put(row, event.node.metadata.labels)
        if change:
            self._note_contention(row)
            state.changed_rows.add(row)
        state.changes |= change

    def _node_gone(self, event: events.NodeGone) -> None:
        row = self._state.table.row_of.get(event.name)
        if row is not None:
            self._state.topology.remove(row)
        self._state.assigned.node_gone(event.name)
        self._state.changes |= ClusterChange.NODE_GONE
        # What nominees waited for there never comes: their victims go without leaving room behind.
        for nominee in self._state.nominations.on(event.name):
            self._state.activate(nominee)

    def _namespace_changed(self, event: events.NamespaceChanged) -> None:
        self._namespace(event.name, event.labels)

    def _namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        if self._state.assigned.index.set_namespace(name, labels):
            self._state.changes |= ClusterChange.NAMESPACES

    def _service_changed(self, event: events.ServiceChanged) -> None:
        self._state.workloads.put_service(event.namespace, event.name, event.selector)

    def _controller_changed(self, event: events.ControllerChanged) -> None:
        self._state.workloads.put_controller(event.namespace, (event.kind, event.name), event.selector)

    def _residency(self, did_change: bool) -> None:
        if did_change:
            self._state.changes |= ClusterChange.RESIDENCY

    def _storage_changed(self, event: events.StorageChanged) -> None:
        self._state.volumes.put(event.item)
        self._state.changes |= ClusterChange.VOLUMES

    def _storage_gone(self, event: events.StorageGone) -> None:
        self._state.volumes.remove(event.kind, event.namespace, event.name)
        self._state.changes |= ClusterChange.VOLUMES

    # ---- pods -------------------------------------------------------------------------------

    def _pod_pending(self, event: events.PodPending) -> None:
        state, pod = self._state, event.pod
        known = state.pods.get(pod.uid)
        # The API server's clock may be ahead of ours, or ours was set back: nobody waits since a time to come.
        seen_since = self._now if known is None else known.request.waiting_since
        if pod.waiting_since > seen_since:
            pod = replace(pod, waiting_since=seen_since)
        if state.assigned.hold_of(pod.uid) is Hold.BOUND:
            return  # an old state of a pod that the watch showed bound already
        if state.assigned.hold_of(pod.uid) is None:
            self._nomination_shown("" if known is None else known.request.nominated_node, pod)
        if known is None:
            state.mix.seen(pod.uid, pod.shape.requests)
            known = state.pods[pod.uid] = PendingPod(pod, told=pod.reported)
        else:
            is_same = _tried_alike(known.request, pod)
            if known.request.group is not None and known.request.group != pod.group:
                self._leave_gang(pod.uid)
            if known.request.group is None and pod.group is not None:
                state.queue.remove(pod.uid)
            if known.request.gates and not pod.gates:
                known.ungated_at = self._now
            known.request = pod
            if is_same:
                return
        if state.assigned.hold_of(pod.uid) is None:
            self._enqueue(pod)

    def _enqueue(self, pod: PodRequest) -> None:
        state = self._state
        if pod.group is None:
            state.enqueue_pod(pod)
        elif pod.gates:
            gang = state.gangs.drop_member(pod.uid)
            if gang is not None:
                state.enqueue_gang(gang, self._now)
        else:
            state.enqueue_gang(self._set_pending(pod, pod.group), self._now)

    def _set_pending(self, pod: PodRequest, group: str) -> Gang:
        gangs = self._state.gangs
        return gangs.set_pending(pod.uid, pod.namespace, group, pod.priority, pod.waiting_since, role=pod.role)

    def _pod_assigned(self, event: events.PodAssigned) -> None:
        state, pod = self._state, event.pod
        state.mix.seen(pod.uid, pod.requests)
        known = state.pods.pop(pod.uid, None)
        if known is not None:
            state.queue.remove(pod.uid)
            state.stop_evicting(pod.uid)
            self._nomination_ended(pod.uid, pod.node)
        if event.is_leaving:
            state.seen_leaving(pod.uid)
            self._loosen(state.assigned.get(pod.uid))
        is_expected = state.assigned.node_of(pod.uid) == pod.node
        state.changes |= state.assigned.confirm(pod)
        if not is_expected:
            self._note_contention(state.table.row_of.get(pod.node))
        if event.group is None or not event.is_ours:
            return
        if event.is_leaving:
            self._leave_gang(pod.uid)
            return
        gang = state.gangs.set_assigned(pod.uid, pod.namespace, event.group, event.is_running, event.role)
        state.gang_binds.confirmed(gang.unit, pod.uid)
        if gang.group is not None and gang.needed == 0 and not state.gang_binds.is_binding(gang.unit):
            gang.was_whole = True
        if known is not None:
            state.enqueue_gang(gang, self._now)
        state.touched_gangs[gang.unit] = gang

    def _pod_gone(self, event: events.PodGone) -> None:
        state = self._state
        state.mix.gone(event.uid)
        state.seen_leaving(event.uid)
        if state.pods.pop(event.uid, None) is not None:
            state.queue.remove(event.uid)
            state.stop_evicting(event.uid)
            self._nomination_ended(event.uid, "")
        self._loosen(state.assigned.get(event.uid))
        if state.assigned.gone(event.uid):
            state.changes |= ClusterChange.POD_FREED
        if event.succeeded and event.group is not None:
            gang = state.gangs.set_succeeded(event.uid, event.namespace, event.group, event.role)
            # Its work is done: nothing of it is left to be taken back.
            state.gang_binds.leaving(gang.unit, event.uid)
            state.enqueue_gang(gang, self._now)
        else:
            self._leave_gang(event.uid)

    def _loosen(self, member: AssignedPod | None) -> None:
        """A member of a gang goes: it may have been what kept the others from being evicted."""
        if member is not None and member.facts.group is not None:
            self._state.loosened.add((member.namespace, member.facts.group))

    def _nomination_shown(self, old: str, pod: PodRequest) -> None:
        state = self._state
        before = state.nominations.node_of(pod.uid)
        if not (old or before or pod.nominated_node):
            return
        state.nominations.shown(old, state.resolved(pod))
        if state.nominations.node_of(pod.uid) != before:
            state.nominee_left(before)

    def _nomination_ended(self, uid: str, node: str) -> None:
        before = self._state.nominations.remove(uid)
        if before != node:
            self._state.nominee_left(before)

    def _preemption_ended(self, event: events.PreemptionEnded) -> None:
        if event.failed:
            self._state.stop_evicting(event.unit)
            self._state.queue.activate(event.unit)

    def _note_contention(self, row: int | None) -> None:
        # Only binds that are under way can be wrong; what is decided later sees the room as it is.
        if row is not None and self._state.assigned.assumed and self._state.table.is_overcommitted(row):
            self._state.contended.add(row)

    def _leave_gang(self, uid: str) -> None:
        state = self._state
        gang = state.gangs.drop_member(uid)
        if gang is not None:
            state.gang_binds.leaving(gang.unit, uid)
            state.enqueue_gang(gang, self._now)

    # ---- devices ----------------------------------------------------------------------------

    def _device_class_changed(self, event: events.DeviceClassChanged) -> None:
        if self._state.devices.put(event.name, event.resource):
            self._state.changes |= ClusterChange.DEVICES

    def _device_class_gone(self, event: events.DeviceClassGone) -> None:
        if self._state.devices.remove(event.name):
            self._state.changes |= ClusterChange.DEVICES

    # ---- gangs ------------------------------------------------------------------------------

    def _group_changed(self, event: events.GroupChanged) -> None:
        self._state.groups_version += 1
        gang = self._state.gangs.set_group(event.group)
        keeps = (gang.min_member, gang.is_evicted_whole)
        if keeps != gang.keeps:
            gang.keeps = keeps
            self._state.loosened.add((gang.namespace, gang.name))
        self._state.enqueue_gang(gang, self._now)

    def _group_gone(self, event: events.GroupGone) -> None:
        self._state.groups_version += 1
        gang = self._state.gangs.drop_group(event.namespace, event.name, event.api)
        if gang is not None:
            self._state.loosened.add((gang.namespace, gang.name))
            self._state.enqueue_gang(gang, self._now)

    def _budget_changed(self, event: events.BudgetChanged) -> None:
        self._state.budgets.put(event.budget)

    def _budget_gone(self, event: events.BudgetGone) -> None:
        self._state.budgets.remove(event.namespace, event.name)

    # ---- results ----------------------------------------------------------------------------

    def _bind_confirmed(self, event: events.BindConfirmed) -> None:
        gang = self._state.gangs.of_member(event.uid)
        if gang is not None:
            self._state.gang_binds.confirmed(gang.unit, event.uid)
            self._state.touched_gangs[gang.unit] = gang

    def _bind_failed(self, event: events.BindFailed) -> None:
        state = self._state
        if not state.assigned.forget(event.uid):
            return  # the watch was faster: bound after all, or gone
        state.changes |= ClusterChange.POD_FREED
        known = state.pods.get(event.uid)
        if known is None:
            return
        if event.is_error:
            state.bind_errors.append(event)
        pod = known.request
        known.node = ""
        if pod.nominated_node:
            state.unnominated.append(pod)
        if pod.group is None:
            if state.queue.pool_of(pod.uid) is None:
                state.enqueue_pod(pod)
            state.queue.fail(pod.uid, self._now)
            return
        gang = self._set_pending(pod, pod.group)
        state.gang_binds.failed(gang.unit, pod.uid)
        state.enqueue_gang(gang, self._now)
        if gang.waiting_for() is None and not state.gang_binds.is_undoing(gang.unit):
            state.queue.fail(gang.unit, self._now)

    def _delete_failed(self, event: events.DeleteFailed) -> None:
        gang = self._state.gangs.of_member(event.uid)
        if gang is not None:
            self._state.gang_binds.retry_delete(gang.unit, event.uid, self._now)


def _tried_alike(old: PodRequest, new: PodRequest) -> bool:
    """Whether a change of the pod cannot matter to a try (our own condition, for one)."""
    return (
        old.signature == new.signature
        and old.labels == new.labels
        and (old.group, old.role, old.gates, old.held, old.priority, old.refusal, old.may_preempt)
        == (new.group, new.role, new.gates, new.held, new.priority, new.refusal, new.may_preempt)
    )

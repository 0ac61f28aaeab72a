"""Binding a gang is a saga: a bind cannot be undone, so it is completed, or what was bound is deleted.

Owns which gangs are being bound, until when they may stay incomplete, and what is being undone. Does not
bind or delete. Invariants: a gang with 0 < bound < minMember has a saga or was whole before (a leader that
takes over starts one for what it finds); when a saga's
time is over and the gang is not whole, every pod the saga bound is decided to be deleted, by uid, again and
again until the watch shows it leaving. A replica that does not lead has none.

    start ──► BINDING ──all landed, gang whole──► (done)
                 │ failures: members go back to the queue and are placed again
                 └──time over, not whole──► UNDOING ──every bound pod is leaving──► (done)
"""

from dataclasses import dataclass, field

REPEAT_DELETE_SECONDS = 5.0


@dataclass(slots=True)
class GangBind:
    """One saga. `bound`: uids this saga put on nodes; `in_flight`: binds without a result yet; `failed`: binds that
    ended in an error, which may have been applied all the same."""

    unit: str
    deadline: float
    bound: set[str] = field(default_factory=set)
    in_flight: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    undoing: dict[str, float] = field(default_factory=dict)  # uid -> when to decide its deletion (again)
    is_undoing: bool = False


class GangBinds:
    """Sagas by unit. One writer."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._sagas: dict[str, GangBind] = {}

    def start(
        self, unit: str, uids: set[str], already_bound: set[str], now: float, *, extra_seconds: float = 0.0
    ) -> None:
        """Members are about to be bound. A saga that runs already goes on, its deadline unchanged. `extra_seconds`:
        what has to be done before the binds may take so long."""
        saga = self._sagas.get(unit)
        if saga is None:
            saga = self._sagas[unit] = GangBind(unit, now + self._timeout_seconds + extra_seconds)
        saga.in_flight |= uids
        saga.bound |= already_bound

    def forget(self) -> None:
        """This replica leads no more. Its memory would be old when it leads again, and old memories delete pods."""
        self._sagas.clear()

    def confirmed(self, unit: str, uid: str) -> None:
        """A member is bound. Not by this saga, if it sent no bind of it: then it is not the saga's to undo."""
        saga = self._sagas.get(unit)
        if saga is not None and (uid in saga.in_flight or uid in saga.failed):
            saga.in_flight.discard(uid)
            saga.failed.discard(uid)
            saga.bound.add(uid)

    def failed(self, unit: str, uid: str) -> None:
        """A member was not bound, or nobody knows; the saga goes on until its deadline."""
        saga = self._sagas.get(unit)
        if saga is not None:
            saga.in_flight.discard(uid)
            saga.failed.add(uid)

    def leaving(self, unit: str, uid: str) -> None:
        """A member is gone or being deleted."""
        saga = self._sagas.get(unit)
        if saga is not None:
            saga.in_flight.discard(uid)
            saga.failed.discard(uid)
            saga.bound.discard(uid)
            saga.undoing.pop(uid, None)

    def is_binding(self, unit: str) -> bool:
        """Whether binds of this gang are under way."""
        return unit in self._sagas

    def in_flight(self, unit: str) -> int:
        """Binds of this gang without a result yet."""
        saga = self._sagas.get(unit)
        return len(saga.in_flight) if saga is not None else 0

    def is_undoing(self, unit: str) -> bool:
        """Whether this gang is being taken back; no member of it may be tried meanwhile."""
        saga = self._sagas.get(unit)
        return saga is not None and saga.is_undoing

    def retry_delete(self, unit: str, uid: str, now: float) -> None:
        """A deletion failed: decide it again soon."""
        saga = self._sagas.get(unit)
        if saga is not None and uid in saga.undoing:
            saga.undoing[uid] = now + REPEAT_DELETE_SECONDS / 5

    def settle(self, unit: str, is_whole: bool, now: float) -> list[str]:
        """Bring one saga forward; returns the uids to delete now."""
        saga = self._sagas.get(unit)
        if saga is None:
            return []
        if not saga.is_undoing:
            if is_whole:
                if not saga.in_flight:
                    del self._sagas[unit]
                # The last results come as events; the deadline must not be due all the time until then.
                saga.deadline = max(saga.deadline, now + 1.0)
                return []
            if now < saga.deadline:
                return []
            saga.is_undoing = True
        for uid in saga.bound:
            saga.undoing.setdefault(uid, now)
        if not saga.bound and not saga.in_flight:
            del self._sagas[unit]
            return []
        due = [uid for uid, at in saga.undoing.items() if at <= now]
        for uid in due:
            saga.undoing[uid] = now + REPEAT_DELETE_SECONDS
        return due

    def units(self) -> list[str]:
        """Gangs being bound or undone."""
        return list(self._sagas)

    def next_due(self) -> float:
        """When `settle` has something to do next; inf when never."""
        due = float("inf")
        for saga in self._sagas.values():
            due = min(due, *saga.undoing.values()) if saga.undoing else due
            if not saga.is_undoing:
                due = min(due, saga.deadline)
        return due

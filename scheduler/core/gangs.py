"""Gangs: which pods belong to which PodGroup, and how many of them are on nodes.

Owns membership and minMember. Does not place (core/gang_placement.py) nor follow binds (core/gang_bind.py).
Invariants: a member is pending or assigned, never both; a member being deleted or failed counts as neither;
one that succeeded still counts, since its work is done. Nothing is held for a gang between tries.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from scheduler.core.gang_apis import MINIMUM_FIELD, GangApi, GangSpec, GroupObject, gang_spec, group_key, parse_key

UNIT_PREFIX = "gang:"
PENDING, SCHEDULING, SCHEDULED, RUNNING = "Pending", "Scheduling", "Scheduled", "Running"


@dataclass(slots=True)
class Gang:
    """One gang. `name` is its key within the namespace, the API included (core/gang_apis.py); `group` is None until
    its PodGroup is seen. `message_told`: why it was refused last, as its PodGroup says."""

    namespace: str
    name: str
    group: GangSpec | None = None
    pending: set[str] = field(default_factory=set)
    assigned: dict[str, bool] = field(default_factory=dict)  # uid -> is running
    succeeded: set[str] = field(default_factory=set)
    roles: dict[str, str] = field(default_factory=dict)  # of members with one, by uid
    phase_told: str = ""
    counts_told: tuple[int, int] = (-1, -1)
    message: str = ""  # why it was refused last
    message_told: str = ""
    keeps: tuple[int, bool] = (0, False)  # its minimum, and whether it is only evicted whole, as last seen
    was_whole: bool = False  # members that come now replace lost ones: nothing is undone
    priority: int = 0  # the highest of its members'
    since: float = float("inf")  # since when its first member waits

    @property
    def key(self) -> str:
        """`namespace/name`, for people."""
        return f"{self.namespace}/{parse_key(self.name)[1]}"

    @property
    def api(self) -> GangApi:
        """The API its PodGroup is of."""
        return parse_key(self.name)[0]

    @property
    def unit(self) -> str:
        """Its id in the queue."""
        return f"{UNIT_PREFIX}{self.namespace}/{self.name}"

    @property
    def min_member(self) -> int:
        """Members that must be placed together; at least 1."""
        return max(1, self.group.min_member) if self.group is not None else 1

    @property
    def is_evicted_whole(self) -> bool:
        """Whether none of its members may be evicted without the others."""
        return self.group is not None and self.group.is_evicted_whole

    @property
    def needed_by_role(self) -> tuple[tuple[str, int], ...]:
        """Members of a role that must be placed by the next try, where the PodGroup asks for some."""
        if self.group is None or not self.group.min_by_role:
            return ()
        have = Counter(self.roles.get(uid, "") for uid in (*self.assigned, *self.succeeded))
        return tuple((role, count - have[role]) for role, count in self.group.min_by_role if count > have[role])

    @property
    def on_nodes(self) -> int:
        """Members that are, or were until they succeeded, on a node."""
        return len(self.assigned) + len(self.succeeded)

    @property
    def needed(self) -> int:
        """Members that must be placed by the next try; 0 when the gang is whole already."""
        return max(0, self.min_member - self.on_nodes, sum(count for _, count in self.needed_by_role))

    @property
    def is_empty(self) -> bool:
        """Nothing is known of it any more."""
        return self.group is None and not self.pending and not self.assigned and not self.succeeded

    def waiting_for(self) -> str | None:
        """What must happen before the gang can be tried; None when it can."""
        if self.group is None:
            return (
                f"waiting for PodGroup {self.key}: there is no such object in {self.api}; "
                f"create it with {MINIMUM_FIELD[self.api]}"
            )
        if self.group.refusal is not None:
            return f"PodGroup {self.key}: {self.group.refusal}"
        if len(self.pending) < self.needed:
            have = self.on_nodes + len(self.pending)
            return (
                f"waiting for members of PodGroup {self.key}: {have} of minMember {self.min_member} exist, "
                "name this scheduler and are not gated"
            )
        waiting = Counter(self.roles.get(uid, "") for uid in self.pending)
        for role, count in self.needed_by_role:
            if waiting[role] < count:
                return (
                    f"waiting for members of PodGroup {self.key}: {count - waiting[role]} more of task {role!r} must "
                    f"exist and not be gated, as spec.minTaskMember asks for {dict(self.group.min_by_role)[role]}"
                )
        return None

    def is_enough(self, roles: Sequence[str]) -> bool:
        """Whether so many pending members, of these roles, are what the next try needs."""
        have = Counter(roles)
        return len(roles) >= self.needed and all(have[role] >= count for role, count in self.needed_by_role)

    @property
    def is_unfinished(self) -> bool:
        """Some but too few members are on nodes, and it never was otherwise: binding it was interrupted."""
        return self.group is not None and not self.was_whole and bool(self.assigned) and self.needed > 0

    def status(self, in_flight: int, *, is_binding: bool) -> tuple[str, int, int]:
        """Phase, members bound and members running, as the PodGroup's status should say."""
        running = sum(self.assigned.values()) + len(self.succeeded)
        bound = self.on_nodes - in_flight
        if is_binding:
            phase = SCHEDULING
        elif running >= self.min_member and not self.needed:
            phase = RUNNING
        elif bound >= self.min_member and not self.needed:
            phase = SCHEDULED
        else:
            phase = SCHEDULING if bound else PENDING
        return phase, bound, running


class Gangs:
    """All gangs by (namespace, name). One writer."""

    def __init__(self) -> None:
        self._gangs: dict[tuple[str, str], Gang] = {}
        self._gang_of: dict[str, Gang] = {}  # by member's uid

    def set_group(self, group: GroupObject) -> Gang:
        """Take a PodGroup."""
        spec = gang_spec(group)
        gang = self._gang(spec.namespace, spec.key)
        if gang.group is not None and gang.group.uid != spec.uid:
            gang.was_whole = False
        gang.group = spec
        if not gang.phase_told:
            gang.phase_told, gang.counts_told = spec.told_phase, spec.told_counts
            gang.message_told = spec.told_message
        gang.was_whole = gang.was_whole or spec.was_whole
        return gang

    def drop_group(self, namespace: str, name: str, api: GangApi = GangApi.X_K8S) -> Gang | None:
        """The PodGroup was deleted."""
        gang = self._gangs.get((namespace, group_key(api, name)))
        if gang is not None:
            gang.group = None
            gang.phase_told = gang.message_told = ""
            self._tidy(gang)
        return gang

    def set_pending(self, uid: str, namespace: str, name: str, priority: int, since: float, *, role: str = "") -> Gang:
        """A member is unbound and may be placed. Here and below `name` is the gang's key within the namespace."""
        gang = self._member(uid, namespace, name, role)
        gang.priority = max(gang.priority, priority) if gang.pending else priority
        gang.since = min(gang.since, since) if gang.pending else since
        gang.assigned.pop(uid, None)
        gang.pending.add(uid)
        return gang

    def set_assigned(self, uid: str, namespace: str, name: str, is_running: bool, role: str = "") -> Gang:
        """A member is on a node."""
        gang = self._member(uid, namespace, name, role)
        gang.pending.discard(uid)
        gang.assigned[uid] = is_running
        return gang

    def drop_member(self, uid: str) -> Gang | None:
        """A member failed, is leaving, or is no longer ours; returns its gang."""
        gang = self._gang_of.pop(uid, None)
        if gang is None:
            return None
        gang.pending.discard(uid)
        gang.assigned.pop(uid, None)
        gang.succeeded.discard(uid)
        gang.roles.pop(uid, None)
        self._tidy(gang)
        return gang

    def set_succeeded(self, uid: str, namespace: str, name: str, role: str = "") -> Gang:
        """A member's work is done."""
        gang = self._member(uid, namespace, name, role)
        gang.pending.discard(uid)
        gang.assigned.pop(uid, None)
        gang.succeeded.add(uid)
        return gang

    def of_member(self, uid: str) -> Gang | None:
        """The gang a pod belongs to."""
        return self._gang_of.get(uid)

    def find(self, unit: str) -> Gang | None:
        """The gang of a queue unit; None when nothing is known of it any more."""
        namespace, _, name = unit.removeprefix(UNIT_PREFIX).partition("/")
        return self._gangs.get((namespace, name))

    def get(self, unit: str) -> Gang:
        """The gang of a unit in the queue; only gangs with members are there."""
        gang = self.find(unit)
        assert gang is not None
        return gang

    def _gang(self, namespace: str, name: str) -> Gang:
        gang = self._gangs.get((namespace, name))
        if gang is None:
            gang = self._gangs[namespace, name] = Gang(namespace, name)
        return gang

    def _member(self, uid: str, namespace: str, name: str, role: str) -> Gang:
        old = self._gang_of.get(uid)
        if old is not None and (old.namespace, old.name) != (namespace, name):
            self.drop_member(uid)
        gang = self._gang_of[uid] = self._gang(namespace, name)
        if role:
            gang.roles[uid] = role
        return gang

    def _tidy(self, gang: Gang) -> None:
        if gang.is_empty:
            self._gangs.pop((gang.namespace, gang.name), None)

"""Candidates of earlier searches for equal preemptors: hundreds of pods of one job evict one after another, and each
changes one node.

Owns what is kept and when it is stale. A row is weighed again when its usage or a fact of its pods changed, when
somebody is or was nominated to it, when evictions are or were under way on it, and when a pod of a gang is on it
(what a gang can spare hangs on other nodes). Nodes', budgets' and PodGroups' changes drop everything. Invariant: a
search with kept candidates finds what one without them would.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from scheduler.core.engine_state import EngineState
from scheduler.core.pod_request import PodRequest
from scheduler.core.preemption import Candidate

MAX_KINDS = 32


@dataclass(slots=True)
class _Kept:
    versions: tuple[int, ...]
    log_position: int
    busy: set[int]
    rows: dict[int, Candidate | None] = field(default_factory=dict)


class KeptCandidates:
    """See the module's docstring."""

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._kinds: OrderedDict[tuple[object, ...], _Kept] = OrderedDict()

    def of(self, pod: PodRequest) -> dict[int, Candidate | None]:
        """By row, what an earlier search for an equal pod found and is still right; to be added to."""
        state = self._state
        versions = (state.table.version, state.budgets.version, state.groups_version)
        key = (pod.signature, pod.priority)
        kept = self._kinds.get(key)
        changed = state.table.rows_changed_since(kept.log_position) if kept is not None else None
        busy = self._busy()
        if kept is None or changed is None or kept.versions != versions:
            kept = self._kinds[key] = _Kept(versions, state.table.log_position, busy)
            while len(self._kinds) > MAX_KINDS:
                self._kinds.popitem(last=False)
        else:
            for row in {*changed, *kept.busy, *busy}:
                kept.rows.pop(row, None)
            kept.log_position, kept.busy = state.table.log_position, busy
        self._kinds.move_to_end(key)
        return kept.rows

    def forget(self, pod: PodRequest) -> None:
        """What was found for such a pod hangs on more than rows."""
        self._kinds.pop((pod.signature, pod.priority), None)

    def _busy(self) -> set[int]:
        state = self._state
        nodes = {*state.nominations.nodes(), *(state.assigned.node_of(uid) for uid in state.leaving)}
        return {state.table.row_of[node] for node in nodes if node in state.table.row_of}

"""What PodGroups' statuses say, in the words of each API, and when it is worth a write.

Owns the phases. Does not write (shell/publish.py turns a GroupStatus into each API's fields). Invariant: the same
status is not told twice in a row, also by a leader that finds it written by another.

| of the gang | scheduling.x-k8s.io | scheduling.volcano.sh | scheduling.k8s.io |
| --- | --- | --- | --- |
| no member yet | Pending | Pending; Inqueue if groups are admitted | – |
| refused | Pending | Inqueue, condition Unschedulable | condition False, Unschedulable, until it was True once |
| being bound | Scheduling | Inqueue | – |
| minimum on nodes | Scheduled | Inqueue, condition Scheduled | condition True, Scheduled |
| minimum running | Running | Running | – |
| all members succeeded | Running | Completed | – |
"""

from scheduler.core.decisions import GroupStatus
from scheduler.core.gang_apis import GangApi, parse_key
from scheduler.core.gangs import PENDING, RUNNING, SCHEDULED, Gang

INQUEUE, COMPLETED = "Inqueue", "Completed"


def group_status(gang: Gang, in_flight: int, *, is_binding: bool, admits: bool) -> GroupStatus | None:
    """The status to write now; None when there is nothing new, or no PodGroup. Notes what it tells in the gang."""
    if gang.group is None:
        return None
    phase, scheduled, running = gang.status(in_flight, is_binding=is_binding)
    succeeded = len(gang.succeeded)
    counts = (scheduled, running)
    is_scheduled = phase in (SCHEDULED, RUNNING)
    message = "" if is_scheduled else gang.message
    if gang.api is GangApi.X_K8S:
        # Its status has no place for a message; the pods' conditions have it.
        message = ""
    elif gang.api is GangApi.VOLCANO:
        running -= succeeded
        phase, counts = _volcano(gang, phase, admits=admits), (-1 if phase != SCHEDULED else scheduled, running)
    else:
        was_told = gang.phase_told == SCHEDULED
        phase, counts = (SCHEDULED, gang.counts_told) if was_told or is_scheduled else ("", (-1, -1))
        message = "" if phase else message
        if not phase and not message:
            return None
    # Counts change with every bind; they are told when the phase changes or nothing is under way.
    is_old = phase == gang.phase_told and message == gang.message_told
    if is_old and (is_binding or gang.counts_told == counts):
        return None
    gang.phase_told, gang.counts_told, gang.message_told = phase, counts, message
    name = parse_key(gang.name)[1]
    generation = gang.group.generation
    return GroupStatus(
        gang.namespace, name, phase, scheduled, running, gang.api, message, succeeded, generation, is_scheduled
    )


def _volcano(gang: Gang, phase: str, *, admits: bool) -> str:
    if phase == RUNNING:
        is_over = len(gang.succeeded) == gang.on_nodes and not gang.pending
        return COMPLETED if is_over else RUNNING
    has_members = bool(gang.pending or gang.on_nodes)
    return INQUEUE if has_members or admits or gang.phase_told == INQUEUE else PENDING

"""A PodGroup's status as each API spells it.

Owns the fields and words: scheduler-plugins' phase and counts; Volcano's phase, counts and conditions (its scheduling
package: types Scheduled and Unschedulable, reason NotEnoughResources); Kubernetes' condition PodGroupScheduled in
v1alpha2, PodGroupInitiallyScheduled since (schedule_one_podgroup.go, scheduling/v1beta1/types.go). Pure.
"""

from datetime import datetime
from typing import Any

from kube.client import PatchKind
from kube.identity import JsonObject
from kube.resources import POD_GROUPS, UPSTREAM_POD_GROUPS, VOLCANO_POD_GROUPS, Resource
from scheduler.core.decisions import GroupStatus
from scheduler.core.gang_apis import GangApi

# The newest version of each, until it is known which is served.
RESOURCES = {
    GangApi.X_K8S: POD_GROUPS,
    GangApi.VOLCANO: VOLCANO_POD_GROUPS,
    GangApi.UPSTREAM: UPSTREAM_POD_GROUPS[0],
}
API_OF = {resource.group: api for api, resource in RESOURCES.items()}
MAX_MESSAGE = 32_768  # of a metav1.Condition


def patch(work: GroupStatus, resource: Resource, now: datetime) -> tuple[PatchKind, JsonObject]:
    """The kind of patch and its body for the status subresource."""
    at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    if work.api is GangApi.X_K8S:
        return PatchKind.MERGE, {"status": {"phase": work.phase, "scheduled": work.scheduled, "running": work.running}}
    if work.api is GangApi.VOLCANO:
        status: dict[str, Any] = {"phase": work.phase, "running": work.running, "succeeded": work.succeeded}
        if work.is_scheduled:
            status["conditions"] = [_condition("Scheduled", "True", "tasks in gang are ready to be scheduled", "", at)]
        elif work.message:
            status["conditions"] = [_condition("Unschedulable", "True", "NotEnoughResources", work.message, at)]
        return PatchKind.MERGE, {"status": status}
    kind = "PodGroupScheduled" if resource.version == "v1alpha2" else "PodGroupInitiallyScheduled"
    if work.phase:
        condition = _condition(kind, "True", "Scheduled", "", at)
    else:
        condition = _condition(kind, "False", "Unschedulable", work.message[:MAX_MESSAGE], at)
    if work.generation:
        condition["observedGeneration"] = work.generation
    return PatchKind.STRATEGIC, {"status": {"conditions": [condition]}}


def _condition(kind: str, status: str, reason: str, message: str, at: str) -> JsonObject:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at}

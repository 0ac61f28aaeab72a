"""What makes a gang: three APIs, each with its own way to name the group, and one form the core knows.

Owns the reading of membership and of PodGroup objects. Does not know members or status. Invariant: groups of
different APIs are different gangs, also under one name: a gang's key within its namespace is `group_key(api, name)`,
which is the bare name for scheduling.x-k8s.io; names hold no colon, so keys cannot collide.

| API | a pod names its group by | minimum |
| --- | --- | --- |
| scheduling.k8s.io (v1alpha2 in Kubernetes 1.36, v1beta1 in 1.37) | spec.schedulingGroup.podGroupName | minCount |
| scheduling.x-k8s.io/v1alpha1 (scheduler-plugins) | label scheduling.x-k8s.io/pod-group | minMember |
| scheduling.volcano.sh/v1beta1 | annotation scheduling.k8s.io/group-name, or Volcano's own | minMember, minTaskMember |

A pod that names several belongs to the first of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import singledispatch

from api import names
from kube.gang_objects import NetworkTopology, PodGroup, UpstreamPodGroup, VolcanoPodGroup
from kube.identity import Condition
from kube.objects import Pod

GroupObject = PodGroup | VolcanoPodGroup | UpstreamPodGroup
# Phases in which a gang was whole once: members that come later replace lost ones, nothing is undone.
WHOLE_ONCE = ("Scheduled", "Running", "Finished", "Failed", "Unknown")
VOLCANO_WHOLE_ONCE = ("Running", "Unknown", "Completed")
SCHEDULED_CONDITIONS = ("PodGroupScheduled", "PodGroupInitiallyScheduled")
# As many levels as a topology may have in Kueue; each costs an array operation a try.
MAX_PREFERRED = 16
# disruptionMode in v1alpha2 and since.
ALL_TOGETHER = ("PodGroup", "all")


class GangApi(StrEnum):
    """The API group of a PodGroup."""

    X_K8S = names.SCHEDULING_GROUP
    VOLCANO = names.VOLCANO_GROUP
    UPSTREAM = names.UPSTREAM_SCHEDULING_GROUP


_PREFIX = {GangApi.X_K8S: "", GangApi.VOLCANO: "volcano:", GangApi.UPSTREAM: "upstream:"}
# What a user must create for a pod that names a group which does not exist.
MINIMUM_FIELD = {
    GangApi.X_K8S: "spec.minMember",
    GangApi.VOLCANO: "spec.minMember",
    GangApi.UPSTREAM: "spec.schedulingPolicy.gang.minCount",
}


@dataclass(frozen=True, slots=True)
class TopologyRequest:
    """`required`: the label key of which all members share a value. `preferred`: keys, the widest first, of which
    they cross few. `tier`: Volcano's, counted from the nearest level of the hierarchy; it stands for a key."""

    required: str = ""
    preferred: tuple[str, ...] = ()
    tier: int = 0
    is_tier_required: bool = False
    # Kubernetes' own API compares the label's value alone, whatever is above it in the hierarchy.
    is_by_value: bool = False


NO_TOPOLOGY = TopologyRequest()


@dataclass(frozen=True, slots=True)
class GangSpec:
    """A PodGroup, of any API. `min_by_role` counts members by PodRequest.role. `told_*` is what its status says."""

    api: GangApi
    namespace: str
    name: str
    uid: str
    min_member: int
    min_by_role: tuple[tuple[str, int], ...] = ()
    topology: TopologyRequest = NO_TOPOLOGY
    is_evicted_whole: bool = False
    was_whole: bool = False
    refusal: str | None = None
    generation: int = 0
    told_phase: str = ""
    told_counts: tuple[int, int] = (-1, -1)
    told_message: str = ""

    @property
    def key(self) -> str:
        """Within its namespace."""
        return group_key(self.api, self.name)


def group_key(api: GangApi, name: str) -> str:
    """What tells a gang from others of its namespace."""
    return _PREFIX[api] + name


def parse_key(key: str) -> tuple[GangApi, str]:
    """The API and the name of a gang's key."""
    for api in (GangApi.VOLCANO, GangApi.UPSTREAM):
        if key.startswith(_PREFIX[api]):
            return api, key.removeprefix(_PREFIX[api])
    return GangApi.X_K8S, key


def group_of(pod: Pod) -> str | None:
    """The key of the gang a pod belongs to; None when it stands alone."""
    if pod.spec.scheduling_group is not None and pod.spec.scheduling_group.pod_group_name:
        return group_key(GangApi.UPSTREAM, pod.spec.scheduling_group.pod_group_name)
    labels, annotations = pod.metadata.labels, pod.metadata.annotations
    if label := labels.get(names.POD_GROUP_LABEL):
        return group_key(GangApi.X_K8S, label)
    for key in (names.VOLCANO_GROUP_ANNOTATION, names.VOLCANO_OWN_GROUP_ANNOTATION):
        if annotation := annotations.get(key):
            return group_key(GangApi.VOLCANO, annotation)
    return None


def role_of(pod: Pod) -> str:
    """The part a pod plays in its gang; "" when it says none."""
    meta = pod.metadata
    return meta.annotations.get(names.VOLCANO_TASK_ANNOTATION) or meta.labels.get(names.JOB_ROLE_LABEL) or ""


@singledispatch
def gang_spec(group: object) -> GangSpec:
    """A PodGroup as the core knows it."""
    raise TypeError(f"{type(group).__name__} is no PodGroup")


@gang_spec.register
def _(group: PodGroup) -> GangSpec:
    meta, status = group.metadata, group.status
    topology, refusal = _annotated(meta.annotations)
    return GangSpec(
        GangApi.X_K8S,
        meta.namespace,
        meta.name,
        meta.uid,
        group.spec.min_member,
        topology=topology,
        was_whole=status.phase in WHOLE_ONCE,
        refusal=refusal,
        generation=meta.generation,
        told_phase=status.phase,
        told_counts=(status.scheduled, status.running),
    )


@gang_spec.register
def _(group: VolcanoPodGroup) -> GangSpec:
    meta, spec, status = group.metadata, group.spec, group.status
    # As Volcano's gang plugin: task minimums that sum up to more than minMember are not checked.
    by_task = spec.min_task_member if sum(spec.min_task_member.values()) <= spec.min_member else {}
    topology, refusal = _network(spec.network_topology)
    return GangSpec(
        GangApi.VOLCANO,
        meta.namespace,
        meta.name,
        meta.uid,
        spec.min_member,
        min_by_role=tuple(sorted(by_task.items())),
        topology=topology,
        was_whole=status.phase in VOLCANO_WHOLE_ONCE or _holds(status.conditions, ("Scheduled",)),
        refusal=refusal,
        generation=meta.generation,
        told_phase=status.phase,
        told_counts=(-1, status.running),
    )


@gang_spec.register
def _(group: UpstreamPodGroup) -> GangSpec:
    meta, spec = group.metadata, group.spec
    constraints = spec.scheduling_constraints.topology if spec.scheduling_constraints is not None else []
    mode = spec.disruption_mode
    conditions = [item for item in group.status.conditions if item.type in SCHEDULED_CONDITIONS]
    is_scheduled = _holds(conditions, SCHEDULED_CONDITIONS)
    refusal = None
    if spec.parent_composite_pod_group_name:
        refusal = (
            f"spec.parentCompositePodGroupName {spec.parent_composite_pod_group_name!r} is not evaluated by this "
            "scheduler; leave it out, or use schedulerName default-scheduler"
        )
    elif len(constraints) > 1:
        refusal = f"spec.schedulingConstraints.topology has {len(constraints)} entries; one is evaluated, name one key"
    return GangSpec(
        GangApi.UPSTREAM,
        meta.namespace,
        meta.name,
        meta.uid,
        spec.scheduling_policy.gang.min_count if spec.scheduling_policy.gang is not None else 1,
        topology=TopologyRequest(constraints[0].key, is_by_value=True) if constraints else NO_TOPOLOGY,
        is_evicted_whole=any(word in ALL_TOGETHER for word in ((mode,) if isinstance(mode, str) else mode or ())),
        was_whole=is_scheduled,
        refusal=refusal,
        generation=meta.generation,
        told_phase="Scheduled" if is_scheduled else "",
        told_message="" if is_scheduled or not conditions else conditions[0].message,
    )


def _annotated(annotations: Mapping[str, str]) -> tuple[TopologyRequest, str | None]:
    """What annotations ask for, or why that cannot be read."""
    required = annotations.get(names.REQUIRED_TOPOLOGY_ANNOTATION, "").strip()
    preferred = annotations.get(names.PREFERRED_TOPOLOGY_ANNOTATION, "").split(",")
    keys = tuple(dict.fromkeys(key.strip() for key in preferred if key.strip()))
    if len(keys) > MAX_PREFERRED:
        return NO_TOPOLOGY, (
            f"annotation {names.PREFERRED_TOPOLOGY_ANNOTATION} names {len(keys)} label keys; "
            f"at most {MAX_PREFERRED} are allowed"
        )
    return TopologyRequest(required, keys) if required or keys else NO_TOPOLOGY, None


def _network(wanted: NetworkTopology | None) -> tuple[TopologyRequest, str | None]:
    if wanted is None:
        return NO_TOPOLOGY, None
    is_hard = wanted.mode != "soft"
    if is_hard and wanted.highest_tier_name:
        # A tier's name is given by HyperNode objects, which this scheduler does not read.
        return NO_TOPOLOGY, (
            f"spec.networkTopology.highestTierName {wanted.highest_tier_name!r} is not evaluated by this scheduler; "
            "use highestTierAllowed: tier 1 is the last key of its setting topology_keys"
        )
    tier = wanted.highest_tier_allowed
    if is_hard and tier is not None and tier < 1:
        return NO_TOPOLOGY, f"spec.networkTopology.highestTierAllowed {tier} must be 1 (the nearest tier) or more"
    return TopologyRequest(tier=tier or 0, is_tier_required=is_hard), None


def _holds(conditions: Sequence[Condition], types: Sequence[str]) -> bool:
    return any(item.type in types and item.status == "True" for item in conditions)

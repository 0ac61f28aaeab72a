"""Typed views of PodGroups, of the three APIs that have them: only the fields that are read.

Owns msgspec structs for scheduling.x-k8s.io, scheduling.volcano.sh and upstream's scheduling.k8s.io; what they
mean is in scheduler/core/gang_apis.py. The rules of kube/objects.py hold here too.
"""

# ruff: noqa: RUF012  (msgspec copies an empty default for each struct)
import msgspec

from kube.identity import Condition, JsonObject, Object, ObjectMeta


class PodGroupSpec(Object, frozen=True):
    """A gang: at least `min_member` pods are placed together or none."""

    min_member: int = 0
    min_resources: dict[str, str | int] = {}
    schedule_timeout_seconds: int | None = None


class PodGroupStatus(Object, frozen=True):
    """What the gang's scheduler last said about it."""

    phase: str = ""
    scheduled: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    occupied_by: str = ""
    schedule_start_time: str | None = None


class PodGroup(Object, frozen=True):
    """A gang (scheduling.x-k8s.io)."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: PodGroupSpec = msgspec.field(default_factory=PodGroupSpec)
    status: PodGroupStatus = msgspec.field(default_factory=PodGroupStatus)


class NetworkTopology(Object, frozen=True):
    """How far apart Volcano may place a gang: `mode` hard or soft, tiers counted from the nearest, 1."""

    mode: str = ""
    highest_tier_allowed: int | None = None
    highest_tier_name: str = ""


class VolcanoPodGroupSpec(Object, frozen=True):
    """Volcano's gang; `min_task_member` by task name."""

    min_member: int = 0
    min_task_member: dict[str, int] = {}
    network_topology: NetworkTopology | None = None


class VolcanoPodGroupStatus(Object, frozen=True):
    """Phase is Pending, Inqueue, Running, Unknown or Completed."""

    phase: str = ""
    running: int = 0
    succeeded: int = 0
    conditions: list[Condition] = []


class VolcanoPodGroup(Object, frozen=True):
    """A gang (scheduling.volcano.sh/v1beta1)."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: VolcanoPodGroupSpec = msgspec.field(default_factory=VolcanoPodGroupSpec)
    status: VolcanoPodGroupStatus = msgspec.field(default_factory=VolcanoPodGroupStatus)


class GangPolicy(Object, frozen=True):
    """At least `min_count` pods are placed together or none."""

    min_count: int = 0


class SchedulingPolicy(Object, frozen=True):
    """Exactly one is set."""

    basic: JsonObject | None = None
    gang: GangPolicy | None = None


class TopologyConstraint(Object, frozen=True):
    """All pods on nodes with one value of this label."""

    key: str = ""


class SchedulingConstraints(Object, frozen=True):
    """At most one topology."""

    topology: list[TopologyConstraint] = []


class UpstreamPodGroupSpec(Object, frozen=True):
    """Kubernetes' own gang. `disruption_mode` is a word in v1alpha2, an object with one key since."""

    scheduling_policy: SchedulingPolicy = msgspec.field(default_factory=SchedulingPolicy)
    scheduling_constraints: SchedulingConstraints | None = None
    disruption_mode: str | JsonObject | None = None
    parent_composite_pod_group_name: str | None = None


class UpstreamPodGroupStatus(Object, frozen=True):
    """Conditions PodGroupScheduled (1.36) or PodGroupInitiallyScheduled (1.37), DisruptionTarget."""

    conditions: list[Condition] = []


class UpstreamPodGroup(Object, frozen=True):
    """A gang (scheduling.k8s.io, v1alpha2 to v1beta1)."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: UpstreamPodGroupSpec = msgspec.field(default_factory=UpstreamPodGroupSpec)
    status: UpstreamPodGroupStatus = msgspec.field(default_factory=UpstreamPodGroupStatus)

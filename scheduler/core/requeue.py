"""Which change in the cluster is worth another try for a pod that was refused.

Owns the vocabulary of changes. Each filter names, in `worth_retry`, the changes that can turn its refusal
around, as kube-scheduler's queueing hints do. Invariant: a filter that leaves a change out can never pass
because of it; a missing hint would leave a pod waiting for the five-minute flush.
"""

from enum import IntFlag, auto


class ClusterChange(IntFlag):
    """Kinds of change."""

    NODE_ADDED = auto()
    NODE_ALLOCATABLE = auto()
    NODE_LABELS = auto()
    NODE_TAINTS = auto()  # and spec.unschedulable
    POD_FREED = auto()  # an assigned pod ended, was deleted or shrank
    RESIDENCY = auto()  # what is cached where, or how big a dataset is
    VOLUMES = auto()  # claims and volumes
    GROUP = auto()  # a gang's object or members
    POD_ADDED = auto()  # an assigned pod that somebody's selector counts came, or changed its labels
    NODE_GONE = auto()
    NAMESPACES = auto()  # labels of namespaces
    NODE_FEATURES = auto()  # status.declaredFeatures
    DEVICES = auto()  # device classes


# What kube-scheduler calls the event behind each kind (framework/events.go), in its metrics; some are ours.
EVENTS = {
    ClusterChange.NODE_ADDED: "NodeAdd",
    ClusterChange.NODE_ALLOCATABLE: "NodeUpdateNodeAllocatable",
    ClusterChange.NODE_LABELS: "NodeUpdateNodeLabel",
    ClusterChange.NODE_TAINTS: "NodeUpdateNodeTaint",
    ClusterChange.POD_FREED: "AssignedPodDelete",
    ClusterChange.RESIDENCY: "NodeCacheUpdate",
    ClusterChange.VOLUMES: "PersistentVolumeClaimUpdate",
    ClusterChange.GROUP: "scheduling.k8s.io/PodGroupUpdate",
    ClusterChange.POD_ADDED: "AssignedPodAdd",
    ClusterChange.NODE_GONE: "NodeDelete",
    ClusterChange.NAMESPACES: "NamespaceUpdate",
}
NOTHING = ClusterChange(0)
ANYTHING = ~NOTHING

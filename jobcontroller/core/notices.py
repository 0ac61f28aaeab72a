"""Notices: nodes that will be taken away, and pods somebody is about to stop, while they still run.

Owns which taints are a notice, and which members one is about. What follows is the same as for a member that is lost
(core/resize.py, core/restart_policy.py), only that its pod is told by SIGTERM and has its grace to save what it holds.

Invariants: only taints that keep new pods away count, or the next attempt could land there again; a pod that tolerates
the taint by name wants to stay; a finished pod has nothing to lose."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from api.training_v1alpha1 import TrainingJobSpec
from jobcontroller.core.exit_class import Failure, FailureKind, disruption_kind
from jobcontroller.core.observed import PodView
from jobcontroller.core.turn import Turn

#: Set on a node that goes away within minutes, by: AWS' node termination handler (TAINT_NODE), GKE, Karpenter, the
#: cluster autoscaler, a cloud provider's node life cycle, an administrator.
TAINTS = (
    "aws-node-termination-handler/spot-itn",
    "aws-node-termination-handler/scheduled-maintenance",
    "aws-node-termination-handler/asg-lifecycle-termination",
    "cloud.google.com/impending-node-termination",
    "karpenter.sh/disrupted",
    "ToBeDeletedByClusterAutoscaler",
    "node.cloudprovider.kubernetes.io/shutdown",
    "node.kubernetes.io/out-of-service",
)
_FIRM_EFFECTS = frozenset({"NoSchedule", "NoExecute"})


def taint_of(taints: Iterable[tuple[str, str]], known: Collection[str]) -> str | None:
    """Return the key of the first of a node's (key, effect) that is a notice."""
    return next((key for key, effect in taints if key in known and effect in _FIRM_EFFECTS), None)


def is_about(turn: Turn, pod: PodView) -> str | None:
    """Return what was announced of an unfinished pod, as a clause; None = nothing."""
    if pod.is_finished or pod.deletion_at is not None:
        return None
    taint = turn.observed.notices.get(pod.node) if pod.node else None
    if taint is not None and taint not in _tolerated(turn.job.spec, pod.role):
        return f"is to leave its node {pod.node}, which will be taken away (taint {taint})"
    if pod.disruption and pod.node:
        return f"is about to be disrupted ({pod.disruption})"
    return None


def of_attempt(turn: Turn) -> list[Failure]:
    """Return the members of the attempt that are about to be lost."""
    return [_failure(pod, text) for pod in turn.current_pods() if (text := is_about(turn, pod)) is not None]


def _failure(pod: PodView, text: str) -> Failure:
    kind = disruption_kind(pod.disruption) if pod.disruption else FailureKind.PREEMPTION
    return Failure(
        kind=kind,
        pod=pod.name,
        uid=pod.uid,
        role=pod.role,
        index=pod.index,
        message=f"pod {pod.name} ({pod.role} {pod.index}) {text}",
        is_notice=True,
        is_of_node=kind is FailureKind.INFRASTRUCTURE,
    )


def _tolerated(spec: TrainingJobSpec, role: str) -> frozenset[str]:
    replica = spec.replica_specs.get(role)
    if replica is None:
        return frozenset()
    pod_spec: Mapping[str, Any] = replica.template.get("spec") or {}
    own = [*(pod_spec.get("tolerations") or [])]
    if replica.spot_replica_spec is not None:
        own += replica.spot_replica_spec.tolerations
    return frozenset(str(one.get("key") or "") for one in own if isinstance(one, Mapping))

"""The protocols a plugin follows, and a base for filters that need only part of them.

Owns nothing else; the protocols live in core/plugin.py because the core calls plugins and must not import
them. See README.md, "How to add a score plugin"."""

from scheduler.core.cluster_view import ALL, ClusterView, Rows
from scheduler.core.node_table import BoolArray, IntArray
from scheduler.core.plugin import (
    DependsOn,
    FilterPlugin,
    FloatArray,
    PreFilter,
    Refusal,
    ScorePlugin,
)
from scheduler.core.pod_request import PodRequest
from scheduler.core.requeue import ClusterChange

__all__ = [
    "ALL",
    "BoolArray",
    "ClusterChange",
    "ClusterView",
    "DependsOn",
    "FilterPlugin",
    "FloatArray",
    "IntArray",
    "NodeFilter",
    "PodRequest",
    "PreFilter",
    "Refusal",
    "Rows",
    "ScorePlugin",
]


class NodeFilter:
    """A filter with one reason, which no preemption can resolve; subclasses give `filter`."""

    name: str
    reason: str
    depends_on = DependsOn.NODES
    worth_retry: ClusterChange
    is_about_room = False

    def prefilter(self, view: ClusterView, pod: PodRequest) -> PreFilter | None:
        """Nothing to say before nodes are looked at."""
        return None

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where the pod may run."""
        raise NotImplementedError

    def refusals(self, view: ClusterView, pod: PodRequest) -> list[Refusal]:
        """The one reason, wherever `filter` is false."""
        passed = self.filter(view, pod, ALL)
        return [] if passed is None else [Refusal(self.reason, ~passed)]

    def unresolvable(self, view: ClusterView, pod: PodRequest) -> BoolArray | None:
        """All refused rows."""
        return None

    def capacity(self, view: ClusterView, pod: PodRequest) -> IntArray | None:
        """No limit: the answer does not depend on what is taken."""
        return None

"""Host ports: two pods cannot hold the same (address, protocol, port) of a node (NodePorts)."""

from collections.abc import Iterable

import numpy as np

from scheduler.core.pod_request import HostPort
from scheduler.plugins.base import (
    ALL,
    BoolArray,
    ClusterChange,
    ClusterView,
    DependsOn,
    IntArray,
    NodeFilter,
    PodRequest,
    Rows,
)

ANY_ADDRESS = "0.0.0.0"


def conflict(wanted: HostPort, held: Iterable[HostPort]) -> bool:
    """Whether a port is taken: the wildcard address collides with every address."""
    address, protocol, port = wanted
    return any(
        port == other_port and protocol == other_protocol and (ANY_ADDRESS in (address, other) or address == other)
        for other, other_protocol, other_port in held
    )


class HostPorts(NodeFilter):
    """Free host ports."""

    name = "NodePorts"
    reason = "node(s) didn't have free ports for the requested pod ports"
    depends_on = DependsOn.USAGE
    by_shape = True
    worth_retry = ClusterChange.NODE_ADDED | ClusterChange.POD_FREED

    def filter(self, view: ClusterView, pod: PodRequest, rows: Rows) -> BoolArray | None:
        """True where none of the pod's ports is taken."""
        wanted = pod.shape.host_ports
        if not wanted:
            return None
        free = np.ones(view.size, dtype=np.bool_)
        for row, held in view.ports.items():
            if any(conflict(port, held) for port in wanted):
                free[row] = False
        return np.asarray(free[rows])

    def capacity(self, view: ClusterView, pod: PodRequest) -> IntArray | None:
        """At most one pod with host ports a node: equal pods want equal ports."""
        free = self.filter(view, pod, ALL)
        return None if free is None else free.astype(np.int64)

    def unresolvable(self, view: ClusterView, pod: PodRequest) -> BoolArray | None:
        """Removing the pod that holds the port helps everywhere."""
        return np.zeros(view.size, dtype=np.bool_)

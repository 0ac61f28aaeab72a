"""The cluster as one try sees it, handed to plugins: columns to read, nothing to write.

Owns the frozen view and the what-if copy for gangs and preemption. Does not decide. Invariants: a view is valid
only until the next event is applied; plugins never write into its arrays; a what-if copy shares everything but
usage, the pod index and who uses which volumes.
"""

from dataclasses import dataclass, replace

from scheduler.core.assumed import AssignedPod
from scheduler.core.node_table import BoolArray, IntArray, LabelColumn, NodeTable
from scheduler.core.pod_index import PodCounts, PodIndex
from scheduler.core.pod_request import HostPort, PodRequest
from scheduler.core.pod_volumes import VolumePlan
from scheduler.core.residency_table import ResidencyTable
from scheduler.core.volume_table import VolumeTable
from scheduler.core.volume_use import VolumeUse
from scheduler.core.what_if_index import WhatIfIndex
from scheduler.core.workload_mix import WorkloadMix

Rows = slice | IntArray
ALL = slice(None)


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Arrays have one entry a row; rows with `alive` False are no nodes. int64[row, resource] for amounts."""

    table: NodeTable
    residency: ResidencyTable
    names: list[str]
    alive: BoolArray
    allocatable: IntArray
    requested: IntArray
    pods: IntArray
    pods_allowed: IntArray
    ports: dict[int, dict[HostPort, int]]
    index: PodCounts
    volumes: VolumeTable
    volume_use: VolumeUse
    mix: WorkloadMix

    @property
    def size(self) -> int:
        """Rows, dead ones included."""
        return len(self.names)

    def column(self, key: str) -> LabelColumn:
        """A label key over all rows (its `ids` may be longer than `size`)."""
        return self.table.column(key)

    def resource(self, name: str) -> int | None:
        """The column of a resource; None when no node and no pod ever named it."""
        return self.table.resources.get(name)

    def what_if(self) -> "ClusterView":
        """A copy on which pods can be placed and removed without touching the cluster."""
        index = self.index
        assert isinstance(index, PodIndex | WhatIfIndex)
        return replace(
            self,
            requested=self.requested.copy(),
            pods=self.pods.copy(),
            ports={row: dict(held) for row, held in self.ports.items()},
            index=WhatIfIndex(index) if isinstance(index, PodIndex) else index.copy(),
            volume_use=self.volume_use.what_if(),
        )

    def place(self, row: int, pod: PodRequest, plan: VolumePlan | None = None) -> None:
        """On a what-if copy only: put a pending pod on a row, seen by others' selectors from now on; `plan` is what
        its volumes are promised."""
        self.volume_use.add(row, pod.namespace, pod.held)
        self.volume_use.promise(pod.uid, plan)
        self.take(row, self.table.vector(pod.shape.requests), pod.shape.host_ports)
        self._changed_index().add(row, pod.identity, pod.terms)

    def restore(self, row: int, pod: AssignedPod) -> None:
        """On a what-if copy only: undo `release`."""
        self.volume_use.add(row, pod.namespace, pod.held)
        self.take(row, self.table.vector(pod.requests), pod.ports)
        self._changed_index().add(row, pod.identity, pod.terms, is_leaving=pod.is_leaving)

    def release(self, row: int, pod: AssignedPod) -> None:
        """On a what-if copy only: remove an assigned pod from its row."""
        self.volume_use.remove(row, pod.namespace, pod.held)
        self.requested[row] -= self.table.vector(pod.requests)
        self.pods[row] -= 1
        for port in pod.ports:
            held = self.ports[row]
            held[port] -= 1
            if not held[port]:
                del held[port]
        self._changed_index().remove(row, pod.identity, pod.terms, is_leaving=pod.is_leaving)

    def _changed_index(self) -> WhatIfIndex:
        assert isinstance(self.index, WhatIfIndex), "the cluster's own view is never written"
        return self.index

    def take(self, row: int, vector: IntArray, ports: tuple[HostPort, ...], copies: int = 1) -> None:
        """On a what-if copy only: take room for `copies` pods on a row; what others see is left as it is."""
        self.requested[row] += vector * copies
        self.pods[row] += copies
        for port in ports:
            held = self.ports.setdefault(row, {})
            held[port] = held.get(port, 0) + copies


def view_of(
    table: NodeTable,
    residency: ResidencyTable,
    index: PodIndex | None = None,
    *,
    volumes: VolumeTable | None = None,
    volume_use: VolumeUse | None = None,
    mix: WorkloadMix | None = None,
) -> ClusterView:
    """The view of the cluster as it is now; without the rest no pod is seen by others, and there is no storage."""
    size = table.size
    return ClusterView(
        table=table,
        residency=residency,
        names=table.names,
        alive=table.alive[:size],
        allocatable=table.allocatable[:size],
        requested=table.requested[:size],
        pods=table.pods[:size],
        pods_allowed=table.pods_allowed[:size],
        ports=table.ports,
        index=index if index is not None else PodIndex(table),
        volumes=volumes if volumes is not None else VolumeTable(),
        volume_use=volume_use if volume_use is not None else VolumeUse(),
        mix=mix if mix is not None else WorkloadMix(),
    )

"""The cluster as one try sees it, handed to plugins: columns to read, nothing to write.

Owns the frozen view and the what-if copy for gangs. Does not decide. Invariants: a view is valid only until
the next event is applied; plugins never write into its arrays; a what-if copy shares everything but usage.
"""

from dataclasses import dataclass, replace

from scheduler.core.node_table import BoolArray, IntArray, LabelColumn, NodeTable
from scheduler.core.pod_request import HostPort
from scheduler.core.residency_table import ResidencyTable

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
        """A copy whose usage can be changed with `take` without touching the cluster's."""
        return replace(
            self,
            requested=self.requested.copy(),
            pods=self.pods.copy(),
            ports={row: dict(held) for row, held in self.ports.items()},
        )

    def take(self, row: int, vector: IntArray, ports: tuple[HostPort, ...], copies: int = 1) -> None:
        """On a what-if copy only: count `copies` pods on a row."""
        self.requested[row] += vector * copies
        self.pods[row] += copies
        for port in ports:
            held = self.ports.setdefault(row, {})
            held[port] = held.get(port, 0) + copies


def view_of(table: NodeTable, residency: ResidencyTable) -> ClusterView:
    """The view of the cluster as it is now."""
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
    )

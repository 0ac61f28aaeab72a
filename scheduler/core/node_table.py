"""Nodes as columns: allocatable and requested as int64[row, resource], labels and taints as numbers.

Owns rows and what is taken on them. Does not know why a row is taken (core/assumed.py does) nor what is
cached there (core/residency_table.py). Invariants: a row belongs to one node name while the node is alive;
freed rows are reused; `requested` is the exact sum of what was taken and not given back; every change of
`requested`, `pods` or ports appends its row to the usage log, every other change raises `version`.

Columns 0, 1, 2 are cpu (millicores), memory and ephemeral-storage (bytes); scalars get the next ones.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kube.objects import Node, Taint
from scheduler.core import requests
from scheduler.core.pod_request import HostPort
from scheduler.core.requeue import NOTHING, ClusterChange

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
FIXED_RESOURCES = (requests.CPU, requests.MEMORY, requests.EPHEMERAL)
FIRST_CAPACITY = 64
# A pass that lags behind more than this is computed anew anyway.
MAX_LOG = 65_536


@dataclass(slots=True)
class LabelColumn:
    """One label key over all rows: `ids[row]` indexes `values`; -1 where the label is absent."""

    ids: NDArray[np.int32]
    values: list[str]
    _index: dict[str, int] = field(default_factory=dict)

    def number(self, value: str) -> int | None:
        """What `ids` hold for a value; None: no node ever had it."""
        return self._index.get(value)

    def set(self, row: int, value: str | None) -> None:
        """Put a row's value; None: the label is absent."""
        if value is None:
            self.ids[row] = -1
            return
        number = self._index.get(value)
        if number is None:
            number = self._index[value] = len(self.values)
            self.values.append(value)
        self.ids[row] = number


class NodeTable:
    """All nodes. One writer."""

    def __init__(self) -> None:
        self._capacity = FIRST_CAPACITY
        self.row_of: dict[str, int] = {}
        self.names: list[str] = []  # by row; a freed row keeps its last name until reused
        self._free: list[int] = []
        self.resources: dict[str, int] = {name: column for column, name in enumerate(FIXED_RESOURCES)}
        width = len(self.resources)
        self.alive: BoolArray = np.zeros(self._capacity, dtype=np.bool_)
        self.allocatable: IntArray = np.zeros((self._capacity, width), dtype=np.int64)
        self.requested: IntArray = np.zeros((self._capacity, width), dtype=np.int64)
        self.pods_allowed: IntArray = np.zeros(self._capacity, dtype=np.int64)
        self.pods: IntArray = np.zeros(self._capacity, dtype=np.int64)
        self.unschedulable: BoolArray = np.zeros(self._capacity, dtype=np.bool_)
        self.taint_ids: NDArray[np.int32] = np.zeros(self._capacity, dtype=np.int32)
        self.taint_sets: list[tuple[Taint, ...]] = [()]
        self._taint_index: dict[tuple[Taint, ...], int] = {(): 0}
        self.feature_ids: NDArray[np.int32] = np.zeros(self._capacity, dtype=np.int32)
        self.feature_sets: list[frozenset[str]] = [frozenset()]
        self._feature_index: dict[frozenset[str], int] = {frozenset(): 0}
        self.labels: list[Mapping[str, str]] = []
        self._columns: dict[str, LabelColumn] = {}
        self.ports: dict[int, dict[HostPort, int]] = {}  # row -> port -> pods holding it
        self._seen: dict[str, Node] = {}
        self.version = 0
        self.returns = 0  # how often room was given back
        self._log: list[int] = []
        self._log_start = 0
        self._vectors: dict[tuple[tuple[str, int], ...], IntArray] = {}
        self._numbers: dict[tuple[tuple[str, int], ...], list[int]] = {}
        self._largest: dict[int, int] = {}
        self._largest_version = -1

    # ---- nodes ------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Rows in use or once used; arrays are valid up to here."""
        return len(self.names)

    @property
    def count(self) -> int:
        """Nodes alive."""
        return len(self.row_of)

    def put(self, node: Node) -> tuple[int, ClusterChange]:
        """Add or update a node; returns its row and what changed (NOTHING for a mere heartbeat).

        Raises ValueError when its allocatable cannot be read; then nothing changed.
        """
        name = node.metadata.name
        amounts = requests.allocatable(node.status.allocatable)
        row = self.row_of.get(name)
        change = NOTHING
        if row is None:
            row = self._new_row(name)
            change = ClusterChange.NODE_ADDED
        else:
            change = _difference(self._seen[name], node)
        self._seen[name] = node
        if change:
            self._write(row, node, amounts)
            self.version += 1
        return row, change

    def remove(self, name: str) -> int | None:
        """Forget a node; returns the row it had. What was taken on it must be given back before."""
        row = self.row_of.pop(name, None)
        if row is None:
            return None
        del self._seen[name]
        self.alive[row] = False
        self.allocatable[row] = 0
        self.requested[row] = 0
        self.pods[row] = 0
        self.pods_allowed[row] = 0
        self.ports.pop(row, None)
        self._free.append(row)
        self.version += 1
        self._log_row(row)
        return row

    def column(self, key: str) -> LabelColumn:
        """The column of a label key; built on first use, kept current after."""
        column = self._columns.get(key)
        if column is None:
            column = LabelColumn(np.full(self._capacity, -1, dtype=np.int32), [])
            self._columns[key] = column
            for row, labels in enumerate(self.labels):
                column.set(row, labels.get(key))
        return column

    def is_offered(self, resource: str) -> bool:
        """Whether any node has some of the resource in its allocatable."""
        column = self.resources.get(resource)
        return column is not None and bool(self.allocatable[: self.size, column].any())

    # ---- usage ------------------------------------------------------------------------------

    def vector(self, asked: tuple[tuple[str, int], ...]) -> IntArray:
        """A pod's requests as a row of this table; resources nobody offered get a column."""
        vector = self._vectors.get(asked)
        if vector is None or len(vector) != len(self.resources):
            for resource, _ in asked:
                self._resource_column(resource)
            vector = np.zeros(len(self.resources), dtype=np.int64)
            for resource, amount in asked:
                vector[self.resources[resource]] = amount
            if len(self._vectors) > MAX_LOG:
                self._vectors.clear()
                self._numbers.clear()
            self._vectors[asked] = vector
        return vector

    def numbers(self, asked: tuple[tuple[str, int], ...]) -> list[int]:
        """`vector` in plain numbers."""
        vector = self.vector(asked)
        found = self._numbers.get(asked)
        if found is None or len(found) != len(vector):
            found = self._numbers[asked] = vector.tolist()
        return found

    def largest(self, column: int) -> int:
        """The most any node has of a resource; 0 without nodes."""
        if self._largest_version != self.version:
            self._largest, self._largest_version = {}, self.version
        found = self._largest.get(column)
        if found is None:
            found = self._largest[column] = int(self.allocatable[: self.size, column].max(initial=0))
        return found

    def take(self, row: int, asked: tuple[tuple[str, int], ...], ports: Iterable[HostPort] = ()) -> None:
        """Count one pod on a row."""
        vector = self.vector(asked)
        self.requested[row] += vector
        self.pods[row] += 1
        for port in ports:
            held = self.ports.setdefault(row, {})
            held[port] = held.get(port, 0) + 1
        self._log_row(row)

    def give_back(self, row: int, asked: tuple[tuple[str, int], ...], ports: Iterable[HostPort] = ()) -> None:
        """Stop counting one pod on a row."""
        vector = self.vector(asked)
        self.requested[row] -= vector
        self.pods[row] -= 1
        for port in ports:
            held = self.ports[row]
            held[port] -= 1
            if not held[port]:
                del held[port]
        self.returns += 1
        self._log_row(row)

    def note(self, row: int) -> None:
        """Note that something is known about pods on a row that was not before."""
        self._log_row(row)

    def touch(self, row: int) -> None:
        """Note that something else about a row's room changed: what is kept for somebody there, for one."""
        self.returns += 1
        self._log_row(row)

    def is_overcommitted(self, row: int) -> bool:
        """Whether more is taken on a row than it has (foreign binds can do that)."""
        return bool(self.pods[row] > self.pods_allowed[row] or np.any(self.requested[row] > self.allocatable[row]))

    # ---- the usage log ----------------------------------------------------------------------

    @property
    def log_position(self) -> int:
        """Position after the newest usage change."""
        return self._log_start + len(self._log)

    def rows_changed_since(self, position: int) -> list[int] | None:
        """Rows whose usage changed since, possibly repeated; None when the log no longer tells."""
        if position < self._log_start:
            return None
        return self._log[position - self._log_start :]

    def _log_row(self, row: int) -> None:
        self._log.append(row)
        if len(self._log) > MAX_LOG:
            dropped = MAX_LOG // 2
            del self._log[:dropped]
            self._log_start += dropped

    # ---- rows -------------------------------------------------------------------------------

    def _write(self, row: int, node: Node, amounts: Mapping[str, int]) -> None:
        for resource in amounts:
            if resource != requests.PODS:
                self._resource_column(resource)
        self.alive[row] = True
        self.allocatable[row] = 0
        for resource, amount in amounts.items():
            if resource != requests.PODS:
                self.allocatable[row, self.resources[resource]] = amount
        self.pods_allowed[row] = amounts.get(requests.PODS, 0)
        self.unschedulable[row] = node.spec.unschedulable
        self.taint_ids[row] = self._taint_id(tuple(node.spec.taints))
        self.feature_ids[row] = self._feature_id(frozenset(node.status.declared_features))
        self.labels[row] = node.metadata.labels
        for key, column in self._columns.items():
            column.set(row, node.metadata.labels.get(key))

    def _new_row(self, name: str) -> int:
        if self._free:
            row = self._free.pop()
            self.names[row] = name
        else:
            row = len(self.names)
            if row == self._capacity:
                self._grow_rows()
            self.names.append(name)
            self.labels.append({})
        self.row_of[name] = row
        return row

    def _grow_rows(self) -> None:
        extra = self._capacity
        self._capacity += extra
        self.alive = np.pad(self.alive, (0, extra))
        self.allocatable = np.pad(self.allocatable, ((0, extra), (0, 0)))
        self.requested = np.pad(self.requested, ((0, extra), (0, 0)))
        self.pods_allowed = np.pad(self.pods_allowed, (0, extra))
        self.pods = np.pad(self.pods, (0, extra))
        self.unschedulable = np.pad(self.unschedulable, (0, extra))
        self.taint_ids = np.pad(self.taint_ids, (0, extra))
        self.feature_ids = np.pad(self.feature_ids, (0, extra))
        for column in self._columns.values():
            column.ids = np.pad(column.ids, (0, extra), constant_values=-1)

    def _resource_column(self, resource: str) -> int:
        column = self.resources.get(resource)
        if column is None:
            column = self.resources[resource] = len(self.resources)
            self.allocatable = np.pad(self.allocatable, ((0, 0), (0, 1)))
            self.requested = np.pad(self.requested, ((0, 0), (0, 1)))
            self.version += 1
        return column

    def _taint_id(self, taints: tuple[Taint, ...]) -> int:
        number = self._taint_index.get(taints)
        if number is None:
            number = self._taint_index[taints] = len(self.taint_sets)
            self.taint_sets.append(taints)
        return number

    def _feature_id(self, features: frozenset[str]) -> int:
        number = self._feature_index.get(features)
        if number is None:
            number = self._feature_index[features] = len(self.feature_sets)
            self.feature_sets.append(features)
        return number


def _difference(old: Node, new: Node) -> ClusterChange:
    change = NOTHING
    if old.status.allocatable != new.status.allocatable:
        change |= ClusterChange.NODE_ALLOCATABLE
    if old.metadata.labels != new.metadata.labels:
        change |= ClusterChange.NODE_LABELS
    if old.spec.taints != new.spec.taints or old.spec.unschedulable != new.spec.unschedulable:
        change |= ClusterChange.NODE_TAINTS
    if set(old.status.declared_features) != set(new.status.declared_features):
        change |= ClusterChange.NODE_FEATURES
    return change

"""What pods of lower priority hold on each row: how much preemption could free there, as columns.

Owns these sums, made for a priority when first asked for and then brought up to date row by row from the node
table's usage log. So "where would removing all lower pods be enough" is one array operation over all nodes.
Invariant: a row's sums equal those over `Assigned.on_node` as of the log position.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scheduler.core.assumed import Assigned
from scheduler.core.node_table import IntArray, NodeTable

# Priorities kept; clusters have a handful of priority classes.
MAX_PRIORITIES = 16


@dataclass(slots=True)
class Below:
    """Sums over pods whose priority is lower. `requests` is int64[row, resource], `pods` int64[row]."""

    requests: IntArray
    pods: IntArray
    log_position: int


class LowerPriority:
    """See the module's docstring."""

    def __init__(self, table: NodeTable, assigned: Assigned) -> None:
        self._table = table
        self._assigned = assigned
        self._kept: OrderedDict[int, Below] = OrderedDict()

    def below(self, priority: int) -> Below:
        """Sums over pods with a lower priority. Valid until the next event; not to be written."""
        shape = (self._table.size, len(self._table.resources))
        found = self._kept.get(priority)
        changed: Iterable[int] | None = None
        if found is not None and found.requests.shape == shape:
            changed = self._table.rows_changed_since(found.log_position)
        if found is None or changed is None:
            found = Below(np.zeros(shape, dtype=np.int64), np.zeros(shape[0], dtype=np.int64), 0)
            changed = range(self._table.size)
        for row in set(changed):
            self._count(found, row, priority)
        found.log_position = self._table.log_position
        self._kept[priority] = found
        self._kept.move_to_end(priority)
        while len(self._kept) > MAX_PRIORITIES:
            self._kept.popitem(last=False)
        return found

    def _count(self, found: Below, row: int, priority: int) -> None:
        found.requests[row] = 0
        found.pods[row] = 0
        if self._table.row_of.get(self._table.names[row]) != row:
            return
        for pod in self._assigned.on_node(self._table.names[row]):
            if pod.priority < priority:
                found.requests[row] += self._table.vector(pod.requests)
                found.pods[row] += 1

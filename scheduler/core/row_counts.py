"""How many pods of one kind are on each row, and in each topology domain: the columns of the pod index.

Owns the counts and the sums by a label's values, kept while pods come and go. Does not know which pods are of
the kind (core/pod_index.py). Invariants: `rows[r]` is exact; a domain's sum is exact for the version of the
node table it was made for, and made anew when nodes changed.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.node_table import BoolArray, IntArray, NodeTable

CountArray = NDArray[np.int32]
# Sums kept for one kind of pod: topology keys, times node filters of the pods that ask.
MAX_DOMAINS = 32


@dataclass(slots=True)
class Domains:
    """Sums over the values of one node label. `counts[0]` stands for rows without the label and stays 0."""

    version: int
    slots: IntArray  # by row: where its value's sum is
    eligible: BoolArray  # by row: whether its pods are summed
    counts: IntArray
    values: IntArray  # slots of values that an eligible node has

    def by_row(self) -> IntArray:
        """For each row the sum of its domain; 0 without the label."""
        return self.counts[self.slots]

    @property
    def minimum(self) -> int:
        """The least sum of a domain with an eligible node; 0 when there is none."""
        return int(self.counts[self.values].min()) if len(self.values) else 0

    def copy(self) -> "Domains":
        """A copy whose sums can change."""
        return Domains(self.version, self.slots, self.eligible, self.counts.copy(), self.values)


class RowCounts:
    """Pods of one kind by row. One writer."""

    def __init__(self, table: NodeTable, rows: CountArray | None = None) -> None:
        self._table = table
        self._rows: CountArray = np.zeros(max(table.size, 1), dtype=np.int32) if rows is None else rows
        self._domains: dict[Hashable, Domains] = {}
        self.total = int(self._rows.sum())

    def change(self, row: int, by: int) -> None:
        """Count `by` more pods on a row."""
        if row >= len(self._rows):
            self._grow()
        self._rows[row] += by
        self.total += by
        version = self._table.version
        for domains in self._domains.values():
            if domains.version == version and domains.eligible[row]:
                domains.counts[domains.slots[row]] += by

    def rows(self) -> CountArray:
        """Pods on each row of the table."""
        if len(self._rows) < self._table.size:
            self._grow()
        return self._rows[: self._table.size]

    def domains(self, key: str, within: Hashable = None, eligible: Callable[[], BoolArray] | None = None) -> Domains:
        """Sums by the values of a node label, over the rows `eligible` gives (all nodes when None).

        `within` names that choice of rows: equal names must give equal rows as long as nodes do not change.
        """
        found = self._domains.get((key, within))
        if found is None or found.version != self._table.version:
            if len(self._domains) >= MAX_DOMAINS:
                self._domains.clear()
            found = self._domains[(key, within)] = self._sum(key, eligible)
        return found

    def copy(self) -> "RowCounts":
        """A copy that can change on its own."""
        made = RowCounts(self._table, self._rows.copy())
        made._domains = {key: domains.copy() for key, domains in self._domains.items()}
        return made

    def _sum(self, key: str, eligible: Callable[[], BoolArray] | None) -> Domains:
        table, size = self._table, self._table.size
        column = table.column(key)
        slots = column.ids[:size].astype(np.int64) + 1
        mask = table.alive[:size] & (slots > 0)
        if eligible is not None:
            mask &= eligible()
        width = len(column.values) + 1
        counts = np.bincount(slots[mask], weights=self.rows()[mask], minlength=width).astype(np.int64)
        is_value = np.bincount(slots[mask], minlength=width) > 0
        return Domains(table.version, slots, mask, counts, np.flatnonzero(is_value))

    def _grow(self) -> None:
        self._rows = np.pad(self._rows, (0, max(self._table.size, 1) - len(self._rows)))

"""The pod index of a what-if view: pods placed and removed there, the cluster's own index untouched.

Owns the differences. A count is copied the first time it is asked for after something changed, and kept
current from then on. Valid as long as the view is: until the next event is applied to the cluster.
"""

from dataclasses import dataclass, field

from scheduler.core.pod_index import Held, PodIndex
from scheduler.core.pod_terms import HeldTerm, PodIdentity, PodSet, PodTerms
from scheduler.core.row_counts import RowCounts


@dataclass(frozen=True, slots=True)
class _Change:
    row: int
    identity: PodIdentity
    is_leaving: bool
    by: int


@dataclass(slots=True)
class WhatIfIndex:
    """A PodIndex with changes on top; the same questions, and `add` and `remove`."""

    base: PodIndex
    _log: list[_Change] = field(default_factory=list)
    _sets: dict[PodSet, RowCounts] = field(default_factory=dict)
    _held: dict[HeldTerm, RowCounts] = field(default_factory=dict)

    def add(self, row: int, identity: PodIdentity, terms: PodTerms, *, is_leaving: bool = False) -> None:
        """Count a pod on a row."""
        self._change(_Change(row, identity, is_leaving, 1), terms)

    def remove(self, row: int, identity: PodIdentity, terms: PodTerms, *, is_leaving: bool = False) -> None:
        """Stop counting a pod that is on a row, there or here."""
        self._change(_Change(row, identity, is_leaving, -1), terms)

    def counted(self, pods: PodSet) -> RowCounts:
        """How many of these pods are on each row."""
        if not self._log:
            return self.base.counted(pods)
        found = self._sets.get(pods)
        if found is None:
            found = self._sets[pods] = self.base.counted(pods).copy()
            for change in self._log:
                self._apply(change, pods, found)
        return found

    def reaching(self, identity: PodIdentity) -> tuple[Held, ...]:
        """Held terms about such a pod."""
        found = self.base.reaching(identity)
        if not self._held:
            return found
        here = {term: self._held.get(term, counts) for term, counts in found}
        for term, counts in self._held.items():
            if term not in here and self.base.is_about(term, identity):
                here[term] = counts
        return tuple((term, counts) for term, counts in here.items() if counts.total)

    def selects(self, pods: PodSet, identity: PodIdentity) -> bool:
        """Whether a pod with this identity would be one of the set."""
        return self.base.selects(pods, identity)

    def is_about(self, held: HeldTerm, identity: PodIdentity) -> bool:
        """Whether a term, once an assigned pod holds it, is about a pod with this identity."""
        return self.base.is_about(held, identity)

    def copy(self) -> "WhatIfIndex":
        """A further what-if on top of this one."""
        return WhatIfIndex(
            self.base,
            list(self._log),
            {pods: counts.copy() for pods, counts in self._sets.items()},
            {term: counts.copy() for term, counts in self._held.items()},
        )

    def _change(self, change: _Change, terms: PodTerms) -> None:
        self._log.append(change)
        for pods, counts in self._sets.items():
            self._apply(change, pods, counts)
        for term in terms.held:
            held = self._held.get(term)
            if held is None:
                held = self._held[term] = self.base.copy_of_held(term)
            held.change(change.row, change.by)

    def _apply(self, change: _Change, pods: PodSet, counts: RowCounts) -> None:
        if (pods.counts_leaving or not change.is_leaving) and self.base.selects(pods, change.identity):
            counts.change(change.row, change.by)

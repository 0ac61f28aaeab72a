"""What to tell the metadata service: changed files since the last report, in order, fenced by the epoch.

Owns the set of changes and the sequence. Does not send. Rules: the sequence counts 1, 2, 3 … of one epoch, one
number a report sent; nobody knows whether a report that failed was taken, so the next one is full; a full report
restarts the picture, and a large one goes out in pieces (the first says full, the rest are deltas).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Batch:
    """Names of files to describe in one report."""

    sequence: int
    is_full: bool
    names: tuple[str, ...]


@dataclass(slots=True)
class ReportState:
    """Changes not yet sent. `batch_files_max` keeps a message below gRPC's limit."""

    batch_files_max: int = 2000
    _sequence: int = 0
    _dirty: dict[str, None] = field(default_factory=dict)
    _is_full_due: bool = True

    def changed(self, name: str) -> None:
        """Something about this file differs from what was reported."""
        self._dirty[name] = None

    @property
    def has_changes(self) -> bool:
        """Whether a report would say more than "alive"."""
        return self._is_full_due or bool(self._dirty)

    def need_full(self) -> None:
        """The service does not know what we hold."""
        self._is_full_due = True

    def next_batch(self, all_names: Iterable[str]) -> Batch:
        """Return what to send now, under a number of its own; later changes of its files count again."""
        is_full = self._is_full_due
        if is_full:
            self._dirty = dict.fromkeys((*all_names, *self._dirty))
        names = tuple(name for name, _ in zip(self._dirty, range(self.batch_files_max), strict=False))
        for name in names:
            del self._dirty[name]
        self._is_full_due = False
        self._sequence += 1
        return Batch(self._sequence, is_full, names)

    def failed(self, batch: Batch) -> None:
        """The report may or may not have been taken."""
        self._dirty = dict.fromkeys((*batch.names, *self._dirty))
        self._is_full_due = True

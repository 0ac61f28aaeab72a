"""The measured hit ratio of a dataset, beside the one that its cached part promises.

Owns arithmetic only. Admit-then-bypass serves from the cache what it holds, whatever the order of reads: an epoch's hit
ratio is the cached part c of the dataset. What is measured is the last pass: as many bytes as the dataset has, so that
it says how the last epoch went and not the first one, which filled the cache, nor what half of a sorted epoch met.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class PassReads:
    """Bytes handed to readers of a dataset, by where they came from, pass by pass."""

    _current: dict[str, int] = field(default_factory=dict)
    _last: dict[str, int] = field(default_factory=dict)

    def add(self, source: str, size_bytes: int, dataset_bytes: int) -> None:
        """So many bytes of a dataset of that size (0 = not known) were read."""
        self._current[source] = self._current.get(source, 0) + size_bytes
        if 0 < dataset_bytes <= sum(self._current.values()):
            self._last, self._current = self._current, {}

    @property
    def by_source(self) -> dict[str, int]:
        """Of the last whole pass; of the first one while there was none."""
        return self._last or self._current


def expected_hit_ratio(cached_bytes: int, dataset_bytes: int) -> float:
    """Return the part of an epoch's bytes that the cache has; of distinct bytes, copies apart."""
    return min(1.0, cached_bytes / dataset_bytes) if dataset_bytes else 0.0

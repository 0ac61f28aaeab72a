"""Bytes of every dataset at the homes of its blocks: what any node finds that does not have them itself.

Owns which share of a dataset has its home on which node, and what of that is there. Knows neither room nor readers.
Blocks are spread over the homes by hashing (cacheruntime/core/homes.py), which is no rack's business, so each home has
the same share, and any part of a dataset the same part of every home's. When a node goes its share moves to the others.
Invariants: the shares of the nodes that are up add up to 1, or to 0 when there are none; 0 <= held.
"""

from collections.abc import Sequence

import numpy as np

from simulations.engine.network import FloatArray


class Homes:
    """See the module's docstring. `held`: bytes by dataset and node; `total`: by dataset; `width`: by dataset, how many
    nodes' links serve it: the home with the largest share is busy first, also with what it fetches."""

    def __init__(self, sizes: Sequence[float], racks: Sequence[int], shares: Sequence[FloatArray]) -> None:
        """`shares`: by dataset, each node's share of the blocks while all are up; equal ones may be one array."""
        self._sizes = list(sizes)
        self._rack = np.array(racks, dtype=np.int64)
        self._racks = int(self._rack.max(initial=0)) + 1
        self._base = list(shares)
        self._is_up = np.ones(len(racks), dtype=np.bool_)
        self._shares: list[FloatArray] = []
        self.held: FloatArray = np.zeros((len(sizes), len(racks)))
        self.total = [0.0] * len(sizes)
        self.width: FloatArray = np.ones(len(sizes))
        self._in_rack: FloatArray = np.zeros((len(sizes), self._racks))
        # What `lacking` said, and what `missing` said last, until it changes.
        self._lacking: dict[int, float] = {}
        self._missing: tuple[int, FloatArray] | None = None
        self._spread()

    def _spread(self) -> None:
        made: dict[int, tuple[FloatArray, float]] = {}
        for base in self._base:
            if id(base) not in made:
                up = base * self._is_up
                shares = up / max(float(up.sum()), 1e-300)
                made[id(base)] = shares, 1.0 / max(float(shares.max(initial=0.0)), 1e-9)
        self._lacking.clear()
        self._missing = None
        self._shares = [made[id(base)][0] for base in self._base]
        self.width = np.array([made[id(base)][1] for base in self._base])

    def set_up(self, node: int, *, is_up: bool) -> None:
        """A node comes or goes; what it holds goes with it."""
        if bool(self._is_up[node]) != is_up:
            self._is_up[node] = is_up
            self._spread()

    def share(self, dataset: int, node: int) -> float:
        """Bytes whose home is a node."""
        return self._sizes[dataset] * float(self._shares[dataset][node])

    def part(self, dataset: int, node: int) -> float:
        """The same as a part of the dataset."""
        return float(self._shares[dataset][node])

    def parts(self, dataset: int) -> FloatArray:
        """The same by node; not to be changed."""
        return self._shares[dataset]

    def here(self, dataset: int, node: int) -> float:
        """Bytes of its own share that a node has."""
        return float(self.held[dataset, node])

    def in_rack(self, dataset: int, rack: int) -> float:
        """Bytes at homes in a rack."""
        return float(self._in_rack[dataset, rack])

    def in_racks(self, dataset: int) -> FloatArray:
        """The same by rack; not to be changed."""
        found: FloatArray = self._in_rack[dataset]
        return found

    def absent(self, dataset: int) -> float:
        """Bytes that are not at their homes."""
        return max(0.0, self._sizes[dataset] - self.total[dataset])

    def missing(self, dataset: int) -> FloatArray:
        """The same by node; not to be changed."""
        if self._missing is not None and self._missing[0] == dataset:
            return self._missing[1]
        lacking: FloatArray = np.maximum(self._sizes[dataset] * self._shares[dataset] - self.held[dataset], 0.0)
        self._missing = dataset, lacking
        return lacking

    def lacking(self, dataset: int) -> float:
        """All of `missing`: more than is absent where some homes have more than their share."""
        found = self._lacking.get(dataset)
        if found is None:
            found = self._lacking[dataset] = float(self.missing(dataset).sum())
        return found

    def _changed(self, dataset: int) -> None:
        self._lacking.pop(dataset, None)
        self._missing = None

    def keep(self, dataset: int, kept: FloatArray) -> None:
        """Bytes by node that are there now."""
        self._changed(dataset)
        self.held[dataset] += kept
        self.total[dataset] += float(kept.sum())
        self._in_rack[dataset] += np.bincount(self._rack, kept, self._racks)

    def keep_one(self, dataset: int, node: int, size_bytes: float) -> None:
        """The same of one node."""
        self._changed(dataset)
        self.held[dataset, node] += size_bytes
        self.total[dataset] += size_bytes
        self._in_rack[dataset, self._rack[node]] += size_bytes

    def lose(self, dataset: int, node: int, size_bytes: float) -> float:
        """Up to so many bytes of a node are gone, or all when next to nothing would be left; returns how many."""
        before = self.here(dataset, node)
        left = before - size_bytes
        if left <= 0.5:
            left = 0.0
        gone, rack = before - left, self._rack[node]
        self._changed(dataset)
        self.held[dataset, node] = left
        self.total[dataset] = max(0.0, self.total[dataset] - gone)
        self._in_rack[dataset, rack] = max(0.0, float(self._in_rack[dataset, rack]) - gone)
        return gone

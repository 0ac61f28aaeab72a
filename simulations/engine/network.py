"""Links and disks, and who gets how much of them: max-min fair shares.

Owns numbers of resources, their capacities and the arithmetic of sharing. Does not know jobs or caches. Resources
are columns of one capacity array, in bytes per second: each node's NIC, each rack's uplink, the origin, each node's
cache disk, and for each dataset the NICs of all nodes that serve it.

A stream consumes `x` bytes a second and uses `coefficient · x` of each resource it names. All streams grow together,
each by its own `growth`, until its cap or one of its resources is reached: what is equal at a bottleneck is the
remote bytes a second of each pod's slowest reader. Invariants: no resource carries more than its capacity; a stream
below its cap has a saturated resource.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Usage:
    """What one stream uses: resource numbers, and the share of its bytes that goes through each."""

    resources: IntArray
    coefficients: FloatArray


NOTHING = Usage(np.zeros(0, dtype=np.int64), np.zeros(0))


def usage(shares: dict[int, float]) -> Usage:
    """Usage from resource → share; shares of nothing are left out."""
    return _usage(sorted(shares.items()))


def _usage(shares: list[tuple[int, float]]) -> Usage:
    kept = [item for item in shares if item[1] > ROUNDING]
    if not kept:
        return NOTHING
    return Usage(np.array([item[0] for item in kept], dtype=np.int64), np.array([item[1] for item in kept]))


class Links:
    """Numbers and capacities of all resources of a cluster."""

    def __init__(self, nodes: int, racks: int, datasets: int) -> None:
        self.nodes, self.racks = nodes, racks
        self.origin = nodes + racks
        self._disks = self.origin + 1
        self._peers = self._disks + nodes
        self.capacity: FloatArray = np.full(self._peers + datasets, np.inf)

    def uplink(self, rack: int) -> int:
        """The uplink of a rack; a node's NIC is the node's own number."""
        return self.nodes + rack

    def disk(self, node: int) -> int:
        """The cache disk of a node."""
        return self._disks + node

    def peers(self, dataset: int) -> int:
        """All NICs that serve a dataset to peers, taken together."""
        return self._peers + dataset

    def usage(
        self,
        nics: dict[int, float],
        uplinks: dict[int, float],
        origin: float,
        disks: dict[int, float],
        peers: tuple[int, float],
    ) -> Usage:
        """`usage` of shares by kind: by node in their order, by rack, of the origin, and of a dataset's holders."""
        shares = list(nics.items())
        shares += [(self.nodes + rack, share) for rack, share in sorted(uplinks.items())]
        shares.append((self.origin, origin))
        shares += [(self._disks + node, share) for node, share in disks.items()]
        shares.append((self._peers + peers[0], peers[1]))
        return _usage(shares)


def fair_rates(capacity: FloatArray, uses: list[Usage], caps: FloatArray, growth: FloatArray) -> FloatArray:
    """Bytes a second of each stream; `caps` are what they would take, `growth` how fast they grow together."""
    rates = np.asarray(caps, dtype=np.float64).copy()
    if not uses:
        return rates
    owner = np.repeat(np.arange(len(uses)), [len(use.resources) for use in uses])
    resource = np.concatenate([use.resources for use in uses])
    share = np.concatenate([use.coefficients for use in uses])
    # A resource that one stream uses alone is only a lower cap: most NICs, so that few are left to iterate over.
    alone = np.bincount(resource, minlength=len(capacity))[resource] == 1
    limits = np.asarray(caps, dtype=np.float64).copy()
    np.minimum.at(limits, owner[alone], capacity[resource[alone]] / share[alone])
    owner, resource, share = owner[~alone], resource[~alone], share[~alone]
    if not len(owner):
        return limits
    names, resource = np.unique(resource, return_inverse=True)
    return _fill(capacity[names], (owner, resource, share), limits, growth)


def _fill(
    capacity: FloatArray, used: tuple[IntArray, IntArray, FloatArray], limits: FloatArray, growth: FloatArray
) -> FloatArray:
    owner, resource, share = used
    rates = np.zeros(len(limits))
    growing = np.ones(len(limits), dtype=np.bool_)
    level_at_cap = limits / growth
    taken = np.zeros(len(capacity))
    while growing.any():
        weight = share * np.where(growing, growth, 0.0)[owner]
        slope = np.bincount(resource, weight, len(capacity))
        with np.errstate(divide="ignore", invalid="ignore"):
            levels = np.where(slope > 0, np.maximum(capacity - taken, 0.0) / slope, np.inf)
        level = float(levels.min())
        done = growing & (level_at_cap <= level)
        if done.any():
            rates[done] = limits[done]
        else:
            # Nothing reaches its cap below this level: the tightest resource is full.
            full = levels <= level * (1 + ROUNDING)
            done = np.zeros(len(limits), dtype=np.bool_)
            done[owner[full[resource]]] = True
            done &= growing
            rates[done] = growth[done] * level
        growing &= ~done
        taken += np.bincount(resource, share * np.where(done, rates, 0.0)[owner], len(capacity))
    return rates

"""Addresses of a cluster with real nodes. Pure.

One block of eight /24 of 198.18.0.0/15 a cluster: addresses set aside for tests of networks (RFC 2544), which no
network routes. The first /24 is the nodes' and, at .1, the bridge's; each other one is the pods' of one node."""

from __future__ import annotations

from dataclasses import dataclass

#: One /24 of a block is the nodes' own.
MAX_REAL_NODES = 7
BLOCKS = 64
PREFIX_LENGTH = 24
_FIRST_NODE = 10
#: Names of network devices have at most 15 characters.
_BRIDGE_PREFIX = "hr-"


@dataclass(frozen=True, slots=True)
class Network:
    """The network of one cluster. `digest` (8 hexadecimal digits) tells clusters apart; two rarely share a block."""

    digest: str

    @property
    def bridge(self) -> str:
        """The name of the bridge the nodes are plugged into."""
        return f"{_BRIDGE_PREFIX}{self.digest}"

    @property
    def host(self) -> str:
        """The bridge's own address: where the control plane and our parts listen for the nodes."""
        return self._address(0, 1)

    def node(self, index: int) -> str:
        """The address of node `index` (0 to MAX_REAL_NODES - 1)."""
        return self._address(0, _FIRST_NODE + index)

    def pods(self, index: int) -> str:
        """The CIDR of the pods of node `index`."""
        return f"{self._address(1 + index, 0)}/{PREFIX_LENGTH}"

    @property
    def all_pods(self) -> str:
        """A CIDR that holds all pods of the cluster, and its nodes."""
        return f"{self._address(0, 0)}/21"

    def plug(self, index: int) -> str:
        """The name of the bridge's end of the cable to node `index`."""
        return f"{self.bridge}.{index}"

    def _address(self, third: int, last: int) -> str:
        number = (int(self.digest, 16) % BLOCKS) * 8 + third
        return f"198.{18 + number // 256}.{number % 256}.{last}"

"""The loopback addresses of this node's pods.

Owns the choice: each node has a /16 of 127.0.0.0/8, all of which Linux answers on `lo`.
Invariant: an address is not given out while a pod holds it, and a freed one is given out
again as late as possible, so that a late connection meets nobody rather than a stranger."""

from __future__ import annotations

from collections.abc import Collection

#: 127.0.0.0/16 to 127.15.0.0/16 stay free for the machine's own (127.0.0.53, 127.0.1.1, …).
FIRST_SECOND_OCTET = 16
MAX_NETWORK_INDEX = 255 - FIRST_SECOND_OCTET
#: .0.0 and .0.1 look like a network and a gateway.
FIRST_OFFSET = 2
LAST_OFFSET = 256 * 256 - 2


def network_of(index: int) -> str:
    """Return the first two octets of a node's network; ValueError outside 0..239."""
    if not 0 <= index <= MAX_NETWORK_INDEX:
        raise ValueError(f"network index {index} is not between 0 and {MAX_NETWORK_INDEX}")
    return f"127.{FIRST_SECOND_OCTET + index}"


def choose(index: int, *, taken: Collection[str], after: str) -> str:
    """Return the next free address after `after` ("" for none yet), going round.

    Raises ValueError when all are taken."""
    network = network_of(index)
    span = LAST_OFFSET - FIRST_OFFSET + 1
    start = _offset(after) + 1 - FIRST_OFFSET if after.startswith(network + ".") else 0
    for step in range(span):
        offset = FIRST_OFFSET + (start + step) % span
        address = f"{network}.{offset // 256}.{offset % 256}"
        if address not in taken:
            return address
    raise ValueError(f"all {span} addresses of {network}.0.0/16 are taken")


def _offset(address: str) -> int:
    third, fourth = address.split(".")[2:]
    return int(third) * 256 + int(fourth)

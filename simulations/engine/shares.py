"""Where the bytes are that a reader has not read yet: on its node, at homes near and far, or only at the origin.

Owns that arithmetic, of one node at one moment. Pure; knows no caches (engine/cache.py asks).
"""

from typing import NamedTuple


class Shares(NamedTuple):
    """Of the bytes a reader has not read in this epoch: where they are. They add up to 1 without `own`, which is the
    part of `origin` whose home is the reader's own node."""

    mem: float
    ssd: float
    near: float  # at homes in the same rack
    far: float  # at homes across racks
    origin: float
    own: float = 0.0

    @property
    def remote(self) -> float:
        """What is not on this node."""
        return self.near + self.far + self.origin


class Read(NamedTuple):
    """What a reader read in this epoch, in bytes; `passed`: of that what came from afar and is not kept; `found`: of
    what passed, what homes have."""

    size: float = 0.0
    passed: float = 0.0
    found: float = 0.0


NOTHING_YET = Read()
NO_COPIES = (0.0, 0.0, 0.0)
# What a node's shares of a dataset hang on: bytes at home here, its part of all homes, bytes at homes in its rack,
# whether home bytes are on its SSD, copies by tier, those that have a pair, and what its reader read.
Here = tuple[float, float, float, bool, float, float, float, Read]


def shares_at(size: float, total: float, here: Here) -> Shares:
    """Where the unread bytes of an epoch are. What was read and is kept is not missing any more, so all that is missing
    and did not pass is unread."""
    at_home, part, in_rack, on_ssd, in_mem, in_ssd, paired, read = here
    local = min(size, at_home + (in_mem + in_ssd))
    unread, absent = size - read.size, size - local
    missing = min(1.0, max(0.0, absent - read.passed) / unread) if unread > 0.5 else 0.0
    found_here = 1.0 - missing
    memory = in_mem if on_ssd else in_mem + at_home
    in_memory = found_here * min(1.0, memory / local) if local > 0 else 0.0
    if missing <= 0.0 or absent <= 0.0:
        return Shares(in_memory, found_here - in_memory, 0.0, 0.0, 0.0)
    # Of those of our own share nobody else has any; of all others, those at their homes that we have no copy of.
    own = min(absent, max(0.0, size * part - at_home))
    others = total - at_home
    found = min(absent - own, max(0.0, others - paired))
    ahead = max(absent - read.passed, found - read.found, 1e-9)
    on_peers = missing * min(1.0, max(0.0, found - read.found) / ahead)
    near = on_peers * near_part(others, in_rack - at_home)
    own = (missing - on_peers) * min(1.0, own / max(absent - found, own, 1e-9))
    return Shares(in_memory, found_here - in_memory, near, on_peers - near, missing - on_peers, own)


def near_part(others: float, in_rack: float) -> float:
    """Of bytes at other homes, of which some are in the rack: that part; 0.0 while they have nothing."""
    return min(1.0, max(0.0, in_rack) / others) if others > 0.5 else 0.0

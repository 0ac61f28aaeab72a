"""One worker's share of a load, and its progress.

Owns which blocks of a manifest are this node's to bring, and the counts. Does not fetch. Invariants: with
`replicas` r, the shares of all live eligible nodes hold every block exactly min(r, nodes) times; with named
nodes, each of them holds every block. An empty object counts as one file with nothing to fetch, at the home of
its block 0. A file is loaded when all its blocks of this share are resident and verified.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cacheruntime.core.blocks import Version, block_count, block_length
from cacheruntime.core.homes import homes_of

FAILED_FILES_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Share:
    """What this node brings of one file."""

    version: Version
    blocks: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Scope:
    """Who takes part: `nodes` are the live eligible ones, `whole_on` those that keep everything."""

    node: str
    nodes: tuple[str, ...]
    replicas: int = 1
    whole_on: frozenset[str] = frozenset()


def share_of(version: Version, block_size_bytes: int, scope: Scope) -> Share | None:
    """Return this node's blocks of one file, None when it has no part in it."""
    count = block_count(version.size_bytes, block_size_bytes)
    if scope.whole_on:
        if scope.node not in scope.whole_on:
            return None
        blocks = tuple(range(count))
    else:
        blocks = tuple(i for i in range(max(1, count)) if _is_home(version, i, scope))
        if not blocks:
            return None
        blocks = blocks if count else ()
    return Share(version, blocks, sum(block_length(i, version.size_bytes, block_size_bytes) for i in blocks))


def _is_home(version: Version, block: int, scope: Scope) -> bool:
    return scope.node in homes_of(version.uid, version.path, block, scope.nodes, scope.replicas)


def is_below(path: str, targets: Iterable[str]) -> bool:
    """Whether a path is one of the targets or below one; no targets or "" = everything."""
    wanted = [target.strip("/") for target in targets]
    return not wanted or any(t in ("", path) or path.startswith(t + "/") for t in wanted)


@dataclass(slots=True)
class Progress:
    """Counts of one load on one node."""

    bytes_total: int = 0
    bytes_loaded: int = 0
    files_total: int = 0
    files_loaded: int = 0
    origin_bytes: int = 0
    peer_bytes: int = 0
    failed_count: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    def plan(self, shares: Iterable[Share]) -> None:
        """Set the totals and forget what an earlier plan counted, except where bytes came from."""
        self.bytes_total = self.files_total = self.bytes_loaded = self.files_loaded = 0
        self.failed_count = 0
        self.failed.clear()
        for share in shares:
            self.bytes_total += share.size_bytes
            self.files_total += 1

    def fail(self, path: str, error: str) -> None:
        """One file could not be loaded."""
        self.failed_count += 1
        if len(self.failed) < FAILED_FILES_MAX:
            self.failed.append((path, error))

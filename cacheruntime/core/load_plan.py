"""One worker's share of a load, and its progress.

Owns which blocks of a manifest are this node's to bring, in which order, and the counts. Does not fetch.
Invariants: with `replicas` r, the shares of all live eligible nodes hold every block exactly min(r, nodes) times; with
named nodes, each of them holds every block. An empty object counts as one file with nothing to fetch, at the home of
its block 0. A file is loaded when all its blocks of this share are resident and verified. Copies go by a tree: who is
far from a block's home in its tree takes it from a copy, and brings it later, so that nobody has to send a block to
more than FAN_OUT others, however many keep it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cacheruntime.core.blocks import Version, block_count, block_length
from cacheruntime.core.homes import homes_of, rank
from cacheruntime.core.paths import is_at_or_below

FAILED_FILES_MAX: Final = 100
FAN_OUT: Final = 2


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


@dataclass(frozen=True, slots=True)
class Place:
    """Where this node is in a block's tree: 0 = at its root, the block's home."""

    depth: int = 0
    parent: str | None = None
    """Who is to be asked before the home; None = the home itself, or the under store."""


def place_of(version: Version, block: int, scope: Scope) -> Place:
    """Return this node's place among those that keep a block in a load."""
    if not scope.whole_on and scope.replicas <= 1:
        return Place()
    ranking = rank(version.uid, version.path, block, scope.nodes)
    if scope.whole_on:
        members = [*ranking[:1], *(node for node in ranking[1:] if node in scope.whole_on)]
    else:
        members = ranking[: scope.replicas]
    if scope.node not in members[1:]:
        return Place()
    depth, at = 0, members.index(scope.node)
    parent = (at - 1) // FAN_OUT
    while at:
        depth, at = depth + 1, (at - 1) // FAN_OUT
    return Place(depth, members[parent] if parent else None)


def stages(shares: Iterable[Share], block_size_bytes: int, scope: Scope) -> list[list[Share]]:
    """Return the shares cut by the depth of their blocks: what this node is home to first, and of copies those first
    that others take from it."""
    found: dict[int, list[Share]] = {}
    for share in shares:
        by_depth: dict[int, list[int]] = {} if share.blocks else {0: []}
        for block in share.blocks:
            by_depth.setdefault(place_of(share.version, block, scope).depth, []).append(block)
        for depth, blocks in by_depth.items():
            size_bytes = sum(block_length(i, share.version.size_bytes, block_size_bytes) for i in blocks)
            found.setdefault(depth, []).append(Share(share.version, tuple(blocks), size_bytes))
    return [found[depth] for depth in sorted(found)]


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
    return not wanted or any(is_at_or_below(path, top) for top in wanted)


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

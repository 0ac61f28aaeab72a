"""Homes of blocks: rendezvous hashing over the workers that may keep a dataset.

Owns the ranking every worker and client computes alone, so nobody has to be asked where a block lives. Does not
know who is alive: callers pass the eligible live nodes. Invariants: the ranking depends only on (dataset, path,
block, set of nodes); when a node leaves, only blocks it ranked first for move; when one joins, blocks move to it
only, 1/n of them in the mean.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MIX_A: Final = np.uint64(0xBF58476D1CE4E5B9)  # splitmix64's finalizer
_MIX_B: Final = np.uint64(0x94D049BB133111EB)


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=64)
def _seeds(nodes: tuple[str, ...]) -> NDArray[np.uint64]:
    return np.array([_hash64(node) for node in nodes], dtype=np.uint64)


def eligible(nodes: Iterable[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """Return the nodes that may keep a dataset's blocks, sorted; `allowed` empty = all."""
    wanted = set(allowed)
    return tuple(sorted(node for node in set(nodes) if not wanted or node in wanted))


def former_home(uid: str, path: str, block: int, before: tuple[str, ...], now: tuple[str, ...]) -> str | None:
    """Return the node that was a block's first home when those of `before` could keep it, if it is another one now."""
    if not before or before == now:
        return None
    first = rank(uid, path, block, before)[0]
    return None if now and rank(uid, path, block, now)[0] == first else first


def rank(uid: str, path: str, block: int, nodes: tuple[str, ...]) -> list[str]:
    """Return all nodes, best home first. Ties (never seen, but possible) go by name."""
    return list(_rank(uid, path, block, nodes) if len(nodes) > 1 else nodes)


@lru_cache(maxsize=1024)
def _rank(uid: str, path: str, block: int, nodes: tuple[str, ...]) -> list[str]:
    # Kept for a moment: on a block's way here it is asked for several times.
    mixed = _seeds(nodes) ^ np.uint64(_hash64(f"{uid}\0{path}\0{block}"))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_A
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_B
    mixed ^= mixed >> np.uint64(31)
    return [nodes[i] for i in np.argsort(~mixed, kind="stable")]


def homes_of(uid: str, path: str, block: int, nodes: tuple[str, ...], replicas: int) -> list[str]:
    """Return the first `replicas` (at least one) of the ranking."""
    return rank(uid, path, block, nodes)[: max(1, replicas)]

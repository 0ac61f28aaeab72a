"""Fences: nodes from which nothing at or below a path is changed, while pods that were given up may still run there.

Owns what a fence refuses, from when on, and when it ends. The job controller raises one before it deletes a pod by
force whose end nobody confirmed; who mounts for the pods of the node lifts it as they end there. Invariants: a fence
has pods; it is about changes only, reads go on; of two fences of one node and path there is one, with the pods of both.

A worker refuses a change before the under store sees it, by the record of the dataset it read last. So a fence stands
from the time on when no worker goes by an older record: until then what such a worker has done is accepted, instead of
being refused when it is too late.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

from metadata.core import paths
from metadata.errors import Forbidden, InvalidRequest

KEPT_NS: Final = 7 * 86_400 * 10**9
"""A node that does not come back in this time never will, and nobody would lift its fences."""


@dataclass(frozen=True, slots=True)
class Fence:
    """One node and one directory."""

    node: str
    path: str
    pods: tuple[str, ...]
    """Kubernetes UIDs, sorted."""
    raised_at_ns: int = 0
    """When it was raised last."""
    stands_at_ns: int = 0
    """From when on changes are refused here."""


def check(fence: Fence) -> Fence:
    """Return a fence somebody asks for, or raise InvalidRequest naming the field."""
    if not fence.node:
        raise InvalidRequest("fences.node is empty; it must be the name of a node.")
    if not fence.pods or not all(fence.pods):
        raise InvalidRequest(f"fences.pods is {list(fence.pods)}; it must name the pods that may still run.")
    paths.checked("fences.path", fence.path, may_be_root=True)
    return fence


def raised(
    fences: Iterable[Fence], new: Iterable[Fence], now_ns: int, *, settle_seconds: float = 0.0
) -> tuple[Fence, ...]:
    """Return the fences after these were raised, without those nobody will ever lift. No worker goes by a record that
    is older than `settle_seconds`."""
    found = {(one.node, one.path): one for one in fences if now_ns - one.raised_at_ns < KEPT_NS}
    for fence in new:
        known = found.get((fence.node, fence.path))
        pods = {*fence.pods, *(known.pods if known is not None else ())}
        stands_at_ns = known.stands_at_ns if known is not None else now_ns + int(settle_seconds * 1e9)
        found[fence.node, fence.path] = Fence(fence.node, fence.path, tuple(sorted(pods)), now_ns, stands_at_ns)
    return tuple(found.values())


def lifted(fences: Iterable[Fence], node: str, pods: Collection[str]) -> tuple[Fence, ...]:
    """Return the fences after these pods ended on that node."""
    left = (
        replace(one, pods=tuple(pod for pod in one.pods if pod not in pods)) if one.node == node else one
        for one in fences
    )
    return tuple(one for one in left if one.pods)


def require_none(fences: Iterable[Fence], node: str, path: str, now_ns: int) -> None:
    """Raise Forbidden when the path is not to be changed from the node."""
    for fence in fences:
        if fence.node == node and now_ns >= fence.stands_at_ns and paths.is_at_or_below(path, fence.path):
            raise Forbidden(
                f"{path!r} is not changed from node {node}: {len(fence.pods)} pods of an earlier attempt that was given"
                " up may still run there."
            )

"""Left objects: what a rename leaves under a file's old name in an under store that has no rename.

Owns who has to take them away. The namespace switches before the old object is deleted, so that a worker that dies in
between loses nothing; and it is said with the switch that the object is left, so that no listing brings the old name
back, and somebody takes the object away. Pure.

    shown under the new name --ForgetLeft, no listing under way--> forgotten
              |                '--ForgetLeft, a listing may have seen it--> gone --the listing's end--> forgotten
              '--a file is written under the old name--> forgotten: the object is another one

Invariant: of an object that is left no listing makes an entry, whenever it looked.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from metadata.core.held import Standing


@dataclass(frozen=True, slots=True)
class LeftObject:
    """An object no name leads to."""

    path: str
    etag: str
    """An object with another one is somebody else's, and stays."""
    node: str
    """Whose worker takes it away, while it lives."""
    version: int
    """The snapshot version of the rename: a name can be left again and again, by one version of a file too."""
    is_gone: bool = False
    """It was taken away, but a listing that is under way may have seen it before."""


def to_take_away(left: Iterable[LeftObject], node: str, standing: Standing) -> list[LeftObject]:
    """Return those that the worker of a node has to look after: its own, and those of workers that have ended."""

    def is_its_own(one: LeftObject) -> bool:
        _, is_alive = standing.workers.get(one.node, (0, False))
        return one.node == node or (not is_alive and standing.is_settled)

    return [one for one in left if not one.is_gone and is_its_own(one)]


def gone(one: LeftObject, *, is_listing: bool) -> LeftObject | None:
    """Return what is known of an object that was taken away; None = nothing any more."""
    return replace(one, is_gone=True) if is_listing else None

"""What to do at a target, from what is mounted there and what should be.

Owns the rules against stacked mounts: nothing is mounted over a living mount, nothing over a foreign one, and a
dead one is replaced, not covered again and again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from fuse.core.mount_table import Mount
from fuse.csi.core.owners import NOBODY_ELSE, Owner
from fuse.csi.core.volumes import shown
from fuse.csi.errors import BadRequest, Conflict, NotPossible

STACK_MAX: Final = 64
"""Mounts at one point that are taken away one by one; more is somebody's accident, and is said."""


class Step(Enum):
    """What publishing has to do at a target."""

    NOTHING = "nothing"
    MOUNT = "mount"
    REPLACE = "replace"
    """A daemon died under it, or its directory was made again: the new mount must come where pods that run now will see
    it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The mount a target should have: which file system, which directory of it, how, and whose files it shows."""

    device: str
    root: str
    read_only: bool
    owner: Owner = NOBODY_ELSE


def at_publish(target: str, stack: Sequence[Mount], wanted: Wanted) -> Step:
    """Return what to do at a target with these mounts, the top one last. Conflict when it is published in another
    way, NotPossible when it is not ours."""
    if not stack:
        return Step.MOUNT
    top = stack[-1]
    if not top.is_ours:
        raise NotPossible(
            f"target_path {shown(target)} already has a mount of type {shown(top.fs_type)}, which is not ours; it must "
            "be unmounted first"
        )
    # Also of a dead one: its pod was given this and nothing else.
    if top.directory != wanted.root or top.read_only != wanted.read_only:
        have, want = described(top.directory, top.read_only), described(wanted.root, wanted.read_only)
        raise Conflict(
            f"target_path {shown(target)} is published as {have}, and {want} is asked for; unpublish it first"
        )
    return Step.REPLACE if top.device != wanted.device or top.is_gone else Step.NOTHING


def check_outside(target: str, around: Sequence[Mount]) -> None:
    """BadRequest when a target is inside one of these mounts that is ours: making and removing it would change the
    dataset, and wait for its daemon."""
    for mount in around:
        if mount.is_ours:
            raise BadRequest(
                f"target_path {shown(target)} is inside the dataset mounted at {shown(mount.point)}; it must be in no "
                "volume"
            )


def at_unpublish(target: str, stack: Sequence[Mount]) -> int:
    """Return how many mounts are to be taken away at a target. NotPossible when one is not ours, or when there are
    more than a few."""
    for mount in stack:
        if not mount.is_ours:
            raise NotPossible(
                f"target_path {shown(target)} has a mount of type {shown(mount.fs_type)}, which is not ours and stays"
            )
    if len(stack) > STACK_MAX:
        raise NotPossible(
            f"target_path {shown(target)} has {len(stack)} mounts, at most {STACK_MAX} are taken away; unmount them by "
            "hand and look for who makes them"
        )
    return len(stack)


def described(root: str, read_only: bool) -> str:
    """Return how a directory is published, as an error shows it."""
    return f"{shown(root)} ({'read-only' if read_only else 'for writing'})"

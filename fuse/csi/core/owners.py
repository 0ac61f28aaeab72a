"""Who the files at a target belong to: user and group, from a volume's attributes and the pod's fsGroup.

Owns their grammar and the mapping of ids. Without any, files are user 0's and group 0's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from api import names
from fuse.csi.core.volumes import shown
from fuse.csi.errors import BadRequest

ID_MAX: Final = (1 << 32) - 2
"""The last one is nobody's: it stands for "no such id" in system calls."""
_ID = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Owner:
    """User and group as the mount shows them."""

    uid: int = 0
    gid: int = 0


NOBODY_ELSE: Final = Owner()


def owner_of(context: Mapping[str, str], mount_group: str) -> Owner:
    """Return who files belong to by a volume's attributes and the pod's fsGroup ("" = none), which goes before the
    attribute: containers of the pod are in that group. BadRequest names the field."""
    uid = _id(names.CSI_ATTRIBUTE_UID, context.get(names.CSI_ATTRIBUTE_UID, ""))
    gid = _id(names.CSI_ATTRIBUTE_GID, context.get(names.CSI_ATTRIBUTE_GID, ""))
    group = _id("volume_mount_group", mount_group)
    return Owner(uid or 0, group if group is not None else gid or 0)


def _id(field: str, text: str) -> int | None:
    if not text:
        return None
    if _ID.fullmatch(text) is None or int(text) > ID_MAX:
        raise BadRequest(f"{field} {shown(text)} is no user or group; it must be a number from 0 to {ID_MAX}")
    return int(text)


def id_map(shown_id: int) -> str:
    """Return the map, as /proc/PID/uid_map takes it, in which 0 and `shown_id` change places and all others stay."""
    if shown_id == 0:
        return f"0 0 {ID_MAX + 1}\n"
    parts = [(0, shown_id, 1), (1, 1, shown_id - 1), (shown_id, 0, 1), (shown_id + 1, shown_id + 1, ID_MAX - shown_id)]
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in parts if count)

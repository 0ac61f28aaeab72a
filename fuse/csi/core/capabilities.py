"""Access modes and access types: what is mountable at all, and whether for reading only.

Owns the rules. Does not know protobuf: shell/edge.py translates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from fuse.csi.core.volumes import VolumeRequest
from fuse.csi.errors import BadRequest, NotPossible


class AccessMode(Enum):
    """CSI's access modes by their numbers on the wire."""

    UNKNOWN = 0
    SINGLE_NODE_WRITER = 1
    SINGLE_NODE_READER_ONLY = 2
    MULTI_NODE_READER_ONLY = 3
    MULTI_NODE_SINGLE_WRITER = 4
    MULTI_NODE_MULTI_WRITER = 5
    SINGLE_NODE_SINGLE_WRITER = 6
    SINGLE_NODE_MULTI_WRITER = 7


READER_MODES: Final = frozenset({AccessMode.SINGLE_NODE_READER_ONLY, AccessMode.MULTI_NODE_READER_ONLY})
WRITER_MODES: Final = frozenset(
    {AccessMode.SINGLE_NODE_WRITER, AccessMode.MULTI_NODE_SINGLE_WRITER, AccessMode.MULTI_NODE_MULTI_WRITER}
)
"""The two modes of ReadWriteOncePod are capabilities of their own, which this driver does not claim."""


@dataclass(frozen=True, slots=True)
class Capability:
    """One volume capability of a request. `fs_type` is "" when the caller leaves it to us, `mount_group` the pod's
    fsGroup or ""."""

    is_block: bool
    is_mount: bool
    mode: AccessMode
    fs_type: str = ""
    mount_flags: Sequence[str] = ()
    mount_group: str = ""


FS_TYPES: Final = frozenset({"", "fuse", "fuse.headrace"})


def objection(capability: Capability) -> str | None:
    """Return why nothing can be mounted like this, in one sentence; None when it can."""
    if capability.is_block or not capability.is_mount:
        return "volume_capability is not of type mount, and a dataset is no block device; use volumeMode: Filesystem"
    if capability.mode not in READER_MODES | WRITER_MODES:
        offered = ", ".join(sorted(mode.name for mode in READER_MODES | WRITER_MODES))
        return f"volume_capability.access_mode {capability.mode.name} is not offered; it must be one of {offered}"
    if capability.fs_type not in FS_TYPES:
        return f"fsType {capability.fs_type!r} cannot be had, a dataset is a FUSE file system; leave it out"
    flags = [flag for flag in capability.mount_flags if flag not in {"ro", "rw"}]
    if flags:
        return f"mount option {flags[0]!r} is not taken; only ro and rw are"
    return None


def check(capability: Capability | None) -> Capability:
    """Return a capability that can be mounted; BadRequest."""
    if capability is None:
        raise BadRequest("volume_capability is missing; it must name an access mode and the type mount")
    problem = objection(capability)
    if problem is not None:
        raise BadRequest(problem)
    return capability


def is_read_only(volume: VolumeRequest, capability: Capability, *, readonly: bool, writable: bool) -> bool:
    """Return whether a target is mounted read-only. NotPossible when writing is asked for and the dataset is not
    written to: that shows at the mount, not at the end of the first epoch."""
    if readonly or capability.mode in READER_MODES or "ro" in capability.mount_flags:
        return True
    if writable:
        return False
    if volume.is_inline:
        return True  # kubelet says SINGLE_NODE_WRITER of every inline volume, whatever the pod does with it
    raise NotPossible(
        f"access mode {capability.mode.name} is for writing and dataset {volume.dataset} is read-only; use "
        "ReadOnlyMany, or add ReadWriteMany to the Dataset's accessModes"
    )

"""Paths that callers name: target, staging and volume paths.

Owns the lexical rule: absolute, plain, and below the one folder that kubelet keeps pods' volumes in. That no part of
it is a symbolic link is for the kernel to say (shell/kernel.py opens it so).
"""

from typing import Final

from fuse.csi.core.volumes import shown
from fuse.csi.errors import BadRequest

PATH_CHARACTERS_MAX: Final = 4000
"""The kernel ends at 4096 bytes."""


def pod_of(root: str, path: str) -> str:
    """Return the uid of the pod whose volume is at a path below `root`, kubelet's folder; "" = it is no pod's."""
    parts = path.removeprefix(root.rstrip("/") + "/").split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "pods" else ""


def below(root: str, path: str, field: str) -> str:
    """Return `path` relative to `root`, which is absolute; BadRequest naming `field`."""
    if not path:
        raise BadRequest(f"{field} is empty; it must be an absolute path below {root}")
    base = root.rstrip("/") + "/"
    relative = path.removeprefix(base)
    parts = relative.split("/")
    if (
        not path.startswith(base)
        or len(path) > PATH_CHARACTERS_MAX
        or any(part in {"", ".", ".."} for part in parts)
        or any(ord(character) < 0x20 or ord(character) == 0x7F for character in path)
    ):
        raise BadRequest(f"{field} {shown(path)} is not taken; it must be a plain path below {root}, without . and ..")
    return relative

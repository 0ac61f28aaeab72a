"""What a backend is: it mounts, serves the core's operations, tells the kernel what to forget, and lets go.

Owns the protocol only. New backend = one file here and one line in `node/daemon.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fuse.core.operations import Invalidation


class Backend(Protocol):
    """One mounted file system."""

    name: str

    def mount(self) -> None:
        """Mount; raises MountError with the reason."""
        ...

    async def serve(self) -> None:
        """Answer the kernel until `stop` or an unmount from outside."""
        ...

    def invalidate(self, entries: Sequence[Invalidation]) -> None:
        """Make the kernel ask again for these names. Blocks: call it in a thread."""
        ...

    def stop(self) -> None:
        """Make `serve` return."""
        ...

    def close(self) -> None:
        """Let go of the session once `serve` has returned; whoever still has files open gets ENOTCONN."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """A connection to the kernel that an earlier daemon, or the keeper, made."""

    device: int
    """Descriptor of /dev/fuse."""
    minor: int
    """Minor version of the protocol the kernel offered."""
    is_first: bool = True
    """Nobody served it before."""
    answers: dict[int, bytes] = field(default_factory=dict)
    """Answers that may not have reached the kernel, by unique."""
    next_backing_id: int = 1
    refused: frozenset[int] = frozenset()
    """Requests, by unique, that one daemon after the other crashed with; they are answered with an error."""


class MountError(Exception):
    """The mount could not be made; the message says why and what to do."""

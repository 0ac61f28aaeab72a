"""What a backend is: it mounts, serves the core's operations, tells the kernel what to forget, and lets go.

Owns the protocol only. New backend = one file here and one line in `node/daemon.py`.
"""

from collections.abc import Sequence
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


class MountError(Exception):
    """The mount could not be made; the message says why and what to do."""

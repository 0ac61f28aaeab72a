"""Requests an earlier daemon was given and did not answer: it may have carried them out.

Owns the question which refusal of the second try is explained by the success of the first. Requests whose answer was
written down are answered with it and never come here.
"""

from fuse.core.attrs import Attributes
from fuse.core.names import decode_name
from fuse.core.operations import Operations
from fuse.errors import AlreadyExists, NotFound


class Resent:
    """The operations that give something else the second time."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._state = operations.state

    async def mkdir(self, parent_inode: int, raw_name: bytes, mode: int) -> Attributes:
        """Make a directory that may be there already. A file of that name is AlreadyExists, as ever."""
        try:
            return await self._operations.moves.mkdir(parent_inode, raw_name, mode)
        except AlreadyExists:
            node = await self._operations.names.find(self._state.inodes.get(parent_inode), decode_name(raw_name))
            if not node.is_directory:
                raise
            self._state.inodes.told(node)
            return self._state.attributes(node)

    async def unlink(self, parent_inode: int, raw_name: bytes) -> None:
        """Remove a file that may be gone already."""
        try:
            await self._operations.moves.unlink(parent_inode, raw_name)
        except NotFound:
            await self._forget_name(parent_inode, raw_name)

    async def rmdir(self, parent_inode: int, raw_name: bytes) -> None:
        """Remove a directory that may be gone already."""
        try:
            await self._operations.moves.rmdir(parent_inode, raw_name)
        except NotFound:
            await self._forget_name(parent_inode, raw_name)

    async def _forget_name(self, parent_inode: int, raw_name: bytes) -> None:
        known = self._state.inodes.get(parent_inode).children.get(decode_name(raw_name))
        if known is not None:
            await self._operations.moves.removed_before(known)

    async def rename(
        self, parent_inode: int, raw_name: bytes, new_parent_inode: int, raw_new_name: bytes, flags: int
    ) -> None:
        """Rename what may have its new name already: the old one is gone, and the new one is there."""
        moves = self._operations.moves
        try:
            await moves.rename(parent_inode, raw_name, new_parent_inode, raw_new_name, flags)
        except NotFound:
            await moves.renamed_before(parent_inode, raw_name, new_parent_inode, raw_new_name)
        except AlreadyExists:
            # A file that is being written is known by its old name, and then the new one seems to be another's.
            if not await moves.is_elsewhere(parent_inode, raw_name):
                raise
            await moves.renamed_before(parent_inode, raw_name, new_parent_inode, raw_new_name)

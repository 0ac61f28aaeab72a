"""The file system over pyfuse3: inode numbers and structs in, structs and errnos out.

Owns the translation and pyfuse3's session. What an operation means is in core/operations.py.

Threads: everything runs in the event loop's thread, except `invalidate`, which blocks until the kernel is done
with the directory and therefore must not run there.
pyfuse3 keeps its session in module globals: one mount a process.
"""

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyfuse3
import structlog

from fuse.backends import pyfuse3_loop
from fuse.backends.base import MountError
from fuse.backends.guard import Failures, guard
from fuse.core.attrs import PREFERRED_READ_BYTES, Attributes, totals_of
from fuse.core.contracts import Bytes
from fuse.core.names import NAME_BYTES_MAX
from fuse.core.operations import Invalidation, Operations
from fuse.errors import InvalidRequest, Unsupported
from fuse.metrics import Metrics

log = structlog.get_logger()

FILE_SYSTEM_NAME: Final = "headrace"
TASKS_MAX: Final = 1024
"""Requests in work at once. Reads that wait for the worker must not keep lookups out."""

HANDLERS: Final = (
    "lookup", "forget", "getattr", "setattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink",
    "rename", "link", "open", "read", "write", "flush", "release", "fsync", "opendir", "readdir",
    "releasedir", "fsyncdir", "statfs", "setxattr", "getxattr", "listxattr", "removexattr", "access",
    "create",
)  # fmt: skip
"""Every handler that pyfuse3 calls and awaits; all of them are wrapped by guard.py."""


class Handlers(pyfuse3.Operations):
    """pyfuse3's callbacks."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, operations: Operations, metrics: Metrics) -> None:
        super().__init__()
        self._operations = operations
        self._metrics = metrics
        self._failures = Failures(metrics)
        for name in HANDLERS:
            # forget has no answer: pyfuse3 awaits it outside of any try.
            error = pyfuse3.FUSEError if name != "forget" else None
            setattr(self, name, guard(getattr(self, name), name, self._failures, error))

    def _entry(self, attributes: Attributes) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(attributes.inode)
        entry.entry_timeout = entry.attr_timeout = attributes.timeout_seconds
        if not attributes.inode:
            return entry
        entry.st_mode = pyfuse3.ModeT(attributes.mode)
        entry.st_nlink = attributes.links
        entry.st_uid, entry.st_gid = self._operations.state.owner
        entry.st_size = attributes.size_bytes
        entry.st_blksize = PREFERRED_READ_BYTES
        entry.st_blocks = attributes.sectors
        entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = attributes.mtime_ns
        return entry

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(await self._operations.names.lookup(parent_inode, name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, lookups in inode_list:
            self._operations.names.forget(inode, lookups)
        self._metrics.inodes = len(self._operations.state.inodes)

    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(await self._operations.names.getattr(inode))

    async def setattr(
        self, inode: int, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        attributes = await self._operations.changes.setattr(
            inode,
            size_bytes=attr.st_size if fields.update_size else None,
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            owner=(attr.st_uid if fields.update_uid else None, attr.st_gid if fields.update_gid else None),
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return self._entry(attributes)

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        raise InvalidRequest("there are no symbolic links")

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        raise self._operations.moves.refuse("special files")

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> Any:
        raise self._operations.moves.refuse("symbolic links")

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> Any:
        raise self._operations.moves.refuse("hard links")

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(await self._operations.moves.mkdir(parent_inode, name, mode))

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self._operations.moves.unlink(parent_inode, name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self._operations.moves.rmdir(parent_inode, name)

    async def rename(  # noqa: PLR0917 - pyfuse3's signature
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int, ctx: Any
    ) -> None:
        await self._operations.moves.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        number, keeps_cache = await self._operations.open(inode, flags, writes=writes)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(number), keep_cache=keeps_cache)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        number, keeps_cache, attributes = await self._operations.changes.create(parent_inode, name, mode, flags)
        info = pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(number), keep_cache=keeps_cache)
        return info, self._entry(attributes)

    async def read(self, fh: int, off: int, size: int) -> Bytes:  # type: ignore[override] # any buffer will do
        data = await self._operations.reads.read(fh, off, size)
        self._metrics.read_bytes += len(data)
        return data

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        written = await self._operations.changes.write(fh, off, buf)
        self._metrics.written_bytes += written
        return written

    async def flush(self, fh: int) -> None:
        await self._operations.changes.flush(fh)

    async def release(self, fh: int) -> None:
        await self._operations.changes.release(fh)

    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._operations.changes.fsync(fh)

    async def opendir(self, inode: int, ctx: Any) -> int:
        return await self._operations.names.open_directory(inode)

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        names, inodes = self._operations.names, self._operations.state.inodes
        attributes_of = self._operations.state.attributes
        position = start_id
        while True:
            directory, entries = await names.directory_page(fh, position)
            if position >= len(entries):
                return
            while position < len(entries):
                name, entry = entries[position]
                node = names.child(directory, name, entry)
                position += 1
                attributes = self._entry(attributes_of(node))
                if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name.encode()), attributes, position):
                    inodes.drop_if_unused(node)
                    return
                inodes.told(node)

    async def releasedir(self, fh: int) -> None:
        self._operations.names.release_directory(fh)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Changes of names are durable when their call returns: nothing is left to do."""

    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        totals = totals_of(*self._operations.reads.statfs())
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = totals.block_bytes
        data.f_bfree = data.f_bavail = totals.free_blocks
        data.f_blocks = totals.blocks
        data.f_ffree = data.f_favail = totals.free_files
        data.f_files = totals.files
        data.f_namemax = NAME_BYTES_MAX
        return data

    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        return self._operations.reads.may_access(inode, mode)

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        return await self._operations.reads.attribute(inode, name)

    async def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        return self._operations.reads.attribute_names(inode)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        raise Unsupported("the store holds no extended attributes")

    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        raise Unsupported("the store holds no extended attributes")


class Pyfuse3Backend:
    """One pyfuse3 session."""

    name = "pyfuse3"

    def __init__(self, operations: Operations, metrics: Metrics, mount_point: Path, *, allow_other: bool) -> None:
        self._handlers = Handlers(operations, metrics)
        self._mount_point = mount_point
        self._allow_other = allow_other
        self._is_mounted = False

    def mount(self) -> None:
        """Mount; MountError."""
        pyfuse3_loop.enable()
        options = {"default_permissions", f"fsname={FILE_SYSTEM_NAME}", f"subtype={FILE_SYSTEM_NAME}"}
        if self._allow_other:
            options.add("allow_other")
        try:
            pyfuse3.init(self._handlers, str(self._mount_point), options)
        except RuntimeError as error:
            hint = " (allow_other needs root, or user_allow_other in /etc/fuse.conf)" if self._allow_other else ""
            raise MountError(f"cannot mount at {self._mount_point}: {error}{hint}") from error
        self._is_mounted = True

    async def serve(self) -> None:
        """Answer the kernel until `stop` or an unmount from outside."""
        await pyfuse3.main(max_tasks=TASKS_MAX)

    def invalidate(self, entries: Sequence[Invalidation]) -> None:
        """Make the kernel ask again for these names. Blocks."""
        for parent, name in entries:
            if not self._is_mounted:
                return
            try:
                pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name))
            except FileNotFoundError:
                continue  # the kernel had dropped it already
            except OSError as error:
                log.warning("invalidate_failed", error=error.strerror)
                return

    def stop(self) -> None:
        """Make `serve` return."""
        if self._is_mounted:
            asyncio.get_running_loop().call_soon(pyfuse3.terminate)

    def close(self) -> None:
        """Let go of the session once `serve` has returned. The name is unmounted by node/mounts.py, lazily,
        which libfuse cannot."""
        if self._is_mounted:
            self._is_mounted = False
            pyfuse3.close(unmount=False)

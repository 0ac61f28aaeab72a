"""Removes whole directories for the control plane, as a checkpoint that is kept no longer.

Owns the order of the removals and how much of them one call does; one removal is the writes' business. Decides nothing
about what is to go. Invariants: the name that makes the tree whole goes before everything else, so that a tree that is
half gone never looks complete; a call that is repeated, or cut off anywhere, leaves what the next one can finish.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from api.gen import metadata_pb2 as pb
from cacheruntime.errors import BadRequest, Missing
from cacheruntime.worker.datasets import check_path

CALL_FILES: Final = 256
"""Files one call removes at most: about a second on an object store."""
IN_FLIGHT: Final = 16
PAGE_ENTRIES: Final = 500


class Directories(Protocol):
    """What is asked of the metadata client."""

    async def read_page(self, uid: str, path: str, *, after: str, limit: int) -> pb.ReadDirectoryResponse:
        """Return the entries of a directory behind the name `after`; Missing."""
        ...


class Removals(Protocol):
    """What is asked of the writes."""

    async def remove(self, uid: str, path: str, *, directory: bool) -> int:
        """Remove a file or an empty directory, durably; Missing."""
        ...


@dataclass(frozen=True, slots=True)
class Removed:
    """What one call did; `is_done` = nothing of the tree is left."""

    files: int
    is_done: bool


@dataclass(slots=True)
class _Found:
    """Part of a tree: files up to a limit, and, if it was not reached, every directory, a parent after its children."""

    files: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)


class Trees:
    """Stateless; one instance serves all calls."""

    def __init__(self, metadata: Directories, writes: Removals, *, call_files: int = CALL_FILES) -> None:
        self._metadata = metadata
        self._writes = writes
        self._call_files = call_files

    async def remove(self, uid: str, path: str, *, first: str) -> Removed:
        """Remove a share of the tree, `first` (a name in it; "" = none) before everything else. CacheError."""
        if not path:
            raise BadRequest("path is empty; name the directory that is to go, never the dataset's root")
        check_path(path)
        removed = 0
        if first:
            check_path(first)
            removed += await self._remove(uid, f"{path}/{first}", directory=False)
        found = _Found()
        is_whole = await self._find(uid, path, found)
        removed += await self._remove_files(uid, found.files)
        if is_whole:
            for directory in found.directories:
                await self._remove(uid, directory, directory=True)
        return Removed(removed, is_whole)

    async def _find(self, uid: str, directory: str, found: _Found) -> bool:
        """Gather what is in `directory`; False when there are more files than one call removes."""
        after = ""
        while True:
            try:
                page = await self._metadata.read_page(uid, directory, after=after, limit=PAGE_ENTRIES)
            except Missing:
                return True
            for entry in page.entries:
                if entry.is_directory:
                    if not await self._find(uid, entry.path, found):
                        return False
                elif len(found.files) == self._call_files:
                    return False
                else:
                    found.files.append(entry.path)
            if not page.more or not page.entries:
                found.directories.append(directory)
                return True
            after = page.entries[-1].path.rpartition("/")[2]

    async def _remove_files(self, uid: str, files: Sequence[str]) -> int:
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def remove(path: str) -> bool:
            async with slots:
                return await self._remove(uid, path, directory=False)

        # All of them are tried: one that cannot go must not keep the others.
        results = await asyncio.gather(*(remove(path) for path in files), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return sum(bool(result) for result in results)

    async def _remove(self, uid: str, path: str, *, directory: bool) -> bool:
        try:
            await self._writes.remove(uid, path, directory=directory)
        except Missing:
            return False
        return True

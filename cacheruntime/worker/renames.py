"""Renames over stores that have none: copy, show, delete.

Owns the order. A file is copied, the namespace switches, then the old object goes: a crash in between leaves an object
too many, never one too few, and what is left is known and taken away (left_objects.py). A file that waits for its
upload only changes its name; one whose upload is under way waits for that. A directory moves file by file, so others
may see it half way; it ends either whole under the new name or, after an error, with every file under one of the two.
"""

import asyncio
import errno
from typing import Final

from api.byteplane import Mutated
from api.gen import metadata_pb2 as pb
from api.held import is_held
from cacheruntime.core.blocks import Version
from cacheruntime.errors import CacheError, Missing, VersionChanged, from_store
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import Datasets, Location
from cacheruntime.worker.left_objects import LeftObjects
from cacheruntime.worker.metadata_client import MetadataClient
from cacheruntime.worker.writes import Writes
from understores.errors import UnderStoreError

TRIES: Final = 8
"""Each is another version of the file."""


class Renames:
    """Renames in under store, namespace and cache."""

    def __init__(
        self, store: BlockStore, writes: Writes, datasets: Datasets, metadata: MetadataClient, left: LeftObjects
    ) -> None:
        self._left = left
        self._store = store
        self._writes = writes
        self._datasets = datasets
        self._metadata = metadata

    async def rename(self, uid: str, source: str, target: str) -> Mutated:
        """Rename a file over whatever file is there, or a directory onto nothing."""
        if target == source:
            return Mutated(snapshot_version=0)
        if target.startswith(source + "/"):
            raise CacheError(f"{source!r} cannot move into itself", number=errno.EINVAL)
        entry, there = await asyncio.gather(self._metadata.lookup(uid, source), self._lookup(uid, target))
        if there is not None and (there.is_directory or entry.is_directory):
            number = errno.EISDIR if there.is_directory and not entry.is_directory else errno.EEXIST
            raise CacheError(f"{target!r} exists and cannot be replaced by {source!r}", number=number)
        if entry.is_directory:
            return Mutated(snapshot_version=await self._rename_directory(uid, source, target, entry.mode))
        return await self._rename_file(uid, source, target, entry)

    async def _lookup(self, uid: str, path: str) -> pb.Entry | None:
        try:
            return await self._metadata.lookup(uid, path)
        except Missing:
            return None

    async def _rename_file(self, uid: str, source: str, target: str, entry: pb.Entry) -> Mutated:
        origin = await self._datasets.locate_for_change(uid, source)
        destination = await self._datasets.locate_for_change(uid, target)
        if origin.store is not destination.store:
            raise CacheError(f"{source!r} and {target!r} lie in different mounts", number=errno.EXDEV)
        for _ in range(TRIES):
            # While its turn is waited for a held file becomes an object, and another writer may bring a held one.
            if is_held(entry.etag):
                moved = await self._rename_held(uid, source, target, entry, origin)
            else:
                moved = await self._rename_object(uid, source, target, entry, (origin, destination))
            if moved is not None:
                return moved
            entry = await self._metadata.lookup(uid, source)
        raise VersionChanged(f"{source!r} is replaced again and again")

    async def _rename_held(
        self, uid: str, source: str, target: str, entry: pb.Entry, origin: Location
    ) -> Mutated | None:
        """Move a file that waits for its upload, which is a change of names only; None = it is another version now."""
        async with self._writes.turn(uid, source) as turn:
            found = await self._metadata.find_held(uid, entry.etag)
            if found.state != pb.HeldState.WAITING or found.path != source:
                return None
            if found.leaves_object:
                try:
                    # Of an older version, which nobody sees: else a listing would show it once the name is free.
                    await origin.store.delete(origin.key)
                except UnderStoreError as error:
                    raise from_store(error) from error
            snapshot_version = await self._metadata.rename(
                uid, source, target, target_etag=entry.etag, source_etag=entry.etag, turn=turn
            )
        self._moved(uid, source, target, entry, entry.etag)
        return Mutated(snapshot_version=snapshot_version, etag=entry.etag)

    async def _rename_object(
        self, uid: str, source: str, target: str, entry: pb.Entry, places: tuple[Location, Location]
    ) -> Mutated | None:
        """Copy, show, delete; None = it is another version than it was before the turn."""
        origin, destination = places
        async with self._writes.turn(uid, source, target) as turn:
            if turn and (await self._metadata.lookup(uid, source)).etag != entry.etag:
                return None
            try:
                if (await origin.store.head(origin.key)).etag != entry.etag:
                    raise VersionChanged(f"{source!r} is not the version the namespace knows")
                info = await origin.store.copy(origin.key, destination.key)
            except UnderStoreError as error:
                raise from_store(error) from error
            snapshot_version = await self._metadata.rename(
                uid, source, target, target_etag=info.etag, turn=turn, leaves_source=True
            )
            await self._left.take_away(uid, source, snapshot_version, origin)
        self._moved(uid, source, target, entry, info.etag)
        return Mutated(snapshot_version=snapshot_version, etag=info.etag)

    def _moved(self, uid: str, source: str, target: str, entry: pb.Entry, etag: str) -> None:
        """Let what is written and cached here follow."""
        self._writes.renamed(uid, source, target, old_etag=entry.etag, new_etag=etag)
        self._store.drop_path(uid, target)
        old = Version(uid, source, entry.etag, entry.size_bytes)
        self._store.rekey(old, Version(uid, target, etag, entry.size_bytes))
        self._store.drop_path(uid, source)

    async def _rename_directory(self, uid: str, source: str, target: str, mode: int) -> int:
        await self._writes.make_directory(uid, target, mode=mode)
        for entry in await self._metadata.read_directory(uid, source):
            moved = target + entry.path[len(source) :]
            if entry.is_directory:
                await self._rename_directory(uid, entry.path, moved, entry.mode)
            else:
                await self._rename_file(uid, entry.path, moved, entry)
        return await self._writes.remove(uid, source, directory=True)

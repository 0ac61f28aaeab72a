"""Datasets as a worker needs them: record, mounts, and the under store behind a path.

Owns a short cache of records and the open stores. Invariants: the longest mount path that contains a path
decides; a record metadata cannot confirm is used as last known, so reads go on while metadata is away; a store is
opened once for equal mounts and lives as long as the worker.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from api.gen import metadata_pb2 as pb
from cacheruntime.core.paths import is_at_or_below
from cacheruntime.errors import BadRequest, CacheError, Denied, Missing, ReadOnly, from_store
from cacheruntime.worker.metadata_client import MetadataClient
from understores.base import UnderStore
from understores.credentials import SecretOptions
from understores.errors import UnderStoreError
from understores.registry import is_read_only, open_store

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Location:
    """Where a dataset's path lies."""

    store: UnderStore
    key: str
    is_read_only: bool


@dataclass(slots=True)
class _Place:
    """A mount."""

    mount: pb.Mount
    root: str
    """Its path, without slashes around it."""
    is_read_only: bool
    store: UnderStore | None = None
    """Open; None until it is needed: of a mount that cannot be opened only its own paths are not to be had."""


@dataclass(slots=True)
class _Record:
    info: pb.DatasetInfo
    asked_at_seconds: float
    """For `info`."""
    read_at_seconds: float
    """When it was asked for last, in vain perhaps."""
    is_confirmed: bool = True
    """Metadata answered then."""
    places: list[_Place] | None = None
    """Of the mounts, the longest path first; made when a path is located first."""


class Datasets:
    """Records and stores, by dataset uid."""

    def __init__(
        self,
        metadata: MetadataClient,
        credentials: Path,
        *,
        node: str,
        fresh_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._metadata = metadata
        self._credentials = credentials
        self._node = node
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._reading: dict[str, asyncio.Task[pb.DatasetInfo]] = {}
        self._stores: dict[bytes, UnderStore] = {}
        self._has_all = False
        self._revision = ""
        """Of the last list."""
        self._listed_at_seconds = -math.inf
        """When the last list was asked for: it confirmed every record, those that it did not name too."""
        self._list_came_seconds = -math.inf

    def known(self, uid: str) -> pb.DatasetInfo | None:
        """Return the record as last read, however old; an empty one when there is no such dataset any more. None = it
        has not been read yet."""
        record = self._records.get(uid)
        if record is not None:
            return record.info
        return pb.DatasetInfo(uid=uid) if self._has_all else None

    async def read_all(self) -> None:
        """Know every record as it is now, for the price of what changed since the last call; CacheError. Never twice at
        a time."""
        asked_at = self._clock()
        answer = await self._metadata.datasets_since(self._revision)
        if not answer.partial:
            self._records = {}
        for info in answer.datasets:
            if info.removed:
                self._records.pop(info.uid, None)
            else:
                self._records[info.uid] = _Record(info, asked_at, asked_at)
        self._revision, self._has_all = answer.revision, True
        self._listed_at_seconds, self._list_came_seconds = asked_at, self._clock()

    async def get(self, uid: str) -> pb.DatasetInfo:
        """Return the record, at most `fresh_seconds` old while metadata answers; Missing."""
        record = self._records.get(uid)
        if record is not None and self._is_fresh(record):
            return record.info
        task = self._reading.get(uid)
        if task is None:
            task = self._reading[uid] = asyncio.create_task(self._read(uid))
            task.add_done_callback(lambda done: self._done(uid, done))
        return await asyncio.shield(task)

    def _is_fresh(self, record: _Record) -> bool:
        return self._clock() - max(record.read_at_seconds, self._listed_at_seconds) < self._fresh_seconds

    def _done(self, uid: str, task: asyncio.Task[pb.DatasetInfo]) -> None:
        self._reading.pop(uid, None)
        if not task.cancelled():
            task.exception()  # seen by whoever waits; nobody may be left

    async def _read(self, uid: str) -> pb.DatasetInfo:
        asked_at = self._clock()
        try:
            info = await self._metadata.dataset(uid)
        except Missing:
            if asked_at >= self._list_came_seconds:  # or it may have been made since, and a list has told of it
                self._records.pop(uid, None)
            raise
        except CacheError as error:
            record = self._records.get(uid)
            if record is None:
                raise
            log.warning("dataset_not_confirmed", dataset=uid, error=error.message)
            record.read_at_seconds, record.is_confirmed = self._clock(), False
            return record.info
        self._note(uid, info, asked_at)
        return info

    def _note(self, uid: str, info: pb.DatasetInfo, asked_at: float) -> None:
        """Keep an answer, which is as old as the question; a newer one may have come first. Lists say only what changed
        since the one before: what one of them said is never replaced by what may be older."""
        known = self._records.get(uid)
        if asked_at >= self._list_came_seconds and (known is None or known.asked_at_seconds <= asked_at):
            self._records[uid] = _Record(info, asked_at, asked_at)

    async def locate(self, uid: str, path: str) -> Location:
        """Return the store and key of a path; Missing when no mount holds it."""
        return self._locate(await self.get(uid), path)

    async def locate_writable(self, uid: str, path: str) -> Location:
        """Like `locate`; ReadOnly when dataset or mount may not be written."""
        return self._writable(await self.get(uid), path)

    async def locate_for_change(self, uid: str, path: str, *, is_begun: bool = True) -> Location:
        """Like `locate_writable`, for a change of our own node; Denied while a fence is up (metadata/core/fences.py).

        `is_begun`: what follows is seen in the under store, so that no record will do that metadata does not confirm: a
        node may have lost metadata, and be given up for that, and reach the under store all the same. A retryable
        CacheError when it cannot be asked."""
        info = await (self._confirmed(uid) if is_begun else self.get(uid))
        location = self._writable(info, path)
        for fence in info.fences:
            if fence.node == self._node and is_at_or_below(path, fence.path):
                raise Denied(
                    f"{path!r} is not changed from node {self._node}: pods of an earlier attempt that was given up may"
                    " still run here"
                )
        return location

    async def _confirmed(self, uid: str) -> pb.DatasetInfo:
        record = self._records.get(uid)
        if record is None or not self._is_fresh(record) or not self._is_confirmed(record):
            asked_at = self._clock()
            info = await self._metadata.confirmed_dataset(uid)
            self._note(uid, info, asked_at)
            return info
        return record.info

    def _is_confirmed(self, record: _Record) -> bool:
        return record.is_confirmed or record.read_at_seconds <= self._listed_at_seconds

    def _writable(self, info: pb.DatasetInfo, path: str) -> Location:
        location = self._locate(info, path)
        if not info.writable or location.is_read_only:
            what = "mount" if info.writable else "dataset"
            raise ReadOnly(f"{path!r} cannot be written: the {what} of {info.namespace}/{info.name} is read-only")
        return location

    def _locate(self, info: pb.DatasetInfo, path: str) -> Location:
        check_path(path)
        for place in self._places(info):
            root = place.root
            if is_at_or_below(path, root):
                store = place.store = place.store or self._store(place.mount)
                return Location(store, path[len(root) :].lstrip("/"), place.is_read_only)
        raise Missing(f"{path!r} is below none of the {len(info.mounts)} mounts of {info.namespace}/{info.name}")

    def _places(self, info: pb.DatasetInfo) -> list[_Place]:
        record = self._records.get(info.uid)
        if record is not None and record.info is info and record.places is not None:
            return record.places
        places = [
            _Place(mount, mount.path.strip("/"), mount.read_only or is_read_only(mount.mount_point))
            for mount in info.mounts
        ]
        places.sort(key=lambda place: -len(place.root))
        if record is not None and record.info is info:
            record.places = places
        return places

    def _store(self, mount: pb.Mount) -> UnderStore:
        identity = pb.Mount(
            mount_point=mount.mount_point, options=mount.options, secret_options=mount.secret_options
        ).SerializeToString(deterministic=True)
        store = self._stores.get(identity)
        if store is None:
            try:
                secrets = SecretOptions(self._credentials, dict(mount.secret_options))
                store = open_store(mount.mount_point, dict(mount.options), secrets)
            except UnderStoreError as error:
                raise from_store(error) from error
            self._stores[identity] = store
        return store

    async def close(self) -> None:
        """Close every store."""
        for task in list(self._reading.values()):
            task.cancel()
        for store in self._stores.values():
            await store.close()


def check_path(path: str) -> None:
    """BadRequest unless the path is relative, with '/' between real names."""
    if not path or any(name in ("", ".", "..") or "\0" in name for name in path.split("/")):
        raise BadRequest(f"path {path!r} must be relative with '/' between names, none of them empty, '.' or '..'")

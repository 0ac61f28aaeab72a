"""Write-through: a staging file on this node, made durable in the under store, then shown in the namespace.

Owns staging files and the order of every change: under store first, metadata second, cache last. So what the
namespace shows is durable, and what fails half way leaves at worst an object nobody sees yet.

    create -> staging --commit--> durable and visible --end, unchanged since--> cached file of that version
                                                      --end, changed since----> dropped

With write policy WriteBack a commit's bytes are on the disks of two workers (holding.py) and their upload follows; what
cannot be held is made durable first, like others. Whoever changes a path in the under store then has its turn
(turns.py).

Where the under store is a directory that can, the staging file is in it and becomes the object itself: written once,
and sealed by its first commit. Elsewhere it is in a tier of the cache, and its bytes are sent.

A client that dies leaves its staging files open for a while: the FUSE daemon that goes on for it adopts them, so that
gigabytes need not be copied into new ones while its applications wait.

Invariants: a staging file has one owner, or none while it may be adopted; a commit that returns is durable in the under
store, or on two workers' disks; bytes that changed while they were uploaded are uploaded again by the next commit; an
upload under way is finished before its staging file is closed, also when the client is gone; a sealed file is nobody's
to write any more.
"""

import asyncio
import errno
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, cast

import structlog
from msgspec import structs

from api.byteplane import Committed
from api.gen import metadata_pb2 as pb
from api.held import is_held
from cacheruntime.core.ahead import PIECE_BYTES
from cacheruntime.core.blocks import Version, block_count, block_length, version_name
from cacheruntime.errors import CacheError, from_store
from cacheruntime.worker import tier_files
from cacheruntime.worker.ahead_upload import AheadUpload
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.buffers import Buffers
from cacheruntime.worker.datasets import Datasets, Location
from cacheruntime.worker.fetched import Keep
from cacheruntime.worker.filler import Filler
from cacheruntime.worker.holding import Holding
from cacheruntime.worker.metadata_client import MetadataClient
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.reader import PARALLEL_BLOCKS, Reader, in_parallel
from cacheruntime.worker.turns import Turns
from understores.base import ObjectInfo, StagingStore, StreamingStore
from understores.errors import BytesLost, UnderStoreError

log = structlog.get_logger()

ADOPTION_SECONDS: Final = 10.0
"""A FUSE daemon's successor is there within a second; one that dies again and again within a few."""
AHEAD_AT_ONCE: Final = 4
"""Files sent while they are written; each holds a few pieces in memory."""
AHEAD_SPARE_PIECES: Final = 2
"""Kept in memory between uploads: one is read into while the other is sent."""
KEPT_AT_ONCE: Final = 2
"""Blocks of a written file that are copied into the cache at a time: training goes on beside it."""
TICK_SECONDS: Final = 0.012
"""Older kernels stamp mtime by timer ticks, 10 ms at most: a write within the same tick would not show."""
LOOKS: Final = 16
"""So many writes and looks at their stamps take microseconds; ticks would have to fall between all of them."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one content of a staging file from the next."""

    size_bytes: int
    mtime_ns: int


@dataclass(slots=True)
class Staging:
    """One file being written."""

    uid: str
    path: str
    descriptor: int
    file: Path | None = None
    """Its name in the tier; None: it has none, and is in the under store `inside`."""
    inside: StagingStore | None = None
    seals: bool = False
    """Nothing is written to it while it is committed, nor after that: it becomes the object, or is held."""
    sealed: Stamp | None = None
    """What the under store shows of it, or may show; None while nothing is."""
    is_lost: bool = False
    """The medium did not take some of its bytes. It would not say so again."""
    asked: tuple[int, int] = 0, 0
    """Mode and time of the last commit that was begun."""
    committed: Committed | None = None
    stamp: Stamp | None = None
    owner: object = None
    is_adopted: bool = False
    """By the successor of a dead client, which may have asked for commits that are still to come."""
    ahead: AheadUpload | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_ended: bool = False


@dataclass(slots=True, eq=False)
class _Beginning:
    """A staging file that is being made."""

    uid: str
    path: str


class Writes:
    """All staging files of this node, and changes of the namespace."""

    def __init__(
        self,
        *,
        store: BlockStore,
        reader: Reader,
        filler: Filler,
        datasets: Datasets,
        metadata: MetadataClient,
        metrics: Metrics,
        holding: Holding | None = None,
        turns: Turns | None = None,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Without `holding` every commit is durable in the under store; without `turns` nobody else changes paths."""
        self._holding = holding
        self._turns = turns
        self._store = store
        self._reader = reader
        self._filler = filler
        self._datasets = datasets
        self._metadata = metadata
        self._metrics = metrics
        self._wall_clock_ns = wall_clock_ns
        # The fastest tier that is not memory: what is being written must not push datasets out of memory.
        self._tier = next((i for i, tier in enumerate(store.tiers) if tier.medium != "MEM"), 0)
        self._folder = store.directory(self._tier) / tier_files.STAGING_FOLDER
        self._shows_every_write: bool | None = None
        self._buffers = Buffers(PIECE_BYTES, AHEAD_SPARE_PIECES)
        self._blocks = Buffers(store.block_size_bytes, KEPT_AT_ONCE)
        self._is_closing = False
        self._stagings: dict[int, Staging] = {}
        self._beginning: set[_Beginning] = set()
        self._waiting: set[asyncio.Task[None]] = set()

    async def create(
        self, uid: str, path: str, *, base_etag: str, base_size_bytes: int, owner: object = None, may_seal: bool = False
    ) -> Staging:
        """Return a new staging file, empty or with the bytes of the base version; ReadOnly, Denied, VersionChanged.
        `may_seal`: nothing will be written to it while it is committed and after it was sealed by that."""
        beginning = _Beginning(uid, path)
        self._beginning.add(beginning)
        try:
            location = await self._datasets.locate_for_change(uid, path, is_begun=False)
            writes_back = self._holding is not None and (await self._datasets.get(uid)).write_back
            staging = await self._stage_inside(uid, path, location) if may_seal and not writes_back else None
            staging = staging or self._stage_in_tier(uid, path)
            staging.seals |= may_seal and writes_back
        finally:
            self._beginning.discard(beginning)
        staging.owner, staging.path = owner, beginning.path
        self._stagings[id(staging)] = staging
        try:
            if base_etag and base_size_bytes:
                await self._copy_base(staging, Version(uid, path, base_etag, base_size_bytes))
        except BaseException:
            await self.end(staging)
            raise
        if not staging.seals:
            self._begin_ahead(staging, location)
        return staging

    async def _stage_inside(self, uid: str, path: str, location: Location) -> Staging | None:
        if not getattr(location.store, "can_stage", False):
            return None
        inside = cast(StagingStore, location.store)
        try:
            descriptor = await inside.stage(location.key)
        except UnderStoreError as error:
            raise from_store(error) from error
        return None if descriptor is None else Staging(uid, path, descriptor, inside=inside, seals=True)

    def _stage_in_tier(self, uid: str, path: str) -> Staging:
        file = self._folder / secrets.token_hex(16)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._shows_every_write is None:
                self._shows_every_write = shows_every_write(self._folder)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CacheError(f"no staging file can be made: {error.strerror}", number=error.errno) from error
        return Staging(uid, path, descriptor, file)

    async def adopt(
        self, uid: str, device: int, inode: int, owner: object, *, may_be_object: bool = False
    ) -> Staging | None:
        """Return the dataset's staging file that is this inode, its owner's from now on; None when there is none that
        may be written, unless it `may_be_object`. `device` 0 = one in the cache.

        It may still be another's: a dead client's successor can be here before its hanging up is noticed. Whoever asks
        holds the file open, so that the number is nobody else's.
        """
        for staging in self._stagings.values():
            status = os.fstat(staging.descriptor)
            is_on_device = status.st_dev == device if device else staging.inside is None
            if staging.uid == uid and status.st_ino == inode and is_on_device:
                await self._datasets.locate_for_change(uid, staging.path, is_begun=False)
                if staging.is_ended or (is_object(staging) and not may_be_object):
                    return None
                staging.owner, staging.is_adopted = owner, True
                return staging
        return None

    async def leave(self, staging: Staging, owner: object) -> None:
        """The owner's connection ended without closing the file: a successor may adopt it for a while, then it ends."""
        if staging.owner is not owner:
            return
        nobody = staging.owner = object()
        waiting = asyncio.create_task(self._end_unless_adopted(staging, nobody))
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)

    async def _end_unless_adopted(self, staging: Staging, nobody: object) -> None:
        await asyncio.sleep(ADOPTION_SECONDS)
        if staging.owner is nobody:
            await self.end(staging)

    async def close(self) -> None:
        """End every staging file."""
        self._is_closing = True
        for waiting in self._waiting:
            waiting.cancel()
        await asyncio.gather(*(self.end(staging) for staging in list(self._stagings.values())))

    def _begin_ahead(self, staging: Staging, location: Location) -> None:
        """Send what is written while it is being written, if the store takes that and not too many do."""
        under_way = sum(other.ahead is not None for other in self._stagings.values())
        if under_way < AHEAD_AT_ONCE and getattr(location.store, "can_stream", False):
            store = cast(StreamingStore, location.store)
            staging.ahead = AheadUpload(
                store,
                location.key,
                staging.descriptor,
                run=self._store.run,
                metrics=self._metrics,
                buffers=self._buffers,
                piece_bytes=store.piece_bytes or PIECE_BYTES,
            )

    async def _copy_base(self, staging: Staging, base: Version) -> None:
        block_size = self._store.block_size_bytes

        async def one(index: int) -> None:
            fetched = await self._reader.block(base, index, for_peer=False)
            try:
                await self._store.run(tier_files.write_at, staging.descriptor, fetched.data, index * block_size)
            except OSError as error:
                raise CacheError(f"the staging file: {error.strerror}", number=error.errno) from error

        await in_parallel(range(block_count(base.size_bytes, block_size)), PARALLEL_BLOCKS, one)

    async def commit(self, staging: Staging, *, mode: int, mtime_ns: int, owner: object = None) -> Committed:
        """Make the bytes durable and visible; at once when they did not change since the last time."""
        # Not cancelled with the client: the upload reads the descriptor until it ends.
        return await asyncio.shield(asyncio.ensure_future(self._commit(staging, mode, mtime_ns, owner)))

    async def _commit(self, staging: Staging, mode: int, mtime_ns: int, owner: object) -> Committed:
        async with staging.lock:
            if staging.is_ended:
                raise CacheError("the staging file is closed", number=errno.EBADF)
            if staging.is_adopted and staging.owner is not owner:
                # Its successor writes on, and would write to an object.
                raise CacheError("the staging file is another client's now", number=errno.EBADF)
            if staging.is_lost:
                raise CacheError("the medium did not take what was written; write it again", number=errno.EIO)
            staging.asked = mode, mtime_ns
            stamp = await self._settled_stamp(staging)
            if staging.committed is not None and staging.stamp == stamp:
                return staging.committed
            with self._metrics.commit_seconds.time():
                committed = await self._hold(staging, stamp, mode, mtime_ns)
                committed = committed or await self._upload(staging, stamp, mode, mtime_ns)
            if staging.seals and staging.sealed is None:
                # It could not become the object, and its client goes on writing to it: on a file system of which
                # nothing is known.
                await asyncio.sleep(TICK_SECONDS)
            staging.committed, staging.stamp = committed, stamp
            log.info("committed", dataset=staging.uid, size_bytes=stamp.size_bytes)
            return committed

    async def _settled_stamp(self, staging: Staging) -> Stamp:
        stamp = _stamp(staging.descriptor)
        if staging.seals:
            return stamp  # nobody writes to it while it is committed
        if not self._shows_every_write and abs(self._wall_clock_ns() - stamp.mtime_ns) < TICK_SECONDS * 1e9:
            await asyncio.sleep(TICK_SECONDS)
            stamp = _stamp(staging.descriptor)
        return stamp

    async def _hold(self, staging: Staging, stamp: Stamp, mode: int, mtime_ns: int) -> Committed | None:
        """Let two workers hold the bytes, and show them; None = they are to be in the under store first."""
        holding, file = self._holding, staging.file
        if holding is None or file is None or not staging.seals or staging.sealed not in (None, stamp):
            return None
        info = await self._datasets.get(staging.uid)
        if not info.write_back:
            return None
        await self._datasets.locate_for_change(staging.uid, staging.path)
        was_sealed, staging.sealed = staging.sealed, stamp  # also if no answer says so
        etag = await holding.hold(info, staging.path, file, staging.descriptor, stamp.size_bytes)
        if etag is None:
            staging.sealed = was_sealed
            return None
        try:
            snapshot_version = await self._metadata.put_held(
                staging.uid,
                staging.path,
                size_bytes=stamp.size_bytes,
                etag=etag,
                mtime_ns=mtime_ns or self._wall_clock_ns(),
                mode=mode & 0o7777,
            )
        except CacheError as error:
            holding.abandon(etag, error)
            raise
        holding.confirm(etag)
        version = Version(staging.uid, staging.path, etag, stamp.size_bytes)
        self._store.drop_path(staging.uid, staging.path, keep=version_name(version))
        return Committed(etag=etag, size_bytes=stamp.size_bytes, snapshot_version=snapshot_version, is_sealed=True)

    @asynccontextmanager
    async def turn(self, uid: str, *paths: str) -> AsyncIterator[str]:
        """Hold the turn to change paths in the under store; "" where none is needed."""
        if self._turns is None:
            yield ""
            return
        async with self._turns.turn(uid, *paths) as turn:
            yield turn

    async def _upload(self, staging: Staging, stamp: Stamp, mode: int, mtime_ns: int) -> Committed:
        async with self.turn(staging.uid, staging.path) as turn:
            return await self._upload_in_turn(staging, stamp, mode, mtime_ns, turn)

    async def _upload_in_turn(self, staging: Staging, stamp: Stamp, mode: int, mtime_ns: int, turn: str) -> Committed:
        location = await self._datasets.locate_for_change(staging.uid, staging.path)
        try:
            info = await self._publish(staging, location, stamp) or await self._finish_ahead(staging, location, stamp)
            info = info or await location.store.put(location.key, staging.descriptor, stamp.size_bytes)
        except UnderStoreError as error:
            raise from_store(error) from error
        snapshot_version = await self._metadata.put_file(
            staging.uid,
            staging.path,
            size_bytes=info.size_bytes,
            etag=info.etag,
            mtime_ns=mtime_ns or info.mtime_ns,
            mode=mode & 0o7777,
            turn=turn,
        )
        version = Version(staging.uid, staging.path, info.etag, info.size_bytes)
        self._store.drop_path(staging.uid, staging.path, keep=version_name(version))
        return Committed(
            etag=info.etag,
            size_bytes=info.size_bytes,
            snapshot_version=snapshot_version,
            is_sealed=staging.sealed is not None,
        )

    async def _publish(self, staging: Staging, location: Location, stamp: Stamp) -> ObjectInfo | None:
        store: object = location.store
        if staging.inside is None or staging.inside is not store or staging.sealed not in (None, stamp):
            return None
        was_sealed, staging.sealed = staging.sealed, stamp  # also if no answer says so
        try:
            info = await staging.inside.publish(staging.descriptor, location.key)
        except BytesLost:
            staging.is_lost = True
            raise
        if info is None:
            # What an earlier commit made an object stays one, also if that commit failed in the end.
            staging.sealed = was_sealed
        return info

    async def _finish_ahead(self, staging: Staging, location: Location, stamp: Stamp) -> ObjectInfo | None:
        ahead, staging.ahead = staging.ahead, None
        if ahead is None:
            return None
        if ahead.is_for(location.store, location.key):
            return await ahead.finish(stamp.size_bytes)
        await ahead.give_up("renamed")
        return None

    async def end(self, staging: Staging) -> None:
        """Close the staging file; committed bytes stay as cache, others are dropped. May be called twice."""
        async with staging.lock:
            if staging.is_ended:
                return
            staging.is_ended = True
            self._stagings.pop(id(staging), None)
            try:
                if staging.ahead is not None:
                    await staging.ahead.give_up()
                await self._keep(staging)
            except (OSError, CacheError) as error:
                # The bytes are durable in the under store; the next reader fetches them.
                log.warning("written_file_not_cached", dataset=staging.uid, error=str(error))
            finally:
                os.close(staging.descriptor)
                if staging.file is not None:
                    staging.file.unlink(missing_ok=True)

    async def _keep(self, staging: Staging) -> None:
        committed = staging.committed
        if committed is None or committed.size_bytes == 0 or _stamp(staging.descriptor) != staging.stamp:
            return
        if is_held(committed.etag):
            return  # held until it is uploaded, and cached then
        info = await self._datasets.get(staging.uid)
        if not self._filler.may_be_home(info):
            return
        if staging.file is None:
            await self._keep_copy(
                staging, info, Version(staging.uid, staging.path, committed.etag, committed.size_bytes)
            )
            return
        block_size = self._store.block_size_bytes
        checksums = await self._store.run(tier_files.checksums, staging.descriptor, committed.size_bytes, block_size)
        if _stamp(staging.descriptor) != staging.stamp:
            return
        # After the last await: a rename meanwhile has given the staging file its new name.
        committed = staging.committed or committed
        version = Version(staging.uid, staging.path, committed.etag, committed.size_bytes)
        as_home = self._filler.keep(info, version, 0) is Keep.HOME
        self._store.adopt(version, staging.file, self._tier, checksums, as_home=as_home)

    async def _keep_copy(self, staging: Staging, info: pb.DatasetInfo, version: Version) -> None:
        """Keep what was written into the under store here too, as far as there is room: its next reader often is."""
        if self._is_closing or self._is_written_on(staging):
            return
        block_size = self._store.block_size_bytes
        is_home = self._filler.keep(info, version, 0) is Keep.HOME
        file = await self._store.acquire(version, wanted_bytes=version.size_bytes, as_home=is_home)
        has_room = True

        async def one(index: int) -> None:
            nonlocal has_room
            if self._is_closing or file.is_unlinked or not has_room:
                return  # replaced or removed meanwhile, or there is no use in reading the rest
            data = self._blocks.take(block_length(index, version.size_bytes, block_size))
            checksum = await self._store.run(tier_files.read_checked, staging.descriptor, data, index * block_size)
            as_home = self._filler.keep(info, version, index) is Keep.HOME
            has_room &= await self._store.store_block(file, index, data, checksum, as_home=as_home)

        try:
            await in_parallel(range(block_count(version.size_bytes, block_size)), KEPT_AT_ONCE, one)
            if _stamp(staging.descriptor) != staging.stamp:
                self._store.drop(file)
        finally:
            self._store.release(file)

    def _is_written_on(self, staging: Staging) -> bool:
        """Whether another staging file will soon be the path's next version: of a log that is synced line by line, no
        version is read."""
        return any(
            (other.uid, other.path) == (staging.uid, staging.path) and os.fstat(other.descriptor).st_size
            for other in self._stagings.values()
        )

    # Names

    async def remove(self, uid: str, path: str, *, directory: bool) -> int:
        """Remove a file or an empty directory; return the snapshot version."""
        if directory:
            return await self._remove(uid, path, "", directory=True)
        async with self.turn(uid, path) as turn:
            return await self._remove(uid, path, turn, directory=False)

    async def _remove(self, uid: str, path: str, turn: str, *, directory: bool) -> int:
        location = await self._datasets.locate_for_change(uid, path)
        entry = await self._metadata.lookup(uid, path)
        if entry.is_directory != directory:
            kind, number = ("directory", errno.EISDIR) if entry.is_directory else ("file", errno.ENOTDIR)
            raise CacheError(f"{path!r} is a {kind}", number=number)
        if not location.key:
            raise CacheError(f"{path!r} is where a mount shows; it cannot be removed", number=errno.EBUSY)
        try:
            if directory:
                await location.store.remove_directory(location.key)
            else:
                await location.store.delete(location.key)
        except UnderStoreError as error:
            raise from_store(error) from error
        snapshot_version = await self._metadata.remove(uid, path, directory=directory, turn=turn)
        self._store.drop_path(uid, path)
        return snapshot_version

    async def make_directory(self, uid: str, path: str, *, mode: int) -> int:
        """Make a directory; return the snapshot version."""
        location = await self._datasets.locate_for_change(uid, path)
        try:
            if location.key:
                await location.store.make_directory(location.key)
        except UnderStoreError as error:
            raise from_store(error) from error
        return await self._metadata.make_directory(uid, path, mode=mode & 0o7777, mtime_ns=self._wall_clock_ns())

    async def set_mode(self, uid: str, path: str, *, mode: int) -> int:
        """Give a file or directory other permission bits, which the namespace keeps; return the snapshot version."""
        await self._datasets.locate_for_change(uid, path)
        return await self._metadata.set_mode(uid, path, mode=mode & 0o7777)

    def renamed(self, uid: str, source: str, target: str, *, old_etag: str, new_etag: str) -> None:
        """A file has another name now: staging files that are open for it follow."""
        for beginning in self._beginning:
            if (beginning.uid, beginning.path) == (uid, source):
                beginning.path = target
        for staging in self._stagings.values():
            if staging.uid == uid and staging.path == source:
                staging.path = target
                committed = staging.committed
                if committed is not None and committed.etag == old_etag:
                    staging.committed = structs.replace(committed, etag=new_etag)


def is_object(staging: Staging) -> bool:
    """Whether the file itself is an object or held, or may be about to."""
    return staging.seals and (staging.sealed is not None or staging.lock.locked())


def _stamp(descriptor: int) -> Stamp:
    status = os.fstat(descriptor)
    return Stamp(status.st_size, status.st_mtime_ns)


def shows_every_write(folder: Path) -> bool:
    """Whether a write after a look at a file's stamp always gives another stamp (Linux 6.13 on ext4, XFS, Btrfs and
    tmpfs), so that nobody need wait for the next timer tick. A few system calls; a folder that takes no file now is
    taken for one of an older kernel."""
    try:
        with TemporaryFile(dir=folder, buffering=0) as file:
            for _ in range(LOOKS):
                before = os.fstat(file.fileno()).st_mtime_ns
                file.write(b"x")
                if os.fstat(file.fileno()).st_mtime_ns == before:
                    return False
    except OSError:
        return False
    return True

"""Cached files: which object versions are on this node, in which tier, and the room they take.

Owns the charges of each tier and the life of a file. file_index.py finds files, tier_files.py does the disk, core
decides. What is read from and written to a file is block_store.py's.
All state changes on the event loop; disk work of any size runs in threads.

    (none) --acquire--> open --release--> kept on disk, or gone when nothing of it is resident
    kept, or open and complete --relocate--> another file in another tier; who had it open reads the old one on
    kept: its descriptor stays open for a while (idle_files.py); whatever makes it gone closes it
    kept --evict, superseded--> gone          open --evict, superseded--> unlinked --last release--> gone

Invariants:
- nothing is punched out while a reader has the file open;
- an unlinked file's bytes stay charged until its last reader is gone;
- bytes found after a restart, or touched by somebody else, are checked before they are served.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import structlog

from cacheruntime.core import tiering
from cacheruntime.core.block_map import BlockMap
from cacheruntime.core.blocks import Version, version_name
from cacheruntime.core.eviction import Candidate
from cacheruntime.errors import CacheError, MediumFailed, NoRoom
from cacheruntime.worker import file_copies, tier_files
from cacheruntime.worker.file_index import FileIndex
from cacheruntime.worker.idle_files import IdleFiles
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.rooms import Rooms, TierFolder
from cacheruntime.worker.tier_files import CachedFile

log = structlog.get_logger()

REUSED_MAX: Final = 1024
"""More are forgotten: they come again when they are used again."""

P = ParamSpec("P")
T = TypeVar("T")


class CachedFiles:
    """The files of all tiers."""

    def __init__(
        self,
        folders: list[TierFolder],
        *,
        block_size_bytes: int,
        threads: Executor,
        clock: Callable[[], float],
        metrics: Metrics,
        changed: Callable[[str], None],
        idle_files_max: int,
        reuse_seconds: float,
        slow_seconds: float,
    ) -> None:
        """`idle_files_max`: files nobody holds that stay open. `reuse_seconds`: a file that rested so long is used once
        more; shorter pauses are the same use. `slow_seconds`: a medium that takes longer for a block, several times, is
        left alone for a while."""
        self.block_size_bytes = block_size_bytes
        self._rooms = Rooms(folders, clock, metrics, slow_seconds=slow_seconds)
        self.tiers = self._rooms.tiers
        """The ledgers, fastest first."""
        self._threads = threads
        self._clock = clock
        self._metrics = metrics
        self.index = FileIndex(changed)
        self._idle = IdleFiles(max(1, idle_files_max))
        self._checking: dict[str, asyncio.Lock] = {}
        self._reuse_seconds = reuse_seconds
        self.reused: dict[str, None] = {}
        """Names of files that were used again below the fastest level, for whoever moves them (mover.py)."""

    def directory(self, tier: int) -> Path:
        """Folder of a tier."""
        return self._rooms.directory(tier)

    async def recover(self) -> list[CachedFile]:
        """Index what earlier runs left; the files are unverified until `check`ed. CacheError when a folder is
        unusable."""
        found: list[CachedFile] = []
        for number in range(len(self.tiers)):
            folder = self.directory(number)
            try:
                files = await self.run(tier_files.scan, folder, number, self.block_size_bytes)
            except OSError as error:
                raise CacheError(f"tier folder {folder} cannot be used: {error.strerror}") from error
            for file in files:
                if self.index.get(file.name) is not None:
                    tier_files.unlink_file(file)
                    continue
                self.index.add(file)
                self._charge(file, file.map.resident_bytes)
                found.append(file)
        return found

    # Finding and holding

    def find(self, version: Version) -> CachedFile | None:
        """Return the file of a version; its bytes may be unverified."""
        return self.index.get(version_name(version))

    def files_of(self, uid: str) -> list[CachedFile]:
        """The files of one dataset."""
        return [file for file in self.index.all() if file.version.uid == uid]

    async def acquire(self, version: Version, *, wanted_bytes: int, as_home: bool) -> CachedFile:
        """Return the version's file, open and verified, and hold it until `release`.

        `wanted_bytes` are expected to be kept: room for them is set aside, in the tier that has it. NoRoom when
        no medium takes even an empty file.
        """
        for tries_left in reversed(range(len(self.tiers))):
            file = self.find(version) or self._create(version, wanted_bytes, as_home=as_home)
            file.references += 1
            try:
                if file.references == 1 and tier_files.is_lost(file):
                    self._idle.take(file)
                    tier_files.close_file(file)
                self._open(file)
                if not file.is_verified or tier_files.is_touched(file):
                    await self.check(file)
            except NoRoom as error:
                if isinstance(error, MediumFailed):
                    self.drop(file)  # it can be fetched again; while it is here nobody could open it
                self.release(file)
                if not tries_left:
                    raise
            except BaseException:
                self.release(file)
                raise
            else:
                self._use(file)
                return file
        raise AssertionError("the last try returns or raises")

    def glance(self, name: str) -> CachedFile | None:
        """The file of that name, open, if it needs no check; nobody holds it: use it before anything is awaited."""
        file = self.index.get(name)
        if file is None or not file.is_verified:
            return None
        if not tier_files.is_open(file):
            self.peek(file)
            self.leave(file)  # stays open, as the last one used
        if not tier_files.is_open(file) or not tier_files.is_as_left(file):
            return None
        self._idle.use(file)
        self._use(file)
        return file

    def _use(self, file: CachedFile) -> None:
        now = self._clock()
        if now - file.last_used_seconds >= self._reuse_seconds:
            self.index.count_use(file)
            is_due = tiering.is_worth_promoting(self.tiers[file.tier], self.tiers, file.uses)
            if is_due and len(self.reused) < REUSED_MAX:
                self.reused[file.name] = None
        file.last_used_seconds = now

    def _open(self, file: CachedFile) -> None:
        """Of a file whose references were just counted."""
        try:
            if file.references == 1:
                self._idle.take(file)
            tier_files.open_file(file)
        except OSError as error:
            raise self._rooms.failed(file.tier, error) from error

    def hold(self, file: CachedFile) -> None:
        """Hold a file that somebody else holds already, until `release`."""
        assert file.references > 0, "only a held file can be held once more"
        file.references += 1

    def peek(self, file: CachedFile) -> None:
        """Hold an indexed file, open and perhaps unverified, until `leave`; it does not count as a use. CacheError."""
        file.references += 1
        try:
            self._open(file)
        except CacheError:
            self.leave(file)
            raise

    def release(self, file: CachedFile) -> None:
        """Let a held file go."""
        file.last_used_seconds = self._clock()
        self.leave(file)

    def leave(self, file: CachedFile) -> None:
        """Let a file go that was only looked at."""
        file.references -= 1
        if file.references:
            return
        tier = self.tiers[file.tier]
        tier.release(file.reserved_bytes)
        file.reserved_bytes = 0
        self._punch_temporary(file)
        if file.is_unlinked or file.map.resident_bytes == 0:
            self._forget(file)
        else:
            self._idle.keep(file)

    async def check(self, file: CachedFile) -> None:
        """Verify every resident block against its checksum and drop those that fail. The file is held."""
        lock = self._checking.setdefault(file.name, asyncio.Lock())
        async with lock:
            if file.is_verified and not tier_files.is_touched(file):
                return
            asked = self._clock()
            try:
                bad = await self.run(tier_files.verify, file)
            except OSError as error:
                raise self._rooms.failed(file.tier, error, asked) from error
            for index in bad:
                self.drop_corrupt(file, index, found="check")
            file.is_verified = True
            self.index.note(file)
        if not lock.locked():
            self._checking.pop(file.name, None)

    def drop_corrupt(self, file: CachedFile, index: int, *, found: str) -> None:
        """A block's bytes do not have its checksum: it is not resident any more."""
        length = file.map.length(index)
        if not tier_files.drop_block(file, index):
            return
        self._refund(file, length)
        self._metrics.corrupt_blocks.labels(found).inc()
        log.warning("block_corrupt", dataset=file.version.uid, file=file.name, block=index, found=found)
        self.index.note(file)

    # Going, and taking the place of another

    def drop(self, file: CachedFile) -> int:
        """Take a file out of the cache; whoever has it open reads on. Return the bytes it had."""
        if self.index.get(file.name) is not file:
            return 0
        resident = file.map.resident_bytes
        if not file.is_unlinked:
            tier_files.unlink_file(file)
            self.index.note(file)
        if file.references == 0:
            self._forget(file)
        return resident

    def drop_path(self, uid: str, path: str, *, keep: str = "") -> None:
        """Take all versions of a path out, except the file named `keep`."""
        for file in self.index.at_path(uid, path):
            if file.name != keep:
                self.drop(file)

    def rekey(self, old: Version, new: Version) -> None:
        """The same bytes are now known as `new`: readers that hold the file go on with it."""
        file = self.find(old)
        if file is None or file.is_unlinked or self.find(new) is not None or not file.is_verified:
            return
        self.index.remove(file)
        try:
            tier_files.rename_file(file, new, tier_files.data_path(self.directory(file.tier), new))
        except OSError as error:
            log.warning("rekey_failed", file=file.name, error=error.strerror)
            self.index.add(file)
            self.drop(file)
            return
        self.index.add(file)
        self.index.note(file)

    def relocate(self, file: CachedFile, copy: CachedFile, staging: Path) -> bool:
        """Let a finished copy in another tier, whose room is reserved, take the place of `file`, held by the caller.

        False when the file is not what was copied any more, or an incomplete one that others read: their descriptor
        would not see what is filled later. Who has a complete file open reads the old one on, which stays charged.
        """
        is_same = self.index.get(copy.name) is file and not file.is_unlinked and not file.writes
        if not is_same or file.map.encode() != copy.map.encode():
            return False
        if file.references > 1 and not file.map.is_complete:
            return False
        try:
            file_copies.take_place(copy, staging)
        except OSError as error:
            self._rooms.failed(copy.tier, error)
            return False
        copy.uses, copy.last_used_seconds = file.uses, file.last_used_seconds
        self.index.remove(file)
        tier_files.unlink_file(file)
        self._charge(copy, copy.map.resident_bytes)
        self.index.add(copy)
        self.index.note(copy)
        self._idle.keep(copy)
        return True

    def failed(self, file: CachedFile, error: OSError) -> CacheError:
        """Note that a file's medium failed; return what that means to who wanted it."""
        return self._rooms.failed(file.tier, error)

    def medium_failed(self, tier: int, error: OSError) -> CacheError:
        """The same of a tier, whatever was to be written there."""
        return self._rooms.failed(tier, error)

    def close(self) -> None:
        """Close the files that nobody holds."""
        self._idle.close()

    # Inside

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking file work in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))

    def _create(self, version: Version, wanted_bytes: int, *, as_home: bool) -> CachedFile:
        terms = self.index.terms(version.uid)
        is_pinned = terms is not None and terms.pins(version.path)
        placement = self._rooms.place(
            version.uid,
            wanted_bytes,
            lambda: self.index.candidates(version.uid, as_home=as_home, is_pinned=is_pinned),
            as_home=as_home,
            is_pinned=is_pinned,
            holding=self.index.holding,
        )
        self._evict(placement.evict)
        path = tier_files.data_path(self.directory(placement.tier), version)
        file = CachedFile(BlockMap(version, self.block_size_bytes), placement.tier, path)
        file.reserved_bytes = placement.reserve_bytes
        self.tiers[placement.tier].reserve(placement.reserve_bytes)
        self.index.add(file)
        return file

    def _admit(self, file: CachedFile, size_bytes: int, *, as_home: bool, may_evict: bool = True) -> bool:
        uid = file.version.uid
        admission = self._rooms.admit(
            file.tier,
            uid,
            size_bytes,
            lambda: self.index.candidates(uid, as_home=as_home, is_pinned=file.is_pinned) if may_evict else [],
            reserved_bytes=file.reserved_bytes,
            as_home=as_home,
            is_pinned=file.is_pinned,
            holding=self.index.holding,
        )
        if not admission.is_admitted:
            return False
        self._evict(admission.evict)
        tier = self.tiers[file.tier]
        taken = min(size_bytes, file.reserved_bytes)
        file.reserved_bytes -= taken
        tier.release(taken)
        self._charge(file, size_bytes)
        return True

    def _evict(self, chosen: Iterable[Candidate]) -> None:
        for candidate in chosen:
            file = self.index.get(candidate.name)
            if file is not None and not file.references:
                medium = self.tiers[file.tier].medium
                self._metrics.evicted_bytes.labels(medium).inc(self.drop(file))

    def _punch_temporary(self, file: CachedFile) -> None:
        if not file.temporary:
            return
        length = sum(map(file.map.length, file.temporary))
        if not file.is_unlinked and file.map.resident_bytes:
            try:
                tier_files.punch(file, file.temporary)
            except OSError as error:
                # Without holes the room comes back only with the whole file.
                log.warning("punch_failed", file=file.name, error=error.strerror)
                tier_files.unlink_file(file)
                self.index.note(file)
        file.temporary.clear()
        self.tiers[file.tier].return_temporary(length)

    def _forget(self, file: CachedFile) -> None:
        self._idle.take(file)
        tier_files.close_file(file)
        if not file.is_unlinked:
            tier_files.unlink_file(file)
        if self.index.get(file.name) is file:  # else another one took its place
            self.index.remove(file)
        self._refund(file, file.map.resident_bytes)

    def _charge(self, file: CachedFile, size_bytes: int) -> None:
        self.tiers[file.tier].charge(size_bytes)
        self.index.charged(file.version.uid, size_bytes)

    def _refund(self, file: CachedFile, size_bytes: int) -> None:
        self.tiers[file.tier].refund(size_bytes)
        self.index.charged(file.version.uid, -size_bytes)

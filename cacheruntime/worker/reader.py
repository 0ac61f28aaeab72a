"""Makes ranges readable for whoever asks: local readers through their descriptor, peers and loads by block.

Owns the order resident -> fetch -> keep -> hold until close. Does not speak to sockets. Invariant: a range is
announced as readable only when every block of it is in the reader's own sparse file.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from api.byteplane import Ensured
from cacheruntime.core.blocks import Version, block_length, blocks_of_range, overlap_bytes, version_name
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.hit_ratio import PassReads
from cacheruntime.errors import CacheError, MediumFailed, NoRoom
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.fetched import Fetched, Keep, Source, Why
from cacheruntime.worker.filler import Filler
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.storing import Storing
from cacheruntime.worker.tier_files import CachedFile

T = TypeVar("T")

AHEAD_MAX: Final = 4096
"""Files that were brought ahead and not wholly read yet, of which that is remembered."""

RECENT_MAX: Final = 256
"""Datasets whose reads are remembered and reported."""
PARALLEL_BLOCKS: Final = 16
"""Of one request at a time: a whole large file must not take every stream of the worker."""


@dataclass(slots=True)
class Counters:
    """Bytes handed to readers of this node since the start, by where they had to come from."""

    by_source: dict[Source, int] = field(default_factory=lambda: dict.fromkeys(Source, 0))
    recent: dict[str, PassReads] = field(default_factory=dict)
    """By dataset, the one that was read last at the end."""


class Reader:
    """Reads of whole blocks, with everything behind them."""

    def __init__(self, store: BlockStore, filler: Filler, datasets: Datasets, metrics: Metrics) -> None:
        self._store = store
        self._filler = filler
        self._datasets = datasets
        self._metrics = metrics
        self.counters = Counters()
        self.on_open: Callable[[Version, bool], None] = lambda _version, _is_resident: None
        """Told of every file a reader opens, and whether all of it was here."""
        self.on_read: Callable[[CachedFile, int, int], None] = lambda _file, _offset, _length: None
        """Told of every range a local reader asks for, before it is fetched."""
        self._ahead: OrderedDict[str, dict[Source, int]] = OrderedDict()

    async def open(self, version: Version) -> CachedFile:
        """Return the version's sparse file, held, for a reader."""
        file = await self.hold(version)
        # What an earlier reader left unread is no longer what somebody waits for.
        self._ahead.pop(version_name(version), None)
        self.on_open(version, file.map.is_complete)
        if file.map.is_complete:
            self._tell(version, dict.fromkeys(Source, 0) | {Source.LOCAL: version.size_bytes})
        return file

    async def hold(self, version: Version) -> CachedFile:
        """Return the version's sparse file, held; room is set aside if this node may keep all of it."""
        info = await self._datasets.get(version.uid)
        file = self._store.find(version)
        wanted = 0
        if file is None and self._filler.may_be_home(info) and info.local_copies:
            wanted = version.size_bytes
        return await self._store.acquire(version, wanted_bytes=wanted, as_home=False)

    async def ensure(self, file: CachedFile, offset_bytes: int, length_bytes: int) -> Ensured:
        """Make a range of a held file readable; CacheError of the first block that could not be."""
        # The handle may be closed while we wait; what follows still needs the file.
        self._store.hold(file)
        try:
            self.on_read(file, offset_bytes, length_bytes)
            moved = await self.bring(file, offset_bytes, length_bytes)
        finally:
            self._store.release(file)
        self._tell(file.version, moved)
        return Ensured(
            # Bytes that are only held until close do not make a file complete: the kernel may read it long
            # after its reader's connection, and with it the promise to hold them, has ended.
            is_resident=file.map.is_complete,
            local_bytes=moved[Source.LOCAL],
            peer_bytes=moved[Source.PEER],
            origin_bytes=moved[Source.ORIGIN],
        )

    async def bring(self, file: CachedFile, offset_bytes: int, length_bytes: int) -> dict[Source, int]:
        """Make a range of a held file readable; return its bytes by where they were. Told to nobody as read."""
        version, block_size = file.version, self._store.block_size_bytes
        moved = dict.fromkeys(Source, 0)

        async def one(index: int) -> None:
            source = await self._ensure_block(file, index)
            moved[source] += overlap_bytes(index, offset_bytes, length_bytes, version.size_bytes, block_size)

        blocks = blocks_of_range(offset_bytes, length_bytes, version.size_bytes, block_size)
        if file.map.is_complete:
            moved[Source.LOCAL] = sum(
                overlap_bytes(i, offset_bytes, length_bytes, version.size_bytes, block_size) for i in blocks
            )
        else:
            await in_parallel(blocks, PARALLEL_BLOCKS, one)
        return moved

    async def _ensure_block(self, file: CachedFile, index: int) -> Source:
        if file.has(index):
            return Source.LOCAL
        info = await self._datasets.get(file.version.uid)
        keep = self._filler.keep(info, file.version, index)

        fetched = await self._filler.fetch(info, file.version, index, self._keeper(file.version, index, keep))
        if not await self._keep(file, index, fetched, keep):
            await self._store.hold_temporarily(file, index, fetched.data)
        return fetched.source

    async def _keep(self, file: CachedFile, index: int, fetched: Fetched, keep: Keep) -> bool:
        if keep is Keep.NO:
            return False
        is_home = keep is Keep.HOME
        return await self._store.store_block(file, index, fetched.data, fetched.checksum, as_home=is_home)

    async def load_block(self, file: CachedFile, index: int, *, as_home: bool, before: str | None = None) -> Source:
        """Make one block of a held file resident for good; NoRoom when it cannot stay. The node `before` us in the
        block's tree is asked for it first."""
        if file.map.has(index):
            return Source.LOCAL
        info = await self._datasets.get(file.version.uid)

        keep = Keep.HOME if as_home else Keep.COPY
        keeper = self._keeper(file.version, index, keep)
        fetched = await self._filler.fetch(info, file.version, index, keeper, before=before)
        if not await self._keep(file, index, fetched, keep):
            medium = self._store.tiers[file.tier].medium
            raise NoRoom(f"the cache is full: no room for a block of {len(fetched.data)} bytes in tier {medium}")
        return fetched.source

    async def block(self, version: Version, index: int, *, for_peer: bool) -> Fetched:
        """Return a block's bytes, checked, keeping them if they may stay. Works with every tier full."""
        file = self._store.find(version)
        is_here = file is not None and file.map.has(index)
        if file is not None and (data := await self._resident(file.version, index)) is not None:
            return Fetched(data, crc32c(data), Source.LOCAL)
        info = await self._datasets.get(version.uid)
        if for_peer:
            keep = Keep.HOME if self._filler.may_be_home(info) else Keep.NO
        else:
            keep = self._filler.keep(info, version, index)

        keeper = self._keeper(version, index, keep)
        if for_peer:
            why = Why.MEDIUM if is_here else Why.ASKED
            return await self._filler.fetch_for_peer(info, version, index, keeper, why)
        return await self._filler.fetch(info, version, index, keeper)

    def _keeper(self, version: Version, index: int, keep: Keep) -> "_Keeper":
        return _Keeper(self, version, index, keep)

    async def _resident(self, version: Version, index: int) -> memoryview | None:
        try:
            file = await self._store.acquire(version, wanted_bytes=0, as_home=False)
        except NoRoom:
            return None  # what this node's media do not give, others have
        try:
            return await self._store.read_block(file, index) if file.map.has(index) else None
        except MediumFailed:
            return None
        finally:
            self._store.release(file)

    def begin_to_keep(self, version: Version, index: int, keep: Keep) -> Storing | None:
        """Return what stores a block that is about to be read, if somebody holds its file and there is room."""
        file = self._store.find(version) if keep is not Keep.NO else None
        return self._store.begin_block(file, index, as_home=keep is Keep.HOME) if file is not None else None

    async def try_to_keep(self, version: Version, index: int, fetched: Fetched, keep: Keep) -> None:
        """Store a block that was fetched, if it may stay and there is room."""
        if keep is Keep.NO:
            return
        length = block_length(index, version.size_bytes, self._store.block_size_bytes)
        try:
            file = await self._store.acquire(version, wanted_bytes=length, as_home=keep is Keep.HOME)
        except CacheError:
            return  # the store has logged it; the bytes are in hand
        try:
            await self._keep(file, index, fetched, keep)
        finally:
            self._store.release(file)

    def came_ahead(self, version: Version, moved: Mapping[Source, int]) -> None:
        """A reader comes for bytes that were brought here for it: it is told of them as of what it waited for."""
        found = self._ahead.setdefault(version_name(version), dict.fromkeys((Source.ORIGIN, Source.PEER), 0))
        for source in found:
            found[source] += moved[source]
        if len(self._ahead) > AHEAD_MAX:
            self._ahead.popitem(last=False)

    def _tell(self, version: Version, moved: dict[Source, int]) -> None:
        """Count bytes handed to a reader by where they had to come from; `moved` is changed to that."""
        ahead = self._ahead.get(version_name(version), {}) if self._ahead else {}
        for source in ahead:
            size_bytes = min(ahead[source], moved[Source.LOCAL])
            ahead[source] -= size_bytes
            moved[Source.LOCAL] -= size_bytes
            moved[source] += size_bytes
        if ahead and not any(ahead.values()):
            del self._ahead[version_name(version)]
        for source, size_bytes in moved.items():
            self.count(version.uid, source, size_bytes)

    def count(self, uid: str, source: Source, size_bytes: int) -> None:
        """Bytes of a dataset were handed to a reader of this node."""
        if size_bytes:
            self.counters.by_source[source] += size_bytes
            recent = self.counters.recent
            reads = recent[uid] = recent.pop(uid, PassReads())
            known = self._datasets.known(uid)
            reads.add(source, size_bytes, known.bytes if known else 0)
            if len(recent) > RECENT_MAX:
                del recent[next(iter(recent))]
            self._metrics.reader_bytes.labels(source.value).inc(size_bytes)


class _Keeper:
    """Implements fetched.Keeper. Of a version and not of a file: the fetch may outlive the reader who began it, and
    with it its file."""

    __slots__ = ("_index", "_keep", "_reader", "_version")

    def __init__(self, reader: Reader, version: Version, index: int, keep: Keep) -> None:
        self._reader, self._version, self._index, self._keep = reader, version, index, keep

    async def keep(self, fetched: Fetched) -> None:
        await self._reader.try_to_keep(self._version, self._index, fetched, self._keep)

    def begin(self) -> Storing | None:
        return self._reader.begin_to_keep(self._version, self._index, self._keep)


async def in_parallel(items: Sequence[T], limit: int, one: Callable[[T], Coroutine[Any, Any, None]]) -> None:
    """Await `one` of every item, `limit` at a time; the first failure ends the rest and is raised."""
    if len(items) == 1:
        await one(items[0])
        return
    pending = iter(items)

    async def run() -> None:
        for item in pending:
            await one(item)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(limit, len(items))):
                tasks.create_task(run())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None

"""Workers that hold files for each other, in one process: real writes, renames and holding over real files; the real
metadata service's methods over a real database; an under store in memory that can be away or stand still.

A worker is killed between any two of its steps: from then on nothing it asks is answered, and only its files are left.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from api.byteplane import AskHeld, DropHeld, Hold, ReadHeld
from api.gen import metadata_pb2 as pb
from api.held import is_held
from cacheruntime.core.blocks import Version
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.held import Settings
from cacheruntime.core.tiers import Tier
from cacheruntime.errors import CacheError, Missing, PeerFailed, from_store
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.datasets import Location
from cacheruntime.worker.fetched import Keep
from cacheruntime.worker.held_copies import HeldCopies
from cacheruntime.worker.held_reader import HeldReader
from cacheruntime.worker.held_uploads import HeldUploads
from cacheruntime.worker.holding import Holding
from cacheruntime.worker.left_objects import LeftObjects
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.path_order import PathOrder
from cacheruntime.worker.renames import Renames
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.turns import Turns
from cacheruntime.worker.workers import Peer
from cacheruntime.worker.writes import Writes
from metadata.core.datasets import Dataset, Mount, Specification
from metadata.core.held import Standing
from metadata.errors import MetadataError, NotFound, Unavailable
from metadata.shell.catalog import Catalog
from metadata.shell.database import Database
from metadata.shell.group_sizes import GroupSizes
from metadata.shell.held_service import HeldService
from metadata.shell.namespace_service import NamespaceService
from metadata.shell.residency_state import ResidencyState
from metadata.shell.sync import Listings
from metadata.shell.watchers import Watchers
from metadata.stores.sqlite import SqliteStore
from understores import errors as store_errors
from understores.base import ObjectInfo
from understores.errors import UnderStoreError

UID = "u"
BLOCK = 1024
T = TypeVar("T")


class MemoryStore:
    """An under store of bytes by key; each version has an etag of its own."""

    can_stage = can_stream = False

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.is_away = False
        self.is_still = False
        self._standing: list[asyncio.Future[None]] = []
        self._numbers = itertools.count(1)

    def _check(self) -> None:
        if self.is_away:
            raise store_errors.Unreachable("the under store is away")

    def _found(self, key: str) -> tuple[bytes, str]:
        self._check()
        if key not in self.objects:
            raise store_errors.NotFound(f"no {key}")
        return self.objects[key]

    async def _pause(self) -> None:
        """Where an upload stands still, if it is to."""
        self._check()
        if self.is_still:
            going_on: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._standing.append(going_on)
            try:
                await going_on
            finally:
                if going_on in self._standing:
                    self._standing.remove(going_on)
        self._check()

    @property
    def standing(self) -> int:
        """Uploads that stand still."""
        return len(self._standing)

    def go_on(self) -> None:
        """Uploads end, the one that began last first."""
        self.is_still = False
        while self._standing:
            going_on = self._standing.pop()
            if not going_on.done():
                going_on.set_result(None)

    def _info(self, key: str) -> ObjectInfo:
        data, etag = self.objects[key]
        return ObjectInfo(key, len(data), etag, 1)

    async def list(self, prefix: str = "", *, start_after: str = "") -> AsyncGenerator[Sequence[ObjectInfo], None]:
        self._check()
        page = [self._info(key) for key in sorted(self.objects) if key > start_after and key.startswith(prefix)]
        if page:
            yield page

    async def split_points(self, after: str, until: str) -> Sequence[str]:
        return ()

    async def head(self, key: str) -> ObjectInfo:
        self._found(key)
        return self._info(key)

    async def get_range(self, key: str, offset_bytes: int, buffer: memoryview, *, etag: str) -> None:
        data, current = self._found(key)
        if current != etag:
            raise store_errors.Changed(f"{key} is {current}, not {etag}")
        buffer[:] = data[offset_bytes : offset_bytes + len(buffer)]

    async def put(self, key: str, source: int, size_bytes: int) -> ObjectInfo:
        data = Path(f"/proc/self/fd/{source}").read_bytes()
        assert len(data) == size_bytes
        await self._pause()
        self.objects[key] = data, f"e{next(self._numbers)}"
        return self._info(key)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        self.objects[target] = self._found(source)[0], f"e{next(self._numbers)}"
        return self._info(target)

    async def delete(self, key: str) -> None:
        self._check()
        self.objects.pop(key, None)

    async def close(self) -> None:
        """Nothing is open."""


class PlainContext:
    """Of a call without certificates."""

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}


class Plane:
    """The metadata service and what all nodes share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.under = MemoryStore()
        self.now = 100.0
        self.nodes: dict[str, Node] = {}
        self.epochs = itertools.count(1)
        self.threads = ThreadPoolExecutor(4)
        self.database = Database(SqliteStore(folder / "meta.db"))
        residency, watchers = ResidencyState(self.database, 3.0, lambda: self.now), Watchers()
        residency.standing = lambda: Standing(  # type: ignore[method-assign]
            {node.name: (node.me.epoch, not node.is_dead) for node in self.nodes.values()}, is_settled=True
        )
        self.listings = Listings(
            self.database,
            residency,
            watchers,
            open_store=lambda *_: cast(Any, self.under),
            credentials_dir=None,
            kept_versions=1000,
            requests_max=1,
        )
        sizes = GroupSizes(self.database, watchers)
        catalog = Catalog(self.database, residency, self.listings, watchers, sizes, kept_versions=1000)
        self.services = (NamespaceService(catalog), HeldService(catalog))
        self._commits = asyncio.ensure_future(self.database.run())

    async def begin(self, *names: str) -> None:
        """List the dataset for the first time, and start nodes."""
        specification = Specification(UID, "n", "d", (Mount("memory://"),), writable=True, write_back=True)
        await self.database.write(lambda transaction: transaction.put_dataset(Dataset(specification)))
        await self.compare()
        for name in names:
            await self.start(name)

    async def compare(self) -> None:
        """Compare with the under store, and wait for the end."""
        dataset = await self.database.read(lambda reader: reader.dataset(UID))
        assert dataset is not None
        await self.listings.start(dataset)
        while self.listings.progress(UID) is not None:
            await asyncio.sleep(0)

    async def start(self, name: str) -> "Node":
        """A node, or its next life."""
        node = Node(self, name)
        self.nodes[name] = node
        await node.copies.recover()
        return node

    async def call(self, method: str, request: Any) -> Any:
        """A method of the service as a client calls it; CacheError."""
        service = next(one for one in self.services if hasattr(type(one), method))
        try:
            return await getattr(type(service), method).__wrapped__(service, request, PlainContext())
        except NotFound as error:
            raise Missing(error.message) from error
        except MetadataError as error:
            raise CacheError(error.message, is_retryable=isinstance(error, Unavailable)) from error

    async def entries(self) -> dict[str, pb.Entry]:
        found = await self.call("ReadDirectory", pb.ReadDirectoryRequest(uid=UID))
        return {entry.path: entry for entry in found.entries}

    def live(self) -> list["Node"]:
        return [node for node in self.nodes.values() if not node.is_dead]

    async def rest(self) -> None:
        """Until nothing goes on but what stands still in the under store."""
        while (busy := sum(len(node.copies._tasks) + len(node.turns._ending) for node in self.live())) and (
            busy > self.under.standing
        ):
            await asyncio.sleep(0.0005)

    async def upload(self) -> None:
        """Time goes by, and whoever has something to upload begins."""
        self.now += 100.0
        for node in self.live():
            node.uploads.look_around()
        await self.rest()

    async def upload_all(self) -> None:
        """Until nothing waits any more."""
        for _ in range(50):
            await self.upload()
            copies = [held for node in self.live() for held in node.copies.all()]
            if all(held.is_unknown for held in copies):
                return  # of commits nobody was told of, cut off in their last step: both holders have them
        raise AssertionError({node.name: node.copies.all() for node in self.live()})

    async def close(self) -> None:
        self.under.go_on()
        for node in self.live():
            await node.kill()
        self._commits.cancel()
        await asyncio.gather(self._commits, return_exceptions=True)
        await self.database.close()
        self.threads.shutdown()


class Client:
    """A worker's client of the metadata service."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self.under_way = 0
        """Calls that have reached the service."""

    async def _call(self, method: str, request: Any) -> Any:
        return await self._node.asks(self._answered(method, request))

    async def _answered(self, method: str, request: Any) -> Any:
        self.under_way += 1
        try:
            return await self._node.plane.call(method, request)
        finally:
            self.under_way -= 1

    async def lookup(self, uid: str, path: str) -> pb.Entry:
        return cast(pb.Entry, await self._call("Lookup", pb.LookupRequest(uid=uid, path=path)))

    async def _mutate(self, method: str, request: Any) -> int:
        request.request_id = f"{id(self)}-{next(self._node.plane.epochs)}"
        while True:
            try:
                return int((await self._call(method, request)).snapshot_version)
            except CacheError as error:
                if not error.is_retryable:
                    raise
            await asyncio.sleep(0.001)

    async def put_file(self, uid: str, path: str, **fields: Any) -> int:
        return await self._mutate("PutFile", pb.PutFileRequest(uid=uid, path=path, **fields))

    async def put_held(self, uid: str, path: str, **fields: Any) -> int:
        return await self._mutate("PutHeld", pb.PutFileRequest(uid=uid, path=path, **fields))

    async def remove(self, uid: str, path: str, **fields: Any) -> int:
        return await self._mutate("Remove", pb.RemoveRequest(uid=uid, path=path, **fields))

    async def rename(self, uid: str, source: str, target: str, **fields: Any) -> int:
        return await self._mutate("Rename", pb.RenameRequest(uid=uid, source=source, target=target, **fields))

    async def take_turn(self, uid: str, paths: list[str], node: str, epoch: int, turn: str) -> None:
        await self._call("TakeTurn", pb.TakeTurnRequest(uid=uid, paths=paths, node=node, epoch=epoch, turn=turn))

    async def end_turn(self, uid: str, turn: str) -> None:
        await self._call("EndTurn", pb.EndTurnRequest(uid=uid, turn=turn))

    async def claim_held(self, uid: str, etag: str, node: str, epoch: int, turn: str) -> pb.HeldState:
        request = pb.ClaimHeldRequest(uid=uid, etag=etag, node=node, epoch=epoch, turn=turn)
        return cast(pb.HeldState, await self._call("ClaimHeld", request))

    async def finish_held(self, uid: str, etag: str, **fields: Any) -> pb.HeldState:
        request = pb.FinishHeldRequest(uid=uid, etag=etag, **fields)
        return cast(pb.HeldState, await self._call("FinishHeld", request))

    async def find_held(self, uid: str, etag: str) -> pb.HeldState:
        return cast(pb.HeldState, await self._call("FindHeld", pb.FindHeldRequest(uid=uid, etag=etag)))

    async def forget_held(self, uid: str, etag: str, node: str) -> None:
        await self._call("ForgetHeld", pb.ForgetHeldRequest(uid=uid, etag=etag, node=node))


class Wires:
    """A worker's connections to its peers."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    async def _ask(self, peer: Peer, ask: Callable[[Holding], Coroutine[Any, Any, T]]) -> T:
        other = self._node.plane.nodes[peer.node]
        if other.is_dead or other.me != peer:
            raise PeerFailed(f"{peer.node} is gone")
        answer = asyncio.ensure_future(self._node.asks(ask(other.holding)))
        gone = asyncio.ensure_future(other.gone.wait())
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not answer.done():
            answer.cancel()
            raise PeerFailed(f"{peer.node} went away")
        return answer.result()

    async def hold(self, peer: Peer, request: Hold, seconds: float) -> None:
        await self._ask(peer, lambda holding: holding.keep(request))

    async def read_held(self, peer: Peer, request: ReadHeld, buffer: memoryview) -> int:
        data, checksum = await self._ask(peer, lambda holding: holding.read(request))
        assert crc32c(data) == checksum
        buffer[:] = data
        return checksum

    async def ask_held(self, peer: Peer, request: AskHeld) -> bool:
        async def ask(holding: Holding) -> bool:
            return holding.knows(request)

        return await self._ask(peer, ask)

    async def drop_held(self, peer: Peer, request: DropHeld) -> None:
        async def drop(holding: Holding) -> None:
            holding.drop_held(request)

        await self._ask(peer, drop)


@dataclass(eq=False)
class Node:
    """One life of a worker."""

    plane: Plane
    name: str
    is_dead: bool = False
    heard_at_seconds: float = 0.0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    _steps: set["asyncio.Future[Any]"] = field(default_factory=set)

    def __post_init__(self) -> None:
        folder = self.plane.folder / self.name
        folder.mkdir(exist_ok=True)
        self.me = Peer(self.name, next(self.plane.epochs), f"{self.name}:1")
        self.metrics, self.metadata = Metrics(), Client(self)
        self.cache = BlockStore(
            [TierFolder(Tier("SSD", 1 << 20, 0), folder)],
            block_size_bytes=BLOCK,
            threads=self.plane.threads,
            clock=lambda: self.plane.now,
            metrics=self.metrics,
            changed=lambda _: None,
        )
        me, metadata = cast(Any, self), cast(Any, self.metadata)
        self.turns = Turns(self.me, me, metadata, wait_seconds=60.0)
        wires = cast(Any, Wires(self))
        self.copies = HeldCopies(
            me=self.me,
            store=self.cache,
            workers=me,
            peers=wires,
            metrics=self.metrics,
            percent=100,
            clock=lambda: self.plane.now,
            wall_clock_ns=lambda: int(self.plane.now * 1e9),
        )
        self.uploads = HeldUploads(
            me=self.me,
            store=self.cache,
            copies=self.copies,
            workers=me,
            peers=wires,
            filler=me,
            datasets=me,
            metadata=metadata,
            metrics=self.metrics,
            turns=self.turns,
            settings=Settings(settle_seconds=10.0, takeover_seconds=1e9),
            at_once=4,
        )
        self.holding = Holding(
            me=self.me,
            store=self.cache,
            copies=self.copies,
            uploads=self.uploads,
            workers=me,
            peers=wires,
            metrics=self.metrics,
            hold_seconds=10.0,
        )
        self.held = HeldReader(
            me=self.me, read_here=self.holding.read, workers=me, peers=wires, datasets=me, metadata=metadata
        )
        self.writes = Writes(
            store=self.cache,
            reader=cast(Any, None),
            filler=me,
            datasets=me,
            metadata=metadata,
            metrics=self.metrics,
            holding=self.holding,
            turns=self.turns,
        )
        left = LeftObjects(node=self.name, datasets=me, metadata=metadata, order=PathOrder(), turns=self.turns)
        self.renames = Renames(self.cache, self.writes, me, metadata, left)

    # What is asked of Workers, Datasets and Filler

    def live(self) -> dict[str, Peer]:
        return {node.name: node.me for node in self.plane.live()}

    leased = live
    is_leaving = False

    async def refresh(self) -> None:
        """The list is always fresh."""

    def suspect(self, peer: Peer, why: str) -> None:
        """Nobody is."""

    async def get(self, uid: str) -> pb.DatasetInfo:
        return pb.DatasetInfo(uid=uid, write_back=True)

    async def locate(self, uid: str, path: str) -> Location:
        return Location(cast(Any, self.plane.under), path, is_read_only=False)

    locate_writable = locate

    async def locate_for_change(self, uid: str, path: str, *, is_begun: bool = True) -> Location:
        return await self.locate(uid, path)

    def may_be_home(self, info: pb.DatasetInfo) -> bool:
        return True

    def keep(self, info: pb.DatasetInfo, version: Version, index: int) -> Keep:
        return Keep.HOME

    # What its clients ask

    async def asks(self, question: Coroutine[Any, Any, T]) -> T:
        """Await an answer from outside, which a dead node gets none of."""
        if self.gone.is_set():
            question.close()
            await _for_ever()
        answer = await question
        if self.gone.is_set():
            await _for_ever()
        return answer

    async def write(self, path: str, data: bytes) -> str:
        """Create, write, close; the etag."""
        staging = await self.writes.create(UID, path, base_etag="", base_size_bytes=0, owner=self, may_seal=True)
        try:
            Path(f"/proc/self/fd/{staging.descriptor}").write_bytes(data)
            return (await self.writes.commit(staging, mode=0o644, mtime_ns=1, owner=self)).etag
        finally:
            if not self.is_dead:
                await self.writes.end(staging)

    async def read(self, entry: pb.Entry) -> bytes:
        """All bytes of exactly that version."""
        data = bytearray(entry.size_bytes)
        for start in range(0, len(data), BLOCK):
            piece = memoryview(data)[start : start + BLOCK]
            if is_held(entry.etag):
                await self.held.fill(Version(UID, entry.path, entry.etag, entry.size_bytes), start, piece)
            else:
                try:
                    await self.plane.under.get_range(entry.path, start, piece, etag=entry.etag)
                except UnderStoreError as error:
                    raise from_store(error) from error
        return bytes(data)

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what a client asks; cancelled when the node is killed."""
        task = asyncio.ensure_future(work)
        self._steps.add(task)
        try:
            return await task
        finally:
            self._steps.discard(task)

    async def kill(self) -> None:
        """SIGKILL: nothing it does from here on is seen by anybody. What has reached the metadata service is carried
        out all the same, and is when this returns: who looked in between would see the change later."""
        self.is_dead = True
        self.gone.set()
        for step in list(self._steps):
            step.cancel()
        await asyncio.gather(*self._steps, return_exceptions=True)
        await asyncio.gather(self.holding.close(), self.copies.close())  # cut off at once, both
        await self.turns.close()
        self.cache.close()
        while self.metadata.under_way:
            await asyncio.sleep(0.0001)


async def _for_ever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody answers")

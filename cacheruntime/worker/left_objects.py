"""Objects that renames leave under the old names of files, taken away: at once, or after a worker that died before.

Owns that they go. Metadata knows of each from the moment the file is shown under its new name (metadata/core/left.py),
and no listing shows it; it is told when the object is gone. Deletions that fail are tried again, and what a worker that
ended has left is looked for. Nobody waits until a deletion is durable, as what metadata knows is: it has to be before
metadata forgets.

Invariants: an object that is no longer the version that was renamed stays, and one whose name is shown again; on this
node nothing is written under the name meanwhile (path_order.py), nor elsewhere where turns are taken. A worker of
another node that writes under the old name between our look at the object and its deletion loses what it wrote, as in
the moment after any rename: the under stores cannot delete one version only.
"""

import asyncio
from dataclasses import dataclass
from typing import Final, cast

import structlog

from api.gen import metadata_pb2 as pb
from cacheruntime.errors import CacheError, Missing, from_store
from cacheruntime.worker.datasets import Datasets, Location
from cacheruntime.worker.metadata_client import MetadataClient
from cacheruntime.worker.path_order import PathOrder
from cacheruntime.worker.turns import Turns
from understores.base import SettlingStore
from understores.errors import AlreadyExists, NotFound, UnderStoreError

log = structlog.get_logger()

BEGIN_SECONDS: Final = 1.0
"""Those who wait for a worker do not wait longer for an under store that does not answer."""
LOOK_SECONDS: Final = 60.0
"""What others left when they ended is nothing anybody sees."""
AGAIN_SECONDS: Final = 10.0
TELL_SECONDS: Final = 0.5
"""What is gone is told together: each telling is a commit of metadata's."""
TOLD_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class _Gone:
    """An object that was taken away, from where; None = there is no such place any more."""

    one: pb.LeftObject
    origin: Location | None


class LeftObjects:
    """The ones this worker takes away."""

    def __init__(
        self, *, node: str, datasets: Datasets, metadata: MetadataClient, order: PathOrder, turns: Turns
    ) -> None:
        """`node` is ours."""
        self._node = node
        self._datasets = datasets
        self._metadata = metadata
        self._order = order
        self._turns = turns
        self._gone: list[_Gone] = []
        self._wake = asyncio.Event()
        self._look_at = 0.0
        self._looking: asyncio.Future[bool] | None = None

    async def take_away(self, uid: str, path: str, version: int, origin: Location) -> None:
        """Delete the object of a file that was shown under another name by that version; later if that fails now."""
        try:
            if (settling := _settling(origin)) is not None:
                await settling.unlink(origin.key)
            else:
                await origin.store.delete(origin.key)
        except UnderStoreError as error:
            log.warning("old_object_stays", dataset=uid, path=path, error=error.message)
            self._look_again()
        else:
            self._gone.append(_Gone(pb.LeftObject(uid=uid, path=path, version=version), origin))
            self._wake.set()

    def _look_again(self) -> None:
        self._look_at = min(self._look_at, asyncio.get_running_loop().time() + AGAIN_SECONDS)
        self._wake.set()

    async def begin(self) -> None:
        """Take away what the worker before us left, before its clients come back: a directory it was left in cannot be
        removed until then. To be followed by `run`, which goes on with what takes longer."""
        self._looking = asyncio.ensure_future(self._look())
        await asyncio.wait({self._looking}, timeout=BEGIN_SECONDS)

    async def run(self) -> None:
        """Look for what was left, and tell what is gone, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                if loop.time() >= self._look_at:
                    self._look_at = loop.time() + LOOK_SECONDS
                    looking, self._looking = self._looking or self._look(), None
                    if not await looking:
                        self._look_again()
                await self._tell()
            except CacheError as error:
                # Whatever metadata was not told it will show us again.
                log.warning("left_objects_unknown", error=error.message)
                self._gone.clear()
                self._look_again()
            try:
                async with asyncio.timeout(max(0.0, self._look_at - loop.time())):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()
            await asyncio.sleep(TELL_SECONDS)

    async def _tell(self) -> None:
        while self._gone:
            told = self._gone[:TOLD_MAX]
            await self._settle(told)
            await self._metadata.forget_left([each.one for each in told])
            del self._gone[: len(told)]

    @staticmethod
    async def _settle(gone: list["_Gone"]) -> None:
        stores: dict[int, tuple[SettlingStore, list[str]]] = {}
        for each in gone:
            settling = _settling(each.origin)
            if settling is not None and each.origin is not None:
                stores.setdefault(id(settling), (settling, []))[1].append(each.origin.key)
        for settling, keys in stores.values():
            try:
                await settling.settle(keys)
            except UnderStoreError as error:
                raise from_store(error) from error

    async def _look(self) -> bool:
        """Take away what was left; return whether that is done."""
        is_done = True
        for one in await self._metadata.left_objects(self._node):
            try:
                await self._finish(one)
            except Missing:
                self._gone.append(_Gone(one, None))  # with its dataset
            except (CacheError, UnderStoreError) as error:
                log.warning("old_object_stays", dataset=one.uid, path=one.path, error=error.message)
                is_done = False
        return is_done

    async def _finish(self, one: pb.LeftObject) -> None:
        async with self._order.turn(one.uid, one.path), self._turns.turn(one.uid, one.path):
            location = await self._datasets.locate_for_change(one.uid, one.path)
            try:
                await self._metadata.lookup(one.uid, one.path)
            except Missing:
                pass
            else:
                return  # shown again, so metadata has forgotten it
            try:
                found = await location.store.head(location.key)
            except (NotFound, AlreadyExists):
                found = None  # or a file stands where its directory was
            if found is not None and found.etag == one.etag:
                await location.store.delete(location.key)
                log.info("old_object_taken_away", dataset=one.uid, path=one.path)
        # Also when nothing was there: the worker before us may have removed it, and not lived to settle that.
        self._gone.append(_Gone(one, location))


def _settling(origin: Location | None) -> SettlingStore | None:
    is_settling = origin is not None and getattr(origin.store, "can_settle", False)
    return cast(SettlingStore, origin.store) if origin is not None and is_settling else None
